"""Box maths: pure functions of tensors. IoU of arrays is in `ops.iou`, which says why there are two.

Boxes are xyxy unless a name says cxcywh. Letters: n, m boxes, b clips. Units are the caller's, as long as they agree.
One loop, that of suppression on the CPU, is compiled by numba when it is first called.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssldet.ops.compiled import compiled


def xyxy_from_cxcywh(boxes_n4: Tensor) -> Tensor:
    """(..., 4) centre and size -> corners."""
    centre, size = boxes_n4[..., :2], boxes_n4[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def cxcywh_from_xyxy(boxes_n4: Tensor) -> Tensor:
    """(..., 4) corners -> centre and size."""
    low, high = boxes_n4[..., :2], boxes_n4[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


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


def nms(boxes_n4: Tensor, ranking_n: Tensor, clip_n: Tensor, iou_threshold: float) -> Tensor:
    """Class-agnostic greedy non-maximum suppression of every clip of a batch at once.

    In each clip the box of highest rank stays and every other box whose IoU with it is above (not equal to)
    `iou_threshold` goes; then the highest that is left, and so on. Equal ranks keep their order.

    Args:
        boxes_n4: xyxy.
        ranking_n: what orders the boxes, usually confidence.
        clip_n: int64, the clip of each box.
        iou_threshold: in [0, 1].

    Returns:
        (m,) int64: which boxes stay, by falling rank over all clips.
    """
    if clip_n.device.type != "cpu":
        return _nms_on_device(boxes_n4, ranking_n, clip_n, iou_threshold)
    order_n = ranking_n.detach().argsort(descending=True, stable=True)
    by_clip_n = order_n[clip_n[order_n].argsort(stable=True)]
    boxes = boxes_n4.detach().double().contiguous().numpy()
    kept_n = _keep_greedily(boxes, by_clip_n.numpy(), clip_n.contiguous().numpy(), float(iou_threshold))
    return order_n[torch.from_numpy(kept_n)[order_n]]


def _nms_on_device(boxes_n4: Tensor, ranking_n: Tensor, clip_n: Tensor, iou_threshold: float) -> Tensor:
    """`nms` by torchvision's kernel: right anywhere, quick on a GPU."""
    from torchvision.ops import batched_nms  # as long to import as torch itself, and the CPU does without

    # float64: batched_nms may shift clips apart by an offset, which would round float32 coordinates
    kept: Tensor = batched_nms(boxes_n4.detach().double(), ranking_n.detach().double(), clip_n, iou_threshold)
    return kept


@compiled(error_model="numpy")
def _keep_greedily(boxes_n4, order_n, clip_n, threshold):  # type: ignore[no-untyped-def]
    """(n,) bool: what greedy suppression leaves; `order_n` goes clip by clip, by falling rank. float64 throughout.

    A box is compared with the kept ones of its clip only. They lie side by side by coordinate, and an overlap is
    computed without branches: branches that random boxes take at random cost more than the sums.
    """
    kept_n = np.zeros(len(boxes_n4), np.bool_)
    left, top, right, bottom, areas = np.empty((5, len(boxes_n4)))
    count, clip = 0, -1
    for index in order_n:
        if clip_n[index] != clip:
            count, clip = 0, clip_n[index]
        x1, y1, x2, y2 = boxes_n4[index]
        area, stays = (x2 - x1) * (y2 - y1), True
        for other in range(count):
            width = (x2 if x2 < right[other] else right[other]) - (x1 if x1 > left[other] else left[other])
            height = (y2 if y2 < bottom[other] else bottom[other]) - (y1 if y1 > top[other] else top[other])
            overlap = (width if width > 0 else 0.0) * (height if height > 0 else 0.0)
            if overlap / (area + areas[other] - overlap) > threshold:
                stays = False
                break
        if stays:
            left[count], top[count], right[count], bottom[count], areas[count] = x1, y1, x2, y2, area
            count += 1
            kept_n[index] = True
    return kept_n
