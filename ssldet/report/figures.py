"""Figures 3 and 4 of the paper from records: what they show, as plain data.

    class_changes(collection, settings)   Figure 3: each class's video-mAP, ours less the baseline's, by label
    by_training_videos(changes, ...)    the same in the order of the classes' training videos
    sweep(collection, settings)           Figure 4: video-mAP against two thresholds

Which runs a figure asks for stands in `benchmarks/paper/figure3.yaml` and `figure4.yaml`. Numbers come from records
alone, in percent. `drawing` makes pictures of them; the frames of Figure 5 are chosen by `qualitative`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import DatasetChoice, Settings
from ssldet.benchmark.spec import Column, Row, TableSpec
from ssldet.contracts import Dataset
from ssldet.errors import RequestError
from ssldet.report.cell_matching import CellMatcher, settings_options, settings_problem
from ssldet.report.run_selection import Run, RunCollection, select_runs

# --------------------------------------------------------------------------------------------------- runs


def choose_settings(
    name: str, collection: RunCollection, requested: Settings | None = None, assignments: Sequence[str] = ()
) -> Settings:
    """The settings of a figure: those requested, else those found in records that fill most of its cells.

    Raises:
        SsldetError: nothing could be run under them.
    """
    spec, base = benchmark.spec(name), Settings(assignments=assignments)
    filled = (
        [] if requested else [option.settings for option in settings_options(spec, collection, base) if option.filled]
    )
    settings = requested or (filled[0] if filled else base)
    if error := settings_problem(spec, settings):
        raise error
    return settings


def runs_of(matcher: CellMatcher, row: Row, split: int = 1) -> dict[int, Run]:
    """The finished runs of one row of a figure on an official split, by seed."""
    (ratio,) = matcher.spec.ratios_of(row)
    selection = select_runs([run for run in matcher.runs(row, ratio) if run.experiment.split == split])
    return {seed: run for (_, seed), run in sorted(selection.runs.items())}


GRID = {"figure3": "--tables 2", "figure4": "--figures 4"}
"""What `ssldet grid` is asked for, to make the runs of a figure."""


def no_runs(spec: TableSpec, what: str, collection: RunCollection, settings: Settings) -> RequestError:
    """The error that says which runs are missing, what makes them, and for which settings there are some."""
    standing_in = "".join(f" --dataset-map {paper}={ours}" for paper, ours in settings.dataset_map.items())
    grid = f"ssldet grid {GRID[spec.name]} --preset {settings.preset}{standing_in}"
    present = sorted({f"--preset {run.preset} on {run.dataset}" for run in collection.runs if run.done})
    hint = f"; finished runs here are of {', '.join(present)}" if present else ""
    return RequestError(
        f"no runs of {what} on {settings.dataset(spec.dataset)} under preset {settings.preset}: "
        f"`{grid}` makes them{hint}"
    )


def _spread(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


# ----------------------------------------------------------------------------------------------- Figure 3


@dataclass(frozen=True, slots=True)
class ClassChange:
    """One class: its training videos (None: not counted), and the change in percent, mean and std over seeds."""

    name: str
    videos: int | None
    mean: float
    std: float | None


@dataclass(frozen=True, slots=True)
class ClassChanges:
    """Figure 3 as data. `dataset` is the paper's, `runs` are pairs (ours, baseline) of one seed, `left_out` classes
    without truth.
    """

    title: str
    dataset: str
    column: Column
    ours: str
    baseline: str
    settings: Settings
    classes: tuple[ClassChange, ...]
    runs: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...] = ()
    note: str = ""


def class_changes(
    collection: RunCollection,
    settings: Settings,
    *,
    threshold: str = "0.5",
    split: int = 1,
) -> ClassChanges:
    """What each class gains over the baseline, as a mean over the seeds that both have.

    Args:
        threshold: of the tubes' overlap, as records name it.

    Raises:
        RequestError: there are no such runs, or they were not scored at the threshold.
    """
    spec = benchmark.spec("figure3")
    column = spec.columns[0].model_copy(update={"key": threshold, "title": f"V@{threshold}"})
    base_row, row = sorted(spec.rows, key=lambda row: row.strategy != spec.baseline)
    matcher = CellMatcher(spec, collection, settings)
    base, ours = (runs_of(matcher, each, split) for each in (base_row, row))
    pairs = [(ours[seed], base[seed]) for seed in ours if seed in base]
    if not pairs:
        raise no_runs(spec, f"{row.approach} and {base_row.approach} with a common seed", collection, settings)
    gains = _gains(pairs, column)
    return ClassChanges(
        title=spec.title,
        dataset=spec.dataset,
        column=column,
        ours=row.approach,
        baseline=base_row.approach,
        settings=settings,
        classes=tuple(
            ClassChange(name, None, float(np.mean(values)), _spread(values)) for name, values in gains.items() if values
        ),
        runs=tuple((first.entry.id, second.entry.id) for first, second in pairs),
        left_out=tuple(name for name, values in gains.items() if not values),
        note=spec.note,
    )


def _gains(pairs: Sequence[tuple[Run, Run]], column: Column) -> dict[str, list[float]]:
    """Class -> ours less the baseline's in percent, of each pair of runs that both have a number of it."""
    gains: dict[str, list[float]] = {}
    for pair in pairs:
        ours_by_class, base_by_class = (_per_class(run, column) for run in pair)
        for name, ours in ours_by_class.items():
            values = gains.setdefault(name, [])
            if ours is not None and (base := base_by_class.get(name)) is not None:
                values.append(100 * (ours - base))
    return gains


def _per_class(run: Run, column: Column) -> Mapping[str, float | None]:
    """Of the classes that have truth: without it a protocol may say 0, which is no number to compare."""
    result = run.record.metrics.get(column.metric, {}).get(column.protocol)
    values = result.by_class if result else {}
    if column.key not in values:
        raise RequestError(
            f"run {run.entry.id} has no {column.metric} at {column.key!r} (protocol {column.protocol}); "
            f"known: {', '.join(values) or 'none'}"
        )
    return run.class_numbers(column.metric, column.protocol, column.key)


def by_training_videos(changes: ClassChanges, dataset: Dataset, split: int = 1) -> ClassChanges:
    """The same with the classes in descending order of the training videos that show them. Raises DataError."""
    shown = Counter(label for video in dataset.videos("train", split) for label in video.classes)
    counts = {name: shown[label] for label, name in enumerate(dataset.facts.classes)}
    classes = [replace(change, videos=counts.get(change.name, 0)) for change in changes.classes]
    return replace(changes, classes=tuple(sorted(classes, key=lambda change: -(change.videos or 0))))


# ----------------------------------------------------------------------------------------------- Figure 4


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a threshold: the metric in percent over `n` seeds; `mean` is None without a run."""

    value: float
    mean: float | None
    std: float | None
    runs: tuple[str, ...]
    paper: float | None

    @property
    def n(self) -> int:
        return len(self.runs)


@dataclass(frozen=True, slots=True)
class Panel:
    """A sweep over one option; `fixed` are the options that the other panels sweep."""

    option: str
    label: str
    points: tuple[Point, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Figure 4 as data."""

    title: str
    dataset: str
    column: Column
    settings: Settings
    panels: tuple[Panel, ...]
    note: str = ""


def sweep(collection: RunCollection, settings: Settings, *, split: int = 1) -> Sweep:
    """Video-mAP against each threshold; the paper's points where the paper's data set is shown.

    Raises:
        RequestError: there is no run of any point.
    """
    spec = benchmark.spec("figure4")
    matcher = CellMatcher(spec, collection, settings)
    swept = list(dict.fromkeys(option for row in spec.rows for option in row.options))
    panels = tuple(_panel(matcher, option, [name for name in swept if name != option], split) for option in swept)
    if not any(point.n for panel in panels for point in panel.points):
        raise no_runs(spec, "any point", collection, settings)
    return Sweep(spec.title, spec.dataset, spec.columns[0], settings, panels, spec.note)


def _panel(matcher: CellMatcher, option: str, fixed_options: Sequence[str], split: int) -> Panel:
    rows = [row for row in matcher.spec.rows if option in row.options]
    points = (_point(matcher, row, row.options[option], split) for row in rows)
    expected = matcher.expected(rows[0], matcher.spec.ratios[0])
    fixed = {name: expected.strategy_options.get(name) for name in fixed_options} if expected else {}
    label, _, _ = rows[0].approach.rpartition(" ")
    return Panel(option, label, tuple(sorted(points, key=lambda point: point.value)), fixed)


def _point(matcher: CellMatcher, row: Row, value: float, split: int) -> Point:
    spec, column = matcher.spec, matcher.spec.columns[0]
    runs = runs_of(matcher, row, split).values()
    numbers = {run.entry.id: run.number(column.metric, column.protocol, column.key) for run in runs}
    scored = {run: 100 * number for run, number in numbers.items() if number is not None}
    values = list(scored.values())
    mean = float(np.mean(values)) if values else None
    shown = matcher.settings.dataset(spec.dataset) == DatasetChoice(spec.dataset)
    return Point(value, mean, _spread(values), tuple(scored), _reported(row) if shown else None)


def _reported(row: Row) -> float | None:
    """What the paper says of a point of Figure 4, which it prints outside its tables."""
    statements = [statement for statement in benchmark.paper().statements if statement.where.startswith("Fig. 4")]
    return next((statement.value for statement in statements if statement.what.endswith(f" {row.approach}")), None)
