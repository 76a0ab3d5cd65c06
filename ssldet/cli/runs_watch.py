"""`ssldet runs watch`: a run while it is carried out, here or on any machine that shares its results folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssldet.cli.curve_view import curve_rows
from ssldet.cli.options import json_flag, results_folders
from ssldet.cli.output import next_step, print_json, results_words, stdout_console
from ssldet.cli.run_choice import chosen_run, complete_runs, places_of, runs_in

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ssldet.runs.store import RunEntry
    from ssldet.runs.watching import Watched


@click.command("watch", epilog="Example: ssldet runs watch 3f2a")
@click.argument("name", metavar="[RUN]", required=False, shell_complete=complete_runs)
@click.option("--every", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Look once.")
@results_folders
@json_flag
def watch_run(name: str | None, every: float, once: bool, results: tuple[Path, ...], as_json: bool) -> None:
    """Show how far RUN has come, and the curves of its log as they grow. Ctrl-C leaves; the run goes on.

    Without RUN: the one that is being carried out, of several the last that wrote something. Only the run's folder is
    read, so that it may be carried out anywhere that shares the disk. Where output is no terminal, a line is printed
    for each line of the log. --json looks once.

    Exit codes: 0 the run is done, or was looked at once; 1 it failed, or nobody carries it out.
    """
    from ssldet.runs.watching import run_to_watch, watched

    entry = chosen_run(name, results) if name else run_to_watch(runs_in(results), places_of(results))
    if as_json:
        print_json(_plain(watched(entry)))
        return
    console = stdout_console()
    looks = iter([watched(entry)]) if once else _until_over(entry, every)
    last = _draw(looks, console) if console.is_terminal or once else _print_lines(looks)
    if last.is_over:
        _say_end(last, results[0] if len(results) == 1 else None)
        if last.phase != "done" and not once:
            sys.exit(1)


def _until_over(entry: RunEntry, every: float) -> Iterator[Watched]:
    from ssldet.runs.watching import watched

    while True:
        look = watched(entry)
        yield look
        if look.is_over:
            return
        time.sleep(every)


def _draw(looks: Iterator[Watched], console: Console) -> Watched:
    """On a terminal, in place; what was seen last stays."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for look in looks:
            live.update(_picture(look, console.width), refresh=True)
    return look


def _print_lines(looks: Iterator[Watched]) -> Watched:
    """A line for each line of the log that is new; at first the newest alone."""
    shown = -1
    for look in looks:
        new = [line for line in look.lines if line["step"] > shown]
        for line in new[-1:] if shown < 0 else new:
            losses = " ".join(f"{term} {value:.4g}" for term, value in (line.get("losses") or {}).items())
            click.echo(f"{look.phase}: {line['step']}/{look.steps or '?'} steps {losses}")
        shown = max(shown, look.step)
    return look


def _picture(look: Watched, width: int) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from ssldet.runs.curves import curves

    bar = Table.grid(padding=(0, 1))
    bar.add_row(look.phase, ProgressBar(total=look.steps or 1, completed=look.step, width=40), _progress(look))
    numbers = Table(box=None, padding=(0, 1), header_style="dim")
    rows = curve_rows(curves(look.lines), width=max(24, min(60, width - 60)))
    for place, title in enumerate(rows[0] if rows else ()):
        numbers.add_column(title, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows[1:]:
        numbers.add_row(*row)
    return Group(Text(_title(look), style="bold"), bar, numbers if rows else Text("its log has no curves yet"))


def _title(look: Watched) -> str:
    where = f", on {look.owner.host}" if look.owner else ""
    return f"{look.entry.folder.name}{where}"


def _progress(look: Watched) -> str:
    from ssldet.cli.run import duration

    left = look.seconds_left
    said = f"{look.step}/{look.steps or '?'} steps"
    return said if left is None or look.is_over or not left else f"{said}, {duration(left)} of training left"


def _say_end(look: Watched, results: Path | None) -> None:
    entry = look.entry
    if look.phase == "done":
        next_step(f"`ssldet runs show {entry.id}{results_words(results)}` shows its numbers")
    else:
        click.echo(f"run {entry.id} is {look.phase}: {entry.problem}", err=True)


def _plain(look: Watched) -> dict[str, object]:
    from ssldet.runs.curves import as_json, curves
    from ssldet.util.files import plain

    return {
        "run": look.entry.id,
        "folder": str(look.entry.folder),
        "phase": look.phase,
        "step": look.step,
        "steps": look.steps,
        "seconds_left": look.seconds_left,
        "host": look.owner.host if look.owner else None,
        "log": plain(list(look.lines)),
        "curves": as_json(curves(look.lines)),
    }
