"""What is read beside the numbers of a table: differences between its rows, their intervals, ranks, and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from ssldet.benchmark.spec import TableSpec
from ssldet.errors import RequestError
from ssldet.report.contrasts import Contrast, Difference, paired
from ssldet.report.resampling import average_ranks, percentile
from ssldet.report.run_selection import Run, RunSelection
from ssldet.report.table_data import Column, Cost, Entry, Line, Rank
from ssldet.report.video_scores import VideoScores

Cells = Mapping[tuple[int, float], RunSelection]
"""(place of the line, ratio) -> the runs that stand there."""


@dataclass
class TableComparisons:
    """Compares the cells of one table.

    Attributes:
        by_seed: gives the numbers of some runs in a column, in percent, by seed.
    """

    spec: TableSpec
    lines: Sequence[Line]
    cells: Cells
    by_seed: Callable[[RunSelection, Column], Mapping[int, float]]
    videos: VideoScores = field(default_factory=VideoScores)

    def difference(self, ours: RunSelection, other: RunSelection, column: Column) -> Difference:
        if ours.runs and other.runs and ours.data != other.data:
            return Difference(why="the two were run on other data")
        by_seed, others = (self.by_seed(selection, column) for selection in (ours, other))
        difference = paired(by_seed, others)
        if difference.mean is None:
            return difference
        try:
            pair = [_runs_by_seed(selection, column) for selection in (ours, other)]
            draws_d, others_d = self.videos.pair(pair[0], pair[1], _place(column))
        except RequestError as error:
            return replace(difference, video_why=str(error))
        interval = percentile(draws_d - others_d)
        return difference if interval is None else replace(difference, video_low=interval.low, video_high=interval.high)

    def ranks(self, columns: Sequence[Column], entries: Sequence[Sequence[Entry | None]]) -> Iterator[Rank]:
        """Of the lines with numbers in all columns of the table's ratios, those of one initialisation together.

        Each with two seeds or more, since one seed orders nothing, and all tested on the same videos.
        """
        places = [i for i, column in enumerate(columns) if isinstance(column.ratio, float) and len(column.splits) == 1]
        for pretrained in (False, True):
            lines = [i for i, line in enumerate(self.lines) if line.row.pretrained is pretrained]
            means = {line: _means(entries[line], places) for line in lines}
            scores = {line: numbers for line, numbers in means.items() if numbers}
            if len(scores) > 1 and self._on_one_data(scores):
                drawn = self._drawn_means(scores, [columns[i] for i in places])
                ranks = average_ranks(np.array(list(scores.values())), drawn)
                for line, rank in zip(scores, ranks, strict=True):
                    yield Rank(line, rank.rank, rank.interval, len(places))

    def _on_one_data(self, lines: Iterable[int]) -> bool:
        ranked = set(lines)
        return len({cell.data for (line, _), cell in self.cells.items() if line in ranked and cell.runs}) == 1

    def _drawn_means(self, lines: Iterable[int], columns: Sequence[Column]) -> np.ndarray:
        """(lines, columns, draws) of mean scores; no draws where a run cannot be drawn."""
        cells = [[self.cells[line, float(column.ratio)] for column in columns] for line in lines]
        try:
            self.videos.check_videos([run for row in cells for cell in row for run in cell.runs.values()])
            return np.array(
                [[self._mean(cell, column) for cell, column in zip(row, columns, strict=True)] for row in cells]
            )
        except RequestError:
            return np.zeros((len(cells), len(columns), 0))

    def _mean(self, cell: RunSelection, column: Column) -> np.ndarray:
        return self.videos.mean(list(_runs_by_seed(cell, column).values()), _place(column))

    def contrasts(self, columns: Sequence[Column]) -> Iterator[Contrast]:
        """Those of the table's contrasts of which anything can be said."""
        for pretrained in (False, True):
            for names in self.spec.contrasts:
                lines = [self._line_of(approach, pretrained) for approach in names]
                differences = tuple(self._contrast(lines, column) for column in columns)
                if any(difference and difference.mean is not None for difference in differences):
                    yield Contrast(*names, pretrained, differences)

    def _contrast(self, lines: Sequence[int | None], column: Column) -> Difference | None:
        if not isinstance(column.ratio, float):
            return None
        cells = [self.cells.get((line, column.ratio)) for line in lines if line is not None]
        pair = [cell for cell in cells if cell is not None]
        return self.difference(pair[0], pair[1], column) if len(pair) == 2 else None

    def _line_of(self, approach: str, pretrained: bool) -> int | None:
        rows = [(line.row.approach, line.row.pretrained) for line in self.lines]
        return rows.index((approach, pretrained)) if (approach, pretrained) in rows else None


def _means(entries: Sequence[Entry | None], places: Sequence[int]) -> list[float]:
    """The means of a line at some places; none unless all are there, of two seeds or more each."""
    means = [entry.mean for i in places if (entry := entries[i]) and entry.mean is not None and entry.n > 1]
    return means if len(means) == len(places) else []


def costs(cells: Cells) -> Iterator[tuple[tuple[int, float], Cost]]:
    """What the runs of each cell took, where there are any."""
    for place, selection in cells.items():
        trainings = [run.record.training for run in selection.runs.values()]
        if trainings:
            gradient_clips = fmean(training.gradient_clips for training in trainings)
            teacher_clips = fmean(training.teacher_clips for training in trainings)
            hours = fmean(training.seconds.get("train", 0.0) for training in trainings) / 3600
            yield place, Cost(gradient_clips, teacher_clips, hours)


def _place(column: Column) -> tuple[str, str, str]:
    """Where the number of a column stands in a record: metric, protocol, key."""
    return column.metric.metric, column.metric.protocol, column.metric.key


def _runs_by_seed(selection: RunSelection, column: Column) -> dict[int, Run]:
    """Raises RequestError where a column is a mean of splits, which have different test videos."""
    if len(column.splits) > 1:
        raise RequestError("splits have different test videos")
    return {seed: run for (split, seed), run in selection.runs.items() if split in column.splits}
