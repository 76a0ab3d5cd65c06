"""Own videos: a folder of videos and a file of boxes. What has no boxes is the unlabelled set.

Annotation is partial by nature: a video may have none, and in an annotated video the frames that the file does not
speak of are neither actions nor background. docs/own-videos.md shows an example.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Options, Problem, Subset, Truth, Video, VideoSource
from ssldet.data.orientation import STORED
from ssldet.data.video import VideoInfo, file_orientation, probe, timing
from ssldet.errors import AbsentData, DataError
from ssldet_datasets import facts
from ssldet_datasets.layouts import describe, find_source, frame_layouts, inside, source_bytes
from ssldet_datasets.own_boxes import annotation_files, read_boxes, read_text
from ssldet_datasets.own_csv import read_groups
from ssldet_datasets.own_files import OwnImages, OwnVideoFiles
from ssldet_datasets.own_records import OwnVideo, VideoNames, class_name, labels_in
from ssldet_datasets.tube_files import read_lines

GRID = 7
ANNOTATIONS = ("annotations.csv", "annotations.json", "annotations.xml", "annotations")
FRAMES: tuple[tuple[str, Callable[[Path], OwnVideoFiles | OwnImages]], ...] = (
    ("videos", OwnVideoFiles),
    ("frames", OwnImages),
)

GUIDE = """\
Own videos lie in one folder:
    mine/videos/<name>.mp4                         (or .avi, .mkv, .webm, .mov; or frames/<name>/00001.jpg)
    mine/annotations.csv                           (or .json of COCO, Label Studio, VIA 3, or CVAT's .xml)
    mine/annotations/                              instead: several of such files, under any names
    mine/test.txt                                  names of the videos to be scored; all others are for training
    mine/classes.txt                               one class a line; optional, else those of the boxes
    mine/groups.csv                                video,group: what clips were cut from; optional
then name it with --data-root (or SSLDET_DATA). Videos without boxes are used as unlabelled ones."""


class Folder(Dataset):
    """Videos and boxes of your own below `root`. Ids are paths below videos/, without the suffix.

    Args:
        root: the folder.
        config: see `Config`.

    Raises:
        DataError: there are no videos, or no boxes where the options say.
    """

    class Config(Options):
        """Options of `folder`; each is set with --set dataset.NAME=VALUE."""

        annotations: str | None = None
        """File of boxes (.csv, .json, .xml) or folder of such files, below the root; None looks for the usual names."""
        classes: tuple[str, ...] | None = None
        """The classes in label order; None takes classes.txt, else the labels of the boxes by name."""
        rest: Literal["unknown", "background"] = "unknown"
        """What the frames of an annotated video are that the file does not mention: "unknown" frames are neither
        trained on with labels nor scored."""
        keyframes_only: bool = False
        """Leave out boxes that the annotation tool interpolated (CVAT's keyframe="0"); frames with such boxes are
        unknown."""

    facts: DatasetFacts = DatasetFacts("folder", (), facts.UCF24.anchors, default_ratio=1.0)
    config: Config

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        super().__init__(root, config)
        self.root = Path(root) if root is not None else Path()
        self.layouts = frame_layouts(self.root, FRAMES) if root is not None else []
        if not self.layouts:
            missing = f"no folder videos/ or frames/ in {root or 'the data root, which was not given'}"
            raise AbsentData(f"{missing}.\n{GUIDE}")
        self.annotations = self._annotation_path(self.config.annotations)
        names = VideoNames(self._known, size=lambda i: self._info(i)[:2], rate=self._rate)
        self._annotation = read_boxes(self.annotations, names, keyframes_only=self.config.keyframes_only)
        self._groups = self._read_groups()
        classes = self.config.classes or self._classes()
        unknown = sorted(labels_in(self._annotation) - set(classes))
        if unknown or not classes:
            raise DataError(f"{self.annotations}: boxes of {unknown[0] if unknown else 'no class'!r}; known: {classes}")
        self.facts = replace(type(self).facts, classes=classes, anchors=self._anchors())

    @classmethod
    def guide(cls) -> str:
        return GUIDE

    @classmethod
    def write_stand_in(cls, folder: Path, seed: int = 0) -> None:
        from ssldet_datasets.stand_ins import write_folder

        write_folder(folder, seed)

    def layout(self) -> str:
        annotated = len(self._annotation.keys() & self._known)
        where = self.annotations.relative_to(self.root)
        return f"annotation: {where}, of {annotated} of {len(self._ids)} videos\n{describe(self.layouts, self.root)}"

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        """Of the test videos those with boxes; training videos without boxes have no class.

        Without a list of test videos all are for training, so that the folder can be looked at; no run accepts it.
        """
        if split != 1:
            raise DataError(f"a folder of own videos has one split, 1; asked for {split}")
        test = self._test_ids() if subset == "test" or (self.root / "test.txt").is_file() else set()
        ids = [video_id for video_id in self._ids if (video_id in test) == (subset == "test")]
        return [self._video(i) for i in ids if subset == "train" or i in self._annotation]

    def truth(self, video_id: str) -> Truth:
        num_frames = self._video(video_id).num_frames
        video = self._annotation.get(video_id, OwnVideo())
        known = [box for box in video.boxes if box.frame < num_frames and box.frame not in video.unknown]
        boxes = sorted(known, key=lambda box: (box.frame, box.tube))
        labels_nk = np.zeros((len(boxes), self.facts.num_classes), bool)
        labels_nk[np.arange(len(boxes)), [self.facts.classes.index(box.label) for box in boxes]] = True
        whole = self.config.rest == "background" and video_id in self._annotation
        spoken_of = set(range(num_frames)) if whole else {frame for frame in video.frames if frame < num_frames}
        key_frames = np.array(sorted(spoken_of - video.unknown), np.int64)
        return Truth(
            frames_n=np.array([box.frame for box in boxes], np.int64),
            boxes_n4=np.array([box.edges for box in boxes], np.float32).reshape(-1, 4),
            labels_nk=labels_nk,
            tubes_n=np.array([box.tube for box in boxes], np.int64),
            key_frames_m=key_frames,
        )

    def source(self, video_id: str) -> VideoSource:
        source = find_source(self.layouts, video_id) if video_id in self._known else None
        if source is None:
            raise DataError(f"no video {video_id} in {', '.join(str(layout.folder) for layout in self.layouts)}")
        return source

    def fingerprint(self) -> str:
        return self._fingerprint

    def verify(self, split: int = 1) -> list[Problem]:
        """Boxes of absent videos or of frames that a video does not have, and videos that cannot be opened."""
        return list(self._problems())

    # ------------------------------------------------------------------------------------------------ reading

    def _annotation_path(self, given: str | None) -> Path:
        names = (given,) if given else ANNOTATIONS
        boxes = next((path for name in names if (path := self.root / name).exists()), None)
        if boxes is None:
            raise AbsentData(f"no boxes of own videos; looked in {self.root} for {', '.join(names)}.\n{GUIDE}")
        return inside(boxes, self.root)

    def _classes(self) -> tuple[str, ...]:
        path = self.root / "classes.txt"
        if path.is_file():
            return tuple(class_name(line, str(path)) for line in read_lines(path))
        return tuple(sorted(labels_in(self._annotation)))

    def _anchors(self) -> tuple[tuple[float, float], ...]:
        """Mean width and height, in cells, of as many groups of the boxes as there are anchors, by area."""
        count = len(type(self).facts.anchors)
        sizes = [
            ((x2 - x1) * GRID / self._info(video_id).width, (y2 - y1) * GRID / self._info(video_id).height)
            for video_id in self._ids
            for x1, y1, x2, y2 in (box.edges for box in self._annotation.get(video_id, OwnVideo()).boxes)
        ]
        if len(sizes) < count:
            return type(self).facts.anchors
        groups = np.array_split(np.array(sorted(sizes, key=lambda size: size[0] * size[1])), count)
        return tuple((round(float(w), 3), round(float(h), 3)) for w, h in (group.mean(0) for group in groups))

    def _video(self, video_id: str) -> Video:
        if video_id not in self._known:
            raise DataError(f"there is no video {video_id} in {self.root}")
        info = self._info(video_id)
        boxes = Counter(box.label for box in self._annotation.get(video_id, OwnVideo()).boxes)
        order = sorted(boxes, key=lambda name: (-boxes[name], self.facts.classes.index(name)))
        classes = tuple(self.facts.classes.index(name) for name in order)
        return Video(video_id, info.frames, info.width, info.height, classes, self._groups.get(video_id, ""))

    def _info(self, video_id: str) -> VideoInfo:
        if video_id not in self._probed:
            self._probed[video_id] = probe(self.source(video_id))
        return self._probed[video_id]

    @cached_property
    def _probed(self) -> dict[str, VideoInfo]:
        return {}

    @cached_property
    def _ids(self) -> list[str]:
        return sorted({video_id for layout in self.layouts for video_id in layout.ids})

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self._ids)

    def _read_groups(self) -> dict[str, str]:
        path = self.root / "groups.csv"
        if not path.is_file():
            return {}
        return read_groups(path, read_text(inside(path, self.root)), VideoNames(self._known))

    def _test_ids(self) -> set[str]:
        path = self.root / "test.txt"
        if not path.is_file():
            annotated = ", ".join(sorted(self._annotation.keys() & self._known)[:6]) or "none"
            raise DataError(
                f"no test.txt in {self.root}: list there, one a line, the annotated videos that are to be scored; "
                f"annotated are {annotated}"
            )
        names = VideoNames(self._known)
        test = {names.id_of(line, path) for line in read_lines(path)}
        if unknown := sorted(test - self._known):
            raise DataError(f"{path}: there is no video {unknown[0]!r}; names look like {self._ids[:1]}")
        return test

    @cached_property
    def _fingerprint(self) -> str:
        drawn = ("keyframes_only",) if self.config.keyframes_only else ()
        digest = hashlib.sha256(repr(("folder", self.facts.classes, self.config.rest, *drawn)).encode())
        for path in (*annotation_files(self.annotations), self.root / "test.txt"):
            digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b"absent"))
        if self._groups:  # data without groups are those from before there were any
            digest.update(repr(sorted(self._groups.items())).encode())
        for video_id in self._ids:
            digest.update(repr((video_id, list(source_bytes(find_source(self.layouts, video_id))))).encode())
            # lying frames before orientation was read: runs of then are others
            digest.update(b"turned" if self._turned(video_id) else b"")
        return digest.hexdigest()

    # ---------------------------------------------------------------------------------------------- verifying

    def _rate(self, video_id: str) -> float:
        times = timing(self.source(video_id))
        if times is None:
            raise DataError(f"{video_id}: its frames have no times, and the boxes are given in seconds")
        return times.rate

    def _turned(self, video_id: str) -> bool:
        """Whether frames are turned when they are decoded."""
        file = self.source(video_id).file
        try:
            return file is not None and file_orientation(file) != STORED
        except DataError:
            return False

    def _problems(self) -> Iterator[Problem]:
        yield from self._doubts()
        try:
            test = self._test_ids()
        except DataError as error:
            yield Problem(str(error))
            test = set()
        yield from self._torn_groups(test)
        for video_id in sorted(self._annotation.keys() - self._known):
            where = ", ".join(f"{layout.folder}" for layout in self.layouts)
            yield Problem(f"boxes of {video_id}, of which there is no video", where, "names must be the same", video_id)
        for video_id in sorted(self._groups.keys() - self._known):
            what = f"a group of {video_id}, of which there is no video"
            yield Problem(what, f"{self.root / 'groups.csv'}", "names must be the same", video_id)
        for video_id in sorted(test - self._annotation.keys()):
            yield Problem(f"test video {video_id} has no boxes", f"{self.annotations}", "annotate it", video_id)
        for video_id in self._ids:
            yield from self._problems_of(video_id)

    def _problems_of(self, video_id: str) -> Iterator[Problem]:
        try:
            frames = self._info(video_id).frames
        except DataError as error:
            yield Problem(f"{video_id} cannot be opened: {error}", remedy="encode it again", video=video_id)
            return
        last = max((box.frame for box in self._annotation.get(video_id, OwnVideo()).boxes), default=-1)
        if last >= frames:
            what = f"{video_id} has {frames} frames and a box in frame {last + 1}"
            yield Problem(what, f"{self.annotations}", "frames count from 1 in a CSV, from 0 in CVAT", video_id)

    def _doubts(self) -> Iterator[Problem]:
        """Files of boxes that are not read, videos held twice, frames of another size, frames that are left out."""
        read = self.annotations.relative_to(self.root).parts[0]
        if passed_over := [name for name in ANNOTATIONS if name != read and (self.root / name).exists()]:
            what = f"{' and '.join(passed_over)} beside {read} not read"
            yield Problem(what, remedy="put all files of boxes into the folder annotations/", severity="doubt")
        for video_id, files in sorted((i, f) for layout in self.layouts for i, f in layout.copies.items()):
            what = f"{video_id} is there as {' and as '.join(files)}"
            yield Problem(what, remedy=f"{files[0]} is used", video=video_id, severity="doubt")
        for video_id in sorted(self._annotation.keys() & self._known):
            yield from self._size_doubt(video_id)
            if unknown := self._annotation[video_id].unknown:
                what = f"{video_id}: frames with crowds, or with boxes that are left out, are unknown: {len(unknown)}"
                yield Problem(what, remedy="not trained on, not scored", video=video_id, severity="doubt")

    def _torn_groups(self, test: set[str]) -> Iterator[Problem]:
        """Recordings with clips for training, annotated or not, and others that are scored."""
        sides: defaultdict[str, dict[bool, str]] = defaultdict(dict)
        for video_id, group in sorted(self._groups.items()):
            if video_id in self._known:
                sides[group].setdefault(video_id in test, video_id)
        for group, first in sides.items():
            if len(first) > 1:
                what = f"group {group!r} is in training ({first[False]}) and in test ({first[True]})"
                remedy = "what is scored resembles what was trained on: keep whole groups in test.txt, or out of it"
                yield Problem(what, remedy=remedy, video=first[True], severity="doubt")

    def _size_doubt(self, video_id: str) -> Iterator[Problem]:
        size = self._annotation[video_id].size
        try:
            info = self._info(video_id)
        except DataError:
            return
        if size is not None and size != (info.width, info.height):
            ratios = " x ".join(f"{a / b:.2f}" for a, b in zip(size, (info.width, info.height), strict=True))
            annotated, present = f"{size[0]} x {size[1]}", f"{info.width} x {info.height}"
            what = f"{video_id}: frames of {annotated} were annotated, and the video's are {present}"
            remedy = f"all boxes are off by {ratios}, if they are: scale them, or give the videos that were annotated"
            yield Problem(what, remedy=remedy, video=video_id, severity="doubt")
