"""A table in words: grids of cells with their heads, and the lines above and below, not yet in any format."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ssldet.report.run_selection import LeftOut

NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row: its label, and per column the lines of a cell ("ours", "(the paper's)")."""

    label: str
    cells: tuple[tuple[str, ...], ...]

    @property
    def empty(self) -> bool:
        """Whether it says nothing but that it was not run: a page may fold it."""
        words = {line for cell in self.cells for line in cell if line}
        return words == {NOT_RUN}


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a heading."""

    title: str
    rows: tuple[TextRow, ...]


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    """Neighbouring columns under one head: a metric, and the ratios below it. `first` is a number from 1."""

    title: str
    titles: tuple[str, ...]
    first: int

    @property
    def last(self) -> int:
        return self.first + len(self.titles) - 1


@dataclass(frozen=True, slots=True)
class Block:
    """One grid. `columns` are pairs (group, title): a metric and a ratio; a column without a ratio has the title ""."""

    title: str
    columns: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]

    @property
    def groups(self) -> tuple[ColumnGroup, ...]:
        """Neighbours of one group, in the order of the columns."""
        groups: list[ColumnGroup] = []
        for group, pairs in groupby(self.columns, key=lambda column: column[0]):
            first = groups[-1].last + 1 if groups else 1
            groups.append(ColumnGroup(group, tuple(title for _, title in pairs), first))
        return tuple(groups)

    @property
    def folded(self) -> tuple[str, ...]:
        """What to call the rows that are empty, with the heading of their section."""
        rows = [(section.title, row.label) for section in self.sections for row in section.rows if row.empty]
        return tuple(f"{title}: {label}" if title else label for title, label in rows)

    @property
    def two_levels(self) -> bool:
        """Whether its columns have a head of two levels; Table 1's have one."""
        return any(title for _, title in self.columns)


@dataclass(frozen=True, slots=True)
class Document:
    """A table in words.

    Attributes:
        caption: how it was made; notes: what must be known to read it.
        entries: one flat object a number; `left_out`: every run that is not in it, with the reason.
        contrasts, ranks, costs: one flat object a difference between two rows, a row, and a row and ratio.
        facts: settings and seeds.
    """

    name: str
    title: str
    caption: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    entries: tuple[dict[str, Any], ...]
    left_out: tuple[LeftOut, ...]
    facts: dict[str, Any]
    contrasts: tuple[dict[str, Any], ...] = ()
    ranks: tuple[dict[str, Any], ...] = ()
    costs: tuple[dict[str, Any], ...] = ()
