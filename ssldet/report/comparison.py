"""Two configurations held against each other, from per-video matches alone: no data, no detections, no model.

    compare(first, second)      the differences of two runs, or of two folders with seeds of one configuration each
    compare_sides(...)          the same of runs at hand

A difference has two intervals. The one over seeds covers what training draws; it needs several seeds on both sides. The
one over test videos covers which videos were tested, for the networks at hand. Neither covers what the other does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ssldet.errors import RequestError
from ssldet.evaluation.per_video import PerVideo
from ssldet.report.comparable_runs import (
    Compared,
    ComparedColumn,
    Side,
    columns_of,
    common_seeds,
    same_tests,
    side_of,
)
from ssldet.report.contrasts import paired
from ssldet.report.external_runs import ExternalRun
from ssldet.report.resampling import (
    DRAWS,
    Draws,
    Interval,
    class_scores,
    draw_videos,
    mean_over_classes,
    percentile,
    without_each,
)
from ssldet.report.run_matches import all_videos
from ssldet.report.run_selection import ABSENT, Folders, TestedRun, differing

MOST_VIDEOS = 10
"""Of the videos that moved a difference most, so many are named."""


@dataclass(frozen=True, slots=True)
class ClassDifference:
    """One class: the means of both sides and first - second, as fractions.

    Attributes:
        over_seeds: Student's interval of the paired differences; None with one pair.
        over_videos: the percentile interval over draws of test videos.
        groups: how many groups of test videos the class has; `few`: too few for an interval that says much.
    """

    name: str
    first: float
    second: float
    difference: float
    over_seeds: Interval | None
    over_videos: Interval | None
    groups: int
    few: bool


@dataclass(frozen=True, slots=True)
class VideoShare:
    """A test video and its share in a difference: the difference with all videos less the one without it."""

    id: str
    group: str
    share: float


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """One number of both sides: the means over their seeds and over classes with truth, as fractions.

    Attributes:
        title: of the column; metric, protocol and key say which it is.
        difference: first - second.
        over_seeds: Student's interval of the paired differences, and `p` that they are 0; None with one pair.
        over_videos: the percentile interval over draws of test videos.
        classes: the same, class by class.
        videos: the videos that moved the difference most, the strongest first.
    """

    title: str
    metric: str
    protocol: str
    key: str
    first: float
    second: float
    difference: float
    over_seeds: Interval | None
    p: float | None
    over_videos: Interval | None
    classes: tuple[ClassDifference, ...]
    videos: tuple[VideoShare, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, the settings in which they differ, and their differences, column by column.

    Attributes:
        settings: "train.steps 100 instead of 700", of the first instead of the second.
        dataset, split, videos, groups: what both were tested on.
        pairs: the seeds that both sides have.
        draws, seed: of the test videos.
        remarks: what a reader must know, in sentences.
    """

    first: Compared
    second: Compared
    settings: tuple[str, ...]
    dataset: str
    split: int
    videos: int
    groups: int
    pairs: tuple[int, ...]
    draws: int
    seed: int
    columns: tuple[ColumnDifference, ...]
    remarks: tuple[str, ...]


def compare(
    first: str | Path,
    second: str | Path,
    *,
    metrics: str | Iterable[str] | None = None,
    results: Folders | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Hold two configurations against each other, from the files that their runs left.

    Each side is a run's id or folder, several of them with commas between, or a folder with runs of one configuration;
    or the name or folder of others' numbers, which `ssldet evaluate --record` keeps. Differences are paired by seed;
    both sides are drawn the same test videos.

    Args:
        first, second: the two sides; differences are first - second.
        metrics: columns by title ("V@0.5") or place ("video_map:yowo:0.5"); None: V@0.5 and F@0.5 under
            the data set's protocol.
        results: where ids are searched for; by default `results/runs`.
        draws: how often the test videos are drawn, whole groups at a time.
        seed: of these draws.

    Returns:
        Means, differences and intervals as fractions 0-1, over all classes and class by class.

    Raises:
        RequestError: there is no such run; a folder holds several configurations; a run has no per-video matches;
            the two sides were tested on other videos, data, splits or protocols. Says which, and what to do.
        UnknownName: no such column.

    Example:
        ```python
        found = ssldet.compare("results/runs/a", "results/runs/b", metrics="V@0.5")
        found.columns[0].difference, found.columns[0].over_videos
        ```
    """
    if draws < 1:
        raise RequestError(f"draws is {draws}, expected at least 1; {DRAWS} are usual")
    names = [metrics] if isinstance(metrics, str) else metrics
    return compare_sides(side_of(first, results), side_of(second, results), metrics=names, draws=draws, seed=seed)


def compare_sides(
    first: Side,
    second: Side,
    *,
    metrics: Iterable[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    known: KnownScores | None = None,
) -> Comparison:
    """`compare` of runs at hand.

    Args:
        known: scores that earlier comparisons of the same runs have left there; those of this one are added.

    Raises:
        RequestError, UnknownName: as of `compare`.
    """
    sides = (first, second)
    kept = same_tests(*sides)
    columns = columns_of(metrics, *sides, kept)
    drawn = draw_videos(kept.videos, draws, seed)
    scores = _ScoresOfRuns(kept, drawn, (draws, seed), {} if known is None else known)
    return Comparison(
        first=sides[0].compared,
        second=sides[1].compared,
        settings=_settings(sides[0].reference, sides[1].reference),
        dataset=str(sides[0].reference.dataset),
        split=kept.split,
        videos=len(kept.videos),
        groups=len({(video.group, "" if video.group else video.id) for video in kept.videos}),
        pairs=common_seeds(*sides),
        draws=draws,
        seed=seed,
        columns=tuple(_difference(column, *sides, kept, drawn, scores) for column in columns),
        remarks=tuple(_remarks(*sides, drawn)),
    )


def _settings(first: TestedRun, second: TestedRun) -> tuple[str, ...]:
    """What differs; of two strategies not the options that only one of them has, which titles name."""
    if isinstance(first, ExternalRun) or isinstance(second, ExternalRun):
        return ("settings that are not known: others' detections have none",)
    ours, other = first.experiment, second.experiment
    words = differing(ours, other)
    return tuple(words if ours.strategy == other.strategy else [each for each in words if ABSENT not in each])


# --------------------------------------------------------------------------------------------- differences


KnownScores = dict[tuple[Any, ...], np.ndarray]
"""AP of classes by run, number, test videos and draws."""


class _ScoresOfRuns:
    """The AP of every class of a run with all videos, without each of them, and in every draw."""

    def __init__(self, kept: PerVideo, drawn: Draws, draws: tuple[int, int], known: KnownScores) -> None:
        self.weights_wv = np.concatenate([all_videos(kept), without_each(len(kept.videos)), drawn.weights_dv])
        self.known, self.test = known, (tuple(video.id for video in kept.videos), draws)

    def of(self, side: Side, column: ComparedColumn, seed: int | None) -> np.ndarray:
        """(w, k) AP of the k classes under w weights; row 0 has all videos."""
        name = (side.runs[seed].folder, column, self.test)
        if name not in self.known:
            self.known[name] = class_scores(side.matches(column, seed), column.key, self.weights_wv)
        return self.known[name]


def _difference(
    column: ComparedColumn, first: Side, second: Side, kept: PerVideo, draws: Draws, scores: _ScoresOfRuns
) -> ColumnDifference:
    """One column, from the AP of every class with all videos, without each of them, and in every draw."""
    videos = len(kept.videos)
    seeds = common_seeds(first, second)
    ours, other = (_Scores.of(side, column, seeds or tuple(side.runs), scores) for side in (first, second))
    gains_w = mean_over_classes(ours.mean_wk) - mean_over_classes(other.mean_wk)
    over_seeds, p = _over_seeds(ours.means(), other.means())
    return ColumnDifference(
        title=column.title,
        metric=column.metric,
        protocol=column.protocol,
        key=column.key,
        first=fmean(ours.means().values()),
        second=fmean(other.means().values()),
        difference=float(gains_w[0]),
        over_seeds=over_seeds,
        p=p,
        over_videos=percentile(gains_w[1 + videos :]),
        classes=tuple(_of_classes(column, ours, other, kept, draws)),
        videos=_strongest(kept, gains_w[0] - gains_w[1 : 1 + videos]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """The AP of one side's k classes under w weights: of each seed, and the mean over seeds. Row 0 has all videos."""

    of_seed: Mapping[int | None, np.ndarray]
    mean_wk: np.ndarray

    @classmethod
    def of(cls, side: Side, column: ComparedColumn, seeds: Sequence[int | None], scores: _ScoresOfRuns) -> _Scores:
        of_seed = {seed: scores.of(side, column, seed) for seed in seeds}
        return cls(of_seed, np.mean(list(of_seed.values()), axis=0))

    def means(self) -> dict[int | None, float]:
        """Seed -> its mean over classes."""
        return {seed: float(mean_over_classes(scores_wk[:1])[0]) for seed, scores_wk in self.of_seed.items()}

    def of_class(self, k: int) -> dict[int | None, float]:
        """Seed -> its AP of a class."""
        return {seed: float(scores_wk[0, k]) for seed, scores_wk in self.of_seed.items()}


def _over_seeds(
    first: Mapping[int | None, float], second: Mapping[int | None, float]
) -> tuple[Interval | None, float | None]:
    student = paired(*({seed: each for seed, each in of.items() if seed is not None} for of in (first, second)))
    if student.low is None or student.high is None:
        return None, None
    return Interval(student.low, student.high), student.p


def _of_classes(
    column: ComparedColumn, ours: _Scores, other: _Scores, kept: PerVideo, draws: Draws
) -> Iterable[ClassDifference]:
    """The classes that have truth."""
    gains_wk = ours.mean_wk - other.mean_wk
    for k, label in enumerate(kept.matches[column.metric][column.protocol].ranked):
        if np.isnan(gains_wk[0, k]):
            continue
        yield ClassDifference(
            name=kept.classes[label],
            first=float(ours.mean_wk[0, k]),
            second=float(other.mean_wk[0, k]),
            difference=float(gains_wk[0, k]),
            over_seeds=_over_seeds(ours.of_class(k), other.of_class(k))[0],
            over_videos=percentile(gains_wk[1 + len(kept.videos) :, k]),
            groups=draws.groups.get(label, 0),
            few=draws.few(label),
        )


def _strongest(kept: PerVideo, shares_v: np.ndarray) -> tuple[VideoShare, ...]:
    shares_v = np.nan_to_num(shares_v)
    order = np.argsort(-np.abs(shares_v), kind="stable")[:MOST_VIDEOS]
    return tuple(
        VideoShare(kept.videos[place].id, kept.videos[place].group, float(shares_v[place]))
        for place in order
        if shares_v[place]
    )


def _remarks(first: Side, second: Side, draws: Draws) -> Iterable[str]:
    pairs = common_seeds(first, second)
    if first.external or second.external:
        yield "A side is external and pairs with no seed: there is no interval over seeds, and nothing is ordered."
    elif not pairs:
        yield "No seed in common: nothing is paired, there is no interval over seeds, and nothing is ordered."
    elif len(pairs) == 1:
        yield (
            "One pair of seeds: there is no interval over seeds, and nothing is ordered by one seed, whose noise is in "
            "every difference."
        )
    else:
        yield (
            f"Over seeds: Student's t of {len(pairs)} paired differences; covers what training draws, not which videos "
            "were tested."
        )
    lone = [seed for seed in first.runs.keys() ^ second.runs.keys() if seed is not None]
    if pairs and lone:
        yield f"Seeds that one side lacks are left out: {', '.join(map(str, sorted(lone)))}."
    where = (
        "within classes" if draws.within_classes else "over all videos; a class absent from a draw leaves both means"
    )
    yield (
        f"Over videos: {len(draws.weights_dv)} draws of whole groups of test videos, {where}; covers which videos were "
        "tested, not the seed."
    )
    if tolerance := max(kept.tolerance for side in (first, second) for kept in side.kept.values()):
        yield f"Per-video matches were cut to keep files small: an AP may lack up to {100 * tolerance:g} points."
