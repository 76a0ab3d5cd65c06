"""How far the scores of a run's boxes can be trusted, over all its test videos.

Letters: n detections, m truth boxes, p pairs of both in one frame, b parts of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssldet.contracts import Truth, VideoDetections
from ssldet.ops.iou import paired_iou, pairs_in_frames
from ssldet.report.site.charts import Chart, Series, line_chart
from ssldet.report.site.scored_run import ScoredRun

IOU = 0.5
PARTS = 10


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often boxes of a score are right.

    Attributes:
        chart: the share that is right over the mean score, of ten equal parts of the scores.
        error: the expected calibration error: the mean over all boxes of |mean score - share right| of a box's part.
        boxes: how many there are.
    """

    chart: Chart
    error: float
    boxes: int


def reliability(scored: ScoredRun) -> Reliability | None:
    """Judge every detection in an annotated frame; None without any.

    Its score is confidence x best class, and it is right where it overlaps a truth of that class by an IoU of 0.5 or
    more, whether or not another detection does so too.
    """
    judged = [judge(scored.dataset.truth(video.id), scored.detections[video.id]) for video in scored.videos]
    scores_n = np.concatenate([np.zeros(0), *(scores for scores, _ in judged)])
    right_n = np.concatenate([np.zeros(0, bool), *(right for _, right in judged)])
    if not len(scores_n):
        return None
    counts_b, means_b, shares_b = parts(scores_n, right_n)
    chart = _chart(means_b[counts_b > 0], shares_b[counts_b > 0], len(scores_n))
    error = float((counts_b * np.abs(means_b - shares_b)).sum() / len(scores_n))
    return Reliability(chart, error, len(scores_n)) if chart else None


def judge(truth: Truth, detections: VideoDetections) -> tuple[np.ndarray, np.ndarray]:
    """(n,) scores of the detections of a video in annotated frames, and whether each is right."""
    judged = detections[np.isin(detections.frames_n, truth.key_frames_m)]
    classes_nk = np.nan_to_num(judged.scores_nk)
    right_n = np.zeros(len(judged), bool)
    if not len(judged):
        return np.zeros(0), right_n
    labels_n = classes_nk.argmax(axis=1)
    truth_p, detection_p = pairs_in_frames(truth.frames_n, judged.frames_n)
    meets_p = paired_iou(judged.boxes_n4[detection_p], truth.boxes_n4[truth_p]) >= IOU
    meets_p &= truth.labels_nk[truth_p, labels_n[detection_p]]
    right_n[detection_p[meets_p]] = True
    return judged.confidence_n * classes_nk.max(axis=1), right_n


def parts(scores_n: np.ndarray, right_n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(b,) how many scores lie in each tenth of 0 to 1, their mean, and the share of them that is right."""
    part_n = np.minimum((scores_n * PARTS).astype(np.int64), PARTS - 1)
    counts_b = np.bincount(part_n, minlength=PARTS)
    means_b, shares_b = (
        np.bincount(part_n, weights_n, PARTS) / np.maximum(counts_b, 1) for weights_n in (scores_n, right_n)
    )
    return counts_b, means_b, shares_b


def _chart(means_b: np.ndarray, shares_b: np.ndarray, boxes: int) -> Chart | None:
    return line_chart(
        "Share of boxes that are right, by score",
        [
            Series("boxes", means_b.tolist(), shares_b.tolist(), f"({boxes:,})"),
            Series("if scores were probabilities", [0, 1], [0, 1], " "),
        ],
        x_title="score",
        y_title="share right",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )
