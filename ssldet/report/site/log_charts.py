"""What the log of a run has over its steps, as charts: every loss term, pseudo-labels, validation, the optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssldet.report.site.charts import Chart, Range, Series, line_chart
from ssldet.runs.curves import Curve, curves

STEPS = "step"
FRACTION: Range = (0.0, 1.0)

PSEUDO_LABELS = {
    "Pseudo-labels of frames": ("frame_coverage", "frame_precision", "frame_recall"),
    "Pseudo-boxes": ("box_coverage", "box_precision", "box_recall", "box_localized"),
}
"""Title -> the fields of a line's pseudo-labels that stand in one chart; all are fractions."""


@dataclass(frozen=True, slots=True)
class LogCharts:
    """Charts by what they are of; a group is empty where the log has nothing of it."""

    losses: tuple[Chart, ...] = ()
    pseudo_labels: tuple[Chart, ...] = ()
    validation: tuple[Chart, ...] = ()
    optimiser: tuple[Chart, ...] = ()


def log_charts(lines: Sequence[Mapping[str, Any]]) -> LogCharts:
    """Charts of a log, whatever version wrote it: what a line lacks is left out."""
    read = curves(lines)
    return LogCharts(
        losses=_charts(_loss_charts(read)),
        pseudo_labels=_charts(_pseudo_label_charts(lines, read)),
        validation=_charts(_validation_charts(read)),
        optimiser=_charts(_optimiser_charts(lines, read)),
    )


def _charts(drawn: Iterable[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in drawn if chart)


def series_of(curve: Curve, name: str = "") -> Series:
    """A curve of the log as a line to draw."""
    return Series(name or curve.name, curve.steps, curve.values)


def field_series(lines: Iterable[Mapping[str, Any]], name: str, *path: str) -> Series:
    """One number of each line, at keys below each other; lines without it are left out."""
    found = [(line["step"], _at(line, path or (name,))) for line in lines]
    known = [(step, float(value)) for step, value in found if isinstance(value, int | float)]
    return Series(name, [step for step, _ in known], [value for _, value in known])


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def loss_terms(read: Iterable[Curve]) -> list[Curve]:
    """The curves of single terms, without those that are made of several."""
    return [curve for curve in read if curve.kind == "losses" and curve.name != "unlabelled_ratio"]


def labels_frames(read: Iterable[Curve]) -> bool:
    """Whether a term trains a frame head; without one there are no frame labels, and their fractions are all 0."""
    return any(curve.name.startswith("frame") for curve in loss_terms(read))


def _loss_charts(read: Sequence[Curve]) -> Iterable[Chart | None]:
    """A chart a term: that of labelled clips beside that of unlabelled ones (`..._u`), which have one scale."""
    terms = loss_terms(read)
    for stem in dict.fromkeys(curve.name.removesuffix("_u") for curve in terms):
        pair = [series_of(curve) for curve in terms if curve.name.removesuffix("_u") == stem]
        yield line_chart(f"Loss term {stem}", pair, x_title=STEPS, y_title="weighted loss")
    ratio = [series_of(curve) for curve in read if curve.name == "unlabelled_ratio"]
    yield line_chart("Terms of unlabelled clips over the others", ratio, x_title=STEPS, y_title="ratio")


def _pseudo_label_charts(lines: Sequence[Mapping[str, Any]], read: Sequence[Curve]) -> Iterable[Chart | None]:
    for title, fields in PSEUDO_LABELS.items():
        if fields[0].startswith("frame") and not labels_frames(read):
            continue
        series = [field_series(lines, name, "pseudo_labels", name) for name in fields]
        words = [replace(each, name=each.name.partition("_")[2]) for each in series]
        yield line_chart(title, words, x_title=STEPS, y_title="fraction", y_range=FRACTION)
    moving = [series_of(curve, curve.name.removesuffix(" threshold")) for curve in read if curve.kind == "thresholds"]
    yield line_chart("Thresholds that move", moving, x_title=STEPS, y_title="confidence", y_range=FRACTION)


def _validation_charts(read: Sequence[Curve]) -> Iterable[Chart | None]:
    """A chart a score, student and teacher in it; the name of a curve is "teacher F@0.5"."""
    scores = [curve for curve in read if curve.kind == "validation"]
    for title in dict.fromkeys(curve.name.partition(" ")[2] for curve in scores):
        networks = [curve for curve in scores if curve.name.partition(" ")[2] == title]
        lines = [series_of(curve, curve.name.partition(" ")[0]) for curve in networks]
        yield line_chart(f"{title} on validation videos", lines, x_title=STEPS, y_title="fraction")


def _optimiser_charts(lines: Sequence[Mapping[str, Any]], read: Sequence[Curve]) -> Iterable[Chart | None]:
    yield line_chart("Learning rate", [field_series(lines, "lr")], x_title=STEPS)
    norms = [series_of(curve) for curve in read if curve.kind == "gradient_norms"]
    total = replace(field_series(lines, "gradient_norm"), name="all terms")
    yield line_chart("Gradient norm", [total, *norms], x_title=STEPS)
