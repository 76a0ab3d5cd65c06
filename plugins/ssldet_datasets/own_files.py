"""Where the frames of own videos lie: files of any suffix and folders of images, at any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ssldet.contracts import VideoSource
from ssldet.data.video import SUFFIXES
from ssldet_datasets.layouts import IMAGE_SUFFIXES, ImageFolders, inside
from ssldet_datasets.own_records import plain_name


@dataclass(frozen=True)
class OwnVideoFiles:
    """`<folder>/<id>.mp4`, or another suffix in any case; ids have their letters in one form, whatever the disk has."""

    folder: Path
    words: ClassVar[str] = "video files"

    @property
    def ids(self) -> Sequence[str]:
        """All videos, in order."""
        return list(self._files)

    @property
    def copies(self) -> Mapping[str, list[str]]:
        """Videos that are there in several files: id -> their names, the one that is used first."""
        return {i: [path.name for path in paths] for i, paths in self._files.items() if len(paths) > 1}

    def source(self, video_id: str) -> VideoSource | None:
        paths = self._files.get(video_id)
        return VideoSource(file=inside(paths[0], self.folder)) if paths else None

    def expected(self, video_id: str) -> Path:
        return self.folder / f"{video_id}{SUFFIXES[0]}"

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """Links to folders are not followed."""
        files: dict[str, list[Path]] = {}
        for path in sorted(_walk(self.folder), key=_order):
            if path.suffix.lower() in SUFFIXES:
                files.setdefault(plain_name(path.relative_to(self.folder).as_posix()), []).append(path)
        return dict(sorted(files.items()))


def _order(path: Path) -> tuple[int, str]:
    suffix = path.suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES), str(path)


@dataclass(frozen=True)
class OwnImages:
    """`<folder>/<id>/00001.jpg ...`, one image per frame, in the order of their names."""

    folder: Path
    words: ClassVar[str] = "one image per frame"

    @property
    def ids(self) -> Sequence[str]:
        """All folders that hold images."""
        return list(self._folders)

    @property
    def copies(self) -> Mapping[str, list[str]]:
        return {}

    def source(self, video_id: str) -> VideoSource | None:
        return ImageFolders(self.folder).source(self._folders.get(video_id, video_id))

    def expected(self, video_id: str) -> Path:
        return self.folder / video_id

    @cached_property
    def _folders(self) -> dict[str, str]:
        """Id -> the folder's name on the disk."""
        images = (path for path in _walk(self.folder) if path.name.lower().endswith(IMAGE_SUFFIXES))
        names = {path.parent.relative_to(self.folder).as_posix() for path in images}
        return {plain_name(name): name for name in sorted(names)}


def _walk(folder: Path) -> Iterator[Path]:
    return (Path(place) / name for place, _, names in os.walk(folder) for name in names)
