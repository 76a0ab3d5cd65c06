"""UCF101-24: 3,194 untrimmed videos of 24 actions, one action a video, up to ten tubes, frames without any box.

Boxes are the annotation's x, y, x + w, y + h as they stand (its x and y count from 1). The annotation keeps numbers in
the smallest type that holds them, so that x + w overflows in a third of the tubes: all is widened before any sum.

Only split 1 is annotated. Its test videos come from the test list; every other annotated video is a training video,
which is what the train list names, less nine videos in it without annotation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ssldet.contracts import DatasetFacts, Problem, Subset, Truth, Video
from ssldet.data.video import probe
from ssldet.errors import DataError
from ssldet_datasets import facts
from ssldet_datasets.layouts import (
    ImageFolders,
    LayoutRow,
    VideoFiles,
    describe,
    find_source,
    source_bytes,
)
from ssldet_datasets.published import PublishedDataset
from ssldet_datasets.tube_files import ActTubes, LabelFolders, StoredTubes, TubeFile, read_list

WIDTH, HEIGHT = 320, 240
ACT_SHIFT = 1
"""Added to the edges in UCF101v2-GT.pkl, which are one less than those in the other files."""

FRAMES: tuple[LayoutRow, ...] = (
    ("UCF-101", VideoFiles),
    ("videos", VideoFiles),
    ("rgb-images", ImageFolders),
    ("Frames", ImageFolders),
)
FOLDERS = ("annots", "", "splitfiles")
LISTS = (
    *("splitfiles/testlist01.txt", "annots/testlist01.txt", "testlist01.txt", "lists/testlist01.txt"),
    *("lists/ucf101_24_anno_test_list.txt", "ucf101_24_anno_test_list.txt"),
    *("testlist_video.txt", "testlist.txt"),
)
ANNOTATIONS = tuple(
    f"{folder}/{name}".lstrip("/")
    for name in ("pyannot.pkl", "finalAnnots.mat", "UCF101v2-GT.pkl")
    for folder in FOLDERS
)

GUIDE = """\
How to get UCF101-24: the videos from the UCF101 page of crcv.ucf.edu (UCF101.rar, 6.5 GB; the 24 classes are 1.5 GB of
it), the corrected annotation from github.com/gurkirt/corrected-UCF101-Annots (4.7 MB). Videos and annotation are for
research; see these pages for their terms. Put them into one folder ucf24/:
    ucf24/UCF-101/<Class>/<video>.avi              (or rgb-images/<Class>/<video>/00001.jpg)
    ucf24/annots/pyannot.pkl                       (or finalAnnots.mat, UCF101v2-GT.pkl, labels/<Class>/<video>/)
    ucf24/annots/testlist01.txt                    (or splitfiles/testlist01.txt, testlist.txt, testlist_video.txt)
then name it, or the folder that holds it, with --data-root (or SSLDET_DATA)."""


class UCF24(PublishedDataset):
    """UCF101-24 below `root` (or `root`/ucf24). Ids are "<Class>/<video>". Truth needs the annotation only.

    Raises:
        DataError: nothing of it is there. What is incomplete opens, and `verify` names what is missing.
    """

    facts: DatasetFacts = facts.UCF24
    frozen_splits: ClassVar[str] = "ssldet_datasets:frozen"
    reported: ClassVar[Mapping[str, str]] = {
        "annotated actions per frame": "one or two",
        "actions per frame": "one",
        "background people": "yes",
        "densely annotated": "no",
    }

    root_names = ("ucf24", "UCF24", "ucf101-24", "UCF101-24", "UCF101_24")
    marks = (*ANNOTATIONS, *LISTS, "labels", *(name for name, _ in FRAMES))
    frames = FRAMES
    video_name = "UCF24 video"
    guide_text = GUIDE

    @classmethod
    def write_stand_in(cls, folder: Path, seed: int = 0) -> None:
        from ssldet_datasets.stand_ins import write_ucf24

        write_ucf24(folder, seed)

    def layout(self) -> str:
        annotation = f"annotation: {self._annotation.form} at {self._annotation.path.relative_to(self.root)}"
        lists = f"test list: {self._list.relative_to(self.root) if self._list else 'inside the annotation'}"
        return "\n".join((annotation, lists, describe(self.layouts, self.root)))

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        test = self._test_ids(split)
        ids = (video_id for video_id in self._annotation.ids if (video_id in test) == (subset == "test"))
        return [self._video(video_id) for video_id in sorted(ids)]

    def truth(self, video_id: str) -> Truth:
        num_frames = self._video(video_id).num_frames
        frames, boxes, tubes = [np.empty(0, np.int64)], [np.empty((0, 4), np.float32)], [np.empty(0, np.int64)]
        for tube, (start, boxes_n4) in enumerate(self._annotation.tubes(video_id)):
            frames.append(np.arange(start, start + len(boxes_n4)))
            boxes.append(boxes_n4)
            tubes.append(np.full(len(boxes_n4), tube))
        frames_n, tubes_n = np.concatenate(frames), np.concatenate(tubes)
        order = np.lexsort((tubes_n, frames_n))
        labels_nk = np.zeros((len(frames_n), self.facts.num_classes), bool)
        labels_nk[:, self._label(video_id)] = True
        return Truth(
            frames_n=frames_n[order],
            boxes_n4=np.concatenate(boxes)[order],
            labels_nk=labels_nk,
            tubes_n=tubes_n[order],
            key_frames_m=np.arange(num_frames, dtype=np.int64),
        )

    # ------------------------------------------------------------------------------------------------ reading

    @cached_property
    def _annotation(self) -> TubeFile:
        readers: Mapping[str, Callable[[Path], TubeFile]] = {
            "pyannot.pkl": StoredTubes.from_pickle,
            "finalAnnots.mat": StoredTubes.from_mat,
            "UCF101v2-GT.pkl": lambda path: ActTubes(path, ACT_SHIFT),
        }
        annotation = next((path for name in ANNOTATIONS if (path := self.root / name).is_file()), None)
        if annotation is not None:
            return readers[annotation.name](annotation)
        if (self.root / "labels").is_dir():
            return LabelFolders(self.root / "labels", self._frames_on_disk)
        names = ", ".join((*ANNOTATIONS[:: len(FOLDERS)], "labels/"))
        raise DataError(f"no annotation of UCF24; looked in {self.root} for {names}.\n{GUIDE}")

    def _frames_on_disk(self, video_id: str) -> int | None:
        source = find_source(self.layouts, video_id)
        return probe(source).frames if source else None

    def _video(self, video_id: str) -> Video:
        if video_id not in self._known:
            raise DataError(f"UCF24 has no annotation of a video {video_id}")
        num_frames = self._annotation.num_frames(video_id)
        width, height = self._annotation.size(video_id) or (WIDTH, HEIGHT)
        return Video(video_id, num_frames, width, height, (self._label(video_id),), recording_group(video_id))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self._annotation.ids)

    def _label(self, video_id: str) -> int:
        name = video_id.partition("/")[0]
        if name not in self.facts.classes:
            raise DataError(f"{video_id}: UCF24 has no class {name!r}")
        return self.facts.classes.index(name)

    @property
    def _list(self) -> Path | None:
        return next((path for name in LISTS if (path := self.root / name).is_file()), None)

    def _test_ids(self, split: int) -> frozenset[str]:
        if split != 1:
            raise DataError(f"UCF24 is annotated for split 1 only; asked for {split}")
        if self._list is not None:
            return frozenset(read_list(self._list))
        if isinstance(self._annotation, ActTubes):
            return frozenset(self._annotation.listed("test", split))
        raise DataError(f"no test list of split 1 of UCF24; looked in {self.root} for {', '.join(LISTS)}.\n{GUIDE}")

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(b"ucf24")
        digest.update(self._annotation.digest())
        digest.update(repr(sorted(self._test_ids(1))).encode())
        for video_id in sorted(self._annotation.ids):
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
            known = self._known
        except DataError as error:
            yield Problem(str(error))
            return
        for video_id in sorted(test - known):
            yield Problem(
                f"{video_id} of the test list is not annotated", f"{self.root}", "get both files again", video_id
            )
        if not self.layouts:
            yield Problem(f"no folder with videos ({len(known)} are annotated)", f"{self.root}", GUIDE)
        for video_id in sorted(known):
            yield from self._problems_of(video_id)

    def _problems_of(self, video_id: str) -> Iterator[Problem]:
        try:
            self.truth(video_id)
        except DataError as error:
            yield Problem(str(error), f"{self.root}", "get the annotation again", video_id)
        try:
            has_frames = not self.layouts or find_source(self.layouts, video_id) is not None
        except DataError as error:
            yield Problem(str(error), video=video_id)
            return
        if not has_frames:
            expected = f"{self.layouts[0].expected(video_id)}"
            yield Problem(f"no frames of {video_id}", expected, "unpack UCF101.rar again", video_id)


def recording_group(video_id: str) -> str:
    """The clips recorded together: "v_Biking_g01" of "Biking/v_Biking_g01_c02"; "" of names of other forms."""
    named = re.fullmatch(r"(.+_g\d+)_c\d+", video_id.rpartition("/")[2])
    return named[1] if named else ""
