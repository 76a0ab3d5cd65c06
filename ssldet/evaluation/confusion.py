"""Which class is taken for which: a confusion matrix over the truth boxes of single-label data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssldet.contracts import DatasetFacts, Truth, Video, VideoDetections
from ssldet.errors import RequestError
from ssldet.ops.iou import paired_iou, pairs_in_frames

MIN_IOU = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Truth boxes by their class and by the class of the detection on them.

    Attributes:
        classes: of the k rows: those that have truth, in the order of labels.
        predicted: of the columns but the last: the same, then those that are predicted and have no truth.
        counts_kp: int64 truth boxes; the last column counts those that no detection lies on.
    """

    classes: tuple[str, ...]
    predicted: tuple[str, ...]
    counts_kp: np.ndarray

    @property
    def shares_kp(self) -> np.ndarray:
        """Each row as shares of its truth boxes."""
        return self.counts_kp / self.counts_kp.sum(axis=1, keepdims=True)


def confusion(
    facts: DatasetFacts,
    videos: Sequence[Video],
    truth_of: Callable[[str], Truth],
    detections: Mapping[str, VideoDetections],
) -> Confusion:
    """Count the truth boxes of some videos by class, and by the class of the detection on them.

    On a truth box lies what overlaps it by an IoU of 0.5 or more in its frame; of several detections the one with the
    highest score speaks, confidence x best class. Its class is its best.

    Raises:
        RequestError: data whose boxes have several labels; nothing is annotated in the videos.
    """
    if facts.multilabel:
        raise RequestError(f"boxes of {facts.name} have several labels each: no single class is taken for another")
    counts_kp = np.zeros((facts.num_classes, facts.num_classes + 1), np.int64)
    for video in videos:
        truth = truth_of(video.id)
        predicted_m = _predicted(truth, detections[video.id], missed=facts.num_classes)
        np.add.at(counts_kp, (truth.labels_nk.argmax(axis=1), predicted_m), 1)
    rows = np.flatnonzero(counts_kp.any(axis=1))
    if not len(rows):
        raise RequestError(f"no box is annotated in the {len(videos)} videos")
    others = np.setdiff1d(np.flatnonzero(counts_kp[:, :-1].any(axis=0)), rows)
    columns = np.concatenate((rows, others))
    return Confusion(
        classes=tuple(facts.classes[label] for label in rows),
        predicted=tuple(facts.classes[label] for label in columns),
        counts_kp=counts_kp[rows][:, [*columns, facts.num_classes]],
    )


def _predicted(truth: Truth, detections: VideoDetections, missed: int) -> np.ndarray:
    """(m,) the class of the detection that speaks for each truth box, `missed` where none lies on it."""
    truth_p, detection_p = pairs_in_frames(truth.frames_n, detections.frames_n)
    on_p = paired_iou(truth.boxes_n4[truth_p], detections.boxes_n4[detection_p]) >= MIN_IOU
    truth_p, detection_p = truth_p[on_p], detection_p[on_p]
    scores_nk = np.nan_to_num(detections.scores_nk)
    surest_n = detections.confidence_n * scores_nk.max(axis=1, initial=0)
    order_p = np.argsort(surest_n[detection_p], kind="stable")  # the surest last, which overwrites the others
    predicted_m = np.full(len(truth.frames_n), missed)
    predicted_m[truth_p[order_p]] = scores_nk.argmax(axis=1)[detection_p[order_p]]
    return predicted_m
