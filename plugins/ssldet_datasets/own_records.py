"""What files of boxes are read into: per video its boxes and the frames that are spoken of; and plain values.

Frames count from 0 here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ssldet.data.video import SUFFIXES
from ssldet.errors import DataError
from ssldet_datasets.layouts import checked_id

T = TypeVar("T")

MAX_FRAME = 1_000_000
MAX_EDGE = 1e6
NUMBERED = r"(?:(.+)/)?([^/]*?)(\d{1,7})"
"""Folder, prefix and number of an image's name, video/img_000012, without the suffix."""


@dataclass(frozen=True, slots=True)
class OwnBox:
    """One box: frame from 0, label, tube (-1: not linked), edges x1 y1 x2 y2 in pixels; drawn or interpolated."""

    frame: int
    label: str
    tube: int
    edges: tuple[float, float, float, float]
    drawn: bool = field(default=True, compare=False)


@dataclass(slots=True)
class OwnVideo:
    """The annotation of one video.

    Attributes:
        frames: those it speaks of, with or without boxes.
        unknown: those about which nothing is said though they are listed: with crowds, or with boxes that are left out.
        size: (width, height) of the frames that were annotated, where the file says so.
    """

    boxes: list[OwnBox] = field(default_factory=list)
    frames: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    size: tuple[int, int] | None = field(default=None, compare=False)

    def add(self, box: OwnBox) -> None:
        self.boxes.append(box)
        self.frames.add(box.frame)


Annotation = dict[str, OwnVideo]
"""Video id -> what is said of it."""


def labels_in(annotation: Annotation) -> set[str]:
    """All labels of an annotation."""
    return {box.label for video in annotation.values() for box in video.boxes}


def merge_video(annotation: Annotation, video_id: str, video: OwnVideo, file: Path) -> None:
    """Add what one file says of a video; jobs of one task may share frames, of which the first file's boxes count."""
    before = annotation.setdefault(video_id, OwnVideo(size=video.size))
    fresh = video.frames - before.frames
    if before.frames and not fresh:
        raise DataError(f"{file}: another file has boxes of the same frames of {video_id}; keep one of them")
    shift = 1 + max((box.tube for box in before.boxes), default=-1)
    for box in video.boxes:
        if box.frame in fresh:
            before.boxes.append(replace(box, tube=box.tube + shift if box.tube >= 0 else -1))
    before.frames |= video.frames
    before.unknown |= video.unknown & fresh


# ------------------------------------------------------------------------------------------------------ names


class VideoNames:
    """Which video a name in a file of boxes means.

    Suffixes do not count, nor does the form in which letters with accents are stored (macOS stores them in two). A name
    with more folders than the video's, or with fewer, is taken where it can mean one video only; so is what an upload
    makes of a name, Mia_winkt of "Mia winkt".

    Args:
        known: the ids of the videos; None takes every name as it is.
        size, rate: (width, height), and frames a second, of a video by its id, for tools that give shares and seconds.
    """

    def __init__(
        self,
        known: Collection[str] | None = None,
        *,
        size: Callable[[str], tuple[int, int]] | None = None,
        rate: Callable[[str], float] | None = None,
    ) -> None:
        self._known = None if known is None else frozenset(known)
        self._names: dict[str, str] = {}
        self._size, self._rate = size, rate

    def size(self, video_id: str) -> tuple[int, int]:
        """(width, height) of a video's frames. Raises DataError where there is none."""
        return self._present(video_id, self._size)(video_id)

    def rate(self, video_id: str) -> float:
        """Frames a second of a video. Raises DataError where there is none."""
        return self._present(video_id, self._rate)(video_id)

    def _present(self, video_id: str, ask: Callable[[str], T] | None) -> Callable[[str], T]:
        if ask is None or (self._known is not None and video_id not in self._known):
            near = get_close_matches(video_id, self._known or (), 1, cutoff=0.3)
            called = f"; rename one of them, if it is the video {near[0]!r}" if near else ""
            raise DataError(
                f"boxes of {video_id}, of which there is no video{called}. Without the video nothing says where these "
                "boxes are: they are shares of its frames, or at seconds"
            )
        return ask

    def id_of(self, name: object, where: Path) -> str:
        """The id of the video that is meant, or would be. Raises DataError for what is no name, or that of two."""
        written = video_id_of(name, where)
        video_id = self._meant(written, where)
        if self._names.setdefault(video_id, written) != written:
            raise DataError(
                f"{where}: {self._names[video_id]!r} and {written!r} both look like the video {video_id!r}; "
                "write names as paths below videos/"
            )
        return video_id

    def knows(self, name: str, where: Path) -> bool:
        """Whether a name means a video, where videos are known."""
        try:
            return self._known is not None and self._meant(video_id_of(name, where), where) in self._known
        except DataError:
            return False

    @property
    def any_known(self) -> bool:
        """Whether there are videos to compare names with."""
        return self._known is not None

    def _meant(self, written: str, where: Path) -> str:
        if self._known is None or written in self._known:
            return written
        shorter = [video_id for video_id in self._known if written.endswith(f"/{video_id}")]
        if shorter:
            return max(shorter, key=len)
        longer = sorted(video_id for video_id in self._known if video_id.endswith(f"/{written}"))
        if len(longer) > 1:
            raise DataError(f"{where}: {written!r} may be {longer[0]!r} or {longer[1]!r}; write the folder too")
        return longer[0] if longer else self._uploaded(written, where)

    def _uploaded(self, written: str, where: Path) -> str:
        """The video whose name an upload turned into the one written; itself where there is none."""
        meant = self._by_upload.get(upload_name(written), [written])
        if len(meant) > 1:
            raise DataError(f"{where}: {written!r} may be {meant[0]!r} or {meant[1]!r}; rename one of these videos")
        return meant[0]

    @cached_property
    def _by_upload(self) -> dict[str, list[str]]:
        """Names as uploads leave them, with folders and without -> ids."""
        ids: dict[str, list[str]] = {}
        for video_id in sorted(self._known or ()):
            for name in {video_id, video_id.rpartition("/")[2]}:
                ids.setdefault(upload_name(name), []).append(video_id)
        return ids


def video_id_of(name: object, where: Path) -> str:
    """A video's id from its file's name: without the suffix, with / between folders. Raises DataError."""
    if not isinstance(name, str):
        raise DataError(f"{where}: a name of a video is a {type(name).__name__}")
    return checked_id(plain_name(name), where)


def plain_name(name: str) -> str:
    """A file's name without the suffix of a video, letters in one form (NFC)."""
    suffix = PurePosixPath(name).suffix
    return unicodedata.normalize("NFC", name[: -len(suffix)] if suffix.lower() in SUFFIXES else name)


def upload_name(name: str) -> str:
    """What uploading leaves of a name: blanks as underscores; neither marks of letters nor other signs."""
    letters = unicodedata.normalize("NFKD", name).replace(" ", "_")
    return re.sub(r"[^-\w./]", "", letters)


# ----------------------------------------------------------------------------------------------------- values


def frame_number(value: Any, where: str, first: int) -> int:
    """A frame from 0, of a number that counts from `first`. Raises DataError."""
    return whole_number(value, where, "frame", least=first) - first


def whole_number(value: Any, where: str, what: str, least: int) -> int:
    """A whole number, which may be written 1.0. Raises DataError."""
    try:
        number = float(str(value)[:20]) if not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not number.is_integer() or not least <= number <= MAX_FRAME:
        raise DataError(f"{where}: {what} is {value!r:.40}; expected a whole number from {least}")
    return int(number)


def class_name(value: Any, where: str) -> str:
    """The name of a class, letters in one form. Raises DataError."""
    if not isinstance(value, str) or not value.strip() or len(value) > 200:
        raise DataError(f"{where}: expected the name of a class, got {value!r:.40}")
    return unicodedata.normalize("NFC", value.strip())


def finite_number(value: Any, where: str, what: str) -> float:
    """A number of usual size. Raises DataError."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < MAX_EDGE:
        raise DataError(f"{where}: {what} is {value!r:.40}; expected a number below {MAX_EDGE:g}")
    return number


def box_edges(values: Any, where: str, ordered: bool = True) -> tuple[float, float, float, float]:
    """Four finite numbers; `ordered` as x1 < x2 and y1 < y2. Raises DataError."""
    try:
        x1, y1, x2, y2 = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: expected four numbers as a box, got {values!r:.80}") from error
    if not all(math.isfinite(edge) and abs(edge) < MAX_EDGE for edge in (x1, y1, x2, y2)):
        raise DataError(f"{where}: edges of a box outside any frame")
    if ordered and not (x1 < x2 and y1 < y2):
        raise DataError(f"{where}: a box without area ({x1:g}, {y1:g}, {x2:g}, {y2:g})")
    return x1, y1, x2, y2


class TubeNumbers:
    """Tubes by number; names, which some tools give, are numbered as they come."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}

    def number(self, value: Any, where: str) -> int:
        """The number of a tube, -1 where there is none. Raises DataError."""
        if value is None or value == "":
            return -1
        if isinstance(value, str) and not re.fullmatch(r"-?\d+(\.0*)?", value.strip()) and len(value) <= 200:
            return self._names.setdefault(value, len(self._names))
        return whole_number(value, where, "tube", least=-1)


def frame_size(row: Any) -> tuple[int, int] | None:
    """(width, height) of a mapping that has both as whole numbers above 0."""
    width, height = row.get("width"), row.get("height")
    sound = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    return (width, height) if sound else None
