"""Pages of two sides held against each other: which pairs there are, and what each page shows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from ssldet.evaluation.per_video import PerVideo
from ssldet.report.comparable_runs import side_of_runs
from ssldet.report.comparison import Comparison, KnownScores, compare_sides
from ssldet.report.run_selection import Run
from ssldet.report.site.charts import Chart, line_chart, number
from ssldet.report.site.leaderboard import Configuration
from ssldet.report.site.log_charts import FRACTION, STEPS, field_series, labels_frames, loss_terms, series_of
from ssldet.report.site.log_tail import kept_log, warnings_of
from ssldet.report.site.remarks import Remarks
from ssldet.report.site.run_facts import thresholds
from ssldet.report.site.run_numbers import ERRORS
from ssldet.report.site.table_page import Contrasted
from ssldet.runs.curves import curves

MOST_PAIRS = 50
"""Comparisons of a site, the most telling first; the others are named with the command that makes them."""

CONTROL, IN_A_TABLE = "the second is the matched control of the first", "contrasted in a table"
"""Why a pair has a page."""

SHOWN = 0.0005
"""A share below it is 0.0 percent: a kind of error that neither side makes is not listed."""

NONE = "none"
"""What a side says that was given nothing of a kind."""

LABELS = {
    "Precision of pseudo-boxes": ("pseudo_labels", "box_precision"),
    "Pseudo-boxes on a truth, whatever their class": ("pseudo_labels", "box_localized"),
    "Coverage of pseudo-boxes": ("pseudo_labels", "box_coverage"),
    "Precision of frame labels": ("pseudo_labels", "frame_precision"),
    "Coverage of frame labels": ("pseudo_labels", "frame_coverage"),
}
"""Title of a chart -> where the log has its numbers, of both sides alike."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sides that are held against each other, and why."""

    first: Configuration
    second: Configuration
    why: str

    @property
    def ids(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.first.ids, self.second.ids

    @property
    def titles(self) -> tuple[str, str]:
        return self.first.title, self.second.title

    @property
    def runs(self) -> frozenset[str]:
        """The ids of all runs."""
        return frozenset((*self.first.ids, *self.second.ids))

    @property
    def command(self) -> str:
        """What makes the comparison in the terminal."""
        return f"ssldet compare {' '.join(','.join(ids) for ids in self.ids)}"


@dataclass(frozen=True, slots=True)
class KindDifference:
    """A kind of error: the mean shares of both sides, fractions."""

    kind: str
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Given:
    """Something that a side was given, in words, and what the other was given."""

    what: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class ComparePage:
    """What a page of two sides shows.

    Attributes:
        given: what each side was trained with, what that took, and the pseudo-labels at its end.
        warnings: what the logs of both sides warn of.
        errors: kinds of error, means over all classes and the runs that are compared.
        charts: the training of one of these of each side.
    """

    page: str
    pair: Pair
    comparison: Comparison
    given: tuple[Given, ...]
    warnings: tuple[str, ...]
    errors: tuple[KindDifference, ...]
    charts: tuple[Chart, ...]
    missing: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What a link to it says after the name of the first side; label ratios tell pairs of one name apart."""
        columns = self.comparison.columns
        words = ", ".join(f"{column.title} {100 * column.difference:+.1f}" for column in columns)
        ratio = self.pair.first.reference.experiment.ratio
        seeds = self.comparison.pairs
        counted = f"seed {seeds[0]} alone" if len(seeds) == 1 else f"{len(seeds)} seeds" if seeds else "no common seed"
        return f"against {self.pair.second.title} at {100 * ratio:g} %: {words} ({counted})"

    @property
    def verdict(self) -> str:
        """What the first number establishes, in a sentence; nothing is established by one seed."""
        column, seeds = self.comparison.columns[0], len(self.comparison.pairs)
        said = f"{column.title} {100 * column.difference:+.1f} points"
        if seeds < 2 or column.over_seeds is None:
            return (
                f"{said} with one seed of each: no order is established, since seeds of one configuration differ too."
            )
        if column.over_seeds.low <= 0 <= column.over_seeds.high:
            return f"{said} over {seeds} seeds, and the interval over seeds holds 0: no order is established."
        return f"{said} over {seeds} seeds, and the interval over seeds leaves 0 out."


def controls(shown: ComparePage, compared: Iterable[ComparePage]) -> list[ComparePage]:
    """Pages of either side against its matched control, which has the same heads and clips and no unlabelled video."""
    sides = {shown.pair.first.ids, shown.pair.second.ids}
    return [
        other
        for other in compared
        if other is not shown and other.pair.why == CONTROL and other.pair.first.ids in sides
    ]


def related(shown: ComparePage, compared: Iterable[ComparePage]) -> list[tuple[ComparePage, str]]:
    """Other pages that bear on one, with what a link says: the same pair elsewhere first, then what shares a run."""
    pair = shown.pair
    found = [
        (other, f"{other.pair.first.title} {other.summary}")
        for other in compared
        if other is not shown and (other.pair.titles == pair.titles or other.pair.runs & pair.runs)
    ]
    return sorted(found, key=lambda link: link[0].pair.titles != pair.titles)


def pairs(groups: Sequence[Configuration], contrasted: Iterable[Contrasted]) -> list[Pair]:
    """The pairs that are worth a page, the most telling first: what tables contrast, what was run alike, seeds.

    Args:
        groups: all configurations.
        contrasted: what tables contrast: matched controls and others, then baselines.
    """
    group_of = {run_id: group for group in groups for run_id in group.ids}
    named = [
        Pair(group_of[each.first], group_of[each.second], CONTROL if each.control else IN_A_TABLE)
        for each in contrasted
        if each.first in group_of and each.second in group_of and group_of[each.first] is not group_of[each.second]
    ]
    every = [*named, *_run_alike(groups), *_seeds(groups)]
    kept: dict[frozenset[tuple[str, ...]], Pair] = {}
    for pair in every:
        kept.setdefault(frozenset(pair.ids), pair)
    return list(kept.values())


def _run_alike(groups: Sequence[Configuration]) -> Iterator[Pair]:
    """Configurations on the same data, ratio and split, of one network and preset, two by two."""
    by_place: dict[tuple[object, ...], list[Configuration]] = {}
    for group in groups:
        run = group.reference
        experiment = run.experiment
        place = (run.record.data_fingerprint, experiment.ratio, run.split, run.eval_on, experiment.backbone, run.preset)
        by_place.setdefault((*place, experiment.pretrained), []).append(group)
    for alike in by_place.values():
        yield from (Pair(second, first, "run alike") for first, second in combinations(alike, 2))


def _seeds(groups: Sequence[Configuration]) -> Iterator[Pair]:
    """The seeds of each configuration against its first: what differs there is noise."""
    for group in groups:
        (first, reference), *others = group.runs.items()
        for seed, run in others:
            sides = [
                Configuration(f"{group.title}, seed {of}", {of: each}) for of, each in ((seed, run), (first, reference))
            ]
            yield Pair(sides[0], sides[1], "two seeds of one configuration")


def compare_page(pair: Pair, page: str, files: dict[Path, PerVideo], known: KnownScores) -> ComparePage:
    """Hold both sides against each other.

    Args:
        files, known: what earlier comparisons have read and computed; that of this one is added.

    Raises:
        RequestError: they cannot be compared.
    """
    remarks = Remarks()
    sides = [side_of_runs(side.title, list(side.runs.values()), (), files) for side in (pair.first, pair.second)]
    comparison = compare_sides(sides[0], sides[1], known=known)
    compared = _of_seeds(pair, comparison.pairs)
    logs = remarks.attempt("Logs", _logs, compared) or ([], [])
    given = remarks.attempt("What each was given", _given, compared, logs) or ()
    warnings = remarks.attempt("Warnings", _warnings, compared, logs) or ()
    errors = remarks.attempt("Kinds of error", _errors, compared) or ()
    charts = remarks.attempt("Curves", _charts, compared, logs) or ()
    return ComparePage(
        page, pair, comparison, tuple(given), tuple(warnings), tuple(errors), charts, tuple(remarks.sentences)
    )


def _of_seeds(pair: Pair, seeds: Collection[int]) -> Pair:
    """Both sides without the runs whose seeds the other side lacks, where they have some in common."""
    first, second = (
        replace(side, runs={seed: run for seed, run in side.runs.items() if seed in seeds or not seeds})
        for side in (pair.first, pair.second)
    )
    return Pair(first, second, pair.why)


Logs = tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]
"""The lines of the log of the first run of either side."""


def _logs(pair: Pair) -> Logs:
    return kept_log(pair.first.reference.folder), kept_log(pair.second.reference.folder)


def _given(pair: Pair, logs: Logs) -> list[Given]:
    """What two sides were trained with; left out where neither has any."""
    first, second = (_side_facts(side, lines) for side, lines in zip((pair.first, pair.second), logs, strict=True))
    return [Given(what, first[what], second[what]) for what in first if {first[what], second[what]} != {NONE}]


def _side_facts(side: Configuration, lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Means over the runs of a side, in words, and what its first run says."""
    records = [run.record for run in side.runs.values()]
    labels = (lines[-1].get("pseudo_labels") or {}) if lines else {}
    terms = [curve.name for curve in loss_terms(curves(lines))]
    set_to = thresholds(side.reference.experiment.strategy_options)
    teacher_clips = fmean(record.training.teacher_clips for record in records)
    return {
        "Loss terms": ", ".join(terms) or NONE,
        "Thresholds": ", ".join(f"{name} {value}" for name, value in set_to) or NONE,
        "Clips with gradients": number(fmean(record.training.gradient_clips for record in records)),
        "Clips through a teacher": number(teacher_clips) if teacher_clips else NONE,
        "Labelled videos": number(fmean(record.split.labelled for record in records)),
        "Clips with pseudo-boxes": _share(labels.get("box_coverage")),
        "Right among pseudo-boxes": _share(labels.get("box_precision")),
        "Hours of training": f"{fmean(record.training.seconds.get('train', 0.0) for record in records) / 3600:.2f}",
    }


def _share(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def _warnings(pair: Pair, logs: Logs) -> list[str]:
    """What the first run of each side warns of, with the name of the side."""
    return [
        f"{title}, {warning}" for title, lines in zip(pair.titles, logs, strict=True) for warning in warnings_of(lines)
    ]


def _errors(pair: Pair) -> list[KindDifference]:
    first, second = (_mean_kinds(list(side.runs.values())) for side in (pair.first, pair.second))
    return [
        KindDifference(kind, first[kind], second[kind])
        for kind in first
        if kind in second and max(first[kind], second[kind]) >= SHOWN
    ]


def _mean_kinds(runs: Sequence[Run]) -> dict[str, float]:
    """Kind of error -> the mean share over some runs that have it."""
    shares: dict[str, list[float]] = {}
    for run in runs:
        result = run.record.metrics.get(ERRORS, {}).get(run.protocol)
        for kind, value in (result.kinds if result else {}).items():
            if value.mean is not None:
                shares.setdefault(kind, []).append(value.mean)
    return {kind: sum(values) / len(values) for kind, values in shares.items()}


def _charts(pair: Pair, logs: Logs) -> tuple[Chart, ...]:
    """The training of the first run of each side, in the same charts."""
    by_title = dict(zip(pair.titles, logs, strict=True))
    drawn = [_losses(by_title, name) for name in _shared_terms(by_title)]
    of_frames = {name: lines for name, lines in by_title.items() if labels_frames(curves(lines))}
    for title, path in LABELS.items():
        told = of_frames if path[-1].startswith("frame") else by_title
        series = [replace(field_series(lines, name, *path), name=name) for name, lines in told.items()]
        drawn.append(line_chart(title, series, x_title=STEPS, y_title="fraction", y_range=FRACTION))
    return tuple(chart for chart in drawn if chart)


def _shared_terms(logs: Mapping[str, Sequence[Mapping[str, object]]]) -> list[str]:
    """The loss terms of both logs, in the order of the first."""
    first, *others = ([curve.name for curve in loss_terms(curves(lines))] for lines in logs.values())
    return [name for name in first if all(name in other for other in others)]


def _losses(logs: Mapping[str, Sequence[Mapping[str, object]]], term: str) -> Chart | None:
    series = [
        series_of(curve, name)
        for name, lines in logs.items()
        for curve in loss_terms(curves(lines))
        if curve.name == term
    ]
    return line_chart(f"Loss term {term}", series, x_title=STEPS, y_title="weighted loss")
