"""J-HMDB-21: 928 trimmed clips of 21 actions, one person each, boxes from puppet masks.

The box of a frame is the extent of its mask as pixel edges, (min x, min y, max x + 1, max y + 1): its plain area is
the number of pixels that it spans, it scales exactly when frames are resized, and it agrees with UCF24's
x, y, x + w, y + h. YOWO's own label files lie within 1-2 pixels of it.

A mask's number of frames is the video's; `verify` compares it with the packets of the container.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.io import loadmat

from ssldet.cache import cache_root
from ssldet.contracts import Dataset, DatasetFacts, Problem, Subset, Truth, Video, VideoSource
from ssldet.errors import DataError, DecodeError
from ssldet.files import replacing
from ssldet.video import probe
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

FRAMES: tuple[LayoutRow, ...] = (
    ("ReCompress_Videos", VideoFiles),
    ("videos", VideoFiles),
    ("Rename_Images", ImageFolders),
    ("Frames", ImageFolders),
)

GUIDE = """\
How to get J-HMDB-21: at jhmdb.is.tue.mpg.de, "Downloads", take the videos (or frames), the puppet masks and the
splits, and unpack them into one folder jhmdb/:
    jhmdb/ReCompress_Videos/<class>/<name>.avi     (or videos/, or Rename_Images/<class>/<name>/00001.png)
    jhmdb/puppet_mask/<class>/<name>/puppet_mask.mat   (or puppet_mask/<class>/<name>.mat)
    jhmdb/splits/<class>_test_split1.txt
then name it, or the folder that holds it, with --data-root (or SSLDET_DATA)."""

INDEX_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class MaskBoxes:
    """The boxes of one video: `boxes_t4` float32 xyxy per frame, NaN where the mask is empty."""

    width: int
    height: int
    boxes_t4: np.ndarray


class JHMDB(Dataset):
    """J-HMDB-21 below `root` (or `root`/jhmdb). Ids are "<class>/<name>".

    Raises:
        DataError: nothing of it is there. What is incomplete opens, and `verify` names what is missing.
    """

    facts: DatasetFacts = facts.JHMDB
    splits: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def __init__(self, root: Path | None = None) -> None:
        marks = ("puppet_mask", "splits", *(name for name, _ in FRAMES))
        self.root = open_root(root, ("jhmdb", "JHMDB", "jhmdb21", "JHMDB-21"), marks, GUIDE)
        self.layouts = frame_layouts(self.root, FRAMES)

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        """The videos of a subset that have a readable mask; `verify` names those that have none."""
        listed = self._split(split)[subset]
        return [self._video(video_id, self._index[video_id]) for video_id in listed if video_id in self._index]

    def truth(self, video_id: str) -> Truth:
        index = self.__dict__.get("_index", {})  # one video does not pay for the boxes of all
        boxes_t4 = (index.get(video_id) or read_mask(self._mask_path(video_id))).boxes_t4
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

    def source(self, video_id: str) -> VideoSource:
        source = find_source(self.layouts, checked_id(video_id, self.root))
        if source is None:
            looked = ", ".join(str(layout.expected(video_id)) for layout in self.layouts) or self.root / FRAMES[0][0]
            raise DataError(f"no frames of J-HMDB video {video_id}; looked for {looked}.\n{GUIDE}")
        return source

    def fingerprint(self) -> str:
        return self._fingerprint

    def verify(self, split: int = 1) -> list[Problem]:
        """All that is missing, damaged or inconsistent; containers are opened to count frames, none is decoded."""
        return list(self._problems(split))

    # ------------------------------------------------------------------------------------------------ reading

    def _video(self, video_id: str, mask: MaskBoxes) -> Video:
        return Video(video_id, len(mask.boxes_t4), mask.width, mask.height, (self._label(video_id),))

    def _label(self, video_id: str) -> int:
        name = video_id.partition("/")[0]
        if name not in self.facts.classes:
            raise DataError(f"{video_id}: J-HMDB-21 has no class {name!r}")
        return self.facts.classes.index(name)

    def _split(self, split: int) -> Mapping[Subset, list[str]]:
        if split not in self.splits:
            raise DataError(f"J-HMDB has the splits 1, 2 and 3; asked for {split}")
        listed: dict[Subset, list[str]] = {"train": [], "test": []}
        for name in self.facts.classes:
            for video_id, mark in read_split_file(self._split_path(name, split), name):
                listed["train" if mark == 1 else "test"].append(video_id)
        return {subset: sorted(ids) for subset, ids in listed.items()}

    def _split_path(self, class_name: str, split: int) -> Path:
        return self.root / "splits" / f"{class_name}_test_split{split}.txt"

    def _mask_path(self, video_id: str) -> Path:
        masks = self.root / "puppet_mask"
        flat = masks / f"{checked_id(video_id, self.root)}.mat"
        return flat if flat.is_file() else masks / video_id / "puppet_mask.mat"

    @cached_property
    def _ids(self) -> list[str]:
        """Every video that has a mask, or is in a split."""
        folders = [folder for name in self.facts.classes if (folder := self.root / "puppet_mask" / name).is_dir()]
        found = {f"{folder.name}/{name.removesuffix('.mat')}" for folder in folders for name in _names(folder)}
        for split in self.splits:
            try:
                found.update(*self._split(split).values())
            except DataError:
                continue  # verify names what is wrong with a split
        return sorted(found)

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(b"jhmdb")
        for video_id in self._ids:
            mask = self._mask_path(video_id)
            sizes = [("mask", mask.stat().st_size if mask.is_file() else -1)]
            sizes += source_bytes(find_source(self.layouts, video_id))
            digest.update(repr((video_id, sizes)).encode())
        for path in (self._split_path(name, split) for split in self.splits for name in self.facts.classes):
            digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b"absent"))
        return digest.hexdigest()

    # ------------------------------------------------------------------------------------------------ the index

    @cached_property
    def _index(self) -> Mapping[str, MaskBoxes]:
        """Boxes of all videos, from the cache or from the masks (about 8 s)."""
        path = cache_root() / "index" / f"jhmdb-v{INDEX_VERSION}-{self._fingerprint[:32]}.npz"
        index = load_index(path)
        if index is None:
            index, damaged = self._read_masks()
            if not damaged:  # a mended mask may have the size of the damaged one
                save_index(path, index)
        return index

    def _read_masks(self) -> tuple[dict[str, MaskBoxes], dict[str, DataError]]:
        def read(video_id: str) -> MaskBoxes | DataError:
            try:
                return read_mask(self._mask_path(video_id))
            except DataError as error:
                return error

        ids = [video_id for video_id in self._ids if self._mask_path(video_id).is_file()]
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
        for name in self.facts.classes:
            path = self._split_path(name, split)
            try:
                ids += [video_id for video_id, _ in read_split_file(path, name)]
            except DataError as error:
                yield Problem(
                    f"split {split} of class {name}: {error}", f"{path}", "take splits.zip from the official site"
                )
            yield from self._missing_folders(name)
        for video_id in ids:
            yield from self._problems_of(video_id)

    def _missing_folders(self, class_name: str) -> Iterator[Problem]:
        if not (self.root / "puppet_mask" / class_name).is_dir():
            yield Problem(
                f"no masks of class {class_name}", f"{self.root / 'puppet_mask' / class_name}", "unpack puppet_mask.zip"
            )
        if self.layouts and not any((layout.folder / class_name).is_dir() for layout in self.layouts):
            yield Problem(
                f"no videos of class {class_name}", f"{self.layouts[0].folder / class_name}", "unpack the videos again"
            )

    def _problems_of(self, video_id: str) -> Iterator[Problem]:
        class_name = video_id.partition("/")[0]
        mask_path, mask = self._mask_path(video_id), self._index.get(video_id)
        if mask is None and mask_path.parent.is_dir():
            what = f"the mask of {video_id} is damaged" if mask_path.is_file() else f"no mask of {video_id}"
            yield Problem(what, f"{mask_path}", "unpack puppet_mask.zip again")
        elif mask is None and (self.root / "puppet_mask" / class_name).is_dir():
            yield Problem(f"no mask of {video_id}", f"{mask_path}", "unpack puppet_mask.zip again")
        source = find_source(self.layouts, video_id)
        if source is None:
            if any((layout.folder / class_name).is_dir() for layout in self.layouts):
                yield Problem(
                    f"no frames of {video_id}", f"{self.layouts[0].expected(video_id)}", "unpack the videos again"
                )
            return
        where = f"{source.file or source.images[0].parent}"
        try:
            frames = probe(source).frames
        except DecodeError as error:
            yield Problem(f"{video_id} cannot be opened: {error}", where, "unpack the videos again")
            return
        if mask is not None and frames != len(mask.boxes_t4):
            what = f"{video_id} has {frames} frames and its mask {len(mask.boxes_t4)}"
            yield Problem(what, f"{where} and {mask_path}", "both must come from the same release")


# -------------------------------------------------------------------------------------------------------- files


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


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


def read_mask(path: Path) -> MaskBoxes:
    """The boxes of a puppet mask file.

    Raises:
        DataError: it is absent, damaged, or holds no mask of (height, width, frames).
    """
    try:
        with path.open("rb") as stream:
            mask = loadmat(stream, variable_names=["part_mask"])["part_mask"]
    except FileNotFoundError as error:
        raise DataError(f"no mask at {path}") from error
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        raise DataError(f"{path}: not a readable puppet mask ({type(error).__name__}: {error})") from error
    if mask.ndim == 2:  # MATLAB drops the axis of a single frame
        mask = mask[:, :, None]
    if mask.ndim != 3 or mask.size == 0 or mask.dtype.kind not in "buif":
        raise DataError(f"{path}: expected a mask of (height, width, frames), got {mask.shape} {mask.dtype}")
    return MaskBoxes(mask.shape[1], mask.shape[0], mask_extents(mask))


def mask_extents(mask_hwt: np.ndarray) -> np.ndarray:
    """Extent of what is not zero in each frame: (t, 4) float32 xyxy pixel edges, NaN where all is zero."""
    edges = []
    for axis in (0, 1):  # seen along y: columns, hence x; then the other way round
        seen = np.asarray(mask_hwt.any(axis))
        edges.append((seen.argmax(0), len(seen) - seen[::-1].argmax(0)))
    (x1, x2), (y1, y2) = edges
    boxes_t4 = np.stack([x1, y1, x2, y2], 1).astype(np.float32)
    boxes_t4[~mask_hwt.any((0, 1))] = np.nan
    return boxes_t4


def save_index(path: Path, index: Mapping[str, MaskBoxes]) -> None:
    """Write the boxes of all videos as one .npz."""
    masks = list(index.values())
    try:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                ids=np.array(list(index)),
                shapes_n3=np.array([(mask.width, mask.height, len(mask.boxes_t4)) for mask in masks], np.int64).reshape(
                    -1, 3
                ),
                boxes_n4=np.concatenate([mask.boxes_t4 for mask in masks]) if masks else np.empty((0, 4), np.float32),
            )
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror}); set SSLDET_CACHE to a folder that can be written"
        ) from error


def load_index(path: Path) -> dict[str, MaskBoxes] | None:
    """What `save_index` wrote; None where it is absent or damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            ids, shapes_n3, boxes_n4 = stored["ids"], stored["shapes_n3"], stored["boxes_n4"]
    except Exception:  # absent, cut off, of another kind: it is computed anew
        return None
    ends = np.cumsum(shapes_n3[:, 2])
    return {
        str(video_id): MaskBoxes(int(width), int(height), boxes_n4[end - frames : end])
        for video_id, (width, height, frames), end in zip(ids, shapes_n3, ends, strict=True)
    }
