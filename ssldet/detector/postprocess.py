"""From decoded boxes to detections: filter and non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ssldet.contracts import Decoded
from ssldet.ops.boxes import nms


@dataclass(slots=True)
class Detections:
    """Boxes that survived filter and suppression, as flat rows ordered by clip, then falling confidence.

    Attributes:
        clip_n: int64, the clip of the batch.
        boxes_n4: xyxy in pixels of the view.
        confidence_n: objectness in [0, 1].
        scores_nk: class probabilities.
    """

    clip_n: Tensor
    boxes_n4: Tensor
    confidence_n: Tensor
    scores_nk: Tensor


def detections(
    decoded: Decoded,
    *,
    score_threshold: float = 0.005,
    nms_iou: float = 0.4,
    filter_by: Literal["score", "confidence"] = "score",
) -> Detections:
    """Filter and suppress a batch at once.

    Keeps boxes whose score is above (not at) the threshold, then class-agnostic greedy suppression in order of
    confidence. The published settings: `score` 0.005 and IoU 0.4; on AVA `confidence` 0.005 and IoU 0.5.

    Args:
        decoded: boxes of b clips.
        score_threshold: in [0, 1].
        nms_iou: boxes overlapping a better one by more are dropped.
        filter_by: `score` is confidence times the best class probability.
    """
    confidence_bn = decoded.confidence_bn
    score_bn = confidence_bn if filter_by == "confidence" else confidence_bn * decoded.scores_bnk.amax(dim=-1)
    kept_bn = nms(decoded.boxes_bn4, confidence_bn, score_bn > score_threshold, nms_iou)
    order_bn = confidence_bn.argsort(dim=1, descending=True, stable=True)
    clip_n, place_n = kept_bn.gather(1, order_bn).nonzero(as_tuple=True)
    at = (clip_n, order_bn[clip_n, place_n])
    return Detections(at[0], decoded.boxes_bn4[at], confidence_bn[at], decoded.scores_bnk[at])
