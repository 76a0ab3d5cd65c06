"""IoU of boxes in arrays, for metrics and tubes; and which boxes lie in the same frame.

IoU exists a second time in `ops.boxes`, for tensors: there gradients flow through it and it runs on the device of
training; here it is float64, and is called from within loops that numba compiles.
"""

from __future__ import annotations

import numpy as np

from ssldet.ops.compiled import compiled


def paired_iou(a_n4: np.ndarray, b_n4: np.ndarray, *, plus_one: bool = False) -> np.ndarray:
    """(n,) float64 IoU of boxes that stand beside each other; see `box_iou`."""
    found: np.ndarray = _paired_iou(np.ascontiguousarray(a_n4), np.ascontiguousarray(b_n4), plus_one)
    return found


def pairs_in_frames(frames_m: np.ndarray, frames_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p,) and (p,) the rows of all pairs with the same frame, by row of the first; `frames_n` must not fall."""
    low_m, high_m = (np.searchsorted(frames_n, frames_m, side) for side in ("left", "right"))
    counts_m = high_m - low_m
    m_p = np.repeat(np.arange(len(frames_m)), counts_m)
    within_p = np.arange(len(m_p)) - np.repeat(np.cumsum(counts_m) - counts_m, counts_m)
    return m_p, np.repeat(low_m, counts_m) + within_p


@compiled()
def box_iou(a, b, plus_one):  # type: ignore[no-untyped-def]
    """IoU of two xyxy boxes; `plus_one` counts pixels inclusively. Two empty boxes have IoU 0."""
    one = 1.0 if plus_one else 0.0
    a_x1, a_y1, a_x2, a_y2 = np.float64(a[0]), np.float64(a[1]), np.float64(a[2]), np.float64(a[3])
    b_x1, b_y1, b_x2, b_y2 = np.float64(b[0]), np.float64(b[1]), np.float64(b[2]), np.float64(b[3])
    width = max(0.0, min(a_x2, b_x2) - max(a_x1, b_x1) + one)
    height = max(0.0, min(a_y2, b_y2) - max(a_y1, b_y1) + one)
    shared = width * height
    area_a = (a_x2 - a_x1 + one) * (a_y2 - a_y1 + one)
    area_b = (b_x2 - b_x1 + one) * (b_y2 - b_y1 + one)
    union = area_a + area_b - shared
    return shared / union if union > 0.0 else 0.0


@compiled()
def _paired_iou(a_n4, b_n4, plus_one):  # type: ignore[no-untyped-def]
    ious_n = np.empty(len(a_n4), np.float64)
    for n in range(len(a_n4)):
        ious_n[n] = box_iou(a_n4[n], b_n4[n], plus_one)
    return ious_n
