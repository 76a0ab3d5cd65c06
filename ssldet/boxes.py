"""Box maths: pure functions of tensors.

Boxes are xyxy unless a name says cxcywh. Letters: n, m boxes, b clips. Units are the caller's, as long as they agree.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms


def xyxy_from_cxcywh(boxes_n4: Tensor) -> Tensor:
    """(..., 4) centre and size -> corners."""
    centre, size = boxes_n4[..., :2], boxes_n4[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def cxcywh_from_xyxy(boxes_n4: Tensor) -> Tensor:
    """(..., 4) corners -> centre and size."""
    low, high = boxes_n4[..., :2], boxes_n4[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def clip_boxes(boxes_n4: Tensor, width: float, height: float) -> Tensor:
    """(..., 4) boxes cut to the rectangle from (0, 0) to (width, height)."""
    limit = boxes_n4.new_tensor([width, height, width, height])
    return torch.minimum(boxes_n4.clamp(min=0), limit)


def box_areas(boxes_n4: Tensor, *, plus_one: bool = False) -> Tensor:
    """(...) areas; a box with a negative side has none. `plus_one` counts pixels inclusively, as PASCAL VOC did."""
    sides = (boxes_n4[..., 2:] - boxes_n4[..., :2] + plus_one).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def aligned_iou(boxes_n4: Tensor, others_n4: Tensor, *, plus_one: bool = False) -> Tensor:
    """IoU of boxes that stand beside each other; leading dimensions broadcast. Two empty boxes have IoU 0."""
    overlap, union, _ = _overlap_union_hull(boxes_n4, others_n4, plus_one)
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny)


def pairwise_iou(boxes_n4: Tensor, others_m4: Tensor, *, plus_one: bool = False) -> Tensor:
    """(n, m) IoU of every box with every other."""
    return aligned_iou(boxes_n4[:, None], others_m4[None], plus_one=plus_one)


def aligned_giou(boxes_n4: Tensor, others_n4: Tensor) -> Tensor:
    """Generalised IoU in (-1, 1] of boxes beside each other (Rezatofighi et al. 2019)."""
    overlap, union, hull = _overlap_union_hull(boxes_n4, others_n4, plus_one=False)
    tiny = torch.finfo(union.dtype).tiny
    return overlap / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _overlap_union_hull(boxes: Tensor, others: Tensor, plus_one: bool) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    overlap = box_areas(torch.cat((low, high), dim=-1), plus_one=plus_one)
    union = box_areas(boxes, plus_one=plus_one) + box_areas(others, plus_one=plus_one) - overlap
    low, high = torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    return overlap, union, box_areas(torch.cat((low, high), dim=-1), plus_one=plus_one)


def suppress(boxes_bn4: Tensor, ranking_bn: Tensor, candidates_bn: Tensor, iou_threshold: float) -> Tensor:
    """Class-agnostic greedy non-maximum suppression of every clip of a batch at once.

    In each clip the candidate of highest rank stays and every other candidate whose IoU with it is above (not equal
    to) `iou_threshold` goes; then the highest that is left, and so on. Equal ranks keep their order.

    Args:
        boxes_bn4: xyxy.
        ranking_bn: what orders the boxes, usually confidence.
        candidates_bn: bool; other boxes neither stay nor suppress.
        iou_threshold: in [0, 1].

    Returns:
        (b, n) bool: which boxes stay.
    """
    clip_m, index_m = candidates_bn.nonzero(as_tuple=True)
    # float64: batched_nms may shift clips apart by an offset, which would round float32 coordinates
    chosen = batched_nms(
        boxes_bn4[clip_m, index_m].double(), ranking_bn[clip_m, index_m].double(), clip_m, iou_threshold
    )
    kept_bn = torch.zeros_like(candidates_bn)
    kept_bn[clip_m[chosen], index_m[chosen]] = True
    return kept_bn
