"""Scores of a table's runs under draws of their test videos, from the per-video matches that runs leave.

`resampling` has the statistics, `run_matches` reads the files; here each is read and drawn once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ssldet.contracts import Matches
from ssldet.errors import RequestError
from ssldet.evaluation.per_video import PerVideo, ScoredVideo
from ssldet.report.resampling import Draws, draw_videos, mean_scores
from ssldet.report.run_matches import Place, matches_of, per_video_of
from ssldet.report.run_selection import Run, RunCollection


class VideoScores:
    """Mean scores of runs under the same draws of test videos, wherever they were tested on the same ones.

    Args:
        collection: keeps what is read and drawn for the other tables of the same runs.
    """

    def __init__(self, collection: RunCollection | None = None) -> None:
        kept = collection or RunCollection()
        self._files, self._scores = kept.matches, kept.scores
        self._drawn: dict[tuple[ScoredVideo, ...], Draws] = {}

    def pair(self, ours: Mapping[int, Run], other: Mapping[int, Run], place: Place) -> tuple[np.ndarray, np.ndarray]:
        """(d,) each, in percent: means over the seeds that both have, under the same draws.

        Args:
            ours, other: seed -> run.
            place: metric, protocol and key of the number.

        Raises:
            RequestError: a run has no such matches, or the runs were tested on different videos.
        """
        seeds = sorted(ours.keys() & other.keys())
        if not seeds:
            raise RequestError("no seed in common")
        runs = [[of[seed] for seed in seeds] for of in (ours, other)]
        self.check_videos([*runs[0], *runs[1]])
        return self.mean(runs[0], place), self.mean(runs[1], place)

    def mean(self, runs: Sequence[Run], place: Place) -> np.ndarray:
        """(d,) in percent: the mean over some runs. Raises RequestError."""
        return np.asarray(np.mean([self._of_run(run, place) for run in runs], axis=0))

    def _of_run(self, run: Run, place: Place) -> np.ndarray:
        key, kept = (run.entry.folder, place), self._read(run)
        weights_dv = self._weights(kept.videos)
        if key not in self._scores:
            matches = matches_of(run, kept, place)
            share = _share_of_classes(matches, run)
            self._scores[key] = 100 * share * mean_scores(matches, place[2], weights_dv)
        return self._scores[key]

    def _read(self, run: Run) -> PerVideo:
        folder = run.entry.folder
        if folder not in self._files:
            self._files[folder] = per_video_of(run)
        return self._files[folder]

    def _weights(self, videos: tuple[ScoredVideo, ...]) -> np.ndarray:
        if videos not in self._drawn:
            self._drawn[videos] = draw_videos(videos)
        return self._drawn[videos].weights_dv

    @property
    def few_groups(self) -> int:
        """How many classes of the test videos drawn so far have fewer groups than an interval needs."""
        return max((sum(map(drawn.few, drawn.groups)) for drawn in self._drawn.values()), default=0)

    def check_videos(self, runs: Sequence[Run]) -> None:
        """Raises RequestError where runs have no matches, or were tested on different videos."""
        if len({self._read(run).videos for run in runs}) > 1:
            raise RequestError("the runs were tested on different videos")


def _share_of_classes(matches: Matches, run: Run) -> float:
    """The share of the classes in a mean that have truth: protocols that count absent classes as 0 divide by all.

    On a subset of the videos tables average over the classes that have truth there, whatever the protocol.
    """
    if matches.rule.skip_empty or run.experiment.videos is not None or not matches.ranked:
        return 1.0
    return float((matches.truths_vk[:, list(matches.ranked)].sum(axis=0) > 0).mean())
