"""Figures of runs that are named: what each shows, as plain data.

    figure_runs(names, folders)     the runs, each with a label that tells it from the others
    log_panels(runs)                "curves": loss terms, pseudo-labels and validation scores over the steps
    class_bars(runs, place)         "classes": a score class by class
    class_curves(runs, place)       "pr": precision over recall, class by class
    costs(runs, place)              "cost": a score over the clips that were trained on
    confusion_of(run, data_root)    "confusion": which class is taken for which

All but the last need no data and no detections. `run_drawing` makes pictures of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssldet.data.datasets import load_dataset
from ssldet.errors import RequestError, UnknownName
from ssldet.evaluation.confusion import Confusion, confusion
from ssldet.evaluation.precision_recall import recall_and_precision
from ssldet.evaluation.results import column_titles
from ssldet.report.comparable_runs import title_of
from ssldet.report.qualitative import detections_of
from ssldet.report.run_matches import Place, matches_of, per_video_of
from ssldet.report.run_selection import Run, collect_runs
from ssldet.runs import layout
from ssldet.runs.curves import curves
from ssldet.runs.log import read_log
from ssldet.runs.rescoring import scored_videos
from ssldet.runs.store import find_run, find_runs

MOST_RUNS = 6
"""As many as line styles and greys tell apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One run's numbers in a panel: `ys` at `xs`."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Lines of several runs over one axis; a `fraction` runs from 0 to 1."""

    title: str
    lines: tuple[Line, ...]
    fraction: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """A score of each class and run, in percent.

    Attributes:
        classes: those that have truth in any of the runs. labels: the runs'.
        values_rk: (runs, classes); NaN where a run has no number.
    """

    title: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    values_rk: np.ndarray


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run reached, in percent, and what it took."""

    label: str
    score: float
    gradient_clips: int
    hours: float


def figure_runs(names: Sequence[str], folders: Sequence[Path], *, most: int = MOST_RUNS) -> dict[str, Run]:
    """Label -> run, in the order of the names; runs of one configuration are told apart by their seeds or ids.

    Raises:
        RequestError: no run or too many are named, there is no such run, or one is not done.
    """
    if not names:
        raise RequestError("name the runs to draw, by their ids or folders; `ssldet runs list` lists them")
    if len(names) > most:
        raise RequestError(f"{len(names)} runs are named, and {most} can be told apart in this figure; name fewer")
    found = find_runs(folders)
    runs = [_finished(find_run(name, found, folders).folder) for name in dict.fromkeys(names)]
    return dict(zip(_labels(runs), runs, strict=True))


def _finished(folder: Path) -> Run:
    for run in collect_runs([folder]).runs:
        if run.done:
            return run
    raise RequestError(f"the run in {folder} is not done, or its settings cannot be read: `ssldet runs show` says why")


def _labels(runs: Sequence[Run]) -> list[str]:
    """Strategy and options, ratio and preset; the seed and the id as well where these do not tell runs apart."""
    titles = [title_of(run) for run in runs]
    seeded = [f"{title}, seed {run.experiment.seed}" for title, run in zip(titles, runs, strict=True)]
    for labels in (titles, seeded):
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({run.id})" for label, run in zip(seeded, runs, strict=True)]


def place_of(runs: Mapping[str, Run], metric: str) -> Place:
    """Where the number of a title ("V@0.5") stands in the records of runs on one data set, under its protocol.

    Raises:
        RequestError: the runs are not of one data set and protocol. UnknownName: the first has no such number.
    """
    data = {f"{run.dataset}, protocol {run.protocol}" for run in runs.values()}
    if len(data) > 1:
        raise RequestError(f"runs of one data set are drawn together, not those of {' and of '.join(sorted(data))}")
    places = _places(next(iter(runs.values())))
    if metric not in places:
        raise UnknownName("number of these runs", metric, places)
    return places[metric]


def _places(run: Run) -> dict[str, Place]:
    scored = ((name, of[run.protocol]) for name, of in run.record.metrics.items() if run.protocol in of)
    return {
        title: (name, run.protocol, key)
        for name, result in scored
        for key, title in column_titles(name).items()
        if key in result.numbers
    }


# -------------------------------------------------------------------------------------------------- curves


def log_panels(runs: Mapping[str, Run]) -> tuple[Panel, ...]:
    """A panel for each series of the logs, with a line for each run that has it. Raises RequestError without any."""
    panels: dict[tuple[str, str], list[Line]] = {}
    for label, run in runs.items():
        path = run.folder / layout.LOG
        for curve in curves(read_log(path)) if path.is_file() else ():
            panels.setdefault((curve.kind, curve.name), []).append(Line(label, curve.steps, curve.values))
    if not panels:
        raise RequestError(f"no {layout.LOG} of these runs has a line: nothing is known of their training")
    fractions = ("pseudo_labels", "thresholds", "validation")
    return tuple(
        Panel(_panel_title(kind, name), tuple(lines), kind in fractions) for (kind, name), lines in panels.items()
    )


def _panel_title(kind: str, name: str) -> str:
    if name == "unlabelled_ratio":
        return "terms of unlabelled clips over the others"
    words = name.replace("_", " ")
    return {"losses": f"loss term {name}", "gradient_norms": f"gradient norm of {name}"}.get(kind, words)


# ------------------------------------------------------------------------------------- scores class by class


def class_bars(runs: Mapping[str, Run], place: Place, title: str) -> Bars:
    """The number of each class under each run. Raises RequestError where no run has one by class."""
    numbers = [run.class_numbers(*place) for run in runs.values()]
    classes = tuple(dict.fromkeys(name for of_run in numbers for name, value in of_run.items() if value is not None))
    if not classes:
        raise RequestError(f"these runs have no {title} by class")
    values = [
        [np.nan if (value := of_run.get(name)) is None else 100 * value for name in classes] for of_run in numbers
    ]
    return Bars(title, classes, tuple(runs), np.array(values))


def class_curves(runs: Mapping[str, Run], place: Place) -> tuple[Panel, ...]:
    """A panel a class, recall to precision, with a line for each run that has a hit in it.

    Raises:
        RequestError: a run has no per-video matches of the number.
    """
    lines: dict[str, list[Line]] = {}
    for label, run in runs.items():
        kept = per_video_of(run)
        matches = matches_of(run, kept, place)
        for index in sorted(matches.ranked):
            recall, precision = recall_and_precision(matches, index, place[2])
            if matches.truths_vk[:, index].any():
                lines.setdefault(kept.classes[index], []).append(Line(label, recall.tolist(), precision.tolist()))
    return tuple(Panel(name, tuple(of_class), fraction=True) for name, of_class in lines.items())


# ------------------------------------------------------------------------------------------ cost, confusion


def costs(runs: Mapping[str, Run], place: Place) -> tuple[Cost, ...]:
    """What each run reached and took. Raises RequestError where a run has no such number."""
    return tuple(_costs(runs, place))


def _costs(runs: Mapping[str, Run], place: Place) -> Iterator[Cost]:
    for label, run in runs.items():
        score, training = run.number(*place), run.record.training
        if score is None:
            raise RequestError(f"run {run.id} has no {' '.join(place)}")
        yield Cost(label, 100 * score, training.gradient_clips, training.seconds.get("train", 0.0) / 3600)


def confusion_of(run: Run, data_root: str | Path | None = None) -> Confusion:
    """The confusion matrix of a run's detections on the videos that it was scored on.

    Raises:
        RequestError: it kept no detections, or boxes have several labels. DataError: its data are absent.
    """
    experiment = run.experiment
    root = data_root or run.entry.machine.get("data_root")
    dataset = load_dataset(experiment.dataset, root, **experiment.dataset_options)
    videos = scored_videos(run.folder, run.record, experiment, dataset)
    return confusion(dataset.facts, videos, dataset.truth, detections_of(run, dataset, videos))
