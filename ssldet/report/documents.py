"""Tables in words: what every format prints, as text that is not yet escaped for any of them.

of_table(table)         Tables 2 to 6: the numbers, the differences to the baseline, what to know, what was left out
of_data(rows)           Table 1
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import Settings
from ssldet.benchmark.spec import Reported, ratio_key
from ssldet.report.contrasts import CONFIDENCE, Difference
from ssldet.report.run_selection import LeftOut
from ssldet.report.tables import TABLE_1, Column, Cost, DataRow, Entry, Line, Table

SYMBOLS = {
    "other preset": ("†", "made with another preset than the paper's settings"),
    "other data": ("‡", "made on other data than the paper's"),
    "mixed versions": ("§", "mean of runs made by different versions of ssldet or torch"),
    "failed": ("¶", "some seeds failed"),
}
"""Mark -> its symbol, and what it means."""

WORDS = ("not run", "failed", "not scored", "split missing")
"""Marks that stand in the place of a number."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row: its label, and per column the lines of a cell ("ours", "(the paper's)")."""

    label: str
    cells: tuple[tuple[str, ...], ...]


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
    def two_levels(self) -> bool:
        """Whether its columns have a head of two levels; Table 1's have one."""
        return any(title for _, title in self.columns)


@dataclass(frozen=True, slots=True)
class Document:
    """A table in words.

    Attributes:
        caption: how it was made; notes: what must be known to read it.
        entries: one flat object a number; `left_out`: every run that is not in it, with the reason.
        contrasts, costs: one flat object a difference between two rows, and a row and ratio.
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
    costs: tuple[dict[str, Any], ...] = ()


def of_table(table: Table) -> Document:
    """Tables 2 to 6."""
    footnotes = _Footnotes(table)
    spec = table.spec
    blocks = [_numbers(table, footnotes)]
    if any(entry and entry.difference for row in table.entries for entry in row):
        blocks.append(_differences(table))
    if table.contrasts:
        blocks.append(_contrasts(table))
    if table.costs:
        blocks.append(_costs(table))
    return Document(
        name=spec.name,
        title=f"Table {spec.name}. {spec.title}",
        caption=tuple(_caption(table)),
        blocks=tuple(blocks),
        notes=tuple(_notes(table, footnotes)),
        entries=tuple(_flat(table)),
        left_out=table.left_out,
        facts=_facts(table),
        contrasts=tuple(_flat_contrasts(table)),
        costs=tuple(_flat_costs(table)),
    )


# -------------------------------------------------------------------------------------------------- numbers


class _Footnotes:
    """Numbers for the places where the paper prints something else elsewhere, in the order of the table."""

    def __init__(self, table: Table) -> None:
        reported = (entry.paper for row in table.entries for entry in row if entry and entry.paper)
        self.texts = list(dict.fromkeys(_elsewhere(paper) for paper in reported if paper.elsewhere))

    def mark(self, paper: Reported) -> str:
        return f"[{self.texts.index(_elsewhere(paper)) + 1}]" if paper.elsewhere else ""


def _elsewhere(paper: Reported) -> str:
    alternatives = ", ".join(f"{_printed(value)} in {where}" for value, where in paper.elsewhere)
    return f"for this {_printed(paper.value)} the paper also prints {alternatives}"


def _numbers(table: Table, footnotes: _Footnotes) -> Block:
    digits = _digits(table)

    def cells(index: int) -> tuple[tuple[str, ...], ...]:
        pairs = zip(table.entries[index], table.columns, strict=True)
        return tuple(_cell(entry, digits[column.metric.title], footnotes) for entry, column in pairs)

    return Block("", _headings(table), _sections(table, cells, range(len(table.lines))))


def _cell(entry: Entry | None, digits: int, footnotes: _Footnotes) -> tuple[str, ...]:
    if entry is None:
        return ()
    paper = f"({_printed(entry.paper.value)}){footnotes.mark(entry.paper)}" if entry.paper else ""
    if entry.mean is None:
        return tuple(filter(None, (next((word for word in WORDS if word in entry.marks), ""), paper)))
    spread = "" if entry.std is None else f" ± {entry.std:.{digits}f}"
    symbols = "".join(symbol for mark, (symbol, _) in SYMBOLS.items() if mark in entry.marks)
    partial = f"{entry.n}/{entry.expected}" if "partial" in entry.marks else ""
    return tuple(filter(None, (f"{entry.mean:.{digits}f}{spread}{symbols}", f"{paper} {partial}".strip())))


def _printed(value: float) -> str:
    """A number as the paper prints it: one decimal, or two."""
    return f"{value:.{1 if round(value, 1) == value else 2}f}"


def _digits(table: Table) -> dict[str, int]:
    """Column title -> decimals, as many as the paper prints in that column."""
    digits: dict[str, int] = {}
    for row in table.entries:
        for entry, column in zip(row, table.columns, strict=True):
            shown = len(_printed(entry.paper.value).partition(".")[2]) if entry and entry.paper else 1
            digits[column.metric.title] = max(shown, digits.get(column.metric.title, 1))
    return digits


def _differences(table: Table) -> Block:
    """The rows and columns that have any."""
    digits = _digits(table)
    gains = [[entry.difference if entry else None for entry in row] for row in table.entries]
    columns = [i for i in range(len(table.columns)) if any(row[i] for row in gains)]

    def cells(index: int) -> tuple[tuple[str, ...], ...]:
        return tuple(_gain(gains[index][i], digits[table.columns[i].metric.title]) for i in columns)

    headings = _headings(table)
    lines = [index for index, row in enumerate(gains) if any(row)]
    return Block(
        f"Difference to {_baseline_title(table)}",
        tuple(headings[i] for i in columns),
        _sections(table, cells, lines),
    )


def _gain(difference: Difference | None, digits: int) -> tuple[str, ...]:
    if difference is None:
        return ()
    if difference.mean is None:
        return ("none",)
    seeds = _interval("s", difference.low, difference.high, digits) or f"n = {difference.n}"
    videos = _interval("v", difference.video_low, difference.video_high, digits)
    p = "" if difference.adjusted_p is None else f"p {difference.p:.2g}, Holm {difference.adjusted_p:.2g}"
    return tuple(filter(None, (f"{difference.mean:+.{digits}f}", seeds, videos, p)))


def _interval(sign: str, low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{sign} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _contrasts(table: Table) -> Block:
    """Rows against each other, by initial weights."""
    digits = _digits(table)
    columns = [i for i in range(len(table.columns)) if any(c.differences[i] for c in table.contrasts)]
    headings = _headings(table)
    rows: dict[str, list[TextRow]] = {}
    for contrast in table.contrasts:
        cells = tuple(_gain(contrast.differences[i], digits[table.columns[i].metric.title]) for i in columns)
        rows.setdefault(_start(contrast.pretrained), []).append(TextRow(contrast.title, cells))
    sections = tuple(Section(title, tuple(of_start)) for title, of_start in rows.items())
    return Block("Contrasts", tuple(headings[i] for i in columns), sections)


COST_COLUMNS = ("gradient clips", "teacher clips", "hours")


def _costs(table: Table) -> Block:
    """What each row took, ratio by ratio."""
    ratios = sorted({ratio for _, ratio in table.costs})

    def cells(index: int) -> tuple[tuple[str, ...], ...]:
        costs = [_cost_cells(table.costs.get((index, ratio))) for ratio in ratios]
        return tuple(cost[part] for part in range(len(COST_COLUMNS)) for cost in costs)

    columns = tuple((title, f"{100 * ratio:g} %") for title in COST_COLUMNS for ratio in ratios)
    lines = [index for index in range(len(table.lines)) if any(place == index for place, _ in table.costs)]
    return Block("Cost", columns, _sections(table, cells, lines))


def _cost_cells(cost: Cost | None) -> tuple[tuple[str, ...], ...]:
    if cost is None:
        return ((),) * len(COST_COLUMNS)
    return (f"{cost.gradient_clips:,.0f}",), (f"{cost.teacher_clips:,.0f}",), (f"{cost.hours:.2f}",)


def _headings(table: Table) -> tuple[tuple[str, str], ...]:
    several = len({column.splits for column in table.columns}) > 1 or table.columns[0].splits != (1,)
    return tuple((column.metric.title, _heading(column, several)) for column in table.columns)


def _heading(column: Column, several: bool) -> str:
    ratio = "all" if column.ratio == "all" else f"{100 * column.ratio:g} %"
    return f"{ratio}, {_view(column)}" if several else ratio


def _view(column: Column) -> str:
    splits = column.splits
    return f"split {splits[0]}" if len(splits) == 1 else f"mean of {len(splits)} splits"


def _sections(table: Table, cells: Any, indices: Iterable[int]) -> tuple[Section, ...]:
    """Rows by initial weights as in the paper, then those of strategies that it does not know."""
    by_title: dict[str, list[TextRow]] = {}
    for index in indices:
        line = table.lines[index]
        by_title.setdefault(_section_title(line), []).append(TextRow(line.row.approach, cells(index)))
    return tuple(Section(title, tuple(rows)) for title, rows in by_title.items())


def _section_title(line: Line) -> str:
    start = _start(line.row.pretrained)
    return f"Further strategies, {start.lower()}" if line.kind == "plugin" else start


def _start(pretrained: bool) -> str:
    return "Pretrained" if pretrained else "From scratch"


def _baseline_title(table: Table) -> str:
    """The paper's name of the baseline, from whichever table has it."""
    rows = [row for spec in benchmark.specs().values() for row in spec.rows]
    plain = (row.approach for row in rows if row.strategy == table.spec.baseline and not row.options)
    return next(plain, table.spec.baseline)


# ---------------------------------------------------------------------------------------------------- words


def _caption(table: Table) -> Iterator[str]:
    seeds = ", ".join(map(str, table.seeds)) or "none found"
    yield f"Ours: mean ± standard deviation (n - 1) over seeds ({seeds}), in percent; in parentheses, the paper's."
    by_protocol: dict[str, list[str]] = {}
    for column in table.spec.columns:
        by_protocol.setdefault(f"{column.metric}, protocol {column.protocol}", []).append(column.title)
    yield "; ".join(f"{', '.join(titles)}: {what}" for what, titles in by_protocol.items()) + "."
    yield _settings_line(table)
    if table.no_splits:
        yield f"There is no split {', '.join(map(str, table.no_splits))} of these data."
    if table.others:
        shown = "; ".join(f"{flags(option.settings)} ({_cells(option.filled)})" for option in table.others)
        yield f"Records of other settings are shown with: {shown}."


def _settings_line(table: Table) -> str:
    settings = table.settings
    line = f"Preset {settings.preset}, data {settings.dataset(table.spec.dataset)}"
    line += "".join(f", {assignment}" for assignment in settings.assignments)
    if table.best and table.best.filled:
        return f"{line}: of what the records hold, this fills most ({_cells(table.best.filled)}); {flags(settings)}."
    return f"{line}."


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"


def flags(settings: Settings) -> str:
    """The flags that ask for settings."""
    mapped = ",".join(f"{name}={choice}" for name, choice in settings.dataset_map.items())
    return f"--preset {settings.preset}" + (f" --dataset-map {mapped}" if mapped else "")


def _notes(table: Table, footnotes: _Footnotes) -> Iterator[str]:
    entries = [entry for row in table.entries for entry in row if entry]
    used = {mark for entry in entries if entry.mean is not None for mark in entry.marks}
    for mark, (symbol, meaning) in SYMBOLS.items():
        if mark in used:
            yield f"{symbol} {meaning}"
    if "partial" in used:
        yield "n/N: n of N expected seeds"
    yield from (f"[{number}] {text}" for number, text in enumerate(footnotes.texts, start=1))
    yield from _difference_notes(table, entries)
    if table.costs:
        yield (
            "Cost: means over the runs of a cell, first stage included; gradient clips go through the student with "
            "gradients, teacher clips through a teacher without; hours of training on the machines of the records"
        )
    if table.spec.note:
        yield table.spec.note
    name = f"Table {table.spec.name}"
    yield from (text for text in benchmark.paper().contradictions if name in text)


def _difference_notes(table: Table, entries: Sequence[Entry]) -> Iterator[str]:
    differences = [entry.difference for entry in entries if entry.difference]
    contrasts = [difference for contrast in table.contrasts for difference in contrast.differences if difference]
    if differences or contrasts:
        yield (
            "Difference, contrast: mean over common seeds, with the same data, ratio and initial weights; in brackets "
            f"its {100 * CONFIDENCE:g} % confidence interval: s over seeds (Student's t of paired differences), "
            "v over test videos (bootstrap, groups drawn together)"
        )
    if tested := sum(difference.p is not None for difference in contrasts):
        yield f"p: of the t test over seeds; Holm: the same, corrected for the {tested} contrasts of this table"
    reasons = [difference.why for difference in (*differences, *contrasts) if difference.why]
    yield from dict.fromkeys(f"Difference: {why}" for why in reasons)
    if any(difference.n == 1 for difference in (*differences, *contrasts)):
        yield "With n = 1 nothing is ordered: the noise of the seed is in every difference, and no interval holds it"


# ----------------------------------------------------------------------------------------------------- data


def _facts(table: Table) -> dict[str, Any]:
    settings = table.settings
    return {
        "dataset": str(settings.dataset(table.spec.dataset)),
        "preset": settings.preset,
        "assignments": list(settings.assignments),
        "seeds": list(table.seeds),
        "chosen_because_it_fills": table.best.filled if table.best else None,
        "others": [{"flags": flags(option.settings), "cells": option.filled} for option in table.others],
    }


def _flat(table: Table) -> Iterator[dict[str, Any]]:
    for line, row in zip(table.lines, table.entries, strict=True):
        for column, entry in zip(table.columns, row, strict=True):
            if entry:
                yield {"table": table.spec.name, **_of_line(line), **_of_column(column), **_of_entry(entry)}


def _flat_contrasts(table: Table) -> Iterator[dict[str, Any]]:
    for contrast in table.contrasts:
        for column, difference in zip(table.columns, contrast.differences, strict=True):
            if difference:
                about = {"approach": contrast.approach, "other": contrast.other, "pretrained": contrast.pretrained}
                yield {"table": table.spec.name, **about, **_of_column(column), **asdict(difference)}


def _flat_costs(table: Table) -> Iterator[dict[str, Any]]:
    for (index, ratio), cost in table.costs.items():
        about = {"table": table.spec.name, **_of_line(table.lines[index]), "ratio": ratio_key(ratio)}
        yield {**about, **asdict(cost)}


def _of_line(line: Line) -> dict[str, Any]:
    row = line.row
    options = json.dumps(row.options, sort_keys=True) if row.options else ""
    return {
        "approach": row.approach,
        "pretrained": row.pretrained,
        "row": line.kind,
        "strategy": row.strategy,
        "options": options,
    }


def _of_column(column: Column) -> dict[str, Any]:
    metric = column.metric
    return {
        "column": metric.title,
        "metric": metric.metric,
        "protocol": metric.protocol,
        "threshold": metric.key,
        "ratio": ratio_key(column.ratio),
        "split": _view(column),
    }


def _of_entry(entry: Entry) -> dict[str, Any]:
    difference = entry.difference or Difference()
    elsewhere = entry.paper.elsewhere if entry.paper else ()
    return {
        "mean": entry.mean,
        "std": entry.std,
        "n": entry.n,
        "expected": entry.expected,
        "seeds": list(entry.seeds),
        "runs": list(entry.runs),
        "paper": entry.paper.value if entry.paper else None,
        "paper_elsewhere": [f"{_printed(value)} in {where}" for value, where in elsewhere],
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "difference_n": difference.n,
        "difference_video_low": difference.video_low,
        "difference_video_high": difference.video_high,
        "difference_note": difference.why,
        "marks": list(entry.marks),
    }


# -------------------------------------------------------------------------------------------------- Table 1


def of_data(rows: Sequence[DataRow]) -> Document:
    """Table 1."""
    columns = [(column["column"], "") for column in rows[0].columns]
    lines = tuple(TextRow(row.title, tuple(_words(column) for column in row.columns)) for row in rows)
    absent = tuple(f"{row.title}: not counted: {row.absent}" for row in rows if row.absent)
    contradictions = tuple(text for text in benchmark.paper().contradictions if f"Table {TABLE_1}" in text)
    return Document(
        name=TABLE_1,
        title=f"Table {TABLE_1}. Data sets",
        caption=("As counted in the annotation; in parentheses, the paper's words.",),
        blocks=(Block("", tuple(columns), (Section("", lines),)),),
        notes=(*filter(None, map(_details, rows)), *absent, *contradictions),
        entries=tuple(_data_entry(row, column) for row in rows for column in row.columns),
        left_out=(),
        facts={"absent": {row.name: row.absent for row in rows if row.absent}},
    )


def _words(column: dict[str, Any]) -> tuple[str, ...]:
    differs = " differs" if column.get("differs") else ""
    counted = column.get("counted") or column.get("detail")
    return tuple(filter(None, (counted, f"({column['printed']}){differs}")))


def _details(row: DataRow) -> str:
    """The numbers behind what was counted of a data set; "" where nothing was."""
    known = [f"{column['column']}: {column['detail']}" for column in row.columns if column.get("counted")]
    return f"{row.title}: {'; '.join(known)}" if known else ""


def _data_entry(row: DataRow, column: dict[str, Any]) -> dict[str, Any]:
    return {"table": TABLE_1, "dataset": row.name, **column}


def as_dict(left_out: LeftOut) -> dict[str, Any]:
    """A run left out, as csv and json have it."""
    return asdict(left_out)
