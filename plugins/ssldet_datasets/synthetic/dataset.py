"""The data set `synthetic`: generated on first use, read like any other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssldet.contracts import Dataset, DatasetFacts, Options, Problem, Subset, Truth, Video, VideoSource
from ssldet.errors import DataError
from ssldet.util.cache import cache_root
from ssldet.util.files import content_hash
from ssldet_datasets.synthetic.facts import FACTS, HEIGHT, VERSION, WIDTH
from ssldet_datasets.synthetic.storage import Recipe, ensure, read


class Synthetic(Dataset):
    """Figures that wave, jump or dash among bystanders, in the manner of one of several real data sets.

    The videos are generated on first use, into `<root>/synthetic` if a root is given that can be written, else into
    the folder `synthetic` of the cache ($SSLDET_CACHE, else the user's). Boxes are a figure's whole extent within the
    frame, hidden parts included. The flavours, each with videos of its own:

        ucf24        untrimmed, several actors of one class; every frame is annotated, without a box it is background
        jhmdb        trimmed: one person, alone, who acts in every frame
        ava          key frames only, on which everybody has a box with several labels; people do different things
        pretraining  like ucf24, of other classes: to make initial weights for the other flavours

    Args:
        root: where to generate and look; None means the cache.
        config: see `Config`. `facts` of an instance are its flavour's, those of the class the default's.
    """

    class Config(Options):
        """Options of `synthetic`; each is set with --set dataset.NAME=VALUE."""

        seed: int = Field(0, ge=0)
        """Of the generator. Another seed makes other videos of the same classes."""
        train_per_class: int = Field(24, ge=1)
        """Number of training videos of each class; on "ava" for each of six leading persons."""
        test_per_class: int = Field(8, ge=1)
        """Number of test videos, likewise."""
        flavour: Literal["ucf24", "jhmdb", "ava", "pretraining"] = "ucf24"
        """Which real data set it is like, or "pretraining"; every flavour has videos of its own."""

    facts = FACTS
    config: Config

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        super().__init__(root, config)
        self.recipe = Recipe(**self.config.model_dump())
        self.facts = self.recipe.made_as.facts
        self.root = Path(root) if root is not None else None

    @classmethod
    def facts_under(cls, config: Options) -> DatasetFacts:
        return Recipe(**config.model_dump()).made_as.facts

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        _check_split(split)
        chosen = [entry for entry in self._index["videos"] if entry["subset"] == subset]
        videos = [Video(e["id"], e["frames"], WIDTH, HEIGHT, self._classes(e["id"])) for e in chosen]
        return sorted(videos, key=lambda video: video.id)

    def truth(self, video_id: str) -> Truth:
        place, entry = self._entry(video_id)
        rows = self._truth["video"] == place
        labels = self._truth["label"][rows]
        return Truth(
            frames_n=self._truth["frame"][rows],
            boxes_n4=self._truth["box"][rows],
            labels_nk=labels if self.facts.multilabel else np.eye(self.facts.num_classes, dtype=bool)[labels],
            tubes_n=self._truth["tube"][rows],
            key_frames_m=self.recipe.made_as.key_frames(entry["frames"]),
        )

    def _classes(self, video_id: str) -> tuple[int, ...]:
        """The labels of a video, the one with most boxes first."""
        boxes_k = self.truth(video_id).labels_nk.sum(0)
        return tuple(label for label in np.argsort(-boxes_k, kind="stable").tolist() if boxes_k[label])

    def source(self, video_id: str) -> VideoSource:
        _, entry = self._entry(video_id)
        return VideoSource(file=self._file(entry))

    def verify(self, split: int = 1) -> list[Problem]:
        _check_split(split)
        remedy = f"delete {self._folder}: it is generated again"
        try:
            entries = self._index["videos"]
            rows = self._truth["video"]
        except DataError as error:
            return [Problem(str(error), str(self._folder), remedy)]
        problems = []
        if len(np.unique(rows)) != len(entries):
            problems.append(Problem("truth and index speak of different videos", str(self._folder), remedy))
        for entry in entries:
            file = self._file(entry)
            if not file.is_file():
                problems.append(Problem(f"video {entry['id']} is missing", str(file), remedy))
            elif file.stat().st_size != entry["size"]:
                problems.append(Problem(f"video {entry['id']} has changed since it was written", str(file), remedy))
        return problems

    def fingerprint(self) -> str:
        """A hash of the generator's version, the seed and the options: they determine annotation and videos."""
        return content_hash(self.recipe.describe())

    @cached_property
    def _folder(self) -> Path:
        """The folder of the data, generated if need be. Raises DataError where it cannot be written."""
        places = [root / "synthetic" for root in (self.root, cache_root()) if root is not None]
        name = f"v{VERSION}-{self.fingerprint()[:12]}"
        failures = []
        for place in places:
            try:
                ensure(place / name, self.recipe)
                return place / name
            except OSError as error:
                failures.append(f"{place} ({error.strerror or error})")
        raise DataError(
            f"cannot write the synthetic data set to {' nor to '.join(failures)}; "
            "set SSLDET_CACHE to a folder with a few MB of free space"
        )

    @cached_property
    def _read(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return read(self._folder)

    @property
    def _index(self) -> dict[str, Any]:
        return self._read[0]

    @property
    def _truth(self) -> dict[str, np.ndarray]:
        return self._read[1]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {entry["id"]: place for place, entry in enumerate(self._index["videos"])}

    def _entry(self, video_id: str) -> tuple[int, dict[str, Any]]:
        """A video's place in the index and what the index says of it."""
        place = self._places.get(video_id)
        if place is None:
            known = next(iter(self._places))
            raise DataError(f"the synthetic data set has no video {video_id!r}; ids look like {known!r}")
        return place, self._index["videos"][place]

    def _file(self, entry: dict[str, Any]) -> Path:
        return self._folder / "videos" / self.recipe.made_as.kind_names[entry["label"]] / f"{entry['id']}.mp4"


def _check_split(split: int) -> None:
    if split != 1:
        raise DataError(f"the synthetic data set has one official split, 1; got {split}")
