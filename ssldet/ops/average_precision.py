"""Average precision of a ranked list of hits and misses, in the forms that public evaluators use.

`hits_n` is bool, one entry a detection, in order of falling score; `truths` is how many there were to find.
Hits 1, 0, 1 of 2 truths score 0.8333 (every point) and 0.7917 (trapezoid).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np


def every_point(hits_n: np.ndarray, truths: int, *, epsilon: float = 0.0) -> float:
    """Area under the envelope of the precision-recall curve, at every point (PASCAL VOC 2010 on).

    `epsilon` is added to recall's denominator, as YOWO's evaluator does, so that a perfect list stays below 1.
    """
    ranks_m = np.flatnonzero(hits_n) + 1
    precision_m = np.arange(1, len(ranks_m) + 1) / ranks_m
    envelope_m = np.maximum.accumulate(precision_m[::-1])  # precision only falls between hits
    return _ratio(envelope_m.sum(), truths, epsilon)


def trapezoid(hits_n: np.ndarray, truths: int, *, epsilon: float = 0.0) -> float:
    """Area under the bare curve, from precision 1 at recall 0, by the trapezoid rule (ACT, MOC)."""
    ranks_m = np.flatnonzero(hits_n) + 1
    found_m = np.arange(1, len(ranks_m) + 1)
    after_m = found_m / ranks_m
    before_m = (found_m - 1) / np.maximum(ranks_m - 1, 1)
    before_m[ranks_m == 1] = 1.0
    return _ratio((after_m + before_m).sum() / 2, truths, epsilon)


def _ratio(area: float, truths: int, epsilon: float) -> float:
    return float(area / (truths + epsilon)) if truths else 0.0


class PrecisionForm(Protocol):
    """Average precision of hits in rank order."""

    def __call__(self, hits_n: np.ndarray, truths: int, *, epsilon: float = 0.0) -> float: ...


FORMS: Mapping[str, PrecisionForm] = {"every_point": every_point, "trapezoid": trapezoid}
"""The forms by name."""
