"""Own videos: a folder of videos and a file of boxes. What has no boxes is the unlabelled set.

Annotation is partial by nature: a video may have none, and in an annotated video the frames that the file does not
speak of are neither actions nor background. docs/own-videos.md shows an example.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Options, Problem, Subset, Truth, Video, VideoSource
from ssldet.data.video import VideoInfo, probe
from ssldet.errors import DataError
from ssldet_datasets import facts
from ssldet_datasets.layouts import (
    IMAGE_SUFFIXES,
    ImageFolders,
    LayoutRow,
    VideoFiles,
    describe,
    find_source,
    frame_layouts,
    inside,
    source_bytes,
)
from ssldet_datasets.own_boxes import SUFFIXES, Annotation, OwnVideo, labels_in, read_boxes
from ssldet_datasets.tube_files import read_lines

GRID = 7
ANNOTATIONS = ("annotations.csv", "annotations.json", "annotations.xml", "annotations")
FRAMES: tuple[LayoutRow, ...] = (
    ("videos", lambda folder: VideoFiles(folder, SUFFIXES)),
    ("frames", ImageFolders),
)

GUIDE = """\
Own videos lie in one folder:
    mine/videos/<name>.mp4                         (or .avi, .mkv, .webm, .mov; or frames/<name>/00001.jpg)
    mine/annotations.csv                           (or annotations.json in COCO's form, or CVAT's XML in annotations/)
    mine/test.txt                                  names of the videos to be scored; all others are for training
    mine/classes.txt                               one class a line; optional, else those of the boxes
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
        """File of boxes (.csv, .json, .xml) or folder of .xml, below the root; None looks for the usual names."""
        classes: tuple[str, ...] | None = None
        """The classes in label order; None takes classes.txt, else the labels of the boxes by name."""
        rest: Literal["unknown", "background"] = "unknown"
        """What the frames of an annotated video are that the file does not mention: "unknown" frames are neither
        trained on with labels nor scored."""

    facts: DatasetFacts = DatasetFacts("folder", (), facts.UCF24.anchors, default_ratio=1.0)
    config: Config

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        super().__init__(root, config)
        self.root = Path(root) if root is not None else Path()
        self.layouts = frame_layouts(self.root, FRAMES) if root is not None else []
        if not self.layouts:
            raise DataError(f"no folder videos/ or frames/ in {root or 'the data root, which was not given'}.\n{GUIDE}")
        self.annotations = self._annotation_path(self.config.annotations)
        self._annotation: Annotation = read_boxes(self.annotations)
        names = self.config.classes or self._classes()
        unknown = sorted(set(labels_in(self._annotation)) - set(names))
        if unknown or not names:
            raise DataError(f"{self.annotations}: boxes of {unknown[0] if unknown else 'no class'!r}; known: {names}")
        self.facts = replace(type(self).facts, classes=names, anchors=self._anchors())

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
        """Of the test videos those with boxes; training videos without boxes have no class."""
        if split != 1:
            raise DataError(f"a folder of own videos has one split, 1; asked for {split}")
        test = self._test_ids()
        ids = [video_id for video_id in self._ids if (video_id in test) == (subset == "test")]
        return [self._video(i) for i in ids if subset == "train" or i in self._annotation]

    def truth(self, video_id: str) -> Truth:
        num_frames = self._video(video_id).num_frames
        video = self._annotation.get(video_id, OwnVideo())
        boxes = sorted((box for box in video.boxes if box.frame < num_frames), key=lambda box: (box.frame, box.tube))
        labels_nk = np.zeros((len(boxes), self.facts.num_classes), bool)
        labels_nk[np.arange(len(boxes)), [self.facts.classes.index(box.label) for box in boxes]] = True
        key_frames = np.array(sorted(frame for frame in video.frames if frame < num_frames), np.int64)
        whole = self.config.rest == "background" and video_id in self._annotation
        return Truth(
            frames_n=np.array([box.frame for box in boxes], np.int64),
            boxes_n4=np.array([box.edges for box in boxes], np.float32).reshape(-1, 4),
            labels_nk=labels_nk,
            tubes_n=np.array([box.tube for box in boxes], np.int64),
            key_frames_m=np.arange(num_frames, dtype=np.int64) if whole else key_frames,
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
            raise DataError(f"no boxes of own videos; looked in {self.root} for {', '.join(names)}.\n{GUIDE}")
        return inside(boxes, self.root)

    def _classes(self) -> tuple[str, ...]:
        path = self.root / "classes.txt"
        return tuple(read_lines(path)) if path.is_file() else tuple(sorted(set(labels_in(self._annotation))))

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
        return Video(video_id, info.frames, info.width, info.height, classes)

    def _info(self, video_id: str) -> VideoInfo:
        if video_id not in self._probed:
            self._probed[video_id] = probe(self.source(video_id))
        return self._probed[video_id]

    @cached_property
    def _probed(self) -> dict[str, VideoInfo]:
        return {}

    @cached_property
    def _ids(self) -> list[str]:
        return sorted({video_id for layout in self.layouts for video_id in _found_in(layout.folder)})

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self._ids)

    def _test_ids(self) -> set[str]:
        path = self.root / "test.txt"
        if not path.is_file():
            raise DataError(f"no test.txt in {self.root}: list there the annotated videos that are to be scored")
        names = {line[: -len(Path(line).suffix)] if line.endswith(SUFFIXES) else line for line in read_lines(path)}
        if unknown := sorted(names - self._known):
            raise DataError(f"{path}: there is no video {unknown[0]!r}; names look like {self._ids[:1]}")
        return names

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(("folder", self.facts.classes, self.config.rest)).encode())
        files = sorted(self.annotations.glob("*.xml")) if self.annotations.is_dir() else [self.annotations]
        for path in (*files, self.root / "test.txt"):
            digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b"absent"))
        for video_id in self._ids:
            digest.update(repr((video_id, list(source_bytes(find_source(self.layouts, video_id))))).encode())
        return digest.hexdigest()

    # ---------------------------------------------------------------------------------------------- verifying

    def _problems(self) -> Iterator[Problem]:
        try:
            test = self._test_ids()
        except DataError as error:
            yield Problem(str(error))
            test = set()
        for video_id in sorted(self._annotation.keys() - self._known):
            where = ", ".join(f"{layout.folder}" for layout in self.layouts)
            yield Problem(f"boxes of {video_id}, of which there is no video", where, "names must be the same", video_id)
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


def _found_in(folder: Path) -> Iterator[str]:
    """Ids of the videos, or folders of images, below a folder; links to folders are not followed."""
    for place, _, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        if any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
            yield below.as_posix()
        yield from ((below / name).with_suffix("").as_posix() for name in names if name.lower().endswith(SUFFIXES))
