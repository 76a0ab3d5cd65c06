"""Scores of a table's runs under draws of their test videos, from the per-video matches that runs leave.

`resampling` has the statistics; here files are found and read, each once, and what cannot be drawn says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssldet.contracts import Matches
from ssldet.errors import RequestError
from ssldet.evaluation.per_video import PerVideo, ScoredVideo, read_per_video
from ssldet.report.resampling import Draws, draw_videos, mean_scores
from ssldet.report.run_selection import Run
from ssldet.runs import layout
from ssldet.util.files import file_hash


class Undrawable(Exception):
    """Why there are no scores over draws of test videos."""


class VideoScores:
    """Mean scores of runs under the same draws of test videos, wherever they were tested on the same ones."""

    def __init__(self) -> None:
        self._files: dict[Path, PerVideo] = {}
        self._drawn: dict[tuple[ScoredVideo, ...], Draws] = {}
        self._scores: dict[tuple[Path, str, str, str], np.ndarray] = {}

    def pair(
        self, ours: Mapping[int, Run], other: Mapping[int, Run], place: tuple[str, str, str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(d,) each, in percent: means over the seeds that both have, under the same draws.

        Args:
            ours, other: seed -> run.
            place: metric, protocol and key of the number.

        Raises:
            Undrawable: a run has no such matches, or the runs were tested on different videos.
        """
        seeds = sorted(ours.keys() & other.keys())
        if not seeds:
            raise Undrawable("no seed in common")
        runs = [[of[seed] for seed in seeds] for of in (ours, other)]
        self.check_videos([*runs[0], *runs[1]])
        return self.mean(runs[0], place), self.mean(runs[1], place)

    def mean(self, runs: Sequence[Run], place: tuple[str, str, str]) -> np.ndarray:
        """(d,) in percent: the mean over some runs. Raises Undrawable."""
        return np.asarray(np.mean([self._of_run(run, place) for run in runs], axis=0))

    def _of_run(self, run: Run, place: tuple[str, str, str]) -> np.ndarray:
        key = (run.entry.folder, *place)
        if key not in self._scores:
            kept = self._read(run)
            matches = _matches(kept, run, place)
            share = _share_of_classes(matches, run)
            self._scores[key] = 100 * share * mean_scores(matches, place[2], self._draws(kept.videos))
        return self._scores[key]

    def _read(self, run: Run) -> PerVideo:
        folder = run.entry.folder
        if folder not in self._files:
            path = folder / layout.PER_VIDEO
            if not path.is_file():
                raise Undrawable(f"run {run.entry.id} has no {layout.PER_VIDEO}")
            if file_hash(path) != run.record.files.get(layout.PER_VIDEO):
                raise Undrawable(f"the {layout.PER_VIDEO} of run {run.entry.id} is not the one that its record names")
            try:
                self._files[folder] = read_per_video(path)
            except RequestError as error:
                raise Undrawable(f"run {run.entry.id}: {error}") from error
        return self._files[folder]

    def _draws(self, videos: tuple[ScoredVideo, ...]) -> np.ndarray:
        if videos not in self._drawn:
            self._drawn[videos] = draw_videos(videos)
        return self._drawn[videos].weights_dv

    @property
    def few_groups(self) -> int:
        """How many classes of the test videos drawn so far have fewer groups than an interval needs."""
        return max((sum(map(drawn.few, drawn.groups)) for drawn in self._drawn.values()), default=0)

    def check_videos(self, runs: Sequence[Run]) -> None:
        """Raises Undrawable where runs have no matches, or were tested on different videos."""
        if len({self._read(run).videos for run in runs}) > 1:
            raise Undrawable("the runs were tested on different videos")


def _share_of_classes(matches: Matches, run: Run) -> float:
    """The share of the classes in a mean that have truth: protocols that count absent classes as 0 divide by all.

    On a subset of the videos tables average over the classes that have truth there, whatever the protocol.
    """
    if matches.rule.skip_empty or run.experiment.videos is not None or not matches.ranked:
        return 1.0
    return float((matches.truths_vk[:, list(matches.ranked)].sum(axis=0) > 0).mean())


def _matches(kept: PerVideo, run: Run, place: tuple[str, str, str]) -> Matches:
    metric, protocol, key = place
    matches = kept.matches.get(metric, {}).get(protocol)
    if matches is None or key not in matches.columns:
        raise Undrawable(f"run {run.entry.id} kept no matches of {metric} at {key}, protocol {protocol}")
    return matches
