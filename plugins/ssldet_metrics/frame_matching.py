"""Which detections of a frame find a truth box: the loops behind frame-mAP, compiled by numba when first called."""

from __future__ import annotations

import numpy as np

from ssldet.contracts import Truth
from ssldet.ops.compiled import compiled
from ssldet.ops.iou import box_iou


def match_frames(
    frames_n: np.ndarray,
    boxes_n4: np.ndarray,
    scores_nk: np.ndarray,
    truth: Truth,
    thresholds: np.ndarray,
    *,
    plus_one: bool,
    pascal: bool,
) -> np.ndarray:
    """(n, k) uint16: bit b is set where box n, offered for class k, finds a truth at IoU >= thresholds[b].

    Per frame, class and threshold the boxes choose in order of score (equal scores in the order given): each takes
    the best free truth; under `pascal` the best truth, and if that one is taken it misses.

    Args:
        frames_n: frame of each detection, rising.
        boxes_n4: xyxy pixels.
        scores_nk: score for each class; NaN where the box is not offered for it.
        truth: the annotation, ordered by frame.
        thresholds: at most 16, float64.
        plus_one: count pixels inclusively in IoU.
        pascal: see above.
    """
    frames_m = np.unique(truth.frames_n)
    spans_m4 = np.stack(
        [
            np.searchsorted(frames, frames_m, side)
            for frames in (frames_n, truth.frames_n)
            for side in ("left", "right")
        ],
        axis=1,
    )
    return _match_frames(
        np.ascontiguousarray(boxes_n4, np.float64),
        np.ascontiguousarray(scores_nk, np.float64),
        np.ascontiguousarray(truth.boxes_n4, np.float64),
        np.ascontiguousarray(truth.labels_nk),
        spans_m4,
        thresholds,
        plus_one,
        pascal,
    )


@compiled()
def _match_frames(boxes, scores, truth_boxes, truth_labels, spans, thresholds, plus_one, pascal):  # type: ignore[no-untyped-def] # numba infers types
    hits = np.zeros(scores.shape, np.uint16)
    for m in range(len(spans)):
        low, high, first, last = spans[m]
        if low == high:
            continue
        ious = np.empty((high - low, last - first), np.float64)
        for i in range(low, high):
            for j in range(first, last):
                ious[i - low, j - first] = box_iou(boxes[i], truth_boxes[j], plus_one)
        for k in range(scores.shape[1]):
            columns = np.flatnonzero(truth_labels[first:last, k])
            if len(columns) == 0:
                continue
            order = np.argsort(-scores[low:high, k], kind="mergesort")
            for b in range(len(thresholds)):
                taken = np.zeros(len(columns), np.bool_)
                for i in order:
                    if np.isnan(scores[low + i, k]):
                        continue
                    best, found = thresholds[b], -1
                    for c in range(len(columns)):
                        iou = ious[i, columns[c]]
                        if (iou > best or (found < 0 and iou >= best)) and (pascal or not taken[c]):
                            best, found = iou, c
                    if found >= 0 and not taken[found]:
                        taken[found] = True
                        hits[low + i, k] |= np.uint16(1 << b)
    return hits
