"""Words that all parts of a table share: heads, labels, decimals."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import Settings
from ssldet.report.document import Section, TextRow
from ssldet.report.table_data import ANOTHER_METRIC, PUBLISHED, UNSTATED, Column, Line, Table

RATIOS = {"all": "all", UNSTATED: "-"}
"""Ratios that are no number, as heads have them."""

TextCells = tuple[tuple[str, ...], ...]
"""The cells of a row, the lines of each."""


def printed(value: float) -> str:
    """A number as the paper prints it: one decimal, or two."""
    return f"{value:.{1 if round(value, 1) == value else 2}f}"


def digits_of(table: Table) -> dict[str, int]:
    """Column title -> decimals, as many as the paper prints in that column."""
    digits: dict[str, int] = {}
    for row in table.entries:
        for entry, column in zip(row, table.columns, strict=True):
            shown = len(printed(entry.paper.value).partition(".")[2]) if entry and entry.paper else 1
            digits[column.metric.title] = max(shown, digits.get(column.metric.title, 1))
    return digits


def headings(table: Table) -> tuple[tuple[str, str], ...]:
    several = len({column.splits for column in table.columns}) > 1 or table.columns[0].splits != (1,)
    return tuple(_heading_pair(column, several) for column in table.columns)


def _heading_pair(column: Column, several: bool) -> tuple[str, str]:
    if column.ratio == PUBLISHED:
        return ANOTHER_METRIC, column.metric.title
    return column.metric.title, _heading(column, several)


def _heading(column: Column, several: bool) -> str:
    ratio = RATIOS[column.ratio] if isinstance(column.ratio, str) else f"{100 * column.ratio:g} %"
    return f"{ratio}, {view(column)}" if several else ratio


def view(column: Column) -> str:
    splits = column.splits
    return f"split {splits[0]}" if len(splits) == 1 else f"mean of {len(splits)} splits"


def sections_of(table: Table, cells: Callable[[int], TextCells], indices: Iterable[int]) -> tuple[Section, ...]:
    """Rows by initial weights as in the paper, then those of strategies that it does not know."""
    by_title: dict[str, list[TextRow]] = {}
    for index in indices:
        line = table.lines[index]
        by_title.setdefault(section_title(line), []).append(TextRow(line.row.approach, cells(index)))
    return tuple(Section(title, tuple(rows)) for title, rows in by_title.items())


def section_title(line: Line) -> str:
    if line.kind in ("external", "published"):
        return line.kind.capitalize()
    title = start(line.row.pretrained)
    return f"Further strategies, {title.lower()}" if line.kind == "plugin" else title


def start(pretrained: bool) -> str:
    return "Pretrained" if pretrained else "From scratch"


def baseline_title(table: Table) -> str:
    """The paper's name of the baseline, from whichever table has it."""
    rows = [row for spec in benchmark.specs().values() for row in spec.rows]
    plain = (row.approach for row in rows if row.strategy == table.spec.baseline and not row.options)
    return next(plain, table.spec.baseline)


def in_words(settings: Settings) -> str:
    """The preset, or the two that runs from scratch and those that start from weights have."""
    scratch, weights = settings.preset_for(False), settings.preset_for(True)
    return scratch if scratch == weights else f"{scratch} from scratch and {weights} pretrained"


def flags(settings: Settings) -> str:
    """The flags that ask for settings."""
    mapped = ",".join(f"{name}={choice}" for name, choice in settings.dataset_map.items())
    return f"--preset {settings.preset}" + (f" --dataset-map {mapped}" if mapped else "")
