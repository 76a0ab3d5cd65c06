"""What verbs write: results on stdout; bars, questions and news on stderr. Colour and bars are for terminals."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 120
"""Columns of a table that is written to a file or a pipe; rich would take 80."""


def print_json(content: Any) -> None:
    """Plain data as JSON."""
    click.echo(json.dumps(content, indent=2))


def next_step(text: str) -> None:
    """One line on stderr that says what to do next; a verb that prints JSON, or a file for others, does not say it."""
    click.echo(f"next: {text}", err=True)


def results_words(results: Path | None) -> str:
    """`--results` as the next command needs it: nothing where runs lie in the usual place."""
    from ssldet.runs import layout

    return "" if results in (None, layout.RESULTS) else f" --results {results}"


def stdout_console() -> Console:
    """Where tables are printed: with colour on a terminal that wants it, wide enough elsewhere."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    return console


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns; a column that is empty below its title is left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:]) or len(rows) == 1]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def sparkline(values: Sequence[float | None], *, top: float | None = None, width: int = 24) -> str:
    """Numbers as at most `width` blocks, each the mean of its share of them; None is a gap.

    Args:
        values: the numbers, in order.
        top: the full height, over 0; None takes the least and the greatest of what is drawn.
        width: characters.
    """
    means = _binned(values, min(width, len(values)))
    known = [mean for mean in means if mean is not None]
    low, high = (min(known, default=0.0), max(known, default=0.0)) if top is None else (0.0, top)
    return "".join(
        " " if mean is None else _block((mean - low) / (high - low) if high > low else 0.0) for mean in means
    )


def _binned(values: Sequence[float | None], count: int) -> list[float | None]:
    """The means of `count` neighbouring shares of the values, of those that are known."""
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    shares = [[value for value in values[start:end] if value is not None] for start, end in pairwise(edges)]
    return [sum(share) / len(share) if share else None for share in shares]


def _block(height: float) -> str:
    blocks = "▁▂▃▄▅▆▇█"
    return blocks[round(min(max(height, 0.0), 1.0) * (len(blocks) - 1))]


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; gives what sets how much is done. Draws nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def confirm_removal(what: str, yes: bool) -> None:
    """Ask before `what` is removed, unless `yes` answers beforehand.

    Raises:
        RequestError: nobody can be asked. SsldetError: the answer is no.
    """
    from ssldet.errors import RequestError, SsldetError

    if yes:
        return
    if not can_ask():
        raise RequestError(f"{what} would be removed and nobody can be asked; --yes removes without asking")
    if not click.confirm(f"remove {what}?", err=True):
        raise SsldetError("nothing was removed")


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()
