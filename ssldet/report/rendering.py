"""Tables as text: terminal, Markdown, LaTeX, CSV, JSON and HTML. All that comes from records is escaped.

render(documents, format)       the whole text of a format
show(documents, console)        on a rich console, in its width
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ssldet.errors import UnknownName
from ssldet.report.documents import Block, Document, as_dict
from ssldet.util.files import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAIN_WIDTH = 100
"""Columns of the terminal format where there is no terminal."""

LABEL_WIDTH = 16
"""Of row labels in the terminal format; "Fully-Supervised" has as many letters."""

SHOWN = 3
"""How many runs of a kind are named below a table; csv and json have all."""


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
            console.print(Text(_printable(line)))
        for block in document.blocks:
            if block.title:
                console.print(Text(block.title, style="bold"))
            for part in _parts(block, console):
                console.print(_grid(block, part))
        for line in (*document.notes, *_left_out(document)):
            console.print(Text(_printable(line), style="dim"))


def _parts(block: Block, console: Console) -> Iterator[list[int]]:
    """The columns in groups of metrics, as many as fit the width."""
    groups = [list(found) for _, found in groupby(range(len(block.columns)), key=lambda i: block.columns[i][0])]
    unlimited = console.options.update(max_width=10_000)
    part: list[int] = []
    for group in groups:
        if part and console.measure(_grid(block, part + group), options=unlimited).maximum > console.width:
            yield part
            part = []
        part = part + group
    yield part


def _grid(block: Block, part: Sequence[int]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("", min_width=LABEL_WIDTH)
    for i in part:
        heading = Text("\n".join(_wrapped(word) for word in block.columns[i] if word))
        grid.add_column(heading, justify="right", no_wrap=True)
    for number, section in enumerate(block.sections):
        if number:
            grid.add_section()
        if section.title:
            grid.add_row(Text(_wrapped(section.title), style="italic"))
        for row in section.rows:
            cells = ["\n".join(line.replace(" ± ", "±") for line in row.cells[i]) for i in part]
            grid.add_row(Text(_wrapped(row.label)), *map(Text, cells))
    return grid


def _wrapped(text: str, width: int = LABEL_WIDTH) -> str:
    """Text in lines of about `width`, broken at spaces."""
    lines = [""]
    for word in _printable(text).split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _left_out(document: Document) -> Iterator[str]:
    """A line for each kind of run that was left out, some named, the others counted."""
    by_kind: dict[str, list[str]] = {}
    for found in document.left_out:
        by_kind.setdefault(found.kind, []).append(f"{found.run or found.folder} ({_shortened(found.reason)})")
    for kind, runs in by_kind.items():
        more = f" and {len(runs) - SHOWN} more, all in --format json" if len(runs) > SHOWN else ""
        yield f"Left out, {kind}: {', '.join(runs[:SHOWN])}{more}"


def _printable(text: str) -> str:
    """Text without the characters that steer a terminal or stand for nothing; white space is a space."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in " ".join(text.split()))


def _shortened(reason: str, length: int = 160) -> str:
    reason = _printable(reason)
    return reason if len(reason) <= length else reason[: length - 3] + "..."


# ------------------------------------------------------------------------------------------------- Markdown


def markdown(documents: Sequence[Document]) -> str:
    return "\n".join(line for document in documents for line in _markdown(document))


def _markdown(document: Document) -> Iterator[str]:
    yield f"## {_md(document.title)}\n"
    for line in document.caption:
        yield _md(line) + "\n"
    for block in document.blocks:
        if block.title:
            yield f"### {_md(block.title)}\n"
        yield from _markdown_grid(block)
        yield ""
    for line in (*document.notes, *_left_out(document)):
        yield f"- {_md(line)}"
    yield ""


def _markdown_grid(block: Block) -> Iterator[str]:
    heads = ["", *(", ".join(filter(None, column)) for column in block.columns)]
    yield _md_row(heads)
    yield "|---|" + "---:|" * len(block.columns)
    for section in block.sections:
        if section.title:
            yield _md_row([section.title, *[""] * len(block.columns)], "*{}*")
        for row in section.rows:
            yield _md_row([row.label, *(" ".join(cell) for cell in row.cells)])


def _md_row(cells: Sequence[str], first: str = "{}") -> str:
    head, *rest = map(_md, cells)
    return f"| {' | '.join([first.format(head), *rest])} |"


def _md(text: str) -> str:
    """Text that stands for itself in GitHub's Markdown, in one line."""
    text = re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", _printable(text))
    return re.sub(r"(?<!\w)@", "&#64;", text)  # a name after it would be told


# ---------------------------------------------------------------------------------------------------- LaTeX


def latex(documents: Sequence[Document]) -> str:
    blocks = (line for document in documents for block in document.blocks for line in _latex(document, block))
    return "% needs \\usepackage{booktabs} and \\usepackage[utf8]{inputenc}\n" + "\n".join(blocks) + "\n"


def _latex(document: Document, block: Block) -> Iterator[str]:
    title = f"{document.title}: {block.title}" if block.title else document.title
    first = block is document.blocks[0]
    yield "\\begin{table}"
    yield "\\centering"
    yield f"\\caption{{{_tex(title)}. {' '.join(map(_tex, document.caption))}}}"
    yield f"\\begin{{tabular}}{{l{'r' * len(block.columns)}}}"
    yield "\\toprule"
    yield from _latex_head(block)
    for section in block.sections:
        yield "\\midrule"
        if section.title:
            yield f"\\multicolumn{{{1 + len(block.columns)}}}{{l}}{{\\emph{{{_tex(section.title)}}}}} \\\\"
        for row in section.rows:
            yield " & ".join([_tex(row.label), *(_tex(" ".join(cell)) for cell in row.cells)]) + " \\\\"
    yield "\\bottomrule"
    yield "\\end{tabular}"
    for line in (*document.notes, *_left_out(document)) if first else ():
        yield f"\\par {{\\footnotesize {_tex(line)}}}"
    yield "\\end{table}"


def _latex_head(block: Block) -> Iterator[str]:
    """Two rows, groups over titles; one where columns have no groups."""
    if any(title for _, title in block.columns):
        groups = [(group, len(list(found))) for group, found in groupby(block.columns, key=lambda column: column[0])]
        yield " & ".join(["", *(f"\\multicolumn{{{n}}}{{c}}{{{_tex(group)}}}" for group, n in groups)]) + " \\\\"
        edges, start = [], 2
        for _, n in groups:
            edges.append(f"\\cmidrule(lr){{{start}-{start + n - 1}}}")
            start += n
        yield " ".join(edges)
    yield " & ".join(["", *(_tex(title or group) for group, title in block.columns)]) + " \\\\"


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


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in _printable(text))


# ----------------------------------------------------------------------------------------------------- HTML

_STYLE = """body { font-family: sans-serif; margin: 2em; max-width: 75em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .2em .7em; text-align: right; vertical-align: top }
th[scope=row], th[scope=rowgroup] { text-align: left; font-weight: normal }
thead { border-bottom: 1px solid } tbody { border-bottom: 1px solid #999 }
th[scope=rowgroup] { font-style: italic } .paper { color: #666 } li, p { line-height: 1.4 }"""


def page(documents: Sequence[Document]) -> str:
    """A page that needs no other file and runs nothing."""
    title = ", ".join(document.title.partition(".")[0] for document in documents)
    body = "\n".join(line for document in documents for line in _html(document))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
        f"<style>\n{_STYLE}\n</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(document: Document) -> Iterator[str]:
    yield f"<h2>{_text(document.title)}</h2>"
    yield from (f"<p>{_text(line)}</p>" for line in document.caption)
    for block in document.blocks:
        if block.title:
            yield f"<h3>{_text(block.title)}</h3>"
        yield from _html_grid(block)
    yield from _html_list(document.notes)
    if document.left_out:
        yield f"<details><summary>{len(document.left_out)} runs left out</summary>"
        yield from _html_list(
            f"{found.kind}: {found.run} in {found.folder}: {found.reason}" for found in document.left_out
        )
        yield "</details>"


def _html_grid(block: Block) -> Iterator[str]:
    yield "<table>\n<thead>"
    groups = [(group, len(list(found))) for group, found in groupby(block.columns, key=lambda column: column[0])]
    yield "<tr><td></td>" + "".join(f'<th colspan="{n}">{_text(group)}</th>' for group, n in groups) + "</tr>"
    if any(title for _, title in block.columns):
        yield "<tr><td></td>" + "".join(f"<th>{_text(title)}</th>" for _, title in block.columns) + "</tr>"
    yield "</thead>"
    for section in block.sections:
        yield "<tbody>"
        if section.title:
            yield f'<tr><th scope="rowgroup" colspan="{1 + len(block.columns)}">{_text(section.title)}</th></tr>'
        for row in section.rows:
            cells = "".join(f"<td>{_html_cell(cell)}</td>" for cell in row.cells)
            yield f'<tr><th scope="row">{_text(row.label)}</th>{cells}</tr>'
        yield "</tbody>"
    yield "</table>"


def _html_cell(lines: Sequence[str]) -> str:
    parts = (f'<span class="paper">{_text(line)}</span>' if line.startswith("(") else _text(line) for line in lines)
    return "<br>".join(parts)


def _html_list(lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    if items:
        yield f"<ul>{items}</ul>"


def _text(text: str) -> str:
    return html.escape(_printable(text), quote=True)


# ----------------------------------------------------------------------------------------------- CSV, JSON


def as_csv(documents: Sequence[Document]) -> str:
    """One line a number ("number"), then one a run left out ("left out"); lists are joined with ";"."""
    rows = [row for document in documents for row in _csv_rows(document)]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_value(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _csv_rows(document: Document) -> Iterator[dict[str, Any]]:
    yield from ({"kind": "number", **entry} for entry in document.entries)
    for found in document.left_out:
        yield {"kind": "left out", "table": document.name, **_renamed(as_dict(found))}


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
            "left_out": [as_dict(found) for found in document.left_out],
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
    "html": page,
}
"""Format -> what writes it."""
