"""Precision over recall of one class, from the matches that a run leaves: neither detections nor data are needed."""

from __future__ import annotations

import numpy as np

from ssldet.contracts import Matches, RankedDetections


def recall_and_precision(matches: Matches, label: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(h,) recall and precision at each of the h hits of a class, in rank order; empty without truth or hits.

    Args:
        key: of the metric's result, such as "0.5"; of several thresholds under it the first counts.
    """
    truths = int(matches.truths_vk[:, label].sum())
    if not truths or label not in matches.ranked:
        return np.zeros(0), np.zeros(0)
    is_hit_n, counts_n = _spelled_out(matches.ranked[label], matches.columns[key][0])
    ranks_n, hits_n = np.cumsum(counts_n), np.cumsum(is_hit_n)
    return hits_n[is_hit_n] / truths, hits_n[is_hit_n] / ranks_n[is_hit_n]


def _spelled_out(ranked: RankedDetections, bit: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row is a hit, and how many detections it stands for; a row of several hits is a row each."""
    is_hit_n = (ranked.outcomes_n.astype(np.uint64) >> np.uint64(bit) & np.uint64(1)) == 1
    repeats_n = np.where(is_hit_n, ranked.counts_n, 1)
    counts_n = np.where(is_hit_n, 1, ranked.counts_n)
    return np.repeat(is_hit_n, repeats_n), np.repeat(counts_n, repeats_n)
