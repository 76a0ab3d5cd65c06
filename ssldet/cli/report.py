"""`ssldet report`: what runs gave, as pages to look through."""

from __future__ import annotations

from pathlib import Path

import click

from ssldet.cli.options import FOLDER, data_root, json_flag, results_folders
from ssldet.cli.output import next_step, print_json

SHOWN = 5
"""Reasons of each kind that are said in the terminal; the pages have all of them."""


@click.command("report", epilog="Example: ssldet report --out site")
@click.option("--out", type=FOLDER, required=True, help="Folder for the pages: new, empty, or an earlier report.")
@click.option(
    "--worst",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="Of each run's videos, the worst so many by pictures and a clip; they need its detections and the data.",
)
@results_folders
@data_root
@json_flag
def command(out: Path, worst: int, results: tuple[Path, ...], data_root: Path | None, as_json: bool) -> None:
    """Write pages about all runs: leaderboard, tables, each run, and runs held against each other.

    They open from a file, without a server or a network: SITE/index.html. What records, logs and per-video matches tell
    is always there; what hangs on detections and data where these are. What is left out is listed.
    """
    from ssldet.report.site import build_site
    from ssldet.util.files import plain

    say = (lambda text: None) if as_json else (lambda text: click.echo(text, err=True))
    written = build_site(results or None, out, data_root=data_root, worst=worst, say=say)
    if as_json:
        print_json(plain(written))
        return
    for left_out in written.left_out[:SHOWN]:
        click.echo(f"left out: {left_out.run or left_out.folder}, {left_out.kind}: {left_out.reason}", err=True)
    if len(written.left_out) > SHOWN:
        click.echo(f"left out: {len(written.left_out) - SHOWN} more, all in {written.index}", err=True)
    counts = f"{written.runs} runs, {written.tables} tables, {written.comparisons} comparisons"
    click.echo(f"{written.index}: {counts}, {written.size / 1e6:.1f} MB")
    next_step(f"open {written.index} in a browser")
