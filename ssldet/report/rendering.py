"""Tables as text: terminal, Markdown, LaTeX, CSV, JSON and HTML. All that comes from records is escaped.

render(documents, format)       the whole text of a format
show(documents, console)        on a rich console, in its width
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssldet.errors import UnknownName
from ssldet.report.document import Block, ColumnGroup, Document
from ssldet.report.flat_rows import as_dict
from ssldet.util.files import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAIN_WIDTH = 100
"""Columns of the terminal format where there is no terminal."""

LABEL_WIDTH = 16
"""Of row labels in the terminal format; "Fully-Supervised" has as many letters."""

HEAD_WIDTH = 9
"""Of the heads of columns in the terminal format, where they can be broken; "mean of 3" has as many letters."""

GAP = 2
"""Between two columns of the terminal format."""

SHOWN = 3
"""How many runs of a kind are named below a table; csv and json have all."""


SUFFIXES = {".txt": "terminal", ".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}
"""Of a file -> the format that it is written in."""


def format_of(path: Path | None) -> str:
    """The format that a file's suffix names; "terminal" where it names none."""
    return SUFFIXES.get(path.suffix.lower() if path else "", "terminal")


def render(documents: Sequence[Document], form: str) -> str:
    """All tables in one text of a format. Raises UnknownName."""
    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    return FORMATS[form](documents)


# ------------------------------------------------------------------------------------------------- terminal


def terminal(documents: Sequence[Document]) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, force_terminal=False)
    show(documents, console)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "".join(line.rstrip() + "\n" for line in written.splitlines())


def show(documents: Sequence[Document], console: Console) -> None:
    """Print tables; one that is too wide is printed in parts, some metrics each."""
    from rich.text import Text

    for number, document in enumerate(documents):
        console.print(Text(("\n" if number else "") + document.title, style="bold"))
        for line in document.caption:
            console.print(Text(printable(line)))
        for block in document.blocks:
            if block.title:
                console.print(Text(block.title, style="bold"))
            for part in _parts(block, console.width):
                _print_grid(block, part, console)
        for line in _footnotes(document):
            console.print(Text(printable(line), style="dim"))


def _parts(block: Block, width: int) -> Iterator[list[ColumnGroup]]:
    """The groups of columns, as many in a part as fit the width; at least one."""
    part: list[ColumnGroup] = []
    for group in block.groups:
        if part and _span(_widths(block, [*part, group])) > width:
            yield part
            part = []
        part.append(group)
    yield part


def _print_grid(block: Block, part: Sequence[ColumnGroup], console: Console) -> None:
    """Heads, then rows. A metric stands above its ratios with a rule below it, which rich has no way to say."""
    from rich.text import Text

    label, *widths = _widths(block, part)
    console.print()
    if block.two_levels:
        for line in _group_heads(part, label, widths):
            console.print(Text(line, style="bold"))
    console.print(_grid(block, part, label, widths))
    console.print()


def _widths(block: Block, part: Sequence[ColumnGroup]) -> list[int]:
    """How wide the labels are, then each column; the last of a group is as wide as the group's head asks for."""
    titles = [text for section in block.sections for text in (section.title, *(row.label for row in section.rows))]
    widths = [min(max([LABEL_WIDTH, *(_width(_wrapped(text)) for text in titles)]), 2 * LABEL_WIDTH)]
    for group in part:
        heads = enumerate((title or group.title for title in group.titles), group.first)
        columns = [_column_width(block, number, head) for number, head in heads]
        missing = _width(printable(group.title)) - _span(columns) if block.two_levels else 0
        widths += [*columns[:-1], columns[-1] + max(missing, 0)]
    return widths


def _span(widths: Sequence[int]) -> int:
    """How wide neighbouring columns are with the gaps between them."""
    return sum(widths) + GAP * (len(widths) - 1)


def _column_width(block: Block, number: int, head: str) -> int:
    cells = (line for section in block.sections for row in section.rows for line in row.cells[number - 1])
    return max(map(_width, [_wrapped(head, HEAD_WIDTH), *map(_compact, cells)]))


def _width(text: str) -> int:
    """How many columns of a terminal the widest line takes."""
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")))


def _group_heads(part: Sequence[ColumnGroup], label: int, widths: Sequence[int]) -> Iterator[str]:
    """Two lines: the metrics, each in the middle above its columns, and a rule below each."""
    first = part[0].first
    spans = [_span(widths[group.first - first : group.last + 1 - first]) for group in part]
    for cells in ([printable(group.title) for group in part], ["─" * span for span in spans]):
        heads = (cell.center(span) for cell, span in zip(cells, spans, strict=True))
        yield (" " * GAP).join([" " * label, *heads]).rstrip()


def _grid(block: Block, part: Sequence[ColumnGroup], label: int, widths: Sequence[int]) -> Table:
    """The last row of heads, and the rows."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    grid.add_column("", width=label, overflow="fold")
    heads = [title or group.title for group in part for title in group.titles]
    for head, width in zip(heads, widths, strict=True):
        grid.add_column(Text(_wrapped(head, HEAD_WIDTH)), justify="right", no_wrap=True, width=width)
    numbers = [number for group in part for number in range(group.first, group.last + 1)]
    for place, section in enumerate(block.sections):
        if place:
            grid.add_section()
        if section.title:
            grid.add_row(Text(_wrapped(section.title), style="italic"))
        for row in section.rows:
            cells = ("\n".join(map(_compact, row.cells[number - 1])) for number in numbers)
            grid.add_row(Text(_wrapped(row.label)), *map(Text, cells))
    return grid


def _compact(line: str) -> str:
    """A line of a cell without what a narrow column has no room for."""
    return line.replace(" ± ", "±")


def _wrapped(text: str, width: int = LABEL_WIDTH) -> str:
    """Text in lines of about `width`, broken at spaces."""
    lines = [""]
    for word in printable(text).split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _left_out(document: Document) -> Iterator[str]:
    """A line for each kind of run that was left out, some named, the others counted."""
    by_kind: dict[str, list[str]] = {}
    for run in document.left_out:
        by_kind.setdefault(run.kind, []).append(f"{run.run or run.folder} ({_shortened(run.reason)})")
    for kind, runs in by_kind.items():
        more = f" and {len(runs) - SHOWN} more, all in --format json" if len(runs) > SHOWN else ""
        yield f"Left out, {kind}: {', '.join(runs[:SHOWN])}{more}"


def printable(value: Any) -> str:
    """Text without the characters that steer a terminal or stand for nothing; white space is a space."""
    words = str(value).split()
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in " ".join(words))


def _shortened(reason: str, length: int = 160) -> str:
    reason = printable(reason)
    return reason if len(reason) <= length else reason[: length - 3] + "..."


# ---------------------------------------------------------------------------------- Markdown, LaTeX, HTML

LATEX_TAGS = {
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "block_start_string": "<%",
    "block_end_string": "%>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}
"""Of the LaTeX template: jinja2's own are braces, and LaTeX is full of them."""


def markdown(documents: Sequence[Document]) -> str:
    """GitHub's Markdown. One row of heads is all it has: ratios stand in bold in the first row of the body."""
    return _rendered("tables.md.j2", documents, finalize=_markdown_text)


def latex(documents: Sequence[Document]) -> str:
    """Tables for the package booktabs."""
    return _rendered("tables.tex.j2", documents, finalize=_latex_text, **LATEX_TAGS)


def html(documents: Sequence[Document]) -> str:
    """One page of its own."""
    return _rendered("tables.html.j2", documents, finalize=printable, autoescape=True)


def _rendered(template: str, documents: Sequence[Document], *, finalize: Callable[[Any], str], **options: Any) -> str:
    """A template filled in. `finalize` escapes all that is put into it, so that no template can forget to."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - `finalize` escapes whatever is put into a template
        loader=PackageLoader("ssldet.report"),
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters["footnotes"] = _footnotes
    return environment.get_template(template).render(documents=documents)


def _footnotes(document: Document) -> tuple[str, ...]:
    """What stands below a table: its notes, then the runs that were left out."""
    return (*document.notes, *_left_out(document))


def _markdown_text(value: Any) -> str:
    """Text that stands for itself in GitHub's Markdown, in one line."""
    text = re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", printable(value))
    return re.sub(r"(?<!\w)@", "&#64;", text)  # a name after it would be told


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "[": "{[}",  # after a line's end, it would be an argument
    "]": "{]}",
}


def _latex_text(value: Any) -> str:
    """Text that stands for itself in LaTeX, in one line."""
    return "".join(_TEX.get(sign, sign) for sign in printable(value))


# ----------------------------------------------------------------------------------------------- CSV, JSON


def as_csv(documents: Sequence[Document]) -> str:
    """One line a number, contrast, rank, cost and run left out, which its `kind` says; lists are joined with ";"."""
    import pandas

    rows = [row for document in documents for row in _csv_rows(document)]
    cells = [{name: _csv_value(value) for name, value in row.items()} for row in rows]
    frame = pandas.DataFrame(cells, dtype=object)  # whole numbers stay whole beside empty cells
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def _csv_rows(document: Document) -> Iterator[dict[str, Any]]:
    kinds = {"number": document.entries, "contrast": document.contrasts, "rank": document.ranks, "cost": document.costs}
    yield from ({"kind": kind, **row} for kind, rows in kinds.items() for row in rows)
    for run in document.left_out:
        yield {"kind": "left out", "table": document.name, **_renamed(as_dict(run))}


def _renamed(left_out: dict[str, Any]) -> dict[str, Any]:
    return {{"run": "runs", "kind": "left_out_for"}.get(key, key): value for key, value in left_out.items()}


def _csv_value(value: Any) -> Any:
    """A value as a spreadsheet takes it: text that it would compute gets an apostrophe before it."""
    if isinstance(value, list | tuple):
        value = ";".join(map(str, value))
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return "'" + value
    return value


def as_json(documents: Sequence[Document]) -> str:
    """Everything: numbers, runs left out, settings and notes of each table."""
    content = [
        {
            "table": document.name,
            "title": document.title,
            **document.facts,
            "caption": document.caption,
            "entries": document.entries,
            "contrasts": document.contrasts,
            "ranks": document.ranks,
            "costs": document.costs,
            "left_out": [as_dict(run) for run in document.left_out],
            "notes": document.notes,
        }
        for document in documents
    ]
    return json.dumps(plain({"tables": content}), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[Document]], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
    "json": as_json,
    "html": html,
}
"""Format -> what writes it."""
