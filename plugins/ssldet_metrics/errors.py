"""What a detector does wrong: the area that each kind of error takes from its precision-recall curve."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ssldet.contracts import DatasetFacts, Metric, MetricResult, MetricValue, Truth, Video, VideoDetections
from ssldet.ops.iou import paired_iou, pairs_in_frames
from ssldet_metrics.frame_matching import match_frames
from ssldet_metrics.protocols import (
    FRAME,
    Ranking,
    counted,
    evaluated_labels,
    frame_rules,
    mean_of,
    unjudged,
)

IOU = 0.5
KINDS = ("correct", "localization", "classification", "timing", "background")
CORRECT, LOCALIZATION, CLASSIFICATION, TIMING, BACKGROUND = range(len(KINDS))


class Errors(Metric):
    """Error breakdown of frame detections at IoU 0.5, as ACT and MOC report it (Kalogeiton et al. 2017, Sec. 4.4).

    A detection is correct, or the first of these that holds is what is wrong with it:
    localization: its class is in the frame, elsewhere or already found; classification: it is on a box of another
    class; timing: its class is in the video, at another time; background: none of these.

    Per class each kind scores the area below the curve of its share among the detections so far, over recall, by the
    trapezoid rule; `missed` is the recall that is never reached. The six add up to 1, `correct` being the trapezoid AP.
    """

    protocols: ClassVar = tuple(FRAME)
    columns: ClassVar = dict(
        zip((*KINDS, "missed"), ("Correct", "E-loc", "E-cls", "E-time", "E-back", "Missed"), strict=True)
    )

    def __init__(self, facts: DatasetFacts, protocol: str) -> None:
        self.facts, self.protocol, self.rules = facts, protocol, frame_rules(facts, protocol)
        self.ranking = Ranking(facts)

    def update(self, video: Video, detections: VideoDetections, truth: Truth) -> None:
        frames_n, boxes_n4, scores_nk = counted(detections, truth, self.rules)
        plus_one, pascal = self.rules.plus_one, self.rules.pascal
        hits_nk = match_frames(frames_n, boxes_n4, scores_nk, truth, np.array([IOU]), plus_one=plus_one, pascal=pascal)
        class_in_frame_nk = _classes_in_frame(frames_n, truth)
        on_a_truth_n = _on_a_truth(frames_n, boxes_n4, truth, plus_one)
        kinds_nk = np.select(
            [hits_nk == 1, class_in_frame_nk, on_a_truth_n[:, None], truth.labels_nk.any(axis=0)],
            [CORRECT, LOCALIZATION, CLASSIFICATION, TIMING],
            BACKGROUND,
        ).astype(np.uint8)
        self.ranking.add(video.id, scores_nk, kinds_nk, truth.labels_nk.sum(axis=0), unjudged(detections, truth))

    def compute(self) -> MetricResult:
        labels = evaluated_labels(self.facts)
        shares = {label: self._shares(label) for label in labels}
        values = {}
        for place, key in enumerate((*KINDS, "missed")):
            per_class = {self.facts.classes[label]: areas[place] if areas else None for label, areas in shares.items()}
            values[key] = MetricValue(mean_of(per_class.values()), per_class)
        return MetricResult(self.protocol, kinds=values, notes=self.ranking.notes())

    def _shares(self, label: int) -> list[float] | None:
        """Area of each kind, and what is missed; None for a class without truth."""
        truths = int(self.ranking.truths_k[label])
        return breakdown(self.ranking.ranked(label), truths) if truths else None


def breakdown(kinds_n: np.ndarray, truths: int) -> list[float]:
    """Area of each of `KINDS` over recall, then the recall that is missed, from kinds in rank order; they sum to 1."""
    ranks_m = np.flatnonzero(kinds_n == CORRECT) + 1
    areas = []
    for kind in range(len(KINDS)):
        counts = np.concatenate(([0], np.cumsum(kinds_n == kind)))
        before_m = np.where(ranks_m == 1, kind == CORRECT, counts[ranks_m - 1] / np.maximum(ranks_m - 1, 1))
        areas.append(float((before_m + counts[ranks_m] / ranks_m).sum() / 2 / truths))
    return [*areas, 1.0 - len(ranks_m) / truths]


def _classes_in_frame(frames_n: np.ndarray, truth: Truth) -> np.ndarray:
    """(n, k) whether a class is anywhere in the detection's frame."""
    frames_m, place = np.unique(truth.frames_n, return_inverse=True)
    classes_mk = np.zeros((len(frames_m) + 1, truth.labels_nk.shape[1]), bool)  # the last row: frames without truth
    np.logical_or.at(classes_mk, place, truth.labels_nk)
    found_n = np.searchsorted(frames_m, frames_n)
    return classes_mk[np.where(np.isin(frames_n, frames_m), found_n, len(frames_m))]


def _on_a_truth(frames_n: np.ndarray, boxes_n4: np.ndarray, truth: Truth, plus_one: bool) -> np.ndarray:
    """(n,) whether the detection's box is on any truth box of its frame."""
    truth_p, detection_p = pairs_in_frames(truth.frames_n, frames_n)
    on_a_truth_n = np.zeros(len(frames_n), bool)
    ious_p = paired_iou(boxes_n4[detection_p], truth.boxes_n4[truth_p], plus_one=plus_one)
    on_a_truth_n[detection_p[ious_p >= IOU]] = True
    return on_a_truth_n
