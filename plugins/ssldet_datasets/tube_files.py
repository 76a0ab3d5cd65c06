"""The forms in which UCF24 and J-HMDB boxes are passed around, read into one: per video, tubes of boxes xyxy.

    form                frames                       boxes
    pyannot.pkl         sf from 0, ef exclusive      x y w h
    finalAnnots.mat     sf from 1, ef inclusive      x y w h
    UCF101v2-GT.pkl     each from 1                  x1 y1 x2 y2, one less than those above
    labels/*/*/00001.txt  by file name, from 1       class x1 y1 x2 y2; boxes are not linked

A video is parsed when it is asked for, so that one that is damaged can be named and the others used.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssldet.errors import DataError
from ssldet.util.safe_pickle import load
from ssldet_datasets.layouts import checked_id, inside
from ssldet_datasets.mat_files import load_mat

Tube = tuple[int, np.ndarray]
"""First frame (from 0), and boxes (n, 4) float32 xyxy, one a frame without gaps."""

MAX_FRAMES = 1_000_000
MAX_BOXES = 1000
"""So many boxes may a frame have."""
MAX_EDGE = 1e6
"""No edge of a box lies further out, pixels."""


class TubeFile(ABC):
    """The annotation of many videos.

    Attributes:
        path: where it lies.
        form: what it is, in words.
    """

    form: str

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """All annotated videos."""

    @abstractmethod
    def num_frames(self, video_id: str) -> int:
        """How many frames the annotation speaks of. Raises DataError."""

    @abstractmethod
    def tubes(self, video_id: str) -> list[Tube]:
        """The tubes of a video. Raises DataError for those that do not fit it."""

    def size(self, video_id: str) -> tuple[int, int] | None:
        """(width, height) of the frames, where the annotation says so."""
        return None

    def digest(self) -> bytes:
        """A hash of its content."""
        return hashlib.sha256(self.path.read_bytes()).digest()


class StoredTubes(TubeFile):
    """pyannot.pkl, and finalAnnots.mat (`first` = 1): video -> numf and tubes of sf, ef and boxes x y w h."""

    def __init__(self, path: Path, form: str, videos: Mapping[str, Any], first: int) -> None:
        super().__init__(path)
        self.form, self._videos, self._first = form, videos, first

    @classmethod
    def from_pickle(cls, path: Path) -> StoredTubes:
        """Read pyannot.pkl. Raises DataError."""
        content = _dictionary(load(path), path)
        for video_id, video in content.items():
            if not isinstance(video, dict) or not {"numf", "annotations"} <= set(video):
                raise DataError(f"{path}: expected video -> {{numf, label, annotations}} for each video")
            checked_id(video_id, path)
        return cls(path, "pyannot.pkl", content, first=0)

    @classmethod
    def from_mat(cls, path: Path) -> StoredTubes:
        """Read finalAnnots.mat. Raises DataError."""
        content = load_mat(path, ["annot"])["annot"]
        videos = {}
        for video in _as_list(content):
            if not isinstance(video, dict) or not {"name", "num_imgs", "tubes"} <= set(video):
                raise DataError(f"{path}: expected annot(n) of num_imgs, name and tubes")
            entry = {"numf": video["num_imgs"], "annotations": _as_list(video["tubes"])}
            videos[checked_id(video["name"], path)] = entry
        return cls(path, "finalAnnots.mat", _dictionary(videos, path), first=1)

    @property
    def ids(self) -> Sequence[str]:
        return list(self._videos)

    def num_frames(self, video_id: str) -> int:
        return whole(self._videos[video_id]["numf"], f"{video_id}: number of frames", 1)

    def tubes(self, video_id: str) -> list[Tube]:
        tubes = self._videos[video_id]["annotations"]
        if not isinstance(tubes, list | tuple):
            raise DataError(f"{video_id}: expected a list of tubes, got a {type(tubes).__name__}")
        num_frames = self.num_frames(video_id)
        return [self._tube(tube, video_id, num_frames) for tube in tubes]

    def _tube(self, tube: Any, video_id: str, num_frames: int) -> Tube:
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                start, end, xywh_n4 = tube["sf"], tube["ef"], np.asarray(tube["boxes"], np.float32)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise DataError(f"{video_id}: expected tubes of sf, ef and boxes ({error!r:.80})") from error
        start = whole(start, f"{video_id}: sf", self._first) - self._first
        end = whole(end, f"{video_id}: ef", 0)
        if xywh_n4.shape != (end - start, 4):
            raise DataError(
                f"{video_id}: a tube over frames {start} to {end} of {num_frames} has boxes of shape {xywh_n4.shape}"
            )
        xyxy_n4 = np.concatenate([xywh_n4[:, :2], xywh_n4[:, :2] + xywh_n4[:, 2:]], 1)
        return checked_tube((start, xyxy_n4), video_id, num_frames)


class ActTubes(TubeFile):
    """UCF101v2-GT.pkl or JHMDB-GT.pkl, as ACT and MOC pass them around; with lists of all splits.

    Args:
        shift: added to each edge: 1 gives back UCF24's own numbers.
    """

    form = "ACT-style GT.pkl"

    def __init__(self, path: Path, shift: int = 0) -> None:
        super().__init__(path)
        self._shift = shift
        content = load(path)
        if not isinstance(content, dict) or not {"gttubes", "nframes", "train_videos", "test_videos"} <= set(content):
            raise DataError(f"{path}: expected gttubes, nframes, resolution, train_videos and test_videos")
        self._content = content
        self._tubes = _dictionary(content["gttubes"], path)
        for video_id in self._tubes:
            checked_id(video_id, path)

    @property
    def ids(self) -> Sequence[str]:
        return list(self._tubes)

    def num_frames(self, video_id: str) -> int:
        return whole(self._of("nframes", video_id), f"{video_id}: number of frames", 1)

    def size(self, video_id: str) -> tuple[int, int] | None:
        try:
            height, width = self._of("resolution", video_id)
        except (DataError, TypeError, ValueError):
            return None
        return whole(width, f"{video_id}: width", 1), whole(height, f"{video_id}: height", 1)

    def tubes(self, video_id: str) -> list[Tube]:
        by_label = self._tubes[video_id]
        if not isinstance(by_label, dict) or not all(isinstance(tubes, list) for tubes in by_label.values()):
            raise DataError(f"{video_id}: expected label -> list of tubes")
        num_frames = self.num_frames(video_id)
        return [self._tube(tube, video_id, num_frames) for tubes in by_label.values() for tube in tubes]

    def listed(self, subset: str, split: int) -> list[str]:
        """The videos of a subset of a split (from 1). Raises DataError where it has no such split."""
        lists = self._content[f"{subset}_videos"]
        if not isinstance(lists, list) or not 1 <= split <= len(lists) or not isinstance(lists[split - 1], list):
            raise DataError(f"{self.path}: has no list of {subset} videos of split {split}")
        return [checked_id(video_id, self.path) for video_id in lists[split - 1]]

    def _of(self, table: str, video_id: str) -> Any:
        values = self._content.get(table)
        if not isinstance(values, dict) or video_id not in values:
            raise DataError(f"{self.path}: {table} says nothing of {video_id}")
        return values[video_id]

    def _tube(self, tube: Any, video_id: str, num_frames: int) -> Tube:
        try:
            with np.errstate(invalid="ignore"):
                rows_n5 = np.asarray(tube, np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{video_id}: a tube that is no array ({error!r:.80})") from error
        if rows_n5.ndim != 2 or rows_n5.shape[1] != 5 or not len(rows_n5) or np.isnan(rows_n5).any():
            raise DataError(f"{video_id}: expected tubes (n, 5) of frame, x1, y1, x2, y2; got {rows_n5.shape}")
        start = int(np.clip(rows_n5[0, 0], 0, MAX_FRAMES)) - 1
        if not np.array_equal(rows_n5[:, 0], np.arange(start + 1, start + 1 + len(rows_n5))):
            raise DataError(f"{video_id}: a tube whose frames are not one after another")
        with np.errstate(over="ignore", invalid="ignore"):
            boxes_n4 = (rows_n5[:, 1:] + self._shift).astype(np.float32)
        return checked_tube((start, boxes_n4), video_id, num_frames)


class LabelFolders(TubeFile):
    """labels/<Class>/<video>/00001.txt: boxes of each frame. They are linked to tubes by overlap.

    Args:
        frames_of: number of frames of a video, None where its frames are not there; then the last label counts.
    """

    form = "per-frame label folders (boxes linked to tubes by overlap)"

    def __init__(self, path: Path, frames_of: Callable[[str], int | None]) -> None:
        super().__init__(path)
        self._frames_of = frames_of

    @cached_property
    def ids(self) -> Sequence[str]:
        folders = (inside(folder, self.path) for folder in sorted(self.path.iterdir()) if folder.is_dir())
        return [f"{folder.name}/{video.name}" for folder in folders for video in sorted(folder.iterdir())]

    def num_frames(self, video_id: str) -> int:
        return self._frames_of(video_id) or self._last(video_id)

    def tubes(self, video_id: str) -> list[Tube]:
        num_frames = self.num_frames(video_id)
        frames = {number - 1: read_label_file(path) for number, path in self._files(video_id)}
        return [checked_tube(tube, video_id, num_frames) for tube in link_boxes(frames)]

    def digest(self) -> bytes:
        digest = hashlib.sha256()
        for video_id in self.ids:
            sizes = [(number, path.stat().st_size) for number, path in self._files(video_id)]
            digest.update(repr((video_id, sizes)).encode())
        return digest.digest()

    def _last(self, video_id: str) -> int:
        numbers = [number for number, _ in self._files(video_id)]
        if not numbers:
            raise DataError(f"{self.path / video_id}: holds neither labels nor is its number of frames known")
        return numbers[-1]

    def _files(self, video_id: str) -> list[tuple[int, Path]]:
        folder = inside(self.path / checked_id(video_id, self.path), self.path)
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if re.fullmatch(r"\d{1,6}\.txt", entry.name)]
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
        return sorted((int(name[:-4]), folder / name) for name in names if int(name[:-4]) > 0)


def read_label_file(path: Path) -> np.ndarray:
    """Boxes (n, 4) xyxy of rows "class x1 y1 x2 y2"; the class is that of the folder.

    Raises:
        DataError: the file cannot be read, or a row is not of this form.
    """
    boxes = []
    for number, line in enumerate(read_lines(path, most=MAX_BOXES), 1):
        try:
            _, x1, y1, x2, y2 = map(float, line.split())
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected class x1 y1 x2 y2, got {line[:80]!r}") from error
        if not all(abs(edge) < MAX_EDGE for edge in (x1, y1, x2, y2)):
            raise DataError(f"{path}, line {number}: edges of a box outside any frame")
        boxes.append((x1, y1, x2, y2))
    return np.array(boxes, np.float32).reshape(-1, 4)


def link_boxes(frames: Mapping[int, np.ndarray]) -> list[Tube]:
    """Boxes of frames as tubes: a box goes on with the tube of the frame before that it overlaps most."""
    done: list[tuple[int, list[np.ndarray]]] = []
    alive: list[tuple[int, list[np.ndarray]]] = []
    last = -2
    for frame in sorted(frames):
        before = alive if frame == last + 1 else []
        alive, last = [], frame
        taken: set[int] = set()
        for box in frames[frame]:
            place = _most_overlapped(box, [tube[-1] for _, tube in before], taken)
            tube = before[place] if place is not None else (frame, [])
            if place is None:
                done.append(tube)
            else:
                taken.add(place)
            tube[1].append(box)
            alive.append(tube)
    return [(start, np.stack(boxes)) for start, boxes in done]


def _most_overlapped(box: np.ndarray, others: Sequence[np.ndarray], taken: set[int]) -> int | None:
    if not others:
        return None
    boxes_n4 = np.stack(others).astype(np.float64)
    sides_n2 = np.minimum(box[2:], boxes_n4[:, 2:]) - np.maximum(box[:2], boxes_n4[:, :2])
    inner_n = np.where((sides_n2 > 0).all(1), sides_n2.prod(1), 0)
    areas_n = (boxes_n4[:, 2:] - boxes_n4[:, :2]).prod(1) + float((box[2:] - box[:2]).astype(np.float64).prod())
    overlap_n = inner_n / np.maximum(areas_n - inner_n, 1e-9)
    overlap_n[sorted(taken)] = 0
    return int(overlap_n.argmax()) if overlap_n.max() > 0 else None


def read_list(path: Path) -> list[str]:
    """Video ids of a list in any of the known forms, each once, in order.

    Known are `Class/video`, `Class/video.avi`, `Class/video.avi 7`, `Class/video/00070.txt`, also below `labels/` or
    `rgb-images/`.

    Raises:
        DataError: the file cannot be read, or a name would leave the data folder.
    """
    ids = (checked_id(_video_of(line), path) for line in read_lines(path))
    return list(dict.fromkeys(ids))


def _video_of(line: str) -> str:
    name = re.sub(r"\s+\d+$", "", line)
    name = re.sub(r"/\d+\.(txt|jpe?g|png)$", "", name)
    name = re.sub(r"\.(avi|mp4|mkv)$", "", name)
    return re.sub(r"^(\./)?(labels|rgb-images|Frames)/", "", name)


def read_lines(path: Path, most: int = MAX_FRAMES * 2) -> Iterator[str]:
    """The lines of a text file that are not blank, stripped.

    Raises:
        DataError: it cannot be read, or has too many lines.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as stream:
            for number, line in enumerate(stream):
                if number >= most or len(line) > 10_000:
                    raise DataError(f"{path}: too long for a list of videos or boxes")
                if line.strip():
                    yield line.strip()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def checked_tube(tube: Tube, video_id: str, num_frames: int) -> Tube:
    """A tube that lies inside its video. Raises DataError."""
    start, boxes_n4 = tube
    end = start + len(boxes_n4)
    if start < 0 or end > num_frames:
        raise DataError(f"{video_id}: a tube over frames {start} to {end} of {num_frames}")
    if not (np.abs(boxes_n4) < MAX_EDGE).all():  # so that NaN is refused as well
        raise DataError(f"{video_id}: a tube over frames {start} to {end} has edges of boxes outside any frame")
    return tube


def whole(value: Any, what: str, least: int) -> int:
    """A count of the annotation as Python's int: small integer types overflow in the next sum. Raises DataError."""
    if isinstance(value, np.floating) and value.is_integer():  # MATLAB's numbers are doubles
        value = int(value)
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= int(value) <= MAX_FRAMES:
        raise DataError(f"{what} is a {type(value).__name__}, or no sensible count")
    return int(value)


def _dictionary(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected a dictionary of videos, got a {type(content).__name__}")
    if not all(isinstance(key, str) for key in content):
        raise DataError(f"{path}: expected the videos' names as keys")
    return content


def _as_list(value: Any) -> list[Any]:
    """What MATLAB keeps as one thing, a row, or nothing, as a list."""
    if isinstance(value, np.ndarray):
        return list(value.ravel())
    return value if isinstance(value, list) else [value]
