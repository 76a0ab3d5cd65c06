"""The page of a table: the paper's shape, each of our numbers a link to the runs behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ssldet.benchmark.spec import Row
from ssldet.report import tables
from ssldet.report.data_table import TABLE_1
from ssldet.report.dataset_tables import dataset_table
from ssldet.report.document import Block, Document, TextRow
from ssldet.report.documents import of_table
from ssldet.report.run_selection import RunCollection
from ssldet.report.site.leaderboard import Link, RankCell
from ssldet.report.site.remarks import Remarks
from ssldet.report.site.site_map import SiteMap
from ssldet.report.table_data import Table, TableRequest
from ssldet.report.wording import sections_of


@dataclass(frozen=True, slots=True)
class LinkedCell:
    """A cell in words, and the pages of its runs."""

    lines: tuple[str, ...]
    runs: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class LinkedRow:
    """A row of linked cells; `empty`: nothing of it was run."""

    label: str
    cells: tuple[LinkedCell, ...]
    empty: bool


@dataclass(frozen=True, slots=True)
class LinkedSection:
    """Rows under a heading."""

    title: str
    rows: tuple[LinkedRow, ...]


@dataclass(frozen=True, slots=True)
class TablePage:
    """What the page of a table shows.

    Attributes:
        page: its place; `short`: what links to it say.
        numbers: the heads of the table; `sections`: its rows, linked.
        others: what stands beside the numbers: differences, contrasts, ranks, costs.
        comparisons: pages of rows that the table contrasts.
    """

    page: str
    short: str
    table: Table
    document: Document
    numbers: Block
    sections: tuple[LinkedSection, ...]
    others: tuple[Block, ...]
    comparisons: tuple[Link, ...] = ()


def filled_tables(collection: RunCollection, remarks: Remarks) -> dict[str, Table]:
    """Every table with a number of ours, by what links to it say: the paper's, those beyond it, those of data sets."""
    splits = tuple(sorted({run.split for run in collection.runs if run.done})) or (1,)
    request = TableRequest(splits=splits, cost=True)
    made: dict[str, Table] = {}
    for name in tables.all_names():
        if name != TABLE_1 and (
            table := remarks.attempt(f"Table {name}", tables.build_table, name, collection, request)
        ):
            made[f"Table {name}"] = table
    for name in sorted({str(run.dataset) for run in collection.runs if run.done}):
        if table := remarks.attempt(f"Table of {name}", dataset_table, name, collection, request):
            made[f"All on {name}"] = table
    return {short: table for short, table in made.items() if _has_numbers(table)}


def _has_numbers(table: Table) -> bool:
    return any(entry and entry.mean is not None for row in table.entries for entry in row)


def table_page(short: str, table: Table, page: str, pages: SiteMap) -> TablePage:
    """The page of a table with numbers."""
    document = of_table(table)
    numbers, *others = document.blocks
    runs = sections_of(table, lambda line: _ids(table, line), range(len(table.lines)))
    sections = tuple(
        LinkedSection(section.title, tuple(_row(*pair, pages) for pair in zip(section.rows, ids.rows, strict=True)))
        for section, ids in zip(numbers.sections, runs, strict=True)
    )
    return TablePage(page, short, table, document, numbers, sections, tuple(others))


def _ids(table: Table, line: int) -> tuple[tuple[str, ...], ...]:
    """The ids of the runs in each cell of a line."""
    return tuple(entry.runs if entry else () for entry in table.entries[line])


def _row(row: TextRow, ids: TextRow, pages: SiteMap) -> LinkedRow:
    """A row of the table with links to the runs of each cell, whose ids stand in a row of the same form."""
    cells = (
        LinkedCell(words, tuple(Link(pages.ids[each], each) for each in runs if each in pages.ids))
        for words, runs in zip(row.cells, ids.cells, strict=True)
    )
    return LinkedRow(row.label, tuple(cells), row.empty)


def titles(made: Mapping[str, Table]) -> dict[str, str]:
    """Id of a run -> what the first table that it is in calls its approach."""
    names: dict[str, str] = {}
    for table in made.values():
        for line, row in zip(table.lines, table.entries, strict=True):
            for run_id in (each for entry in row if entry for each in entry.runs):
                names.setdefault(run_id, line.row.approach)
    return names


def mean_ranks(made: Mapping[str, Table], pages: SiteMap) -> dict[str, RankCell]:
    """Id of a run -> the mean rank of its approach in the first table that ranks it."""
    ranks: dict[str, RankCell] = {}
    for short, table in made.items():
        for rank in table.ranks:
            for run_id in (each for entry in table.entries[rank.line] if entry for each in entry.runs):
                ranks.setdefault(run_id, RankCell(rank.rank, rank.interval, pages.tables[short]))
    return ranks


@dataclass(frozen=True, slots=True)
class Contrasted:
    """Ids of a run of either side of a cell that is contrasted; `control`: the second is the control of the first."""

    first: str
    second: str
    control: bool


def contrasted(made: Mapping[str, Table]) -> Iterator[Contrasted]:
    """All cells that tables contrast, matched controls and others; then with their baselines."""
    for table in made.values():
        approaches = {(line.row.approach, line.row.pretrained): place for place, line in enumerate(table.lines)}
        for names in table.spec.contrasts:
            for pretrained in (False, True):
                sides = [approaches.get((name, pretrained)) for name in names]
                yield from _pairs(table, *sides)
    for table in made.values():
        for place, line in enumerate(table.lines):
            yield from _pairs(table, place, _baseline(table, line.row))


def _baseline(table: Table, row: Row) -> int | None:
    """The line of the table's baseline from the same initial weights."""
    rows = [line.row for line in table.lines]
    plain = (
        each.strategy == table.spec.baseline and not each.options and each.pretrained == row.pretrained for each in rows
    )
    return next((place for place, is_baseline in enumerate(plain) if is_baseline), None)


def _pairs(table: Table, first: int | None, second: int | None) -> Iterator[Contrasted]:
    """The first runs of two lines in each column."""
    if first is None or second is None or first == second:
        return
    ours_row, other_row = table.lines[first].row, table.lines[second].row
    control = other_row.control and not ours_row.control
    for ours, other in zip(table.entries[first], table.entries[second], strict=True):
        if ours and other and ours.runs and other.runs:
            yield Contrasted(ours.runs[0], other.runs[0], control)
