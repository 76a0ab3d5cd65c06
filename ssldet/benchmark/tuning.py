"""Settings chosen on a validation part: every approach gets the same number of trials, the supervised control too.

plan_tuning(request)    the trials of each approach, and the grid of the runs that they are
Tuning.outcome()        when the grid is done: what was tried, with scores, and what is best
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean
from typing import Any

import yaml

from ssldet import plugins
from ssldet.benchmark.cells import DatasetChoice, Settings, with_threads
from ssldet.benchmark.grid import Grid, GridRequest
from ssldet.benchmark.tasks import Task
from ssldet.benchmark.tuned_settings import (
    TriedSettings,
    TunedApproach,
    TunedSettings,
    ValidationPart,
    as_assignments,
)
from ssldet.config import PLUGIN_KINDS, Experiment, RunConfig, default_options, resolve
from ssldet.contracts import DatasetFacts
from ssldet.errors import ConfigError, RequestError, TrainingError, UnknownName
from ssldet.evaluation.results import column_titles, is_threshold
from ssldet.evaluation.scoring import applicable
from ssldet.runs.planning import plan
from ssldet.runs.provenance import COMPARED, provenance
from ssldet.runs.record import Record
from ssldet.util.files import content_hash, plain
from ssldet.util.settings import split_assignment, unknown_key
from ssldet.util.yaml_text import load_yaml

CONTROL = "supervised"
SHARED = ("train", "views", "clip", "backbone", "detect")
"""Heads of the keys that every approach has."""
FIXED = ("strategy", "dataset", "ratio", "seed", "split", "videos", "eval_on", "val_fraction", "revision", "pretrained")
"""Fields of an experiment that a tuning sets itself."""
EXAMPLE = "strategy.o_th=0.1,0.2,0.4"


@dataclass(frozen=True)
class TuneRequest:
    """What is asked for.

    Attributes:
        strategies: approaches to tune; the supervised control is always among them.
        dataset: its name; options of it are among the assignments of `settings`.
        tries: texts "[STRATEGY:]KEY=VALUE,VALUE": without a strategy, for every approach that has the option.
        settings: preset, assignments, videos and folders of all trials.
        ratio: share of labelled videos; None takes the data set's own.
        seeds: every trial is run with each.
        val_fraction: share of the labelled videos that is held out, and scored.
        metric: title of a column with one number per threshold, such as "V@0.5"; None takes the data set's headline.
        budget: trials of each approach, drawn from its products; None takes all.
    """

    strategies: Sequence[str]
    dataset: str
    tries: Sequence[str]
    settings: Settings
    ratio: float | None = None
    split: int = 1
    seeds: Sequence[int] = (0,)
    val_fraction: float = 1 / 3
    metric: str | None = None
    budget: int | None = None


@dataclass(frozen=True)
class Trial:
    """Settings of one approach, its task of the grid by seed, and whether they are the preset's own."""

    strategy: str
    settings: Mapping[str, Any]
    preset: bool
    tasks: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The strategy and its settings, keys without their heads."""
        return " ".join([self.strategy, *(f"{key.rpartition('.')[2]}={value}" for key, value in self.settings.items())])


@dataclass(frozen=True)
class MetricPlace:
    """Where a number stands in a record, and its column's title."""

    title: str
    metric: str
    protocol: str
    key: str


@dataclass(frozen=True)
class Tuning:
    """The trials of each approach, the grid of their runs, and what these are scored on."""

    request: TuneRequest
    trials: Mapping[str, Sequence[Trial]]
    grid: Grid
    place: MetricPlace
    validation: tuple[ValidationPart, ...]
    experiment: Experiment

    def is_over(self) -> bool:
        """Whether every trial is done or has failed."""
        tasks = (self.grid.tasks[key] for trials in self.trials.values() for t in trials for key in t.tasks.values())
        return all(task.state == "done" or self._failure(task) for task in tasks)

    def outcome(self) -> TunedSettings:
        """What came of it, and the best of each approach: of equal scores the preset's own, then what was tried first.

        A trial of which a run failed is never the best.

        Raises:
            RequestError: a run is neither done nor failed, or has no such number.
            TrainingError: every trial of an approach failed.
        """
        e, request = self.experiment, self.request
        distributions = provenance()["distributions"]
        return TunedSettings(
            dataset=e.dataset,
            dataset_options=plain(e.dataset_options),
            split=e.split,
            videos=e.videos,
            ratio=e.ratio,
            val_fraction=e.val_fraction,
            seeds=tuple(request.seeds),
            preset=request.settings.preset,
            assignments=tuple(request.settings.assignments),
            metric=self.place.title,
            protocol=self.place.protocol,
            trials=len(next(iter(self.trials.values()))),
            validation=self.validation,
            versions={name: distributions[name]["version"] for name in COMPARED},
            approaches={strategy: self._approach(trials) for strategy, trials in self.trials.items()},
        )

    def _approach(self, trials: Sequence[Trial]) -> TunedApproach:
        tried = [self._tried(trial) for trial in trials]
        scored = [(trial.score, trial.preset, trial.settings) for trial in tried if trial.score is not None]
        if not scored:
            reasons = [f"  {trial.name}: {outcome.failed}" for trial, outcome in zip(trials, tried, strict=True)]
            raise TrainingError(
                f"every trial of {trials[0].strategy} failed, the preset's own too; there is nothing to choose:\n"
                + "\n".join(reasons)
            )
        best = max(scored, key=lambda trial: trial[:2])  # of equals the first
        return TunedApproach(chosen=best[2], tried=sorted(tried, key=lambda trial: bool(trial.failed)))

    def _tried(self, trial: Trial) -> TriedSettings:
        tasks = [self.grid.tasks[trial.tasks[seed]] for seed in self.request.seeds]
        failures = [self._failure(task) for task in tasks]
        numbers = [None if failed else self._number(task) for task, failed in zip(tasks, failures, strict=True)]
        scored = [number for number in numbers if number is not None]
        return TriedSettings(
            settings=dict(trial.settings),
            preset=trial.preset,
            score=fmean(scored) if len(scored) == len(tasks) else None,
            by_seed=numbers,
            runs=[task.run_id for task in tasks],
            failed=next(filter(None, failures), ""),
        )

    def _failure(self, task: Task) -> str:
        """Why a run failed, by itself or in the first stage that it shares; "" where it did not."""
        failed = any(other.state == "failed" for other in (task, *(self.grid.tasks[key] for key in task.needs)))
        return (task.reason or "no reason is known") if failed else ""

    def _number(self, task: Task) -> float:
        if task.state != "done" or task.folder is None:
            raise RequestError(f"{task.title} is {task.state}: {task.reason or 'the same command goes on'}")
        record = Record.read(task.folder / "record.json")
        number = record.mean_where_truth(self.place.metric, self.place.protocol, self.place.key)
        if number is None:
            raise RequestError(f"run {task.run_id} has no {self.place.title}, protocol {self.place.protocol}")
        return number


def plan_tuning(request: TuneRequest, progress: Callable[[int, int], None] = lambda done, total: None) -> Tuning:
    """The trials, the same number for every approach, and the runs that they are. Nothing is trained.

    Args:
        progress: called with (runs planned, runs in all).

    Raises:
        RequestError: no validation part, unequal numbers of trials, settings that do not exist, data that are absent.
    """
    _check(request)
    strategies = tuple(dict.fromkeys((CONTROL, *request.strategies)))
    wanted = _wanted(request, strategies)
    trials = _even({strategy: _trials(request, strategy, values) for strategy, values in wanted.items()}, request)
    experiment = _config(request, CONTROL, request.seeds[0], {}).experiment
    grid = Grid(GridRequest((), request.settings))
    validation = tuple(_validation(request, seed, grid) for seed in request.seeds)
    dataset = grid.datasets.dataset(experiment, _config(request, CONTROL, request.seeds[0], {}).machine)
    place = metric_place(request.metric, dataset.facts)
    total = len(request.seeds) * sum(map(len, trials.values()))
    planned: dict[str, list[Trial]] = {}
    for strategy, of_strategy in trials.items():
        for trial in of_strategy:
            tasks = {}
            for seed in request.seeds:
                progress(len(grid.cells()), total)
                tasks[seed] = _add(grid, request, trial, seed)
            planned.setdefault(strategy, []).append(Trial(strategy, trial.settings, trial.preset, tasks))
    return Tuning(request, planned, grid, place, validation, experiment)


def metric_place(title: str | None, facts: DatasetFacts) -> MetricPlace:
    """Where a column's number stands in the records of a data set; by default V@0.5, or F@0.5 on multi-label data.

    Raises:
        UnknownName: no metric that applies has such a column with one number per threshold.
    """
    places = {place.title: place for place in _places(facts)}
    headlines = ("F@0.5",) if facts.multilabel else ("V@0.5", "F@0.5")
    chosen = title or next((name for name in headlines if name in places), headlines[0])
    if chosen not in places:
        raise UnknownName(f"column of {facts.name}'s metrics", chosen, places)
    return places[chosen]


def _places(facts: DatasetFacts) -> Iterator[MetricPlace]:
    for metric, protocols in applicable(facts)[0].items():
        protocol = facts.protocol if facts.protocol in protocols else protocols[0]
        for key, title in column_titles(metric).items():
            if is_threshold(key):
                yield MetricPlace(title, metric, protocol, key)


# ---------------------------------------------------------------------------------------------------- what is tried


def _check(request: TuneRequest) -> None:
    if not 0 < request.val_fraction < 1:
        raise RequestError(
            "settings are chosen on validation videos, never on test videos: --val-fraction must lie between 0 and 1, "
            f"such as 0.3333, got {request.val_fraction:g}"
        )
    for text in request.settings.assignments:
        key = split_assignment(text, "--set", "train.steps=300")[0]
        if key in FIXED:
            raise ConfigError(
                f"--set {text!r}: `tune` sets {key} itself; give it as an option of its own, if it has one"
            )
        if any(key == attempt.key for attempt in map(_parse, request.tries)):
            raise ConfigError(f"--set {text!r}: {key} is also tried; leave one of them out")


@dataclass(frozen=True)
class _Attempt:
    """One `--try`: for one strategy, or for every one that has the option."""

    strategy: str | None
    key: str
    values: tuple[Any, ...]


def _parse(text: str) -> _Attempt:
    name, values = split_assignment(text, "--try", EXAMPLE, "[STRATEGY:]KEY=VALUE,VALUE")
    strategy, _, key = name.rpartition(":")
    head, _, rest = key.partition(".")
    if head not in (*SHARED, "strategy") or not rest:
        heads = ", ".join(f"{known}.*" for known in ("strategy", *SHARED))
        raise ConfigError(f"--try {text!r}: {key!r} cannot be tuned; expected one of {heads}, such as {EXAMPLE}")
    try:
        read = load_yaml(f"[{values}]")
    except yaml.YAMLError as error:
        raise ConfigError(f"--try {text!r}: the values are not YAML: {' '.join(str(error).split())}") from error
    if not read:
        raise ConfigError(f"--try {text!r}: expected values with commas, such as {EXAMPLE}")
    return _Attempt(strategy or None, key, tuple(read))


def _wanted(request: TuneRequest, strategies: Sequence[str]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Strategy -> key -> values: those for this strategy alone before those for all. Raises RequestError."""
    attempts = [_parse(text) for text in request.tries]
    if not attempts:
        raise RequestError(f"nothing to try; give --try, such as --try {EXAMPLE}")
    for attempt in attempts:
        if attempt.strategy not in (None, *strategies):
            raise UnknownName("strategy of this tuning", str(attempt.strategy), strategies)
    options = {name: set(plugins.load("strategy", name).Config.model_fields) for name in strategies}
    wanted: dict[str, dict[str, tuple[Any, ...]]] = {name: {} for name in strategies}
    for attempt in sorted(attempts, key=lambda attempt: attempt.strategy is not None):
        head, _, option = attempt.key.partition(".")
        having = [s for s in strategies if head != "strategy" or option.partition(".")[0] in options[s]]
        taking = [s for s in having if attempt.strategy in (None, s)]
        if not taking:
            known = [f"strategy.{name}" for s in strategies if attempt.strategy in (None, s) for name in options[s]]
            raise ConfigError(f"--try: {unknown_key(attempt.key, sorted(set(known)))}")
        for strategy in taking:
            wanted[strategy][attempt.key] = attempt.values
    return wanted


def _trials(request: TuneRequest, strategy: str, values: Mapping[str, Sequence[Any]]) -> list[Trial]:
    """The preset's own settings, then the product of the values; each once, with values as they are typed."""
    products = (dict(zip(values, combination, strict=True)) for combination in product(*values.values()))
    chosen = ({}, *products)
    experiments = [_config(request, strategy, request.seeds[0], settings).experiment for settings in chosen]
    trials: dict[str, Trial] = {}
    for experiment in experiments:
        typed = {key: _value(experiment, key) for key in values}
        name = content_hash(experiment.identity())
        trials.setdefault(name, Trial(strategy, typed, preset=not trials))
    return list(trials.values())


def _value(experiment: Experiment, key: str) -> Any:
    """What an experiment has at a dotted key."""
    head, *rest = key.split(".")
    value: Any = experiment.model_dump(mode="json")[f"{head}_options" if head in PLUGIN_KINDS else head]
    if head in PLUGIN_KINDS:  # an option that does nothing is no part of the settings
        value = default_options(plugins.load(head, getattr(experiment, head)).Config) | value
    for part in rest:
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"--try {key}: the experiment has no such setting")
        value = value[part]
    return value


def _even(trials: dict[str, list[Trial]], request: TuneRequest) -> dict[str, list[Trial]]:
    """The same number of trials for each approach. Raises RequestError with each one's number, and what evens them."""
    counts = {strategy: len(of_strategy) for strategy, of_strategy in trials.items()}
    said = ", ".join(f"{strategy} {count}" for strategy, count in counts.items())
    if request.budget is not None:
        if not 2 <= request.budget <= min(counts.values()):
            raise RequestError(
                f"--budget {request.budget}: expected from 2 to the smallest number of trials of an approach, the "
                f"preset's own included ({said}); give the others more values with --try STRATEGY:KEY=VALUE,VALUE"
            )
        return {strategy: _drawn(of_strategy, request) for strategy, of_strategy in trials.items()}
    if len(set(counts.values())) > 1:
        few = min(counts, key=lambda strategy: counts[strategy])
        less = f", or draw as many from each with --budget {counts[few]}" if counts[few] >= 2 else ""
        raise RequestError(
            f"every approach gets the same number of trials, and these would differ: {said} (the preset's own "
            f"included); give {few} values of its own, such as --try {few}:train.lr=0.0005,0.002{less}"
        )
    if max(counts.values()) < 2:
        raise RequestError("every value to try is what the preset has; give --try other values")
    return trials


def _drawn(trials: Sequence[Trial], request: TuneRequest) -> list[Trial]:
    """The preset's own trial and others by the SHA-256 of "<first seed>:<settings>", in their order."""
    assert request.budget is not None

    def rank(trial: Trial) -> tuple[bool, str]:
        text = f"{request.seeds[0]}:{' '.join(as_assignments(trial.settings))}"
        return not trial.preset, hashlib.sha256(text.encode()).hexdigest()

    kept = sorted(trials, key=rank)[: request.budget]
    return [trial for trial in trials if trial in kept]


# --------------------------------------------------------------------------------------------------------- runs


def _config(request: TuneRequest, strategy: str, seed: int, settings: Mapping[str, Any]) -> RunConfig:
    """The run of one trial and seed: scored on validation videos."""
    flags = {
        "strategy": strategy,
        "dataset": request.dataset,
        "ratio": request.ratio,
        "split": request.split,
        "seed": seed,
        "videos": request.settings.videos,
        "eval_on": "val",
        "val_fraction": request.val_fraction,
        **request.settings.machine,
    }
    assignments = (*request.settings.assignments, *as_assignments(settings))
    config = resolve(flags, preset=request.settings.preset, assignments=assignments)
    return with_threads(config, request.settings.threads)


def _add(grid: Grid, request: TuneRequest, trial: Trial, seed: int) -> str:
    """Take in the run of one trial and seed; gives the key of its task."""
    own = {} if trial.preset else trial.settings
    config = _config(request, trial.strategy, seed, own)
    e = config.experiment
    fields = {
        "approach": trial.name,
        "strategy": e.strategy,
        "options": e.strategy_options,
        "dataset": str(DatasetChoice(e.dataset, e.dataset_options)),
        **{name: getattr(e, name) for name in ("ratio", "pretrained", "split", "seed")},
    }
    return grid.add_run(config, trial.name, ("tune",), fields).key


def _validation(request: TuneRequest, seed: int, grid: Grid) -> ValidationPart:
    """How many videos and groups the trials of a seed are scored on. Raises as `plan`."""
    planned = plan(_config(request, CONTROL, seed, {}), grid.datasets)
    groups = {video.group or video.id for video in planned.evaluated}
    return ValidationPart(seed=seed, videos=len(planned.evaluated), groups=len(groups))
