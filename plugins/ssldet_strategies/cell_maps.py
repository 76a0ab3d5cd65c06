"""The cells of a dense detector as maps, for strategies that compare two views cell by cell.

cells_of(detector, predictions, strategy)   the cells, or why there are none
mirrored(cells, size)                       what the cells of the mirrored clip would be
objectness_maps(cells)                      one class-agnostic map a level
centre_maps(targets, like, size)            what such a map should show
difference(after, before), distance(a, b)   between the maps of all levels
confidence_levels(values, shapes)           a value of every cell as maps
cells_under(boxes, cells, shapes, size)     the cells below the centres of boxes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from ssldet.contracts import Cells, Detector, Predictions, Targets
from ssldet.errors import TrainingError


def cells_of(detector: Detector, predictions: Predictions, strategy: str) -> Cells:
    """The raw output of every cell.

    Args:
        strategy: its name, for the message.

    Raises:
        TrainingError: the detector has no cells.
    """
    cells = detector.cells(predictions)
    if cells is None:
        form = type(detector).__name__
        raise TrainingError(f"{strategy} compares cells of two views, and {form} has none; take a dense detector")
    return cells


def mirrored(cells: Cells, size: int) -> Cells:
    """The cells in the order of those of the clip mirrored left to right, their boxes mirrored too.

    Args:
        cells: of a view of `size` pixels.
    """
    order_n = _mirror_order(cells)
    x1, y1, x2, y2 = cells.boxes_bn4[:, order_n].unbind(2)
    boxes_bn4 = torch.stack((size - x2, y1, size - x1, y2), dim=2)
    return Cells(cells.confidence_bn[:, order_n], cells.classes_bnk[:, order_n], boxes_bn4, cells.shapes)


def objectness_maps(cells: Cells) -> list[Tensor]:
    """The highest objectness of the anchors of each place, (b, 1, height, width) in [0, 1] for each level."""
    return [level.sigmoid().amax(dim=1, keepdim=True) for level in confidence_levels(cells.confidence_bn, cells.shapes)]


def confidence_levels(confidence_bn: Tensor, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """A value of every cell as maps, (b, anchors, height, width) for each level."""
    parts = confidence_bn.split([prod(shape) for shape in shapes], dim=1)
    return [part.reshape(len(part), *shape) for part, shape in zip(parts, shapes, strict=True)]


def centre_maps(targets: Targets, like_b1hw: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What an objectness map of clips should show, and where that is known.

    Args:
        targets: boxes in pixels of a view of `size` pixels.
        like_b1hw: a map of these clips.

    Returns:
        (b, 1, h, w) float: 1 where the centre of a box lies; and the same shape bool: everywhere but in the rest of
        boxes, and in clips whose box loss does not count.
    """
    height, width = like_b1hw.shape[2:]
    to_cells = like_b1hw.new_tensor([width, height, width, height]) / size
    x1, y1, x2, y2 = (targets.boxes_n4.to(like_b1hw) * to_cells).unbind(1)
    column, row = (torch.arange(count, device=like_b1hw.device) for count in (width, height))
    across_nw = (column + 1 > x1[:, None]) & (column < x2[:, None])
    down_nh = (row + 1 > y1[:, None]) & (row < y2[:, None])
    inside_bhw = torch.zeros_like(like_b1hw[:, 0], dtype=torch.int32)
    inside_bhw.index_add_(0, targets.clip_n, (down_nh[:, :, None] & across_nw[:, None]).int())
    centre_b1hw = torch.zeros_like(like_b1hw)
    at_x, at_y = (((low + high) / 2).long() for low, high in ((x1, x2), (y1, y2)))
    centre_b1hw[targets.clip_n, 0, at_y.clamp(0, height - 1), at_x.clamp(0, width - 1)] = 1
    known_bhw = (inside_bhw == 0) | (centre_b1hw[:, 0] > 0)
    return centre_b1hw, (known_bhw & targets.box_mask_b[:, None, None])[:, None]


def difference(after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor]:
    """after - before, for the clips that have a map after."""
    return [late - early[: len(late)] for late, early in zip(after, before, strict=True)]


def distance(maps: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The mean over all places of all levels of the squared difference."""
    return torch.cat([(a - b).square().flatten() for a, b in zip(maps, others, strict=True)]).mean()


def cells_under(boxes_m4: Tensor, cell_m: Tensor, shapes: tuple[tuple[int, int, int], ...], size: int) -> Tensor:
    """The cells (m,) below the centres of boxes, each of the level and the anchor of a given cell.

    Args:
        boxes_m4: xyxy in pixels of a view of `size` pixels; a centre outside falls to the nearest cell.
        cell_m: the cells whose level and anchor count.
        shapes: as `Cells` has them.
    """
    centre_m2 = (boxes_m4[:, :2] + boxes_m4[:, 2:]) / 2 / size
    under_m, first = torch.zeros_like(cell_m), 0
    for anchors, height, width in shapes:
        column_m = (centre_m2[:, 0] * width).long().clamp(0, width - 1)
        row_m = (centre_m2[:, 1] * height).long().clamp(0, height - 1)
        anchor_m = (cell_m - first).div(height * width, rounding_mode="floor")
        here_m = (anchor_m >= 0) & (anchor_m < anchors)
        under_m = torch.where(here_m, first + (anchor_m * height + row_m) * width + column_m, under_m)
        first += anchors * height * width
    return under_m


def cell_sides(cells: Cells, size: int) -> Tensor:
    """(n, 2): width and height of every cell in pixels of a view of `size` pixels."""
    sides = [(prod(shape), size / shape[2], size / shape[1]) for shape in cells.shapes]
    return torch.cat([cells.boxes_bn4.new_tensor([[width, height]]).expand(n, 2) for n, width, height in sides])


def _mirror_order(cells: Cells) -> Tensor:
    return torch.cat(list(_level_orders(cells))).to(cells.confidence_bn.device)


def _level_orders(cells: Cells) -> Iterator[Tensor]:
    first = 0
    for shape in cells.shapes:
        yield (first + torch.arange(prod(shape))).view(shape).flip(2).reshape(-1)
        first += prod(shape)
