"""`ssldet doctor`: this installation in words, for a bug report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.options import data_root, json_flag, results_folder, weights_root
from ssldet.cli.output import next_step, print_json

if TYPE_CHECKING:
    from ssldet.doctor import Report


@click.command("doctor", epilog="Example: ssldet doctor --data-root data")
@data_root
@weights_root
@results_folder
@click.option("--check", is_flag=True, help="Import each plugin in a process of its own.")
@json_flag
def command(
    data_root: Path | None, weights_root: Path | None, results: Path | None, check: bool, as_json: bool
) -> None:
    """Describe this installation: versions, devices, decoder, plugins, data and weights found, folders and disk.

    Made to be pasted into a bug report: of the environment it shows the variables of ssldet and of threads alone, and
    ~ for the home folder. Exit 1 when something is broken without which nothing works: torch, the decoder, or a plugin
    of ssldet itself; anything else is a problem that it names, and exit 0.
    """
    from ssldet.doctor import examine
    from ssldet.runs import layout

    report = examine(data_root, weights_root, results or layout.RESULTS, check=check)
    if as_json:
        print_json(asdict(report))
    else:
        click.echo("\n".join(_lines(report)))
        next_step(
            "mend what is listed, then the same command"
            if report.broken or report.problems
            else "`ssldet run --strategy supervised --dataset synthetic --preset smoke` is a first run"
        )
    sys.exit(1 if report.broken else 0)


def _lines(report: Report) -> Iterator[str]:
    for title, rows in report.sections.items():
        yield title
        for name, found in rows.items():
            yield from _row(name, found)
    for text in report.broken:
        yield f"broken: {text}"
    for text in report.problems:
        yield f"problem: {text}"
    if not report.broken and not report.problems:
        yield "no problems found"


def _row(name: str, found: Any, depth: int = 1) -> Iterator[str]:
    """Lines "name: what was found", indented; what a mapping or list holds stands below its name."""
    indent = "  " * depth
    if isinstance(found, dict):
        yield f"{indent}{name}:"
        for inner, value in found.items():
            yield from _row(inner, value, depth + 1)
    elif isinstance(found, list):
        yield f"{indent}{name}:"
        yield from (f"{indent}  {text}" for text in found)
    else:
        yield f"{indent}{name}: {found}"
