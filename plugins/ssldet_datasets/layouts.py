"""Where the frames of a data set lie: the layouts that users hold, told apart by the folders that exist.

A data set lists those that it may be found in as rows (folder, layout); the ones whose folder exists are asked in turn.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol, TypeVar

from ssldet.contracts import VideoSource
from ssldet.errors import AbsentData, DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class FrameLayout(Protocol):
    """One way in which frames lie below a folder."""

    @property
    def folder(self) -> Path:
        """Where it begins."""
        ...

    @property
    def words(self) -> str:
        """What a frame's file is."""
        ...

    def source(self, video_id: str) -> VideoSource | None:
        """Where the frames of a video lie; None where there are none. Raises DataError for a link that leads out."""
        ...

    def expected(self, video_id: str) -> Path:
        """Where they should lie."""
        ...


@dataclass(frozen=True)
class VideoFiles:
    """`<folder>/<id>.avi`, or another suffix of a container file; `rate` as in `VideoSource`."""

    folder: Path
    suffixes: tuple[str, ...] = (".avi", ".mp4", ".mkv", ".webm")
    rate: float | None = None
    words: ClassVar[str] = "video files"

    def source(self, video_id: str) -> VideoSource | None:
        paths = (self.folder / f"{video_id}{suffix}" for suffix in self.suffixes)
        path = next((path for path in paths if path.is_file()), None)
        return VideoSource(file=inside(path, self.folder), rate=self.rate) if path else None

    def expected(self, video_id: str) -> Path:
        return self.folder / f"{video_id}{self.suffixes[0]}"


@dataclass(frozen=True)
class ImageFolders:
    """`<folder>/<id>/00001.png ...`, one image per frame, in the order of their names."""

    folder: Path
    words: ClassVar[str] = "one image per frame"

    def source(self, video_id: str) -> VideoSource | None:
        folder = self.expected(video_id)
        if not folder.is_dir():
            return None
        with os.scandir(inside(folder, self.folder)) as entries:
            images = sorted((e.name, e.is_symlink()) for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES))
        for name, _ in filter(lambda image: image[1], images):
            inside(folder / name, self.folder)
        return VideoSource(images=tuple(folder / name for name, _ in images)) if images else None

    def expected(self, video_id: str) -> Path:
        return self.folder / video_id


Layout = TypeVar("Layout", bound=FrameLayout)
LayoutRow = tuple[str, Callable[[Path], FrameLayout]]


def frame_layouts(root: Path, rows: Iterable[tuple[str, Callable[[Path], Layout]]]) -> list[Layout]:
    """The layouts whose folder exists below `root`, in the order of `rows`."""
    return [make(root / name) for name, make in rows if (root / name).is_dir()]


def find_source(layouts: Sequence[FrameLayout], video_id: str) -> VideoSource | None:
    """The first layout's frames of a video; None where no layout has it."""
    return next((source for layout in layouts if (source := layout.source(video_id)) is not None), None)


def source_bytes(source: VideoSource | None) -> Iterator[tuple[str, int]]:
    """(name, size) of what frames are read from, for fingerprints; of images the number and the first one's size."""
    if source is None:
        return
    if source.file is not None:
        yield unicodedata.normalize("NFC", source.file.name), source.file.stat().st_size
    else:
        yield f"{len(source.images)} images", source.images[0].stat().st_size


def checked_id(video_id: str, where: Path) -> str:
    """A video id that stays below the data root when it becomes a path.

    Raises:
        DataError: it is empty, absolute, or climbs up.
    """
    parts = PurePosixPath(video_id).parts if isinstance(video_id, str) else ()
    if (
        not parts
        or len(video_id) > 400
        or video_id.startswith("/")
        or ".." in parts
        or "\\" in video_id
        or "\0" in video_id
    ):
        raise DataError(f"{where}: {video_id!r:.200} is no name of a video: it would leave the data folder")
    return video_id


def inside(path: Path, folder: Path) -> Path:
    """`path`, if all links in it stay below `folder` (which may be a link itself).

    Raises:
        DataError: it leads out.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path}: leads out of {folder}; put the file itself there, or link the whole folder")
    return path


def describe(layouts: Sequence[FrameLayout], root: Path) -> str:
    """Which frames were found, in words."""
    descriptions = (f"{at.words} in {at.folder.relative_to(root)}/" for at in layouts)
    return "frames: " + (", ".join(descriptions) or "none")


def open_root(root: Path | None, names: Sequence[str], marks: Sequence[str], guide: str) -> Path:
    """The data set's own folder: of `root` itself and `names` in it the one that holds most of `marks`.

    Raises:
        DataError: `root` is None or holds none of them; the message ends with `guide`.
    """
    if root is None:
        raise AbsentData(f"no data root was given.\n{guide}")
    candidates = [Path(root), *(Path(root) / name for name in names)]
    marks_in = {folder: sum((folder / mark).exists() for mark in marks) for folder in candidates}
    if any(marks_in.values()):
        return max(marks_in, key=lambda folder: marks_in[folder])
    looked = ", ".join(str(folder) for folder in candidates)
    raise AbsentData(f"nothing of the data set was found; looked for {', '.join(marks)} in {looked}.\n{guide}")
