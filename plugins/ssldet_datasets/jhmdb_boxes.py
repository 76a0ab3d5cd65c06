"""The boxes of J-HMDB-21 from what users hold: puppet masks, an ACT-style pickle, or label folders of each frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ssldet.errors import DataError
from ssldet.util.files import replacing
from ssldet_datasets.layouts import checked_id, inside
from ssldet_datasets.mat_files import load_mat
from ssldet_datasets.tube_files import TubeFile


@dataclass(frozen=True, slots=True, eq=False)
class MaskBoxes:
    """The boxes of one video: `boxes_t4` float32 xyxy per frame, NaN where there is none."""

    width: int
    height: int
    boxes_t4: np.ndarray


class BoxSource(Protocol):
    """Where boxes come from: `form` says it in words, `folder` is what it begins with."""

    form: str
    folder: Path

    def ids(self) -> Sequence[str]:
        """Every video that has boxes."""
        ...

    def path(self, video_id: str) -> Path:
        """Where the boxes of a video lie, or should."""
        ...

    def read(self, video_id: str) -> MaskBoxes:
        """The boxes of a video. Raises DataError."""
        ...


class PuppetMasks:
    """puppet_mask/<class>/<name>.mat or puppet_mask/<class>/<name>/puppet_mask.mat."""

    form = "puppet masks"

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self._classes = folder, classes

    def ids(self) -> Sequence[str]:
        folders = [folder for name in self._classes if (folder := self.folder / name).is_dir()]
        return [f"{folder.name}/{name.removesuffix('.mat')}" for folder in folders for name in _names(folder)]

    def path(self, video_id: str) -> Path:
        flat = self.folder / f"{checked_id(video_id, self.folder)}.mat"
        return flat if flat.is_file() else self.folder / video_id / "puppet_mask.mat"

    def read(self, video_id: str) -> MaskBoxes:
        return read_mask(inside(self.path(video_id), self.folder))


class BoxesOfTubes:
    """Boxes from a file of tubes or from label folders.

    Args:
        file: the tubes.
        size_of: (width, height) of a video of which the file does not say it.
    """

    def __init__(self, file: TubeFile, size_of: Callable[[str], tuple[int, int]]) -> None:
        self.form, self.folder, self.file, self._size_of = file.form, file.path, file, size_of

    def ids(self) -> Sequence[str]:
        return self.file.ids

    def path(self, video_id: str) -> Path:
        return self.folder / video_id if self.folder.is_dir() else self.folder

    def read(self, video_id: str) -> MaskBoxes:
        if video_id not in self.file.ids:
            raise DataError(f"{self.folder}: has no boxes of {video_id}")
        boxes_t4 = np.full((self.file.num_frames(video_id), 4), np.nan, np.float32)
        for start, boxes_n4 in self.file.tubes(video_id):
            boxes_t4[start : start + len(boxes_n4)] = boxes_n4  # one person a video: tubes do not overlap
        return MaskBoxes(*(self.file.size(video_id) or self._size_of(video_id)), boxes_t4)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def read_mask(path: Path) -> MaskBoxes:
    """The boxes of a puppet mask file.

    Raises:
        DataError: it is absent, damaged, or holds no mask of (height, width, frames).
    """
    if not path.is_file():
        raise DataError(f"no mask at {path}")
    mask = load_mat(path, ["part_mask"])["part_mask"]
    if not isinstance(mask, np.ndarray):
        raise DataError(f"{path}: part_mask is a {type(mask).__name__}")
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
