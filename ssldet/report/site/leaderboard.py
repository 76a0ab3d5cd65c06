"""The leaderboard: a row for each configuration, the mean over its seeds, what it cost, and its runs.

Runs that may not be averaged (other data, other initial weights) are rows of their own; a row says how many seeds it
has, since one seed orders nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ssldet.report.resampling import Interval
from ssldet.report.run_selection import LeftOut, Run, RunSelection, select_runs
from ssldet.report.site.charts import Chart, Dot, scatter_chart
from ssldet.report.site.site_map import SiteMap
from ssldet.runs.listing import headline_places

FILTERS = {
    "dataset": "Data set",
    "ratio": "Label ratio",
    "backbone": "Backbone",
    "preset": "Preset",
    "strategy": "Strategy",
}
"""Field of a row that a reader can filter by -> its label."""


@dataclass(frozen=True, slots=True)
class Score:
    """Mean and standard deviation (n - 1) over seeds, fractions; None where there are none, or one seed."""

    mean: float
    std: float | None


@dataclass(frozen=True, slots=True)
class RankCell:
    """A mean rank over the cells of a table, and the page of that table."""

    rank: float
    interval: Interval | None
    page: str


@dataclass(frozen=True, slots=True)
class Link:
    """A page and what a link to it says."""

    page: str
    text: str


@dataclass(frozen=True, slots=True)
class BoardRow:
    """A configuration on one official split.

    Attributes:
        id: of the row within the page.
        title: the approach; `fields`: values of `FILTERS`, in words.
        scores: title -> its score; a title is absent where it was not scored.
        seeds: of its runs; `runs`: a link to each.
        gradient_clips: through the student; `hours`: of training, both means over the runs.
        comparisons: pages on which the row is either side.
    """

    id: str
    title: str
    fields: Mapping[str, str]
    split: int
    eval_on: str
    pretrained: bool
    scores: Mapping[str, Score]
    seeds: tuple[int, ...]
    runs: tuple[Link, ...]
    gradient_clips: float
    hours: float
    rank: RankCell | None = None
    comparisons: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All rows, the values of each filter, the costs as charts, and what is not in it."""

    rows: tuple[BoardRow, ...]
    titles: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]]
    charts: tuple[Chart, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Configuration:
    """Runs of one configuration on one split that may be averaged, by seed."""

    title: str
    runs: Mapping[int, Run]

    @property
    def reference(self) -> Run:
        return next(iter(self.runs.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(run.id for run in self.runs.values())


def configurations(runs: Sequence[Run], titles: Mapping[str, str]) -> tuple[list[Configuration], list[LeftOut]]:
    """Finished runs by configuration and split, and the runs that are left out of all of them.

    Args:
        runs: all of them; `titles`: id of a run -> what its approach is called.
    """
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        by_key.setdefault(run.key, []).append(run)
    kept: list[Configuration] = []
    left_out: list[LeftOut] = []
    for group in by_key.values():
        selection = select_runs(group)
        kept += _by_split(selection, titles)
        left_out += selection.left_out
    return kept, left_out


def _by_split(selection: RunSelection, titles: Mapping[str, str]) -> Iterator[Configuration]:
    for split in sorted({split for split, _ in selection.runs}):
        runs = {seed: run for (of, seed), run in sorted(selection.runs.items()) if of == split}
        yield Configuration(titles[next(iter(runs.values())).id], runs)


def leaderboard(
    groups: Sequence[Configuration],
    left_out: Iterable[LeftOut],
    pages: SiteMap,
    ranks: Mapping[str, RankCell],
    comparisons: Mapping[tuple[str, ...], Sequence[Link]],
) -> Leaderboard:
    """Rows by falling score of the first title that they have; of equal ones in the order given.

    Args:
        groups: a row each; `pages`: where their runs' pages are.
        ranks: id of a run -> the mean rank of its approach.
        comparisons: ids of a row's runs -> pages on which it is either side.
    """
    rows = [_row(f"row-{place}", group, pages, ranks, comparisons) for place, group in enumerate(groups, start=1)]
    titles = tuple(dict.fromkeys(title for row in rows for title in row.scores))
    rows.sort(key=lambda row: (row.fields["dataset"], row.fields["ratio"], *(_falling(row, title) for title in titles)))
    choices = {name: tuple(dict.fromkeys(sorted(row.fields[name] for row in rows))) for name in FILTERS}
    return Leaderboard(tuple(rows), titles, choices, tuple(_charts(rows)), tuple(left_out))


def _falling(row: BoardRow, title: str) -> float:
    return -row.scores[title].mean if title in row.scores else 1.0


def _row(
    row_id: str,
    group: Configuration,
    pages: SiteMap,
    ranks: Mapping[str, RankCell],
    comparisons: Mapping[tuple[str, ...], Sequence[Link]],
) -> BoardRow:
    run, runs = group.reference, list(group.runs.values())
    experiment = run.experiment
    trainings = [each.record.training for each in runs]
    return BoardRow(
        id=row_id,
        title=group.title,
        fields={
            "dataset": str(run.dataset),
            "ratio": f"{experiment.ratio:g}",
            "backbone": experiment.backbone,
            "preset": run.preset or "none",
            "strategy": experiment.strategy,
        },
        split=run.split,
        eval_on=run.eval_on,
        pretrained=experiment.pretrained,
        scores=dict(_scores(runs)),
        seeds=tuple(group.runs),
        runs=tuple(Link(pages.runs[each.folder], f"{seed}") for seed, each in group.runs.items()),
        gradient_clips=fmean(training.gradient_clips for training in trainings),
        hours=fmean(training.seconds.get("train", 0.0) for training in trainings) / 3600,
        rank=ranks.get(run.id),
        comparisons=tuple(comparisons.get(group.ids, ())),
    )


def _scores(runs: Sequence[Run]) -> Iterator[tuple[str, Score]]:
    for title, place in headline_places(runs[0].protocol).items():
        values = [value for run in runs if (value := run.number(*place)) is not None]
        if values:
            yield title, Score(fmean(values), stdev(values) if len(values) > 1 else None)


def _charts(rows: Sequence[BoardRow]) -> Iterator[Chart]:
    """Cost against quality, a chart for each data set, ratio and kind of test videos: others are not comparable."""
    by_data: dict[tuple[str, ...], list[BoardRow]] = {}
    for row in rows:
        fields = (row.fields["dataset"], row.fields["ratio"], f"split {row.split}", row.eval_on)
        by_data.setdefault(fields, []).append(row)
    for (dataset, ratio, split, eval_on), of_data in by_data.items():
        title = next((title for row in of_data for title in row.scores), "")
        words = f"{dataset}, {100 * float(ratio):g} % labels, {split}" + ("" if eval_on == "test" else f", {eval_on}")
        dots = [
            Dot(row.title, row.gradient_clips, 100 * row.scores[title].mean, row.runs[0].page, row.id)
            for row in of_data
            if title in row.scores
        ]
        axes = {"x_title": "clips with gradients", "y_title": f"{title}, percent"}
        chart = scatter_chart(words, dots, **axes, names=[row.title for row in rows])
        if chart:
            yield chart
