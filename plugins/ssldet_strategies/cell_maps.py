"""The cells of a dense detector as maps, for strategies that compare two views cell by cell.

cells_of(detector, predictions, strategy)   the cells, or why there are none
mirrored(cells, size)                       what the cells of the mirrored clip would be
confidence_maps(cells)                      objectness as one map a level
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from ssldet.contracts import Cells, Detector, Predictions
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


def confidence_maps(cells: Cells) -> list[Tensor]:
    """The objectness logits as maps, (b, anchors, height, width) of each level."""
    parts = cells.confidence_bn.split([prod(shape) for shape in cells.shapes], dim=1)
    return [part.reshape(len(part), *shape) for part, shape in zip(parts, cells.shapes, strict=True)]


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
