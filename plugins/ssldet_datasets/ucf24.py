"""UCF101-24: 3,194 untrimmed videos of 24 actions, one action a video, up to ten tubes, frames without any box.

Boxes are the annotation's x, y, x + w, y + h as they stand (its x and y count from 1). The annotation keeps numbers in
the smallest type that holds them, so that x + w overflows in a third of the tubes: all is widened before any sum.

Only split 1 is annotated. Its test videos come from the test list; every other annotated video is a training video,
which is what the train list names, less nine videos in it without annotation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Problem, Subset, Truth, Video, VideoSource
from ssldet.errors import DataError
from ssldet.safe_pickle import load
from ssldet_datasets import facts
from ssldet_datasets.layouts import (
    ImageFolders,
    LayoutRow,
    VideoFiles,
    checked_id,
    find_source,
    frame_layouts,
    open_root,
    source_bytes,
)

WIDTH, HEIGHT = 320, 240

FRAMES: tuple[LayoutRow, ...] = (
    ("UCF-101", VideoFiles),
    ("videos", VideoFiles),
    ("rgb-images", ImageFolders),
)
ANNOTATIONS = ("annots/pyannot.pkl", "pyannot.pkl", "splitfiles/pyannot.pkl")
TEST_LISTS = (
    "splitfiles/testlist01.txt",
    "annots/testlist01.txt",
    "testlist01.txt",
    "lists/ucf101_24_anno_test_list.txt",
    "testlist_video.txt",
)

GUIDE = """\
How to get UCF101-24: the videos from the UCF101 page of crcv.ucf.edu (UCF101.rar), the corrected annotation from
github.com/gurkirt/corrected-UCF101-Annots (pyannot.pkl, testlist01.txt); put them into one folder ucf24/:
    ucf24/UCF-101/<Class>/<video>.avi              (or rgb-images/<Class>/<video>/00001.jpg)
    ucf24/annots/pyannot.pkl
    ucf24/annots/testlist01.txt                    (or splitfiles/testlist01.txt)
then name it, or the folder that holds it, with --data-root (or SSLDET_DATA)."""


class UCF24(Dataset):
    """UCF101-24 below `root` (or `root`/ucf24). Ids are "<Class>/<video>". Truth needs the annotation only.

    Raises:
        DataError: nothing of it is there. What is incomplete opens, and `verify` names what is missing.
    """

    facts: DatasetFacts = facts.UCF24

    def __init__(self, root: Path | None = None) -> None:
        marks = (*ANNOTATIONS, *TEST_LISTS, "UCF-101", "rgb-images", "labels")
        self.root = open_root(root, ("ucf24", "UCF24", "ucf101-24", "UCF101-24", "UCF101_24"), marks, GUIDE)
        self.layouts = frame_layouts(self.root, FRAMES)

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        test = self._test_ids(split)
        ids = (video_id for video_id in self._annotation if (video_id in test) == (subset == "test"))
        return [self._video(video_id) for video_id in sorted(ids)]

    def truth(self, video_id: str) -> Truth:
        video = self._entry(video_id)
        frames, boxes, tubes = [np.empty(0, np.int64)], [np.empty((0, 4), np.float32)], [np.empty(0, np.int64)]
        for tube, (start, xywh_n4) in enumerate(tubes_of(video, video_id)):
            frames.append(np.arange(start, start + len(xywh_n4)))
            boxes.append(np.concatenate([xywh_n4[:, :2], xywh_n4[:, :2] + xywh_n4[:, 2:]], 1))
            tubes.append(np.full(len(xywh_n4), tube))
        frames_n, tubes_n = np.concatenate(frames), np.concatenate(tubes)
        order = np.lexsort((tubes_n, frames_n))
        labels_nk = np.zeros((len(frames_n), self.facts.num_classes), bool)
        labels_nk[:, self._label(video_id)] = True
        return Truth(
            frames_n=frames_n[order],
            boxes_n4=np.concatenate(boxes)[order],
            labels_nk=labels_nk,
            tubes_n=tubes_n[order],
            key_frames_m=np.arange(self._video(video_id).num_frames, dtype=np.int64),
        )

    def source(self, video_id: str) -> VideoSource:
        source = find_source(self.layouts, checked_id(video_id, self.root))
        if source is None:
            looked = ", ".join(str(layout.expected(video_id)) for layout in self.layouts) or self.root / FRAMES[0][0]
            raise DataError(f"no frames of UCF24 video {video_id}; looked for {looked}.\n{GUIDE}")
        return source

    def fingerprint(self) -> str:
        return self._fingerprint

    def verify(self, split: int = 1) -> list[Problem]:
        """What is missing or damaged; a file with fewer frames than annotated is neither: frames are repeated."""
        return list(self._problems(split))

    # ------------------------------------------------------------------------------------------------ reading

    @cached_property
    def _annotation(self) -> Mapping[str, Mapping[str, Any]]:
        path = self._first(ANNOTATIONS, "annotation")
        content = load(path)
        if not isinstance(content, dict) or not content:
            raise DataError(f"{path}: expected a dictionary of videos, got a {type(content).__name__}")
        for video_id, video in content.items():
            if (
                not isinstance(video_id, str)
                or not isinstance(video, dict)
                or not {"numf", "annotations"} <= set(video)
            ):
                raise DataError(f"{path}: expected video -> {{numf, label, annotations}} for each video")
            checked_id(video_id, path)
        return content

    def _entry(self, video_id: str) -> Mapping[str, Any]:
        if video_id not in self._annotation:
            raise DataError(f"UCF24 has no annotation of a video {video_id}")
        return self._annotation[video_id]

    def _video(self, video_id: str) -> Video:
        num_frames = _whole(self._entry(video_id)["numf"], f"{video_id}: numf", 1)
        return Video(video_id, num_frames, WIDTH, HEIGHT, (self._label(video_id),))

    def _label(self, video_id: str) -> int:
        name = video_id.partition("/")[0]
        if name not in self.facts.classes:
            raise DataError(f"{video_id}: UCF24 has no class {name!r}")
        return self.facts.classes.index(name)

    def _test_ids(self, split: int) -> frozenset[str]:
        if split != 1:
            raise DataError(f"UCF24 is annotated for split 1 only; asked for {split}")
        path = self._first(TEST_LISTS, "test list of split 1")
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        return frozenset(line.strip().split(" ")[0].removesuffix(".avi") for line in lines if line.strip())

    def _first(self, names: Sequence[str], what: str) -> Path:
        found = next((path for name in names if (path := self.root / name).is_file()), None)
        if found is None:
            raise DataError(f"no {what} of UCF24; looked in {self.root} for {', '.join(names)}.\n{GUIDE}")
        return found

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(b"ucf24")
        digest.update(self._first(ANNOTATIONS, "annotation").read_bytes())
        digest.update(repr(sorted(self._test_ids(1))).encode())
        for video_id in sorted(self._annotation):
            digest.update(repr((video_id, list(source_bytes(find_source(self.layouts, video_id))))).encode())
        return digest.hexdigest()

    # ---------------------------------------------------------------------------------------------- verifying

    def _problems(self, split: int) -> Iterator[Problem]:
        try:
            test = self._test_ids(split)
        except DataError as error:
            yield Problem(str(error))
            test = frozenset()
        try:
            annotation = self._annotation
        except DataError as error:
            yield Problem(str(error))
            return
        for video_id in sorted(test - set(annotation)):
            yield Problem(f"{video_id} of the test list is not annotated", f"{self.root}", "get both files again")
        if not self.layouts:
            yield Problem(f"no folder with videos ({len(annotation)} are annotated)", f"{self.root}", GUIDE)
        for video_id in sorted(annotation):
            yield from self._problems_of(video_id)

    def _problems_of(self, video_id: str) -> Iterator[Problem]:
        try:
            self.truth(video_id)
        except DataError as error:
            yield Problem(str(error), f"{self.root}", "get the annotation again")
        if self.layouts and find_source(self.layouts, video_id) is None:
            yield Problem(
                f"no frames of {video_id}", f"{self.layouts[0].expected(video_id)}", "unpack UCF101.rar again"
            )


def tubes_of(video: Mapping[str, Any], video_id: str) -> Iterator[tuple[int, np.ndarray]]:
    """(first frame, boxes (n, 4) float32 x y w h) of each tube; `sf` counts from 0, `ef` is exclusive.

    Raises:
        DataError: a tube with another number of boxes than frames, or outside the video.
    """
    num_frames = _whole(video["numf"], f"{video_id}: numf", 1)
    for tube in video["annotations"]:
        try:
            start, end, boxes_n4 = tube["sf"], tube["ef"], np.asarray(tube["boxes"], np.float32)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise DataError(f"{video_id}: expected tubes of sf, ef and boxes ({error!r:.80})") from error
        start, end = _whole(start, f"{video_id}: sf", 0), _whole(end, f"{video_id}: ef", 0)
        if boxes_n4.shape != (end - start, 4) or end > num_frames or not np.isfinite(boxes_n4).all():
            raise DataError(
                f"{video_id}: a tube over frames {start} to {end} of {num_frames} has boxes of shape {boxes_n4.shape}"
            )
        yield start, boxes_n4


def _is_entry(video: Mapping[str, Any]) -> bool:
    return "numf" in video and isinstance(video.get("annotations"), list)


def _whole(value: Any, what: str, least: int) -> int:
    """A count of the annotation as Python's int: small integer types overflow in the next sum."""
    if not isinstance(value, int | np.integer) or not least <= int(value) <= 1_000_000:
        raise DataError(f"{what} is a {type(value).__name__}, or no sensible count")
    return int(value)
