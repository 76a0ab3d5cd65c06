"""J-HMDB-21: 928 trimmed clips of 21 actions, one person each, boxes from puppet masks.

The box of a frame is the extent of its mask as pixel edges, (min x, min y, max x + 1, max y + 1): its plain area is
the number of pixels that it spans, it scales exactly when frames are resized, and it agrees with UCF24's
x, y, x + w, y + h. YOWO's own label files lie within 1-2 pixels of it.

A mask's number of frames is the video's; `verify` compares it with the packets of the container.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ssldet.contracts import DatasetFacts, Problem, Subset, Truth, Video
from ssldet.data.video import frame_size, probe
from ssldet.errors import DataError
from ssldet.util.cache import cache_root
from ssldet_datasets import facts
from ssldet_datasets.jhmdb_boxes import (
    BoxesOfTubes,
    BoxSource,
    MaskBoxes,
    PuppetMasks,
    load_index,
    mask_extents,
    read_mask,
    save_index,
)
from ssldet_datasets.layouts import (
    ImageFolders,
    LayoutRow,
    VideoFiles,
    checked_id,
    describe,
    find_source,
    source_bytes,
)
from ssldet_datasets.published import PublishedDataset
from ssldet_datasets.tube_files import ActTubes, LabelFolders, read_list

__all__ = ["JHMDB", "load_index", "mask_extents", "read_mask", "save_index"]

FRAMES: tuple[LayoutRow, ...] = (
    ("ReCompress_Videos", VideoFiles),
    ("videos", VideoFiles),
    ("Rename_Images", ImageFolders),
    ("Frames", ImageFolders),
    ("rgb-images", ImageFolders),
)
ACT_FILES = ("JHMDB-GT.pkl", "splitfiles/JHMDB-GT.pkl", "annots/JHMDB-GT.pkl")
LISTS = {"train": ("trainlist.txt",), "test": ("testlist_video.txt", "testlist.txt")}
WIDTH, HEIGHT = 320, 240

GUIDE = """\
How to get J-HMDB-21: at jhmdb.is.tue.mpg.de, "Downloads", take the videos (or frames), the puppet masks and the
splits (about 220 MB with videos; 5 GB with frames; for research, see there for the terms), and unpack them into one
folder jhmdb/:
    jhmdb/ReCompress_Videos/<class>/<name>.avi     (or videos/, or Rename_Images/<class>/<name>/00001.png)
    jhmdb/puppet_mask/<class>/<name>/puppet_mask.mat   (or puppet_mask/<class>/<name>.mat)
    jhmdb/splits/<class>_test_split1.txt
Also read: JHMDB-GT.pkl with Frames/<class>/<name>/, and rgb-images/ with labels/<class>/<name>/00001.txt, trainlist.txt
and testlist.txt or testlist_video.txt.
Then name it, or the folder that holds it, with --data-root (or SSLDET_DATA)."""

INDEX_VERSION = 1


class JHMDB(PublishedDataset):
    """J-HMDB-21 below `root` (or `root`/jhmdb). Ids are "<class>/<name>".

    Raises:
        DataError: nothing of it is there. What is incomplete opens, and `verify` names what is missing.
    """

    facts: DatasetFacts = facts.JHMDB
    splits: ClassVar[tuple[int, ...]] = (1, 2, 3)
    frozen_splits: ClassVar[str] = "ssldet_datasets:frozen"
    reported: ClassVar[Mapping[str, str]] = {
        "annotated actions per frame": "one",
        "actions per frame": "one",
        "background people": "no",
        "densely annotated": "yes",
    }

    root_names = ("jhmdb", "JHMDB", "jhmdb21", "JHMDB-21")
    marks = ("puppet_mask", "splits", "labels", *ACT_FILES, *(name for name, _ in FRAMES))
    frames = FRAMES
    video_name = "J-HMDB video"
    guide_text = GUIDE

    @classmethod
    def write_stand_in(cls, folder: Path, seed: int = 0) -> None:
        from ssldet_datasets.stand_ins import write_jhmdb

        write_jhmdb(folder, seed)

    def layout(self) -> str:
        where = self._boxes.folder.relative_to(self.root)
        return f"annotation: {self._boxes.form} at {where}\n{describe(self.layouts, self.root)}"

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        """The videos of a subset that have readable boxes; `verify` names those that have none."""
        listed = self._split(split)[subset]
        return [self._video(video_id, self._index[video_id]) for video_id in listed if video_id in self._index]

    def truth(self, video_id: str) -> Truth:
        index = self.__dict__.get("_index", {})  # one video does not pay for the boxes of all
        boxes_t4 = (index.get(video_id) or self._boxes.read(video_id)).boxes_t4
        frames_n = np.flatnonzero(~np.isnan(boxes_t4[:, 0]))
        labels_nk = np.zeros((len(frames_n), self.facts.num_classes), bool)
        labels_nk[:, self._label(video_id)] = True
        return Truth(
            frames_n=frames_n.astype(np.int64),
            boxes_n4=boxes_t4[frames_n],
            labels_nk=labels_nk,
            tubes_n=np.zeros(len(frames_n), np.int64),
            key_frames_m=np.arange(len(boxes_t4), dtype=np.int64),
        )

    # ------------------------------------------------------------------------------------------------ reading

    def _video(self, video_id: str, mask: MaskBoxes) -> Video:
        label = self._label(video_id)
        return Video(video_id, len(mask.boxes_t4), mask.width, mask.height, (label,), source_of(video_id))

    def _label(self, video_id: str) -> int:
        name = video_id.partition("/")[0]
        if name not in self.facts.classes:
            raise DataError(f"{video_id}: J-HMDB-21 has no class {name!r}")
        return self.facts.classes.index(name)

    def _split(self, split: int) -> Mapping[Subset, list[str]]:
        if split not in self.splits:
            raise DataError(f"J-HMDB has the splits 1, 2 and 3; asked for {split}")
        if (self.root / "splits").is_dir() or not self._has_lists:
            return self._official_split(split)
        if isinstance(self._boxes, BoxesOfTubes) and isinstance(file := self._boxes.file, ActTubes):
            return {"train": sorted(file.listed("train", split)), "test": sorted(file.listed("test", split))}
        if split != 1:
            raise DataError(f"{self.root}: trainlist.txt and testlist.txt are of split 1; asked for {split}")
        return {"train": self._listed("train"), "test": self._listed("test")}

    def _official_split(self, split: int) -> Mapping[Subset, list[str]]:
        listed: dict[Subset, list[str]] = {"train": [], "test": []}
        for name in self.facts.classes:
            for video_id, mark in read_split_file(self._split_path(name, split), name):
                listed["train" if mark == 1 else "test"].append(video_id)
        return {subset: sorted(ids) for subset, ids in listed.items()}

    @property
    def _has_lists(self) -> bool:
        """Whether lists came with the annotation, in place of the official split files."""
        stored = isinstance(self._boxes, BoxesOfTubes) and isinstance(self._boxes.file, ActTubes)
        return stored or any((self.root / name).is_file() for names in LISTS.values() for name in names)

    def _listed(self, subset: Subset) -> list[str]:
        path = next((path for name in LISTS[subset] if (path := self.root / name).is_file()), None)
        if path is None:
            raise DataError(f"no {' or '.join(LISTS[subset])} in {self.root}")
        return sorted(read_list(path))

    def _split_path(self, class_name: str, split: int) -> Path:
        return self.root / "splits" / f"{class_name}_test_split{split}.txt"

    @cached_property
    def _boxes(self) -> BoxSource:
        """The masks, else what else says where boxes are."""
        act_file = next((path for name in ACT_FILES if (path := self.root / name).is_file()), None)
        if (self.root / "puppet_mask").is_dir() or (act_file is None and not (self.root / "labels").is_dir()):
            return PuppetMasks(self.root / "puppet_mask", self.facts.classes)
        if act_file is not None:
            return BoxesOfTubes(ActTubes(act_file), self._size_on_disk)
        return BoxesOfTubes(LabelFolders(self.root / "labels", self._frames_on_disk), self._size_on_disk)

    def _frames_on_disk(self, video_id: str) -> int | None:
        source = find_source(self.layouts, video_id)
        return probe(source).frames if source else None

    def _size_on_disk(self, video_id: str) -> tuple[int, int]:
        source = find_source(self.layouts, video_id)
        return frame_size(source) if source else (WIDTH, HEIGHT)

    @cached_property
    def _ids(self) -> list[str]:
        """Every video that has boxes, or is in a split."""
        ids = set(self._boxes.ids())
        for split in self.splits:
            try:
                ids.update(*self._split(split).values())
            except DataError:
                continue  # verify names what is wrong with a split
        return sorted(ids)

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(b"jhmdb")
        for video_id in self._ids:
            mask = self._boxes.path(video_id)
            sizes = [("mask", mask.stat().st_size if mask.is_file() else -1)]
            sizes += source_bytes(find_source(self.layouts, video_id))
            digest.update(repr((video_id, sizes)).encode())
        for path in (self._split_path(name, split) for split in self.splits for name in self.facts.classes):
            digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b"absent"))
        return digest.hexdigest()

    # ------------------------------------------------------------------------------------------------ the index

    @cached_property
    def _index(self) -> Mapping[str, MaskBoxes]:
        """Boxes of all videos; those from masks (about 8 s) are kept in the cache."""
        if not isinstance(self._boxes, PuppetMasks):
            return self._read_boxes()[0]
        path = cache_root() / "index" / f"jhmdb-v{INDEX_VERSION}-{self._fingerprint[:32]}.npz"
        index = load_index(path)
        if index is None:
            index, damaged = self._read_boxes()
            if not damaged:  # a mended mask may have the size of the damaged one
                save_index(path, index)
        return index

    def _read_boxes(self) -> tuple[dict[str, MaskBoxes], dict[str, DataError]]:
        def read(video_id: str) -> MaskBoxes | DataError:
            try:
                return self._boxes.read(video_id)
            except DataError as error:
                return error

        ids = [video_id for video_id in self._ids if self._boxes.path(video_id).exists()]
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # inflating masks releases the interpreter
            results = dict(zip(ids, pool.map(read, ids), strict=True))
        return (
            {key: value for key, value in results.items() if isinstance(value, MaskBoxes)},
            {key: value for key, value in results.items() if isinstance(value, DataError)},
        )

    # ------------------------------------------------------------------------------------------------ verifying

    def _problems(self, split: int) -> Iterator[Problem]:
        if not self.layouts:
            yield Problem("no folder with videos or frames", f"{self.root}", GUIDE)
        ids: list[str] = []
        if (self.root / "splits").is_dir() or not self._has_lists:
            for name in self.facts.classes:
                path = self._split_path(name, split)
                try:
                    ids += [video_id for video_id, _ in read_split_file(path, name)]
                except DataError as error:
                    remedy = "take splits.zip from the official site"
                    yield Problem(f"split {split} of class {name}: {error}", f"{path}", remedy)
                yield from self._missing_folders(name)
        else:
            try:
                ids = [video_id for listed in self._split(split).values() for video_id in listed]
            except DataError as error:
                yield Problem(str(error), f"{self.root}", GUIDE)
        for video_id in ids:
            yield from self._problems_of(video_id)

    def _missing_folders(self, class_name: str) -> Iterator[Problem]:
        if isinstance(self._boxes, PuppetMasks) and not (self._boxes.folder / class_name).is_dir():
            yield Problem(
                f"no masks of class {class_name}", f"{self.root / 'puppet_mask' / class_name}", "unpack puppet_mask.zip"
            )
        if self.layouts and not any((layout.folder / class_name).is_dir() for layout in self.layouts):
            yield Problem(
                f"no videos of class {class_name}", f"{self.layouts[0].folder / class_name}", "unpack the videos again"
            )

    def _problems_of(self, video_id: str) -> Iterator[Problem]:
        mask = self._index.get(video_id)
        if mask is None:
            yield from self._missing_boxes(video_id)
        try:
            source = find_source(self.layouts, video_id)
            frames = probe(source).frames if source else 0
        except DataError as error:
            what = f"{video_id} cannot be opened: {error}"
            yield Problem(what, f"{self.layouts[0].expected(video_id)}", "unpack the videos again", video_id)
            return
        class_name = video_id.partition("/")[0]
        if source is None:
            if any((layout.folder / class_name).is_dir() for layout in self.layouts):
                expected = f"{self.layouts[0].expected(video_id)}"
                yield Problem(f"no frames of {video_id}", expected, "unpack the videos again", video_id)
        elif mask is not None and frames != len(mask.boxes_t4):
            what = f"{video_id} has {frames} frames and its {self._noun} {len(mask.boxes_t4)}"
            where = f"{source.file or source.images[0].parent} and {self._boxes.path(video_id)}"
            yield Problem(what, where, "both must come from the same release", video_id)

    @property
    def _noun(self) -> str:
        return "mask" if isinstance(self._boxes, PuppetMasks) else "annotation"

    def _missing_boxes(self, video_id: str) -> Iterator[Problem]:
        path = self._boxes.path(video_id)
        if not isinstance(self._boxes, PuppetMasks):
            yield Problem(f"no sound boxes of {video_id}", f"{path}", "get the annotation again", video_id)
        elif path.parent.is_dir() or (self._boxes.folder / video_id.partition("/")[0]).is_dir():
            what = f"the mask of {video_id} is damaged" if path.is_file() else f"no mask of {video_id}"
            yield Problem(what, f"{path}", "unpack puppet_mask.zip again", video_id)


# -------------------------------------------------------------------------------------------------------- files


_ATTRIBUTES = r"_[a-z]_[a-z]{2}_np\d_[a-z]{2}_[a-z]{3}_\d+"
"""Behind the class in a clip's name: visible part, camera motion, people, viewpoint, quality, number."""


def source_of(video_id: str) -> str:
    """The film or web video that a clip was cut from: its name up to the class; "" of names of another form.

    No official split has clips of one class and source in both parts. Films have clips of several classes.
    """
    label, _, name = video_id.partition("/")
    named = re.fullmatch(f"(.+)_{re.escape(label)}{_ATTRIBUTES}", name)
    return named[1] if named else ""


def read_split_file(path: Path, class_name: str) -> list[tuple[str, int]]:
    """(video id, 1 = train | 2 = test) of a `<class>_test_split<n>.txt`.

    Raises:
        DataError: it is absent, or a line is not "<name>.avi 1|2".
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        name, _, mark = line.strip().rpartition(" ")
        if not line.strip() or mark == "0":
            continue
        if mark not in ("1", "2") or not name or "/" in name:
            raise DataError(f'{path}, line {number}: expected "<name>.avi 1|2", got {line!r}')
        rows.append((checked_id(f"{class_name}/{name.strip().removesuffix('.avi')}", path), int(mark)))
    return rows
