"""Precision over recall, class by class, from the per-video matches that a run leaves: no detections, no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ssldet.contracts import Matches, RankedDetections
from ssldet.evaluation.per_video import PerVideo
from ssldet.report.site.charts import SMALL, Chart, Series, line_chart

KEY = "0.5"
MOST_POINTS = 50
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
    series = [_series(title, each, label) for title, each in matches.items() if label in each.ranked]
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
    """The curve, and the recall that is reached."""
    recall_h, precision_h = recall_and_precision(matches, label)
    reached = f"to recall {recall_h[-1]:.2f}" if len(recall_h) else ""
    return Series(title, recall_h.tolist(), precision_h.tolist(), reached)


def recall_and_precision(matches: Matches, label: int, key: str = KEY) -> tuple[np.ndarray, np.ndarray]:
    """(h,) recall and precision at each of the h hits of a class in rank order; empty without truth or hits."""
    truths = int(matches.truths_vk[:, label].sum())
    if not truths:
        return np.zeros(0), np.zeros(0)
    is_hit_n, counts_n = _spelled_out(matches.ranked[label], matches.columns[key][0])
    ranks_n, hits_n = np.cumsum(counts_n), np.cumsum(is_hit_n)
    return hits_n[is_hit_n] / truths, hits_n[is_hit_n] / ranks_n[is_hit_n]


def _spelled_out(ranked: RankedDetections, bit: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row is a hit, and how many detections it stands for; a row of several hits is a row each."""
    is_hit_n = (ranked.outcomes_n.astype(np.uint64) >> np.uint64(bit) & np.uint64(1)) == 1
    repeats_n = np.where(is_hit_n, ranked.counts_n, 1)
    counts_n = np.where(is_hit_n, 1, ranked.counts_n)
    return np.repeat(is_hit_n, repeats_n), np.repeat(counts_n, repeats_n)
