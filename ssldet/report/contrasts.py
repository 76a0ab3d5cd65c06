"""Differences between two rows of a table: what is paired, over what an interval is, and many contrasts read at once.

paired(ours, other)         ours - other over common seeds, with Student's interval
with_holm(contrasts)        p-values of all contrasts of a table, adjusted together
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from scipy.special import stdtr, stdtrit  # scipy.stats has the same and takes a second to import

from ssldet.report.resampling import CONFIDENCE

ROUNDING = 1e-9
"""Percentage points; a standard error below it is rounding, and bounds nothing."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of ours - the other's over n common seeds, in percentage points; `why` says what is missing.

    Attributes:
        low, high: confidence interval over seeds: Student's t of the paired differences.
        p: of the same test, two-sided, that the mean difference is 0.
        adjusted_p: the same after Holm's correction for all contrasts of the table.
        video_low, video_high: confidence interval over test videos: bootstrap, clustered by group; `video_why` says
            why there is none.
    """

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    why: str = ""
    p: float | None = None
    adjusted_p: float | None = None
    video_low: float | None = None
    video_high: float | None = None
    video_why: str = ""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Approach - other under one initialisation; a difference a column, None where the column has none."""

    approach: str
    other: str
    pretrained: bool
    differences: tuple[Difference | None, ...]

    @property
    def title(self) -> str:
        return f"{self.approach} - {self.other}"


def paired(ours: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Ours - the other's over the seeds that both have, with Student's confidence interval of the mean."""
    gains = [ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys())]
    if not gains:
        return Difference(why="no seed in common" if ours and other else "one of the two has not been run")
    mean = fmean(gains)
    if len(gains) < 2:
        return Difference(mean, n=1, why="no interval over seeds from one pair of seeds")
    error, degrees = stdev(gains) / math.sqrt(len(gains)), len(gains) - 1
    if error < ROUNDING:
        return Difference(mean, n=len(gains), why="no interval over seeds from differences that are all equal")
    half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error
    p = float(2 * stdtr(degrees, -abs(mean) / error))
    return Difference(mean, mean - half, mean + half, len(gains), p=p)


def with_holm(contrasts: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """The same contrasts with `adjusted_p`, over all differences that have a p-value."""
    values = [d.p for contrast in contrasts for d in contrast.differences if d and d.p is not None]
    if not values:
        return tuple(contrasts)
    from statsmodels.stats.multitest import multipletests

    adjusted = iter(multipletests(values, method="holm")[1].tolist())

    def corrected(difference: Difference | None) -> Difference | None:
        if difference is None or difference.p is None:
            return difference
        return replace(difference, adjusted_p=next(adjusted))

    return tuple(replace(c, differences=tuple(map(corrected, c.differences))) for c in contrasts)
