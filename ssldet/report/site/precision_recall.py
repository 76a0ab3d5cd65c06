"""Precision over recall, class by class, from the per-video matches that a run leaves: no detections, no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssldet.contracts import Matches
from ssldet.evaluation.per_video import PerVideo
from ssldet.evaluation.precision_recall import recall_and_precision
from ssldet.report.site.charts import SMALL, Chart, Series, line_chart

KEY = "0.5"
MOST_POINTS = 30
"""Of a line: these charts are small, and there is one for each class."""

TITLES = {"frame_map": "frames", "video_map": "tubes"}
"""Metric -> what it ranks."""


@dataclass(frozen=True, slots=True)
class ClassCurve:
    """The chart of a class: frames and tubes in one."""

    name: str
    chart: Chart


def precision_recall(kept: PerVideo, protocol: str) -> tuple[ClassCurve, ...]:
    """A chart for each class that has truth, at IoU 0.5 under a protocol."""
    matches = {
        title: of_metric[protocol]
        for metric, title in TITLES.items()
        if KEY in getattr((of_metric := kept.matches.get(metric, {})).get(protocol), "columns", ())
    }
    labels = dict.fromkeys(label for each in matches.values() for label in each.ranked)
    drawn = ((kept.classes[label], _chart(kept.classes[label], matches, label)) for label in labels)
    return tuple(ClassCurve(name, chart) for name, chart in drawn if chart)


def _chart(name: str, matches: Mapping[str, Matches], label: int) -> Chart | None:
    series = [_series(title, each, label) for title, each in matches.items()]
    return line_chart(
        name,
        series,
        x_title="recall",
        y_title="precision",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        size=SMALL,
        most_points=MOST_POINTS,
    )


def _series(title: str, matches: Matches, label: int) -> Series:
    """The curve, and the recall that is reached; without numbers where the class has no truth."""
    if label not in matches.ranked:
        return Series(title, (), ())
    recall_h, precision_h = recall_and_precision(matches, label, KEY)
    reached = f"to recall {recall_h[-1]:.2f}" if len(recall_h) else ""
    return Series(title, recall_h.tolist(), precision_h.tolist(), reached)
