"""Decoding, filter and suppression of a batch of untrained clips, against the obvious loops over cells and boxes.

    python benchmarks/performance/bench_suppression.py

32 clips of 5 anchors x 7 x 7 cells and 24 classes. The network is untrained: its output is near zero, so that all 245
boxes of every clip pass the filter, which is the worst case. The loops are the same twice: over Python floats, the
quickest that plain Python does, and over elements of tensors, as published loops do (on a part of the clips, scaled).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import peak_memory_mb, record, typical

from ssldet import plugins
from ssldet.contracts import DatasetFacts
from ssldet.detector.postprocess import BoxRecords, detections
from ssldet.detector.region import decode_grid

CLIPS, CELLS, STRIDE, LEAST_SCORE, MOST_OVERLAP = 32, 7, 32, 0.005, 0.4
TENSOR_CLIPS = 4

Found = tuple[list[Any], Any, list[Any]]
"""A box (x1, y1, x2, y2), its confidence and its class scores: floats, or tensors of one element."""


def by_suite(grid: torch.Tensor, facts: DatasetFacts) -> BoxRecords:
    decoded = decode_grid(grid, facts=facts, anchors=facts.anchors, stride=STRIDE)
    return detections(decoded, score_threshold=LEAST_SCORE, nms_iou=MOST_OVERLAP)


# ------------------------------------------------------------------------------------------ the loops


def by_loops(grid: Any, facts: DatasetFacts, exp: Callable[[Any], Any]) -> list[list[Found]]:
    """What is left of each clip, best first; `grid` is nested lists, or a tensor."""
    return [suppressed(decoded(clip, facts, exp)) for clip in grid]


def decoded(clip: Any, facts: DatasetFacts, exp: Callable[[Any], Any]) -> list[Found]:
    """The boxes of one clip that pass the filter."""
    found, depth = [], 5 + facts.num_classes
    for anchor, (anchor_width, anchor_height) in enumerate(facts.anchors):
        for row in range(CELLS):
            for column in range(CELLS):
                tx, ty, tw, th, tc, *logits = (clip[anchor * depth + part][row][column] for part in range(depth))
                x, y = column + 1 / (1 + exp(-tx)), row + 1 / (1 + exp(-ty))
                width, height = anchor_width * exp(tw), anchor_height * exp(th)
                confidence = 1 / (1 + exp(-tc))
                odds = [exp(logit) for logit in logits]
                total = sum(odds)
                scores = [odd / total for odd in odds]
                if confidence * max(scores) > LEAST_SCORE:
                    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                    found.append(([STRIDE * value for value in corners], confidence, scores))
    return found


def suppressed(found: list[Found]) -> list[Found]:
    """Of boxes that overlap too much, the most confident one."""
    left, kept = sorted(found, key=lambda one: -one[1]), []
    while left:
        best, *others = left
        kept.append(best)
        left = [other for other in others if overlap(best[0], other[0]) <= MOST_OVERLAP]
    return kept


def overlap(a: list[Any], b: list[Any]) -> Any:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


# ------------------------------------------------------------------------------------------ the measurement


def check(found: BoxRecords, expected: list[list[Found]]) -> None:
    """The suite's boxes of the first clips are those of the loops."""
    for clip, rows in enumerate(expected):
        own = found.clip_n == clip
        for ours, part in ((found.boxes_n4, 0), (found.confidence_n, 1), (found.scores_nk, 2)):
            np.testing.assert_allclose(ours[own].numpy(), np.array([row[part] for row in rows]), rtol=1e-4, atol=1e-4)


def main() -> None:
    torch.set_num_threads(1)
    facts: DatasetFacts = plugins.load("dataset", "ucf24").facts
    channels = len(facts.anchors) * (5 + facts.num_classes)
    grid = 0.5 * torch.randn(CLIPS, channels, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    boxes = CLIPS * len(facts.anchors) * CELLS**2
    before = peak_memory_mb()
    suite = typical(lambda: by_suite(grid, facts), repeats=100, warm_up=10)
    suite |= {"peak_memory_mb": peak_memory_mb(), "memory_before_mb": before}

    found, numbers = by_suite(grid, facts), grid.tolist()
    assert sum(len(decoded(clip, facts, math.exp)) for clip in numbers) == boxes, "every box should be a candidate"
    check(found, by_loops(numbers, facts, math.exp))
    floats = typical(lambda: by_loops(numbers, facts, math.exp), repeats=7)["seconds"]
    check(found, by_loops(grid[:TENSOR_CLIPS], facts, torch.exp))
    tensors = typical(lambda: by_loops(grid[:TENSOR_CLIPS], facts, torch.exp), repeats=1, warm_up=0)["seconds"]

    common = suite | {"aim": "500x", "threads": 1, "candidates": boxes, "kept": len(found.clip_n)}
    scaled = f"{tensors:.1f} s on {TENSOR_CLIPS} clips, scaled by clips"
    record(f"decode and NMS, {CLIPS} untrained clips; loops over Python floats", common | {"loops_seconds": floats})
    record(
        f"decode and NMS, {CLIPS} untrained clips; loops over tensor elements",
        common | {"loops_seconds": tensors * CLIPS / TENSOR_CLIPS, "loops_measured": scaled},
    )


if __name__ == "__main__":
    main()
