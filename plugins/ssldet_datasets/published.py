"""What data sets have in common that users hold on their disks as the authors publish them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from ssldet.contracts import Dataset, Options, Problem, VideoSource
from ssldet.errors import DataError
from ssldet_datasets.layouts import LayoutRow, checked_id, find_source, frame_layouts, open_root


class PublishedDataset(Dataset):
    """Annotation and frames below one root, the frames in one of several layouts.

    Attributes:
        root_names: folders of the given root that it may lie in; the root itself is the first that is looked at.
        marks: files and folders by which its own folder is known; one at least must be there.
        frames: the layouts of frames that it knows.
        video_name: what one of its videos is called in messages, such as "J-HMDB video".
        guide_text: where to get it, and the folders expected.
    """

    root_names: ClassVar[Sequence[str]]
    marks: ClassVar[Sequence[str]]
    frames: ClassVar[Sequence[LayoutRow]]
    video_name: ClassVar[str]
    guide_text: ClassVar[str]

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        super().__init__(root, config)
        self.root = open_root(root, self.root_names, self.marks, self.guide_text)
        self.layouts = frame_layouts(self.root, self.frames)

    @classmethod
    def guide(cls) -> str:
        return cls.guide_text

    def source(self, video_id: str) -> VideoSource:
        source = find_source(self.layouts, checked_id(video_id, self.root))
        if source is None:
            expected = ", ".join(str(layout.expected(video_id)) for layout in self.layouts)
            looked = expected or self.root / self.frames[0][0]
            raise DataError(f"no frames of {self.video_name} {video_id}; looked for {looked}.\n{self.guide_text}")
        return source

    def fingerprint(self) -> str:
        return self._fingerprint

    def verify(self, split: int = 1) -> list[Problem]:
        """What is missing, damaged or inconsistent; no video is decoded."""
        return list(self._problems(split))

    @property
    @abstractmethod
    def _fingerprint(self) -> str:
        """A hash of annotation, and of names and sizes of video files; read once."""

    @abstractmethod
    def _problems(self, split: int) -> Iterator[Problem]:
        """What `verify` lists, one at a time."""
