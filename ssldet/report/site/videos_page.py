"""The page of some test videos: each with the scores of all approaches that were tested on them, the hardest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from ssldet.report.run_selection import Run
from ssldet.report.site.leaderboard import Configuration, Link
from ssldet.report.site.site_map import SiteMap
from ssldet.report.worst_videos import VideoResult, WorstVideos

Score = float | None
"""Average precision in one video alone, a fraction; None where it has no truth."""


@dataclass(frozen=True, slots=True)
class Approach:
    """A column: what it is called, at which label ratio and with which preset, and its runs by seed."""

    title: str
    ratio: float
    preset: str
    runs: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class VideoRow:
    """A video: title of a score -> the mean over all approaches, and over the seeds of each, in their order."""

    id: str
    classes: tuple[str, ...]
    mean: Mapping[str, Score]
    scores: Mapping[str, tuple[Score, ...]]


@dataclass(frozen=True, slots=True)
class VideosPage:
    """What the page shows: the videos of one split, under one protocol."""

    page: str
    dataset: str
    split: int
    eval_on: str
    protocol: str
    titles: tuple[str, ...]
    approaches: tuple[Approach, ...]
    rows: tuple[VideoRow, ...]


@dataclass(slots=True)
class VideoPages:
    """Pages of test videos, found while the pages of runs are made.

    Attributes:
        groups: all approaches; `site` learns the pages.
    """

    groups: Sequence[Configuration]
    site: SiteMap
    _scored: dict[Path, WorstVideos] = field(default_factory=dict)
    _pages: dict[tuple[object, ...], str] = field(default_factory=dict)

    def add(self, run: Run, scored: WorstVideos) -> None:
        """Give a run that is part of an approach the page of its videos, which others share."""
        if not scored.videos or not any(run in group.runs.values() for group in self.groups):
            return
        page = self._pages.setdefault(_same_videos(run, scored), f"videos/{len(self._pages) + 1}.html")
        self.site.videos[run.folder] = page
        self._scored[run.folder] = scored

    def shown(self) -> Iterator[VideosPage]:
        """What each page shows."""
        for page in self._pages.values():
            on_page = (self._on(page, group) for group in self.groups)
            yield _videos_page(page, [group for group in on_page if group.runs], self._scored, self.site.runs)

    def _on(self, page: str, group: Configuration) -> Configuration:
        """The runs of an approach whose videos are on a page."""
        runs = {seed: run for seed, run in group.runs.items() if self.site.videos.get(run.folder) == page}
        return Configuration(group.title, runs)


def _same_videos(run: Run, scored: WorstVideos) -> tuple[object, ...]:
    """Equal for runs that were scored on the same videos, in the same way."""
    titles = tuple(scored.videos[0].scores)
    return str(run.dataset), run.split, run.eval_on, scored.protocol, titles, frozenset(v.id for v in scored.videos)


def _videos_page(
    page: str, groups: Sequence[Configuration], scored: Mapping[Path, WorstVideos], pages: Mapping[Path, str]
) -> VideosPage:
    """Scores of all approaches, video by video.

    Args:
        page: its place in the site.
        groups: the approaches, a column each; their runs were scored on the same videos.
        scored: folder of each of their runs -> its videos.
        pages: folder of a run -> its page.
    """
    run = groups[0].reference
    kept = scored[run.folder]
    of_run = {folder: {video.id: video for video in each.videos} for folder, each in scored.items()}
    titles = tuple(kept.videos[0].scores)
    rows = [_row(video, titles, groups, of_run) for video in kept.videos]
    return VideosPage(
        page=page,
        dataset=str(run.dataset),
        split=run.split,
        eval_on=run.eval_on,
        protocol=kept.protocol,
        titles=titles,
        approaches=tuple(_approaches(groups, pages)),
        rows=tuple(sorted(rows, key=_hardness)),
    )


def _approaches(groups: Sequence[Configuration], pages: Mapping[Path, str]) -> Iterator[Approach]:
    for group in groups:
        links = tuple(Link(pages[run.folder], f"{seed}") for seed, run in group.runs.items())
        yield Approach(group.title, group.reference.experiment.ratio, group.reference.preset or "none", links)


def _row(
    video: VideoResult,
    titles: Sequence[str],
    groups: Sequence[Configuration],
    of_run: Mapping[Path, Mapping[str, VideoResult]],
) -> VideoRow:
    scores = {
        title: tuple(
            _mean(of_run[run.folder][video.id].scores[title] for run in group.runs.values()) for group in groups
        )
        for title in titles
    }
    return VideoRow(video.id, video.classes, {title: _mean(of) for title, of in scores.items()}, scores)


def _mean(scores: Iterable[Score]) -> Score:
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def _hardness(row: VideoRow) -> tuple[float, ...]:
    """Falling: videos without truth come last."""
    return tuple(2.0 if (mean := row.mean[title]) is None else mean for title in sorted(row.mean))
