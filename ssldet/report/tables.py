"""Tables from records: the paper's with our numbers beside theirs, what is missing and why, and what was left out.

    build_table(name, collection, request)      Tables 2 to 8 as plain data; `documents` makes words of it
    build_from(spec, collection, request, ...)  any table whose rows and columns are given, under given settings

Numbers come from records alone, in percent. A record belongs to a cell if its settings are exactly those that the grid
would run for it (`cells.run_config`), seed and split apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from ssldet import plugins
from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import Settings
from ssldet.benchmark.spec import Reported, Row, TableSpec
from ssldet.config import DEFAULT_PRESET
from ssldet.errors import ConfigError
from ssldet.report import cell_matching, table_comparisons
from ssldet.report.cell_matching import CellMatcher, SettingsOption
from ssldet.report.contrasts import with_holm
from ssldet.report.data_table import TABLE_1
from ssldet.report.external_rows import ExternalRows
from ssldet.report.run_selection import Run, RunCollection, RunSelection, leave_out, select_runs
from ssldet.report.table_comparisons import TableComparisons
from ssldet.report.table_data import (
    ANOTHER_METRIC,
    PUBLISHED,
    UNSTATED,
    Column,
    Entry,
    Line,
    LineKind,
    Ratio,
    Table,
    TableRequest,
)
from ssldet.report.video_scores import VideoScores


def names() -> list[str]:
    """The paper's tables, which are shown where none is named."""
    return [TABLE_1, *sorted(spec.name for spec in benchmark.paper_specs() if spec.name.isdigit())]


def all_names() -> list[str]:
    """The tables that can be shown: the paper's, and those beyond it."""
    return [*names(), *sorted(spec.name for spec in benchmark.specs().values() if spec.beyond)]


def build_table(name: str, collection: RunCollection, request: TableRequest) -> Table:
    """One of Tables 2 to 8.

    Raises:
        UnknownName: no such table, data set or preset. ConfigError: settings under which no cell can be run.
    """
    spec = benchmark.spec(name)
    if request.settings:
        settings, best, others = request.settings, None, []
    else:
        base = Settings(assignments=request.assignments, videos=request.videos)
        fallback = SettingsOption(base)
        best, *others = cell_matching.settings_options(spec, collection, base) or [fallback]
        if not best.tried:
            best = fallback
        settings = best.settings
    table = build_from(spec, collection, request, settings)
    return replace(
        table, best=best, others=tuple(option for option in others if option.filled and not option.mixes_presets)
    )


def build_from(spec: TableSpec, collection: RunCollection, request: TableRequest, settings: Settings) -> Table:
    """A table under given settings, whatever those of the request. Raises as `build_table` does."""
    if problem := cell_matching.settings_problem(spec, settings):
        raise problem
    splits = _splits(spec, collection, settings, request.splits)
    table = _TableBuilder(spec, collection, settings, replace(request, splits=splits)).table()
    return replace(table, no_splits=tuple(split for split in request.splits if split not in splits))


def _splits(spec: TableSpec, collection: RunCollection, settings: Settings, wanted: Sequence[int]) -> tuple[int, ...]:
    """Those of the wanted splits that the data have. Raises ConfigError when there is none."""
    data = settings.dataset(spec.dataset)
    known = {run.experiment.split for run in collection.runs if run.dataset == data}
    known |= set(plugins.load("dataset", data.name).splits)
    if available := tuple(split for split in wanted if split in known):
        return available
    wanted_text, known_text = (", ".join(map(str, sorted(splits))) for splits in (wanted, known))
    raise ConfigError(f"table {spec.name}: {data} has no split {wanted_text} (known: {known_text})")


# -------------------------------------------------------------------------------------------------- numbers


def summarise(values: Mapping[int, Mapping[int, float]]) -> tuple[float | None, float | None, dict[int, float]]:
    """Mean, standard deviation and the number of each seed, of split -> seed -> number.

    The mean is that over splits of each split's mean over seeds; the deviation (n - 1) is over the seeds that every
    split has, of their means over splits. No mean when a split has no seed, no deviation for fewer than two seeds.
    """
    if not values or not all(values.values()):
        return None, None, {}
    common = sorted(set.intersection(*(set(by_seed) for by_seed in values.values())))
    by_seed = {seed: fmean(numbers[seed] for numbers in values.values()) for seed in common}
    mean = fmean(fmean(numbers.values()) for numbers in values.values())
    return mean, stdev(by_seed.values()) if len(by_seed) > 1 else None, by_seed


# ------------------------------------------------------------------------------------------------- building


class _TableBuilder:
    """Puts a table together: lines, the runs of each cell, then its numbers."""

    def __init__(self, spec: TableSpec, collection: RunCollection, settings: Settings, request: TableRequest) -> None:
        self.spec, self.collection, self.settings, self.request = spec, collection, settings, request
        self.matcher = CellMatcher(spec, collection, settings)
        self.left_out = list(collection.unreadable)
        self.lines: list[Line] = []
        self.cells: dict[tuple[int, float], RunSelection] = {}
        self._baselines: dict[tuple[bool, float], RunSelection] = {}
        self._add_rows()
        self._add_plugins()
        self.comparisons = TableComparisons(spec, tuple(self.lines), self.cells, self._by_seed, VideoScores(collection))
        self.externals = self._external_rows()
        self._add_externals()
        self.seeds = request.seeds or self._seeds_found()

    def table(self) -> Table:
        columns = tuple(self._columns())
        entries = tuple(tuple(self._entry(i, column) for column in columns) for i in range(len(self.lines)))
        contrasts = with_holm(list(self.comparisons.contrasts(columns)))
        costs = dict(table_comparisons.costs(self.cells)) if self.request.cost else {}
        self._leave_out_others()
        left_out = tuple({(item.folder, item.kind): item for item in self.left_out}.values())
        return Table(
            spec=self.spec,
            settings=self.settings,
            seeds=self.seeds,
            columns=columns,
            lines=tuple(self.lines),
            entries=entries,
            left_out=left_out,
            contrasts=contrasts,
            costs=costs,
            ranks=tuple(self.comparisons.ranks(columns, entries)),
            few_groups=self.comparisons.videos.few_groups,
        )

    def _add_rows(self) -> None:
        for row in self.spec.rows:
            cells = {ratio: self.matcher.runs(row, ratio) for ratio in self.spec.ratios_of(row) if row.strategy}
            if row.planned not in ("always", *self.request.extra) and not any(cells.values()):
                continue
            self.lines.append(Line(row, self._kind_of(row)))
            for ratio, runs in cells.items():
                self._add_cell(len(self.lines) - 1, ratio, runs)

    def _kind_of(self, row: Row) -> LineKind:
        if row.strategy is None:
            return "published" if row.published else "reported"
        return "ours" if row.control or row.planned != "always" or not self.spec.is_papers else "both"

    def _add_plugins(self) -> None:
        """Rows of strategies that the paper does not know, in the order of their titles."""
        plugin_rows = sorted(self.matcher.of_plugins(), key=lambda part: (part[0].pretrained, part[0].approach))
        for row, ratio, runs, unfit in plugin_rows:
            if runs:
                if Line(row, "plugin") not in self.lines:
                    self.lines.append(Line(row, "plugin"))
                self._add_cell(self.lines.index(Line(row, "plugin")), ratio, runs)
            for run in unfit:
                expected = self.matcher.expected(self.matcher.compared(row, self._baseline_row(row)), ratio)
                differences = cell_matching.beside_strategy(run.experiment, expected) if expected else []
                self._leave_out(run, differences or [cell_matching.UNRESOLVED])

    def _external_rows(self) -> ExternalRows:
        runs = [run for selection in self.cells.values() for run in selection.runs.values()]
        split = self.request.splits[0]
        return ExternalRows(self.spec, self.settings, self.matcher.data, split, runs, self._ratios())

    def _add_externals(self) -> None:
        """Rows of others' numbers, by name; nothing of ours is held against them."""
        for external in self.matcher.externals:
            if why := self.externals.why_not(external):
                self.left_out.append(self.externals.left_out(external, why))
            else:
                self.lines.append(Line(Row(approach=external.title, pretrained=False), "external", external))

    def _add_cell(self, line: int, ratio: float, runs: Sequence[Run]) -> None:
        selection = select_runs(self._requested(runs))
        self.cells[line, ratio] = selection
        self.left_out += selection.left_out

    def _requested(self, runs: Sequence[Run]) -> list[Run]:
        seeds, splits = self.request.seeds, self.request.splits
        return [run for run in runs if run.experiment.split in splits and (not seeds or run.experiment.seed in seeds)]

    def _seeds_found(self) -> tuple[int, ...]:
        places = [place for selection in self.cells.values() for place in (*selection.runs, *selection.failed)]
        return tuple(sorted({seed for _, seed in places}))

    def _columns(self) -> Iterator[Column]:
        unstated = any(line.external and line.external.record.ratio is None for line in self.lines)
        ratios: tuple[Ratio, ...] = (*self._ratios(), UNSTATED) if unstated else self._ratios()
        splits = self.request.splits
        for metric in self.spec.columns:
            for ratio in ratios:
                yield Column(metric, ratio, splits[:1])
                if len(splits) > 1:
                    yield Column(metric, ratio, splits)
        for title in self.spec.published:
            metric = benchmark.Column(title=title, metric=ANOTHER_METRIC, protocol="", key="")
            yield Column(metric, PUBLISHED, splits[:1])

    def _ratios(self) -> tuple[Ratio, ...]:
        """Those of the columns of our rows and the paper's."""
        alone = (row for row in self.spec.rows if not row.published)
        single = any(row.strategy is None or row.ratio is not None for row in alone)
        return (*self.spec.ratios, "all") if single else self.spec.ratios

    def _entry(self, index: int, column: Column) -> Entry | None:
        """The number of a line in a column; None when the line has none there."""
        line, first = self.lines[index], column.splits == (1,) and self.spec.is_papers
        if column.ratio == PUBLISHED:
            number = line.row.published.get(column.metric.title)
            return None if number is None else Entry(paper=Reported(value=number))
        if line.external:
            return self.externals.entry(line.external, column)
        paper = benchmark.paper().number(self.spec.name, line.row, column.metric.title, column.ratio) if first else None
        if line.row.strategy is None:
            return Entry(paper=paper) if paper else None
        ratio = line.row.ratio if column.ratio == "all" else column.ratio
        if ratio is None or ratio not in self.spec.ratios_of(line.row):
            return None
        return self._trained(line.row, ratio, column, self.cells.get((index, ratio), RunSelection({})), paper)

    def _trained(
        self, row: Row, ratio: float, column: Column, selection: RunSelection, paper: Reported | None
    ) -> Entry:
        runs = [run for (split, _), run in sorted(selection.runs.items()) if split in column.splits]
        mean, std, by_seed = summarise(self._values(selection, column))
        failed = [place for place in selection.failed if place[0] in column.splits]
        compared = mean is not None and self.spec.baseline and not cell_matching.is_baseline(self.spec, row)
        return Entry(
            mean=mean,
            std=std,
            n=len(by_seed),
            expected=len(self.seeds),
            seeds=tuple(by_seed),
            runs=tuple(run.entry.id for run in runs),
            paper=paper,
            difference=self.comparisons.difference(selection, self._baseline(row, ratio), column) if compared else None,
            marks=tuple(self._marks(runs, mean, len(by_seed), bool(failed), selection, column)),
        )

    def _by_seed(self, selection: RunSelection, column: Column) -> dict[int, float]:
        return summarise(self._values(selection, column))[2]

    def _values(self, selection: RunSelection, column: Column) -> dict[int, dict[int, float]]:
        """Split -> seed -> number in percent, of the runs that were scored so."""
        values: dict[int, dict[int, float]] = {split: {} for split in column.splits}
        for (split, seed), run in sorted(selection.runs.items()):
            if split in values:
                number = run.number(column.metric.metric, column.metric.protocol, column.metric.key)
                if number is None:
                    what = f"{column.metric.metric} at {column.metric.key}, protocol {column.metric.protocol}"
                    self.left_out.append(leave_out(run.entry, f"it has no {what}", "not scored"))
                else:
                    values[split][seed] = 100 * number
        return values

    def _marks(
        self, runs: Sequence[Run], mean: float | None, n: int, failed: bool, selection: RunSelection, column: Column
    ) -> Iterator[str]:
        if mean is None:
            missing = {run.experiment.split for run in runs} < set(column.splits)
            yield "failed" if failed else "not run" if not runs else "split missing" if missing else "not scored"
            return
        if n < len(self.seeds):
            yield "partial"
        if failed:
            yield "failed"
        if self.settings.preset_for(runs[0].experiment.pretrained) != DEFAULT_PRESET and not self.spec.of_dataset:
            yield "other preset"
        if self.spec.dataset in self.settings.dataset_map:
            yield "other data"
        if selection.mixed:
            yield "mixed versions"
        if selection.mixed_threads:
            yield "mixed threads"

    def _baseline(self, row: Row, ratio: float) -> RunSelection:
        key = (row.pretrained, ratio)
        if key not in self._baselines:
            self._baselines[key] = select_runs(self._requested(self.matcher.runs(self._baseline_row(row), ratio)))
        return self._baselines[key]

    def _baseline_row(self, row: Row) -> Row:
        return Row(approach=self.spec.baseline, pretrained=row.pretrained, strategy=self.spec.baseline)

    def _leave_out_others(self) -> None:
        for run, keys in self.matcher.unmatched():
            self._leave_out(run, keys)

    def _leave_out(self, run: Run, keys: Sequence[str]) -> None:
        if not self._requested([run]):
            return
        if run.entry.status in ("damaged", "incompatible"):
            self.left_out.append(leave_out(run.entry, run.entry.problem))
        else:
            expected = self.settings.preset_for(run.experiment.pretrained)
            preset = f"preset {run.preset}: " if run.preset != expected else ""
            self.left_out.append(leave_out(run.entry, preset + "; ".join(keys), "other settings"))
