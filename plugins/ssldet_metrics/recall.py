"""The recall pair: how often a detector finds where the action is, and how often it then names it right."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ssldet.contracts import DatasetFacts, Metric, MetricResult, Truth, Video, VideoDetections
from ssldet.evaluation.detection_rows import in_content_order
from ssldet.ops.iou import paired_iou
from ssldet_metrics.protocols import rules_of


class Recall(Metric):
    """Localization and classification recall over all annotated frames, as fractions.

    Per frame the one box of highest confidence x class probability counts. It localizes if its IoU is above 0.5
    (strictly) with any truth box of the frame, and classifies if it is moreover of that box's class.
    """

    protocols: ClassVar = ("standard",)
    columns: ClassVar = {"localization": "Loc", "classification": "Cls"}

    def __init__(self, facts: DatasetFacts, protocol: str) -> None:
        self.protocol = protocol
        rules_of({name: name for name in self.protocols}, protocol)
        self.frames = self.localized = self.classified = 0

    def update(self, video: Video, detections: VideoDetections, truth: Truth) -> None:
        frames_m = truth.annotated_frames
        self.frames += len(frames_m)
        boxes_m4, labels_m, rows_m = _best_boxes(in_content_order(detections), frames_m)
        has_box_n = rows_m[np.searchsorted(frames_m, truth.frames_n)]
        frame_n = np.searchsorted(frames_m, truth.frames_n)
        near_n = has_box_n & (paired_iou(boxes_m4[frame_n], truth.boxes_n4) > 0.5)
        right_n = near_n & truth.labels_nk[np.arange(len(frame_n)), labels_m[frame_n]]
        self.localized += len(np.unique(frame_n[near_n]))
        self.classified += len(np.unique(frame_n[right_n]))

    def compute(self) -> MetricResult:
        frames = max(self.frames, 1)
        scalars = {"localization": self.localized / frames, "classification": self.classified / frames}
        return MetricResult(self.protocol, scalars=scalars, notes={"annotated_frames": self.frames})


def _best_boxes(detections: VideoDetections, frames_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best box of each frame, its best class, and whether the frame has a box at all."""
    boxes_m4 = np.zeros((len(frames_m), 4))
    labels_m = np.zeros(len(frames_m), np.int64)
    scores_nk = np.nan_to_num(detections.scores_nk, nan=-1.0) * detections.confidence_n[:, None]
    best_n = scores_nk.max(axis=1, initial=-1.0)
    order = np.lexsort((-best_n, detections.frames_n))  # stable: equal scores keep the order of content
    frames_f, first = np.unique(detections.frames_n[order], return_index=True)
    has_box_m = np.isin(frames_m, frames_f)
    rows = order[first[np.isin(frames_f, frames_m)]]
    boxes_m4[has_box_m] = detections.boxes_n4[rows]
    labels_m[has_box_m] = scores_nk[rows].argmax(axis=1) if len(rows) else 0
    return boxes_m4, labels_m, has_box_m
