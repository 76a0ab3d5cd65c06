"""The file that `ssldet tune` writes: what was tried for each approach, the scores, and what was chosen.

read_tuned(path)          from a file that anyone may have written or edited
write_tuned(tuned, path)  whole or not at all
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ssldet.errors import ConfigError
from ssldet.util.files import write_text
from ssldet.util.settings import unknown_key
from ssldet.util.yaml_text import load_yaml

FORMAT: Literal[1] = 1
MAX_BYTES = 2**20


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ValidationPart(_Part):
    """What the trials of one seed were scored on: validation videos, and the groups that they come from."""

    seed: int
    videos: int
    groups: int


class TriedSettings(_Part):
    """One trial: settings beside the preset's, and what came of them.

    Attributes:
        settings: dotted key -> value, such as {"train.lr": 0.001}.
        preset: whether these are the preset's own.
        score: mean over seeds of the metric, a fraction; None where a run failed.
        by_seed: the metric by seed, None for a run that failed; `runs` (ids) are in the same order.
        failed: why, by the first run that failed; "" where none did.
    """

    settings: dict[str, Any]
    preset: bool = False
    score: float | None
    by_seed: list[float | None]
    runs: list[str]
    failed: str = ""

    @model_validator(mode="after")
    def _failed_or_scored(self) -> Self:
        whole = self.score is None if self.failed else None not in (self.score, *self.by_seed)
        if not whole:
            raise ValueError("expected a score by each seed and their mean, or why the trial failed and score: null")
        return self


class TunedApproach(_Part):
    """What was chosen for a strategy, and everything that was tried, failed trials last."""

    chosen: dict[str, Any]
    tried: list[TriedSettings]

    @model_validator(mode="after")
    def _chosen_was_tried(self) -> Self:
        outcomes = [trial.failed for trial in self.tried if trial.settings == self.chosen]
        if not outcomes:
            raise ValueError(
                f"what is chosen, {self.chosen}, is none of the {len(self.tried)} settings that were tried"
            )
        if all(outcomes):
            raise ValueError(f"what is chosen, {self.chosen}, was tried and failed: {outcomes[0]}")
        return self

    def failures(self) -> list[TriedSettings]:
        """The trials that failed."""
        return [trial for trial in self.tried if trial.failed]


class TunedSettings(_Part):
    """Settings that were chosen on validation videos, the same number of trials for every approach.

    Attributes:
        format: of the file.
        dataset, dataset_options, split, videos: the data; `videos` None means all.
        ratio, val_fraction: share of labelled videos, and what of them is held out.
        seeds: every trial was run with each.
        preset, assignments: what all trials had in common ("key=value").
        metric, protocol: what was compared: a column's title, and the protocol of its metric.
        trials: of each approach.
        validation: what was scored, by seed.
        versions: distribution -> version that made the file.
        approaches: strategy -> what was chosen and tried.
    """

    format: Literal[1] = FORMAT
    dataset: str
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    split: int
    videos: tuple[str, ...] | None = None
    ratio: float
    val_fraction: float = Field(gt=0, lt=1)
    seeds: tuple[int, ...]
    preset: str
    assignments: tuple[str, ...] = ()
    metric: str
    protocol: str
    trials: int
    validation: tuple[ValidationPart, ...]
    versions: dict[str, str] = Field(default_factory=dict)
    approaches: dict[str, TunedApproach]

    def assignments_for(self, strategy: str) -> tuple[str, ...]:
        """What was chosen for a strategy, as `--set` takes it; nothing for one that was not tuned."""
        approach = self.approaches.get(strategy)
        return as_assignments(approach.chosen) if approach else ()

    def shared_assignments(self) -> tuple[str, ...]:
        """What all trials were given beside the preset, options of the data set apart: these name the data."""
        return tuple(text for text in self.assignments if not text.strip().startswith("dataset"))

    def summary(self) -> str:
        """How they were chosen, in a line."""
        seeds = ", ".join(map(str, self.seeds))
        counts = {strategy: len(approach.failures()) for strategy, approach in self.approaches.items()}
        names = (f"{strategy} ({count} failed)" if count else strategy for strategy, count in counts.items())
        return (
            f"{self.metric} on validation videos, {100 * self.ratio:g} % labelled, seed{'s' * (len(self.seeds) > 1)} "
            f"{seeds}, {self.trials} trials each of {', '.join(names)}"
        )

    def deviation(self) -> float | None:
        """Standard deviation (n - 1) of a score over seeds, pooled over trials with one; None with one seed."""
        if len(self.seeds) < 2:
            return None
        scored = (trial for approach in self.approaches.values() for trial in approach.tried if not trial.failed)
        numbers = ([number for number in trial.by_seed if number is not None] for trial in scored)
        return float(fmean(map(variance, numbers)) ** 0.5)


def as_assignments(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as texts "key=value" that read back as the same values."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


def write_tuned(tuned: TunedSettings, path: Path) -> None:
    """Write a settings file, whole or not at all."""
    head = "# Written by `ssldet tune`; `ssldet grid --settings` and `ssldet table --settings` read it.\n"
    write_text(path, head + yaml.safe_dump(tuned.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def read_tuned(path: Path) -> TunedSettings:
    """Read a settings file.

    Raises:
        ConfigError: it is absent, no YAML, of another format, or has keys or values that none such file has.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes; settings files have at most {MAX_BYTES}")
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the settings file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or "approaches" not in content:
        raise ConfigError(f"{path} is no settings file: expected a mapping with 'approaches', as `ssldet tune` writes")
    if content.get("format") != FORMAT:
        raise ConfigError(f"{path} has format {content.get('format')!r}, and this ssldet reads format {FORMAT}")
    try:
        return TunedSettings.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in _mistakes(error))) from error


def _mistakes(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            lines.append(unknown_key(key, [f"{_parent(key)}{name}" for name in _model_at(item["loc"]).model_fields]))
        else:
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')}")
    return lines


def _parent(key: str) -> str:
    above = key.rpartition(".")[0]
    return f"{above}." if above else ""


def _model_at(place: Sequence[int | str]) -> type[BaseModel]:
    """The part of the file in which a key stands."""
    if len(place) == 1:
        return TunedSettings
    if place[0] == "validation":
        return ValidationPart
    return TriedSettings if len(place) > 3 else TunedApproach
