"""From a cell of a table to the configuration of a run, under a preset and on the data that stand in for the paper's.

The grid runs these configurations and the tables look for their records, so that a number stands in a cell only if it
was made with exactly the settings that the cell asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssldet.benchmark.spec import Cell
from ssldet.benchmark.tuned_settings import TunedSettings
from ssldet.config import DEFAULT_PRESET, Experiment, RunConfig, non_default_options, resolve
from ssldet.errors import ConfigError
from ssldet.util.files import content_hash
from ssldet.util.settings import split_assignment, split_flavour

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
        preset: of all runs; or two, "nano,lite": of those from scratch, and of those that start from weights.
        dataset_map: the paper's data set -> the one that stands in for it; others stand for themselves.
        assignments: "key=value", as `--set` takes them.
        machine: fields of `config.Machine` (data_root, results, device ...).
        videos: the ids that runs are restricted to; None means all videos.
        tuned: settings that were chosen for each strategy on validation videos; options that a row names, and
            `assignments`, go before them.
        threads: of runs whose preset leaves the number open.
    """

    preset: str = DEFAULT_PRESET
    dataset_map: Mapping[str, DatasetChoice] = field(default_factory=dict)
    assignments: Sequence[str] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    videos: Sequence[str] | None = None
    tuned: TunedSettings | None = None
    threads: int | None = None

    def preset_for(self, pretrained: bool) -> str:
        """The preset of runs from scratch, or of those that start from weights."""
        scratch, _, weights = self.preset.partition(",")
        return weights or scratch if pretrained else scratch

    def dataset(self, name: str) -> DatasetChoice:
        """The data of the cells of a data set, by its name with or without a flavour. Raises ConfigError."""
        return self.dataset_map[name] if name in self.dataset_map else DatasetChoice(*split_flavour(name))

    def all_assignments(self) -> tuple[str, ...]:
        """Those of all runs: what the trials of tuned settings had in common, and what is assigned beside it."""
        return (*(self.tuned.shared_assignments() if self.tuned else ()), *self.assignments)

    def tuned_for(self, strategy: str) -> tuple[str, ...]:
        """The "key=value" that were chosen for a strategy; none where it was not tuned."""
        return self.tuned.assignments_for(strategy) if self.tuned else ()


def parse_dataset_map(text: str) -> dict[str, DatasetChoice]:
    """ "ucf24=synthetic:ucf24,jhmdb=folder" -> which data set stands in for which.

    Raises:
        ConfigError: it is not of that form, or names a data set twice.
    """
    choices: dict[str, DatasetChoice] = {}
    for part in filter(None, text.split(",")):
        paper, chosen = split_assignment(part, "data set map", "ucf24=synthetic:ucf24", "NAME=NAME[:FLAVOUR]")
        if not chosen:
            raise ConfigError(f"data set map {part!r}: expected a data set after {paper}=, such as synthetic:ucf24")
        if paper in choices:
            raise ConfigError(f"data set map: {paper!r} is given twice")
        choices[paper] = DatasetChoice(*split_flavour(chosen))
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
    tuned = settings.tuned_for(cell.strategy)
    config = resolve(
        flags, preset=settings.preset_for(cell.pretrained), assignments=settings.all_assignments(), tuned=tuned
    )
    if settings.tuned:
        _check_tuned(settings.tuned, config, cell.dataset)
    return with_threads(config, settings.threads)


def with_threads(config: RunConfig, threads: int | None) -> RunConfig:
    """A configuration with a number of threads where its preset leaves it open."""
    if config.machine.threads is not None:
        return config
    return config.model_copy(update={"machine": config.machine.model_copy(update={"threads": threads})})


def _check_tuned(tuned: TunedSettings, config: RunConfig, paper_dataset: str) -> None:
    """Raises ConfigError where settings were tuned under another preset, or on other data or another split."""
    experiment, preset = config.experiment, config.machine.preset
    if preset != tuned.preset:
        raise ConfigError(f"the settings file was tuned under preset {tuned.preset}, not {preset}; give the same one")
    if experiment.split != tuned.split:
        raise ConfigError(
            f"the settings file was tuned on split {tuned.split}, whose validation videos may be test videos of split "
            f"{experiment.split}; tune on that one"
        )
    if (experiment.dataset, experiment.dataset_options) != (tuned.dataset, tuned.dataset_options):
        ours = _data_in_words(experiment.dataset, experiment.dataset_options)
        theirs = _data_in_words(tuned.dataset, tuned.dataset_options)
        raise ConfigError(
            f"the settings file was tuned on {theirs}, and the cells of {paper_dataset} are run on {ours}; leave out "
            f"the tables of {paper_dataset}, or give the data with --dataset-map and --set"
        )


def _data_in_words(name: str, options: Mapping[str, Any]) -> str:
    changed = non_default_options("dataset", name, options)
    return " ".join([name, *(f"{key}={value}" for key, value in changed.items())])


def settings_key(experiment: Experiment) -> str:
    """A hash of all settings but seed and split: runs with the same one may be averaged."""
    return content_hash({name: value for name, value in experiment.identity().items() if name not in PER_RUN})
