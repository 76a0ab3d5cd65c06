"""Figures of named runs as pictures, in one call: what `ssldet figure curves RUN...` and the like draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssldet.errors import UnknownName
from ssldet.report import run_drawing, run_figures
from ssldet.report.paper_figures import DrawnFigure
from ssldet.report.run_figures import Line, Panel
from ssldet.report.run_selection import Folders, Run, result_folders
from ssldet.util.files import plain

KINDS = {
    "curves": "loss terms, pseudo-labels and validation scores over the steps of training",
    "classes": "a score class by class",
    "pr": "precision over recall, class by class",
    "cost": "a score over the clips that were trained on",
    "confusion": "which class is taken for which, of one run",
}
"""Name -> what the figure shows."""


def run_figure(
    kind: str,
    names: Sequence[str],
    *,
    results: Folders | None = None,
    metric: str = "V@0.5",
    data_root: str | Path | None = None,
) -> DrawnFigure:
    """Draw a figure of runs that are named.

    Args:
        kind: one of `KINDS`.
        names: ids of runs, or starts of them, or folders; of "confusion" one, else six at most.
        results: the folder, or folders, to search for runs; by default `results/runs`.
        metric: the number that "classes", "pr" and "cost" show, as lists of runs have it.
        data_root: "confusion": the folder of the data; None: the run's own.

    Raises:
        UnknownName: no such figure or number. RequestError: runs are absent, not done, too many, not of one data set,
        or lack what the figure shows. DataError: "confusion": the data are absent.
    """
    if kind not in KINDS:
        raise UnknownName("figure of runs", kind, KINDS)
    most = 1 if kind == "confusion" else run_figures.MOST_RUNS
    runs = run_figures.figure_runs(names, result_folders(results), most=most)
    if kind == "curves":
        return _curves(runs)
    if kind == "confusion":
        return _confusion(runs, data_root)
    return _scores(kind, runs, metric)


def _curves(runs: Mapping[str, Run]) -> DrawnFigure:
    panels = run_figures.log_panels(runs)
    figure = run_drawing.draw_panels(panels, f"What the logs have over training{_shared(runs)}", "step")
    return DrawnFigure(figure, _content(runs) | {"panels": _plain(panels)})


def _scores(kind: str, runs: Mapping[str, Run], metric: str) -> DrawnFigure:
    place = run_figures.place_of(runs, metric)
    data = str(next(iter(runs.values())).dataset)
    title = f"{metric} on {data}, protocol {place[1]}{_shared(runs, dataset=False)}"
    content = _content(runs) | {"number": ":".join(place)}
    if kind == "classes":
        bars = run_figures.class_bars(runs, place, metric)
        values = [dict(zip(bars.classes, plain(values_k), strict=True)) for values_k in bars.values_rk]
        figure = run_drawing.draw_bars(bars, title)
        return DrawnFigure(figure, content | {"classes": dict(zip(bars.labels, values, strict=True))})
    if kind == "cost":
        costs = run_figures.costs(runs, place)
        return DrawnFigure(run_drawing.draw_costs(costs, title, metric), content | {"costs": plain(costs)})
    panels = run_figures.class_curves(runs, place)
    figure = run_drawing.draw_panels(panels, f"Precision over recall: {title}", "recall", "precision")
    return DrawnFigure(figure, content | {"panels": _plain(panels)})


def _confusion(runs: Mapping[str, Run], data_root: str | Path | None) -> DrawnFigure:
    ((label, run),) = runs.items()
    matrix = run_figures.confusion_of(run, data_root)
    title = f"{label}, {run.dataset}\npercent of the truth boxes of a class, by the detection with IoU 0.5 on them"
    content = {"rows": matrix.classes, "columns": [*matrix.predicted, "missed"], "counts": matrix.counts_kp.tolist()}
    return DrawnFigure(run_drawing.draw_confusion(matrix, title), _content(runs) | plain(content))


def _shared(runs: Mapping[str, Run], *, dataset: bool = True) -> str:
    """Data set and seed of runs, where all have the same, to be put behind a title."""
    seeds = {f"seed {run.experiment.seed}" for run in runs.values()}
    told = [{str(run.dataset) for run in runs.values()}, seeds] if dataset else [seeds]
    facts = [next(iter(values)) for values in told if len(values) == 1]
    return "".join(f", {fact}" for fact in facts)


def _content(runs: Mapping[str, Run]) -> dict[str, object]:
    return {"runs": {label: run.id for label, run in runs.items()}}


def _plain(panels: Sequence[Panel]) -> list[dict[str, object]]:
    return [{"title": panel.title, "lines": [_plain_line(line) for line in panel.lines]} for panel in panels]


def _plain_line(line: Line) -> dict[str, object]:
    return {"run": line.label, "x": [float(x) for x in line.xs], "y": [float(y) for y in line.ys]}
