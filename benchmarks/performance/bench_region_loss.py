"""The region loss of a batch, forward and backward, against the obvious loops over clips, truths, anchors and cells.

    python benchmarks/performance/bench_region_loss.py

32 clips of 5 anchors x 7 x 7 cells and 24 classes with two truths each, form `paper`. The loops are the same twice:
over Python floats with the gradient worked out by hand, the quickest that plain Python does; and with every term of
every cell computed on elements of tensors and differentiated by autograd, as published loops do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from common import peak_memory_mb, record, typical
from torch import Tensor

from ssldet import plugins
from ssldet.contracts import DatasetFacts, Targets
from ssldet.detector.region import RegionOptions, region_loss
from ssldet.ops.boxes import xyxy_from_cxcywh

CLIPS, CELLS, STRIDE, TRUTHS = 32, 7, 32, 2
OPTIONS = RegionOptions(form="paper")
ALPHA, GAMMA = OPTIONS.alpha, OPTIONS.focal_gamma(False)

Truth = tuple[int, float, float, float, float]
"""Class, centre and size in cells."""

Cell = tuple[int, int, int]
"""Anchor, row, column."""


def by_suite(grid: Tensor, targets: Targets, facts: DatasetFacts) -> tuple[float, Tensor]:
    total = region_loss(grid, targets, facts=facts, anchors=facts.anchors, stride=STRIDE, options=OPTIONS)["total"]
    (gradient,) = torch.autograd.grad(total, grid)
    return total.item(), gradient


# ------------------------------------------------------------------------------------------ the loops


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def assigned(truths: Sequence[Truth], facts: DatasetFacts) -> dict[Cell, Truth]:
    """Each truth at the cell of its centre, with the anchor nearest to it in shape."""
    found = {}
    for truth in truths:
        _, x, y, width, height = truth
        best, anchor = -1.0, 0
        for index, (anchor_width, anchor_height) in enumerate(facts.anchors):
            shared = min(width, anchor_width) * min(height, anchor_height)
            alike = shared / (width * height + anchor_width * anchor_height - shared)
            if alike > best:
                best, anchor = alike, index
        found[anchor, int(y), int(x)] = truth
    return found


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes by centre and size."""
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def judged(
    clip: Any, truths: Sequence[Truth], facts: DatasetFacts
) -> Iterator[tuple[Cell, Truth | None, float, float]]:
    """Every cell of a clip that counts: the truth it answers for, the confidence it should have, and its weight."""
    found, depth = assigned(truths, facts), 5 + facts.num_classes
    for anchor, (anchor_width, anchor_height) in enumerate(facts.anchors):
        tx, ty, tw, th = clip[anchor * depth : anchor * depth + 4]
        for row in range(CELLS):
            for column in range(CELLS):
                x, y = column + sigmoid(tx[row][column]), row + sigmoid(ty[row][column])
                box = (x, y, anchor_width * math.exp(tw[row][column]), anchor_height * math.exp(th[row][column]))
                truth = found.get((anchor, row, column))
                if truth is not None:
                    yield (anchor, row, column), truth, overlap(box, truth[1:]), OPTIONS.object_scale
                elif all(overlap(box, other[1:]) <= OPTIONS.ignore_iou for other in truths):
                    yield (anchor, row, column), None, 0.0, 1.0


def wanted(cell: Cell, truth: Truth, facts: DatasetFacts) -> tuple[float, float, float, float]:
    """What sigmoid x, sigmoid y, raw w and raw h should be."""
    (anchor, row, column), (_, x, y, width, height) = cell, truth
    return x - column, y - row, math.log(width / facts.anchors[anchor][0]), math.log(height / facts.anchors[anchor][1])


def by_floats(grid: Any, truths: list[list[Truth]], facts: DatasetFacts) -> tuple[float, Any]:
    """Loss and gradient, in nested lists."""
    total, depth = 0.0, 5 + facts.num_classes
    gradient = [[[[0.0] * CELLS for _ in range(CELLS)] for _ in clip] for clip in grid]
    for clip, slope, own in zip(grid, gradient, truths, strict=True):
        for cell, truth, target, weight in judged(clip, own, facts):
            anchor, row, column = cell
            start = anchor * depth
            p = sigmoid(clip[start + 4][row][column])
            total += ALPHA * weight * (p - target) ** 2
            slope[start + 4][row][column] = 2 * ALPHA * weight * (p - target) * p * (1 - p)
            if truth is None:
                continue
            for part, aim in enumerate(wanted(cell, truth, facts)):
                raw = clip[start + part][row][column]
                got, inner = (sigmoid(raw), sigmoid(raw) * (1 - sigmoid(raw))) if part < 2 else (raw, 1.0)
                off = got - aim
                total += ALPHA * (0.5 * off * off if abs(off) < 1 else abs(off) - 0.5)
                slope[start + part][row][column] = ALPHA * inner * max(-1.0, min(1.0, off))
            odds = [math.exp(clip[start + 5 + label][row][column]) for label in range(facts.num_classes)]
            chances = [odd / sum(odds) for odd in odds]
            steep = [focal_slope(p, label == truth[0]) for label, p in enumerate(chances)]
            mean = sum(p * s for p, s in zip(chances, steep, strict=True))
            for label, p in enumerate(chances):
                total += focal(p, label == truth[0])
                slope[start + 5 + label][row][column] = p * (steep[label] - mean)
    return total / len(grid), [[[[v / len(grid) for v in row] for row in map_] for map_ in clip] for clip in gradient]


def focal(p: float, present: bool) -> float:
    return -((1 - p) ** GAMMA) * math.log(p) if present else -(p**GAMMA) * math.log(1 - p)


def focal_slope(p: float, present: bool) -> float:
    if present:
        return GAMMA * (1 - p) ** (GAMMA - 1) * math.log(p) - (1 - p) ** GAMMA / p
    return -GAMMA * p ** (GAMMA - 1) * math.log(1 - p) + p**GAMMA / (1 - p)


def by_tensors(grid: Tensor, truths: list[list[Truth]], facts: DatasetFacts) -> tuple[float, Tensor]:
    """Loss and gradient: terms of tensors with one element, differentiated by autograd."""
    total, depth = grid.new_zeros(()), 5 + facts.num_classes
    for clip, own in zip(grid, truths, strict=True):
        values = clip.flatten().unbind()
        for cell, truth, target, weight in judged(clip.tolist(), own, facts):
            anchor, row, column = cell
            raw = [values[((anchor * depth + part) * CELLS + row) * CELLS + column] for part in range(depth)]
            total = total + ALPHA * weight * (raw[4].sigmoid() - target) ** 2
            if truth is None:
                continue
            for part, aim in enumerate(wanted(cell, truth, facts)):
                off = ((raw[part].sigmoid() if part < 2 else raw[part]) - aim).abs()
                total = total + ALPHA * (0.5 * off * off if off < 1 else off - 0.5)
            for label, p in enumerate(torch.stack(raw[5:]).softmax(0)):
                term = (1 - p) ** GAMMA * p.log() if label == truth[0] else p**GAMMA * (1 - p).log()
                total = total - term
    total = total / len(grid)
    (gradient,) = torch.autograd.grad(total, grid)
    return total.item(), gradient


# ------------------------------------------------------------------------------------------ the measurement


def draw(facts: DatasetFacts) -> tuple[Tensor, list[list[Truth]], Targets]:
    """The output of an untrained network, and truths as the loops and as the suite take them."""
    generator = torch.Generator().manual_seed(0)
    shape = (CLIPS, len(facts.anchors) * (5 + facts.num_classes), CELLS, CELLS)
    grid = (0.5 * torch.randn(shape, generator=generator)).requires_grad_()
    centres = torch.rand(CLIPS * TRUTHS, 2, generator=generator) * CELLS
    boxes = torch.cat((centres, 0.5 + 4 * torch.rand(CLIPS * TRUTHS, 2, generator=generator)), dim=1)
    labels = torch.randint(facts.num_classes, (CLIPS * TRUTHS,), generator=generator)
    rows = [(label, *box) for label, box in zip(labels.tolist(), boxes.tolist(), strict=True)]
    truths = [rows[start : start + TRUTHS] for start in range(0, len(rows), TRUTHS)]
    targets = Targets(
        clip_n=torch.arange(CLIPS).repeat_interleave(TRUTHS),
        boxes_n4=xyxy_from_cxcywh(boxes) * STRIDE,
        labels_nk=torch.eye(facts.num_classes)[labels],
        box_mask_b=torch.ones(CLIPS, dtype=torch.bool),
        frame_labels_b=labels[::TRUTHS],
        frame_mask_b=torch.ones(CLIPS, dtype=torch.bool),
    )
    return grid, truths, targets


def main() -> None:
    torch.set_num_threads(1)
    facts: DatasetFacts = plugins.load("dataset", "ucf24").facts
    grid, truths, targets = draw(facts)
    before = peak_memory_mb()
    suite = typical(lambda: by_suite(grid, targets, facts), repeats=100, warm_up=10)
    suite |= {"peak_memory_mb": peak_memory_mb(), "memory_before_mb": before}

    total, gradient = by_suite(grid, targets, facts)
    numbers = grid.tolist()
    for other, slope in (by_floats(numbers, truths, facts), by_tensors(grid, truths, facts)):
        np.testing.assert_allclose(total, other, rtol=1e-5)
        np.testing.assert_allclose(gradient.numpy(), np.asarray(slope), rtol=1e-3, atol=1e-6)
    floats = typical(lambda: by_floats(numbers, truths, facts), repeats=15)
    tensors = typical(lambda: by_tensors(grid, truths, facts), repeats=5)

    common = suite | {"aim": "20x", "threads": 1, "truths": len(targets.clip_n)}
    name = f"region loss, forward and backward, {CLIPS} clips"
    record(f"{name}; loops over Python floats", common | {"loops_seconds": floats["seconds"]})
    record(f"{name}; loops over tensor elements", common | {"loops_seconds": tensors["seconds"]})


if __name__ == "__main__":
    main()
