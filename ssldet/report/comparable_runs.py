"""Which runs stand on either side of a comparison, and whether they may be held against each other.

side_of(name, results)      the runs that a name means: of one configuration, one a seed, with what they have kept
side_of_runs(name, runs)    the same of runs at hand
same_tests(first, second)   what both were tested on; refused where it is not the same
columns_of(names, ...)      the numbers that are compared

A run says what it was tested on by its record and by its per-video matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ssldet import plugins
from ssldet.config import default_options
from ssldet.contracts import Matches, Strategy
from ssldet.errors import RequestError, SsldetError, UnknownName
from ssldet.evaluation.per_video import PerVideo
from ssldet.evaluation.results import column_titles
from ssldet.report.external_runs import ExternalRun
from ssldet.report.run_matches import has_matches, known_places, matches_of, per_video_of
from ssldet.report.run_selection import Folders, LeftOut, Run, TestedRun, collect_runs, result_folders, select_runs
from ssldet.runs.external import find_external
from ssldet.runs.listing import HEADLINES, headline_places
from ssldet.runs.store import find_run, find_runs, is_run


@dataclass(frozen=True, slots=True)
class Compared:
    """The runs on one side.

    Attributes:
        title: strategy, its options that are not its defaults, ratio and preset; or whose detections they are.
        runs: ids, in the order of `seeds`; the name of others' numbers.
        seeds: those that count; None of others' numbers, which pair with nothing.
        left_out: runs that were named and do not count, with the reason.
    """

    title: str
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    left_out: tuple[LeftOut, ...] = ()


# --------------------------------------------------------------------------------------------------- sides


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Runs of one configuration by seed, with what each has kept; or others' numbers, under no seed."""

    name: str
    runs: Mapping[int | None, TestedRun]
    kept: Mapping[int | None, PerVideo]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def reference(self) -> TestedRun:
        return next(iter(self.runs.values()))

    @property
    def external(self) -> bool:
        return isinstance(self.reference, ExternalRun)

    @property
    def compared(self) -> Compared:
        ids = tuple(run.id for run in self.runs.values())
        return Compared(title_of(self.reference), ids, tuple(self.runs), self.left_out)

    def matches(self, column: ComparedColumn, seed: int | None) -> Matches:
        return self.kept[seed].matches[column.metric][column.protocol]


def side_of(name: str | Path, results: Folders | None) -> Side:
    if (external := _named_external(str(name), results)) is not None:
        return Side(str(name), {None: external}, {None: per_video_of(external)})
    runs, left_out = _one_configuration(str(name), *_named_runs(str(name), results))
    return side_of_runs(str(name), runs, left_out)


def side_of_runs(
    name: str, runs: Sequence[Run], left_out: tuple[LeftOut, ...] = (), files: dict[Path, PerVideo] | None = None
) -> Side:
    """Finished runs of one configuration on one split, one a seed.

    Args:
        files: folder -> per-video matches, of runs whose files were read before; the others are added.

    Raises:
        RequestError: a run has no per-video matches.
    """
    read = {} if files is None else files
    for run in runs:
        if run.folder not in read:
            read[run.folder] = per_video_of(run)
    in_order = sorted(runs, key=lambda run: run.place)
    by_seed: dict[int | None, TestedRun] = {run.experiment.seed: run for run in in_order}
    return Side(name, by_seed, {seed: read[run.folder] for seed, run in by_seed.items()}, left_out)


def _named_external(name: str, results: Folders | None) -> ExternalRun | None:
    """Others' numbers of that name, or in that folder; None where there are none. Raises RequestError."""
    found = find_external(name, [] if Path(name).is_dir() else result_folders(results))
    if found is None:
        return None
    if found.record is None:
        raise RequestError(found.problem)
    return ExternalRun(found.record, found.folder)


def _named_runs(name: str, results: Folders | None) -> tuple[list[Run], list[LeftOut]]:
    """The runs that are meant, done or not, and those of which nothing is known."""
    path = Path(name)
    if path.is_dir() and not is_run(path):
        folders = [path]
    else:
        searched = result_folders(results)
        entries = find_runs(searched) if not path.is_dir() else []
        names = [name] if path.exists() else [part.strip() for part in name.split(",")]
        folders = [find_run(each, entries, searched).folder for each in names]
    collection = collect_runs(folders)
    if not collection.runs and not collection.unreadable:
        raise RequestError(f"{name} holds no run; name a run, or a folder of runs of one configuration")
    return list(collection.runs), list(collection.unreadable)


def _one_configuration(
    name: str, runs: Sequence[Run], unreadable: Sequence[LeftOut]
) -> tuple[list[Run], tuple[LeftOut, ...]]:
    """The finished runs of the one configuration that was named, one a seed. Raises RequestError."""
    done = [run for run in runs if run.done]
    if not done:
        reasons = [f"{run.entry.id}: {run.entry.problem}" for run in runs] + [each.reason for each in unreadable]
        raise RequestError(f"{name} has no finished run to compare: {'; '.join(reasons)}")
    if len({run.key for run in done}) > 1:
        raise RequestError(_several(name, done))
    selection = select_runs(runs)
    splits = sorted({split for split, _ in selection.runs})
    if len(splits) > 1:
        raise RequestError(
            f"{name} has runs on the official splits {splits}; name the runs of one, with commas between"
        )
    return list(selection.runs.values()), (*unreadable, *selection.left_out)


def _several(name: str, runs: Sequence[Run]) -> str:
    of_key: dict[str, list[Run]] = {}
    for run in runs:
        of_key.setdefault(run.key, []).append(run)
    lines = (f"  {title_of(group[0])}: {','.join(run.entry.id for run in group)}" for group in of_key.values())
    return (
        f"{name} holds runs of {len(of_key)} configurations, and one is compared; name its runs by id (with --results "
        f"{name}) or folder, with commas between seeds:\n" + "\n".join(sorted(lines))
    )


def title_of(run: TestedRun) -> str:
    """Strategy, those of its options that are not the strategy's own defaults, ratio and preset."""
    if isinstance(run, ExternalRun):
        return f"{run.title}, detections {run.record.short_hash}"
    usual = _defaults(run.experiment.strategy)
    options = [f"{key}={value}" for key, value in run.experiment.strategy_options.items() if usual.get(key) != value]
    return ", ".join([run.experiment.strategy, *options, f"ratio {run.experiment.ratio:g}", run.preset or "no preset"])


def _defaults(strategy: str) -> Mapping[str, Any]:
    """Its options' defaults; none where it is not installed."""
    try:
        kind: type[Strategy] = plugins.load("strategy", strategy)
        return default_options(kind.Config)
    except (SsldetError, ValidationError):  # the latter of options without default
        return {}


# ------------------------------------------------------------------------------------- what may be compared


def same_tests(first: Side, second: Side) -> PerVideo:
    """What all runs of both sides were tested on. Raises RequestError, naming both, where that is not the same."""
    reference, kept = first.reference, next(iter(first.kept.values()))
    for side in (first, second):
        for seed, run in side.runs.items():
            for what, one, other in _tests(reference, kept, run, side.kept[seed]):
                if one != other:
                    raise RequestError(
                        f"only runs that were tested alike can be compared, and {what} differs: {one} of run "
                        f"{reference.id} ({title_of(reference)}), {other} of run {run.id} ({title_of(run)})"
                    )
    return kept


def _tests(
    one: TestedRun, of_one: PerVideo, other: TestedRun, of_other: PerVideo
) -> Iterable[tuple[str, object, object]]:
    """(what, of one, of the other), in the order in which a reader wants to know."""
    yield "the data set", str(one.dataset), str(other.dataset)
    yield "the official split", one.split, other.split
    yield "what it was tested on", one.eval_on, other.eval_on
    yield "the data's fingerprint", one.record.data_fingerprint[:12], other.record.data_fingerprint[:12]
    ids, other_ids = ({video.id for video in kept.videos} for kept in (of_one, of_other))
    for lone in sorted(ids ^ other_ids)[:1]:
        words = [f"{len(each)} videos, {'with' if lone in each else 'without'} {lone!r}" for each in (ids, other_ids)]
        yield "the set of test videos", words[0], words[1]
    for video, again in zip(of_one.videos, of_other.videos, strict=True):
        yield f"what test video {video.id!r} is", (video.group, video.classes), (again.group, again.classes)


@dataclass(frozen=True, slots=True)
class ComparedColumn:
    """A number of both sides: its place in records and its title."""

    metric: str
    protocol: str
    key: str
    title: str


def columns_of(names: Iterable[str] | None, first: Side, second: Side, kept: PerVideo) -> list[ComparedColumn]:
    """The columns that were asked for, each once. Raises UnknownName, RequestError."""
    if names is None:
        places = headline_places(first.reference.protocol).values()
        columns = [_column(kept, *place) for place in places if has_matches(kept, place)]
    else:
        usual = first.reference.protocol
        columns = list(dict.fromkeys(_read_column(name, kept, usual) for name in names))
    if not columns:
        raise RequestError(f"{first.name} was scored by none of {', '.join(HEADLINES)}; name a column with --metric")
    for column in columns:
        for side in (first, second):
            for seed, each in side.kept.items():
                _check_column(column, kept, each, first.reference, side.runs[seed])
    return columns


def _column(kept: PerVideo, metric: str, protocol: str, key: str) -> ComparedColumn:
    return ComparedColumn(metric, protocol, key, column_titles(metric).get(key, f"{metric} {key}"))


def _read_column(name: str, kept: PerVideo, usual: str) -> ComparedColumn:
    """A column by title, or as metric:protocol:key; where the protocol is left out, `usual` or the metric's first."""
    metric, _, rest = name.partition(":")
    if metric in kept.matches:
        protocol, _, key = rest.partition(":")
        if protocol not in kept.matches[metric]:
            protocol, key = _protocol(kept, metric, usual), rest
        if has_matches(kept, (metric, protocol, key)):
            return _column(kept, metric, protocol, key)
    for metric in kept.matches:
        for key, title in column_titles(metric).items():
            if title == name and has_matches(kept, (metric, protocol := _protocol(kept, metric, usual), key)):
                return _column(kept, metric, protocol, key)
    raise UnknownName("column", name, known_places(kept))


def _protocol(kept: PerVideo, metric: str, usual: str) -> str:
    protocols = kept.matches[metric]
    return usual if usual in protocols else next(iter(protocols))


def _check_column(
    column: ComparedColumn, kept: PerVideo, other: PerVideo, run: TestedRun, other_run: TestedRun
) -> None:
    place = (column.metric, column.protocol, column.key)
    what = f"{column.metric}, protocol {column.protocol}, {column.key}"
    if not has_matches(other, place):
        raise RequestError(
            f"run {run.id} was scored by {what}, and run {other_run.id} was not; it has "
            f"{', '.join(known_places(other))}"
        )
    one, again = (each.matches[column.metric][column.protocol] for each in (kept, other))
    alike = (one.rule, one.columns, one.thresholds) == (again.rule, again.columns, again.thresholds)
    if not (alike and np.array_equal(one.truths_vk, again.truths_vk) and one.ranked.keys() == again.ranked.keys()):
        raise RequestError(
            f"runs {run.id} and {other_run.id} were not scored alike by {what}: versions of the metric "
            "differ; score one of them again with `ssldet runs rescore`"
        )
    matches_of(other_run, other, place)


def common_seeds(first: Side, second: Side) -> tuple[int, ...]:
    """The seeds that both sides have."""
    return tuple(sorted(seed for seed in first.runs.keys() & second.runs.keys() if seed is not None))
