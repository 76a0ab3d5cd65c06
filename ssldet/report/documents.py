"""Tables in words: what every format prints, as text that is not yet escaped for any of them.

of_table(table)         Tables 2 to 8: the numbers, what is read beside them, what to know, what was left out
of_data(rows)           Table 1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.spec import Reported
from ssldet.report import comparison_blocks, flat_rows
from ssldet.report.data_table import TABLE_1, DataRow
from ssldet.report.document import NOT_RUN, Block, Document, Section, TextRow
from ssldet.report.table_data import ANOTHER_METRIC, UNSTATED, Entry, Table
from ssldet.report.wording import RATIOS, digits_of, flags, headings, in_words, printed, sections_of

SYMBOLS = {
    "other preset": ("†", "made with another preset than the paper's settings"),
    "other data": ("‡", "made on other data than the paper's"),
    "mixed threads": ("*", "mean of runs with different numbers of CPU threads, which round differently"),
    "mixed versions": ("§", "mean of runs made by different versions of ssldet or torch, or by other code of a plugin"),
    "failed": ("¶", "some seeds failed"),
}
"""Mark -> its symbol, and what it means."""

WORDS = (NOT_RUN, "failed", "not scored", "split missing")
"""Marks that stand in the place of a number."""


def of_table(table: Table) -> Document:
    """Tables 2 to 8, or a table of any data set."""
    footnotes = _Footnotes(table)
    spec = table.spec
    return Document(
        name=spec.name,
        title=spec.title if spec.of_dataset else f"Table {spec.name}. {spec.title}",
        caption=tuple(_caption(table)),
        blocks=(_numbers(table, footnotes), *comparison_blocks.blocks(table)),
        notes=tuple(_notes(table, footnotes)),
        entries=tuple(flat_rows.of_entries(table)),
        left_out=table.left_out,
        facts=flat_rows.facts(table),
        contrasts=tuple(flat_rows.of_contrasts(table)),
        ranks=tuple(flat_rows.of_ranks(table)),
        costs=tuple(flat_rows.of_costs(table)),
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
    alternatives = ", ".join(f"{printed(value)} in {where}" for value, where in paper.elsewhere)
    return f"for this {printed(paper.value)} the paper also prints {alternatives}"


def _numbers(table: Table, footnotes: _Footnotes) -> Block:
    digits = digits_of(table)

    def cells(index: int) -> tuple[tuple[str, ...], ...]:
        pairs = zip(table.entries[index], table.columns, strict=True)
        return tuple(_cell(entry, digits[column.metric.title], footnotes) for entry, column in pairs)

    return Block("", headings(table), sections_of(table, cells, range(len(table.lines))))


def _cell(entry: Entry | None, digits: int, footnotes: _Footnotes) -> tuple[str, ...]:
    if entry is None:
        return ()
    paper = f"({printed(entry.paper.value)}){footnotes.mark(entry.paper)}" if entry.paper else ""
    if entry.mean is None:
        return tuple(filter(None, (next((word for word in WORDS if word in entry.marks), ""), paper)))
    spread = "" if entry.std is None else f" ± {entry.std:.{digits}f}"
    symbols = "".join(symbol for mark, (symbol, _) in SYMBOLS.items() if mark in entry.marks)
    partial = f"{entry.n}/{entry.expected}" if "partial" in entry.marks else ""
    return tuple(filter(None, (f"{entry.mean:.{digits}f}{spread}{symbols}", f"{paper} {partial}".strip())))


# ---------------------------------------------------------------------------------------------------- words


def _caption(table: Table) -> Iterator[str]:
    seeds = ", ".join(map(str, table.seeds)) or "none found"
    mean = f"ean ± standard deviation (n - 1) over seeds ({seeds}), in percent"
    yield f"Ours: m{mean}; in parentheses, the paper's." if table.spec.is_papers else f"M{mean}."
    if table.spec.beyond:
        yield "This table is ours: the paper has none like it."
    by_protocol: dict[str, list[str]] = {}
    for column in table.spec.columns:
        by_protocol.setdefault(f"{column.metric}, protocol {column.protocol}", []).append(column.title)
    yield "; ".join(f"{', '.join(titles)}: {what}" for what, titles in by_protocol.items()) + "."
    if table.spec.published:
        titles = ", ".join(table.spec.published)
        yield f"{titles}: {ANOTHER_METRIC}, in parentheses as others published it; not comparable with ours."
    yield _settings_line(table)
    yield from _tuned_line(table)
    if table.no_splits:
        yield f"There is no split {', '.join(map(str, table.no_splits))} of these data."
    if table.others:
        shown = "; ".join(f"{flags(option.settings)} ({_cells(option.filled)})" for option in table.others)
        yield f"Records of other settings are shown with: {shown}."


def _settings_line(table: Table) -> str:
    settings = table.settings
    line = f"Preset {in_words(settings)}, data {settings.dataset(table.spec.dataset)}"
    line += "".join(f", {assignment}" for assignment in settings.assignments)
    line += f", {len(settings.videos)} listed videos" if settings.videos is not None else ""
    if table.best and table.best.filled:
        return f"{line}: of what the records hold, this fills most ({_cells(table.best.filled)}); {flags(settings)}."
    return f"{line}."


def _tuned_line(table: Table) -> Iterator[str]:
    if tuned := table.settings.tuned:
        yield f"Settings tuned by {tuned.summary()}; other strategies have the preset's."


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"


def _notes(table: Table, footnotes: _Footnotes) -> Iterator[str]:
    entries = [entry for row in table.entries for entry in row if entry]
    used = {mark for entry in entries if entry.mean is not None for mark in entry.marks}
    for mark, (symbol, meaning) in SYMBOLS.items():
        if mark in used:
            yield f"{symbol} {meaning}"
    if "partial" in used:
        yield "n/N: n of N expected seeds"
    yield from (f"[{number}] {text}" for number, text in enumerate(footnotes.texts, start=1))
    yield from _external_notes(table)
    yield from comparison_blocks.notes(table)
    yield from _subset_note(table)
    if table.spec.note:
        yield table.spec.note
    if table.spec.is_papers:
        name = f"Table {table.spec.name}"
        yield from (text for text in benchmark.paper().contradictions if name in text)


def _external_notes(table: Table) -> Iterator[str]:
    """Whose numbers the external rows are, by the hash of what was scored."""
    externals = [line.external for line in table.lines if line.external]
    if externals:
        yield (
            "External: others' detections, scored by `ssldet evaluate --record`; no runs of ours, and in no mean, "
            "difference, contrast or rank"
        )
    for external in externals:
        record = external.record
        author = f"; its author states {' and '.join(record.stated)}" if record.stated else ""
        yield f"{external.title}: detections {record.short_hash} (SHA-256), {record.source}{author}"
    if any(column.ratio == UNSTATED for column in table.columns):
        yield f"{RATIOS[UNSTATED]}: of an external row whose author states no label ratio"


def _subset_note(table: Table) -> Iterator[str]:
    if table.settings.videos is not None:
        yield (
            f"On {len(table.settings.videos)} listed videos: means over classes are over those that have truth among "
            "the test videos, whatever the protocol; records hold the protocol's own means"
        )


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
