"""From a cell of a table to the configuration of a run, under a preset and on the data that stand in for the paper's.

The grid runs these configurations and the tables look for their records, so that a number stands in a cell only if it
was made with exactly the settings that the cell asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssldet.benchmark.spec import Cell
from ssldet.config import DEFAULT_PRESET, Experiment, RunConfig, resolve
from ssldet.errors import ConfigError
from ssldet.util.files import content_hash
from ssldet.util.settings import split_assignment

PER_RUN = ("seed", "split")
"""Fields of an experiment over which the numbers of a table's cell are gathered."""


@dataclass(frozen=True)
class DatasetChoice:
    """A data set that stands in for one of the paper's: its plugin and options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        flavour = self.options.get("flavour")
        return f"{self.name}:{flavour}" if flavour else self.name


@dataclass(frozen=True)
class Settings:
    """What a table's cells are run under.

    Attributes:
        preset: of all runs.
        dataset_map: the paper's data set -> the one that stands in for it; others stand for themselves.
        assignments: "key=value", as `--set` takes them.
        machine: fields of `config.Machine` (data_root, results, device ...).
        videos: the ids that runs are restricted to; None means all videos.
        by_strategy: strategy -> "key=value" that were tuned for it; options that a row names go before.
        tuned_by: what a table says of where `by_strategy` comes from.
        threads: of runs whose preset leaves the number open.
    """

    preset: str = DEFAULT_PRESET
    dataset_map: Mapping[str, DatasetChoice] = field(default_factory=dict)
    assignments: Sequence[str] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    videos: Sequence[str] | None = None
    by_strategy: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tuned_by: str = ""
    threads: int | None = None

    def dataset(self, name: str) -> DatasetChoice:
        return self.dataset_map.get(name, DatasetChoice(name))


def parse_dataset_map(text: str) -> dict[str, DatasetChoice]:
    """ "ucf24=synthetic:ucf24,jhmdb=folder" -> which data set stands in for which.

    Raises:
        ConfigError: it is not of that form, or names a data set twice.
    """
    choices: dict[str, DatasetChoice] = {}
    for part in filter(None, text.split(",")):
        paper, chosen = split_assignment(part, "data set map", "ucf24=synthetic:ucf24", "NAME=NAME[:FLAVOUR]")
        name, _, flavour = chosen.partition(":")
        if not name:
            raise ConfigError(f"data set map {part!r}: expected a data set after {paper}=, such as synthetic:ucf24")
        if paper in choices:
            raise ConfigError(f"data set map: {paper!r} is given twice")
        choices[paper] = DatasetChoice(name, {"flavour": flavour} if flavour else {})
    return choices


def run_config(cell: Cell, settings: Settings) -> RunConfig:
    """The whole configuration of a cell's run. Raises ConfigError, UnknownName or PluginError."""
    chosen = settings.dataset(cell.dataset)
    flags = {
        "strategy": cell.strategy,
        "strategy_options": dict(cell.options),
        "dataset": chosen.name,
        "dataset_options": dict(chosen.options),
        "ratio": cell.ratio,
        "pretrained": cell.pretrained,
        "split": cell.split,
        "seed": cell.seed,
        "videos": settings.videos,
        **settings.machine,
    }
    tuned = settings.by_strategy.get(cell.strategy, ())
    config = resolve(flags, preset=settings.preset, assignments=settings.assignments, tuned=tuned)
    if config.machine.threads is not None:
        return config
    return config.model_copy(update={"machine": config.machine.model_copy(update={"threads": settings.threads})})


def settings_key(experiment: Experiment) -> str:
    """A hash of all settings but seed and split: runs with the same one may be averaged."""
    return content_hash({name: value for name, value in experiment.identity().items() if name not in PER_RUN})
