"""Clips made of other clips, with the boxes of all: what MixPL shows its student.

erased(shown, ...)           patches filled with grey; boxes that lie mostly below them are dropped
mixed_up(shown, others)      the mean of two clips
mosaic(shown, order)         four clips at half size in one

Nothing here looks at a box's class. Weights of targets are not carried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ssldet.contracts import Targets

GREY = 0.5


@dataclass(frozen=True, slots=True)
class Shown:
    """b clips as a student sees them, and what they show.

    Attributes:
        clips_bcthw: in [0, 1].
        targets: boxes in pixels of these views.
    """

    clips_bcthw: Tensor
    targets: Targets

    @property
    def size(self) -> int:
        return self.clips_bcthw.shape[-1]

    def take(self, order_m: Tensor) -> Shown:
        """m clips: clip i is clip `order_m[i]`, which may come more than once."""
        return Shown(self.clips_bcthw[order_m], taken(self.targets, order_m))

    def mirrored(self) -> Shown:
        """The same clips, left and right exchanged."""
        x1, y1, x2, y2 = self.targets.boxes_n4.unbind(1)
        boxes_n4 = torch.stack((self.size - x2, y1, self.size - x1, y2), dim=1)
        return Shown(self.clips_bcthw.flip(-1), replace(self.targets, boxes_n4=boxes_n4))


def erased(
    shown: Shown, generator: torch.Generator, *, patches: tuple[int, int], ratio: tuple[float, float], dropped: float
) -> Shown:
    """Clips with patches of grey, the same in all frames of a clip.

    Args:
        shown: the clips.
        generator: of the draws, on the CPU.
        patches: the least and the greatest number of patches a clip.
        ratio: the range of a patch's sides as a share of the view's; both sides have the same share.
        dropped: a box is dropped when patches cover this share of it or more, overlaps of patches counted twice.
    """
    size, boxes_n4 = shown.size, shown.targets.boxes_n4
    hidden_bhw = torch.zeros(len(shown.clips_bcthw), size, size, dtype=torch.bool)
    cover_n = boxes_n4.new_zeros(len(boxes_n4))
    for clip, hidden_hw in enumerate(hidden_bhw):
        drawn_p4 = _patches(size, generator, patches, ratio)
        for x1, y1, x2, y2 in drawn_p4.tolist():
            hidden_hw[y1:y2, x1:x2] = True
        rows = (shown.targets.clip_n == clip).nonzero()[:, 0]
        cover_n[rows] = _covered(boxes_n4[rows], drawn_p4.to(boxes_n4))
    hidden_b11hw = hidden_bhw.to(shown.clips_bcthw.device)[:, None, None]
    return Shown(torch.where(hidden_b11hw, GREY, shown.clips_bcthw), _kept(shown.targets, cover_n < dropped))


def mixed_up(shown: Shown, others: Shown) -> Shown:
    """The mean of each clip and the one in its place among `others`, with the boxes of both."""
    return Shown((shown.clips_bcthw + others.clips_bcthw) / 2, _united([shown.targets, others.targets]))


def shuffled(count: int, generator: torch.Generator) -> Tensor:
    """A permutation (count,) that leaves nothing where it is, unless there is one thing only."""
    ring_b = torch.randperm(count, generator=generator)
    order_b = torch.empty_like(ring_b)
    order_b[ring_b] = ring_b.roll(1)
    return order_b


def mosaic(shown: Shown, order_b: Tensor) -> Shown:
    """Four clips of an order, then the next four and so on, each at half size in a quarter of one.

    Args:
        shown: b clips, of an even number of pixels.
        order_b: a permutation of them; b // 4 mosaics are made, and at least one, for which the order begins anew.
    """
    count, half = max(1, len(order_b) // 4), shown.size // 2
    order_4m = order_b.repeat(4)[: 4 * count].view(count, 4).T
    quarters = [shown.take(order_m) for order_m in order_4m]
    small = [F.avg_pool3d(quarter.clips_bcthw, (1, 2, 2)) for quarter in quarters]
    rows = [torch.cat(small[first : first + 2], dim=4) for first in (0, 2)]
    places = [(0, 0), (half, 0), (0, half), (half, half)]
    targets = [_moved(quarter.targets, *place) for quarter, place in zip(quarters, places, strict=True)]
    return Shown(torch.cat(rows, dim=3), _united(targets))


def _patches(size: int, generator: torch.Generator, number: tuple[int, int], ratio: tuple[float, float]) -> Tensor:
    """(p, 4) int64 xyxy within a view of `size` pixels."""
    count = int(torch.randint(number[0], number[1] + 1, (1,), generator=generator))
    side_p1, place_p2 = torch.rand(count, 1, generator=generator), torch.rand(count, 2, generator=generator)
    side_p1 = ((ratio[0] + (ratio[1] - ratio[0]) * side_p1) * size).floor()
    low_p2 = (place_p2 * (size - side_p1)).floor()
    return torch.cat((low_p2, low_p2 + side_p1), dim=1).long()


def _covered(boxes_n4: Tensor, patches_p4: Tensor) -> Tensor:
    """(n,): the sum over patches of the share of each box that they cover."""
    low = torch.maximum(boxes_n4[:, None, :2], patches_p4[None, :, :2])
    high = torch.minimum(boxes_n4[:, None, 2:], patches_p4[None, :, 2:])
    area_n = (boxes_n4[:, 2:] - boxes_n4[:, :2]).prod(dim=1)
    return (high - low).clamp_min(0).prod(dim=2).sum(dim=1) / area_n.clamp_min(1e-6)


def _moved(targets: Targets, x: int, y: int) -> Targets:
    """At half size, with the corner at (x, y)."""
    return replace(targets, boxes_n4=targets.boxes_n4 / 2 + targets.boxes_n4.new_tensor([x, y, x, y]))


def count_mosaics(*, of: int) -> int:
    """How many of `of` clips are mosaics, where b clips of mixup and max(1, b // 4) mosaics stand after one another."""
    return max(1, of // 5)


def taken(targets: Targets, order_m: Tensor) -> Targets:
    """The targets of m clips: clip i is clip `order_m[i]`, which may come more than once."""
    clip_n, row_n = (order_m[:, None] == targets.clip_n).nonzero(as_tuple=True)
    mask, frame_mask = targets.label_mask_nk, targets.frame_label_mask_bk
    return Targets(
        clip_n=clip_n,
        boxes_n4=targets.boxes_n4[row_n],
        labels_nk=targets.labels_nk[row_n],
        box_mask_b=targets.box_mask_b[order_m],
        frame_labels_b=targets.frame_labels_b[order_m],
        frame_mask_b=targets.frame_mask_b[order_m],
        label_mask_nk=None if mask is None else mask[row_n],
        frame_label_mask_bk=None if frame_mask is None else frame_mask[order_m],
    )


def _kept(targets: Targets, kept_n: Tensor) -> Targets:
    """Some of the boxes; a clip that keeps none loses its box loss."""
    rows, mask = kept_n.nonzero()[:, 0], targets.label_mask_nk
    box_mask_b = torch.zeros_like(targets.box_mask_b)
    box_mask_b[targets.clip_n[rows]] = True
    return replace(
        targets,
        clip_n=targets.clip_n[rows],
        boxes_n4=targets.boxes_n4[rows],
        labels_nk=targets.labels_nk[rows],
        label_mask_nk=None if mask is None else mask[rows],
        box_mask_b=box_mask_b & targets.box_mask_b,
    )


def _united(parts: Sequence[Targets]) -> Targets:
    """What clips show that show all parts: every box; the frame label on which all accepted ones agree.

    On multi-label data a frame has the labels of all parts; a class counts where all of them are sure of it.
    """
    first, *others = parts
    frame_mask_b = torch.stack([part.frame_mask_b for part in parts]).all(dim=0)
    frame_labels_b = first.frame_labels_b
    if frame_labels_b.ndim == 1:
        for part in others:
            frame_mask_b = frame_mask_b & (part.frame_labels_b == frame_labels_b)
    else:
        frame_labels_b = torch.stack([part.frame_labels_b for part in parts]).amax(dim=0)
    return Targets(
        clip_n=torch.cat([part.clip_n for part in parts]),
        boxes_n4=torch.cat([part.boxes_n4 for part in parts]),
        labels_nk=torch.cat([part.labels_nk for part in parts]),
        box_mask_b=torch.stack([part.box_mask_b for part in parts]).any(dim=0),
        frame_labels_b=frame_labels_b,
        frame_mask_b=frame_mask_b,
        label_mask_nk=None if first.label_mask_nk is None else torch.cat([_mask(part) for part in parts]),
        frame_label_mask_bk=None
        if first.frame_label_mask_bk is None
        else torch.stack([_frame_mask(part) for part in parts]).all(dim=0),
    )


def _mask(targets: Targets) -> Tensor:
    assert targets.label_mask_nk is not None
    return targets.label_mask_nk


def _frame_mask(targets: Targets) -> Tensor:
    assert targets.frame_label_mask_bk is not None
    return targets.frame_label_mask_bk
