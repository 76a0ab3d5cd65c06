"""Statistics over test videos: the average precision of any draw of them, computed from per-video matches.

    draw_videos(videos)            how often each video is drawn, for each of many draws: a bootstrap of whole groups
    class_scores(matches, key, w)  the AP of every class under such weights
    mean_scores(...)               its mean over the classes that have truth in the draw
    percentile(values)             the interval that holds 95 % of the draws
    average_ranks(scores)          the mean rank of approaches over the cells of a table

Nothing is matched or sorted again. Precision changes at hits only; the rank of a hit in a draw is the number of
detections up to it, each video's as often as it is drawn, which is one matrix product for all draws together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssldet.contracts import Matches
from ssldet.evaluation.per_video import ScoredVideo

DRAWS = 2000
CONFIDENCE = 0.95

FEW_GROUPS = 5
"""A class with fewer groups is marked: its draws repeat a handful of recordings."""

_CHUNK = 1 << 18
"""Entries of a matrix of draws and hits that is held at once."""

_EXACT = 1 << 24
"""Whole numbers up to here are exact in float32, whose products take half the time."""


# --------------------------------------------------------------------------------------------------- draws


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """How often each video is drawn.

    Attributes:
        weights_dv: whole numbers >= 0, a row for each draw.
        within_classes: whether groups were drawn within classes, every video having one class.
        groups: label -> how many groups have a video of the class.
    """

    weights_dv: np.ndarray
    within_classes: bool
    groups: Mapping[int, int]

    def few(self, label: int) -> bool:
        """Whether a class has so few groups that its interval says little."""
        return self.groups.get(label, 0) < FEW_GROUPS


def draw_videos(videos: Sequence[ScoredVideo], draws: int = DRAWS, seed: int = 0) -> Draws:
    """Draw groups of videos with replacement, as many as there are; a video without a group is one of its own.

    Where every video has exactly one class, as many groups of each class are drawn as it has: a group with videos of
    two classes is two. Otherwise groups are drawn over all videos, and a class may be absent from a draw.
    """
    within_classes = all(len(video.classes) == 1 for video in videos)
    names = [(video.group, "" if video.group else video.id) for video in videos]
    strata = [video.classes[0] if within_classes else 0 for video in videos]
    clusters = sorted({*zip(strata, names, strict=True)})
    place_of = {cluster: place for place, cluster in enumerate(clusters)}
    sizes = np.bincount([stratum for stratum, _ in clusters]) if clusters else np.zeros(0, np.int64)
    rng = np.random.default_rng(seed)
    counts = [rng.multinomial(size, np.full(size, 1 / size), draws) for size in sizes if size]
    counts_dg = np.concatenate([np.zeros((draws, 0), np.int64), *counts], axis=1)
    columns = [place_of[cluster] for cluster in zip(strata, names, strict=True)]
    return Draws(counts_dg[:, columns], within_classes, _groups(videos, names))


def _groups(videos: Sequence[ScoredVideo], names: Sequence[tuple[str, str]]) -> dict[int, int]:
    of_class: dict[int, set[tuple[str, str]]] = {}
    for video, name in zip(videos, names, strict=True):
        for label in video.classes:
            of_class.setdefault(label, set()).add(name)
    return {label: len(groups) for label, groups in sorted(of_class.items())}


def without_each(videos: int) -> np.ndarray:
    """(v, v) weights: every video once, but for the one of the row."""
    return 1 - np.eye(videos, dtype=np.int64)


# -------------------------------------------------------------------------------------------------- scores


def class_scores(matches: Matches, key: str, weights_dv: np.ndarray) -> np.ndarray:
    """(d, k) AP of the k scored classes, in the order of `matches.ranked`; NaN where a draw has no truth of the class.

    A video of weight w counts as w videos that tie in every rank: these are the numbers that the evaluator gives for
    such a set of videos.

    Args:
        matches: of one metric under one protocol.
        key: a column of it, such as "0.5" or "0.5:0.95".
        weights_dv: whole numbers >= 0, how often each video is in each of d sets.

    Raises:
        KeyError: the metric has no such column.
    """
    truths_dk = weights_dv @ matches.truths_vk
    scores = [_scores_of_class(matches, label, matches.columns[key], weights_dv) for label in matches.ranked]
    areas_dk = np.stack(scores, axis=1) if scores else np.zeros((len(weights_dv), 0))
    truths_dk = truths_dk[:, list(matches.ranked)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truths_dk > 0, areas_dk / (truths_dk + matches.rule.epsilon), np.nan)


def mean_scores(matches: Matches, key: str, weights_dv: np.ndarray) -> np.ndarray:
    """(d,) means of `class_scores` over the classes that have truth in the draw; NaN where none has."""
    return mean_over_classes(class_scores(matches, key, weights_dv))


def mean_over_classes(scores_dk: np.ndarray) -> np.ndarray:
    """(d,) means over the classes that are not NaN."""
    present_dk = ~np.isnan(scores_dk)
    counts_d = present_dk.sum(axis=1)
    sums_d = np.where(present_dk, scores_dk, 0).sum(axis=1)
    return np.where(counts_d > 0, sums_d / np.maximum(counts_d, 1), np.nan)


def _scores_of_class(matches: Matches, label: int, bits: Sequence[int], weights_dv: np.ndarray) -> np.ndarray:
    """(d,) areas below the precision-recall curve in units of truths, the mean over some thresholds."""
    hits = _hits(matches, label, bits)
    areas_d = np.zeros(len(weights_dv))
    greatest_rank = hits.detections_hv[-1:].sum() * weights_dv.max(initial=0)
    kind = np.float32 if greatest_rank < _EXACT else np.float64
    detections_vh = hits.detections_hv.T.astype(kind)
    step = max(_CHUNK // max(len(hits.videos_h), 1), 1)
    for low in range(0, len(weights_dv), step):
        weights = weights_dv[low : low + step].astype(kind)
        ranks_dh = np.matmul(weights, detections_vh).astype(np.float64)
        copies_dh = weights[:, hits.videos_h].astype(np.float64)
        for bit in bits:
            of_bit_h = (hits.outcomes_h >> np.uint64(bit) & np.uint64(1)) == 1
            rows = slice(None) if of_bit_h.all() else np.flatnonzero(of_bit_h)
            areas_d[low : low + step] += _area(matches.rule.form, copies_dh[:, rows], ranks_dh[:, rows])
    return areas_d / len(bits)


@dataclass(frozen=True, slots=True, eq=False)
class _Hits:
    """The h hits of a class in rank order: their videos and outcomes, and each video's detections up to each hit."""

    videos_h: np.ndarray
    outcomes_h: np.ndarray
    detections_hv: np.ndarray


def _hits(matches: Matches, label: int, bits: Sequence[int]) -> _Hits:
    ranked, videos = matches.ranked[label], len(matches.videos)
    mask = np.uint64(sum(1 << bit for bit in set(bits)))
    is_hit_n = (ranked.outcomes_n.astype(np.uint64) & mask) > 0
    repeats_n = np.where(is_hit_n, ranked.counts_n, 1)  # a row of several hits is one of each
    videos_n, is_hit_n = np.repeat(ranked.videos_n, repeats_n), np.repeat(is_hit_n, repeats_n)
    counts_n = np.where(is_hit_n, 1, np.repeat(ranked.counts_n, repeats_n))
    outcomes_n = np.repeat(ranked.outcomes_n.astype(np.uint64), repeats_n)
    at_h = np.flatnonzero(is_hit_n)
    before_n: np.ndarray = np.cumsum(is_hit_n) - is_hit_n  # hits above a row: it stands up to the next one
    kept_n = before_n < len(at_h)
    cells = before_n[kept_n] * videos + videos_n[kept_n]
    of_gap_hv = np.bincount(cells, counts_n[kept_n], len(at_h) * videos).reshape(len(at_h), videos)
    return _Hits(videos_n[at_h], outcomes_n[at_h], of_gap_hv.cumsum(axis=0))


def _area(form: str, copies_dh: np.ndarray, ranks_dh: np.ndarray) -> np.ndarray:
    """(d,) areas in units of truths, from how often each hit is drawn and the rank of its last copy."""
    found_dh = copies_dh.cumsum(axis=1)
    if form == "trapezoid":
        return _trapezoid_area(copies_dh, found_dh, ranks_dh)
    found_dh /= np.maximum(ranks_dh, 1)  # precision: of copies the last has the best, and a hit not drawn no better
    envelope_dh = np.maximum.accumulate(found_dh[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(np.einsum("dh,dh->d", copies_dh, envelope_dh))


def _trapezoid_area(copies_dh: np.ndarray, found_dh: np.ndarray, ranks_dh: np.ndarray) -> np.ndarray:
    area_d = np.zeros(len(copies_dh))
    above_dh, rank_dh = found_dh - copies_dh, ranks_dh - copies_dh
    for copy in range(1, int(copies_dh.max(initial=0)) + 1):
        after_dh = (above_dh + copy) / np.maximum(rank_dh + copy, 1)
        before_dh = (above_dh + copy - 1) / np.maximum(rank_dh + copy - 1, 1)
        before_dh[rank_dh + copy == 1] = 1.0
        area_d += np.where(copies_dh >= copy, (after_dh + before_dh) / 2, 0).sum(axis=1)
    return area_d


# ----------------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; it is of 95 % unless said otherwise."""

    low: float
    high: float


def percentile(values_d: np.ndarray, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval between the percentiles of some draws that leaves as much on either side; None without draws.

    Draws without a value (NaN) are left out.
    """
    values_d = values_d[~np.isnan(values_d)]
    if not len(values_d):
        return None
    low, high = np.quantile(values_d, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True, slots=True)
class AverageRank:
    """Mean rank of an approach over some cells, 1 the best, and the interval of it over the draws of test videos."""

    rank: float
    interval: Interval | None


def average_ranks(scores_ac: np.ndarray, draws_acd: np.ndarray) -> list[AverageRank]:
    """Rank approaches in each cell by falling score, equal ones sharing their mean rank, and average over the cells.

    Args:
        scores_ac: a score of each approach in each cell.
        draws_acd: the same in each of d draws, all approaches of a cell under the same draws; d may be 0.
    """
    ranks_a, ranks_ad = _ranks(scores_ac).mean(axis=1), _ranks(draws_acd).mean(axis=1)
    return [AverageRank(float(rank), percentile(of_draws)) for rank, of_draws in zip(ranks_a, ranks_ad, strict=True)]


def _ranks(scores_a: np.ndarray) -> np.ndarray:
    """Ranks along the first axis, the highest score first; scipy.stats has the same and takes a second to import."""
    better_a = (scores_a[None] > scores_a[:, None]).sum(axis=1)
    equal_a = (scores_a[None] == scores_a[:, None]).sum(axis=1)
    return np.asarray(better_a + (equal_a + 1) / 2)
