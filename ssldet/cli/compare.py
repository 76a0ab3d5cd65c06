"""`ssldet compare`: two runs, or two sets of seeds, held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssldet.cli.options import json_flag, results_folders
from ssldet.cli.output import aligned, next_step, print_json, stdout_console
from ssldet.cli.run_choice import complete_runs

if TYPE_CHECKING:
    from rich.table import Table

    from ssldet.report.comparable_runs import Compared
    from ssldet.report.comparison import ColumnDifference, Comparison
    from ssldet.report.resampling import Interval

SHOWN_VIDEOS = 5

GROUP_WIDTH = 24
"""Columns; a video's id often has its group in it, and is shown whole."""


@click.command("compare", epilog="Example: ssldet compare results/dual_guidance results/supervised --metric V@0.5")
@click.argument("first", metavar="RUN|FOLDER", shell_complete=complete_runs)
@click.argument("second", metavar="RUN|FOLDER", shell_complete=complete_runs)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="A column, such as V@0.5 or video_map:yowo:0.5; several are allowed.  [default: V@0.5 and F@0.5]",
)
@click.option("--draws", type=click.IntRange(min=1), default=2000, show_default=True, help="Draws of the test videos.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of these draws.")
@results_folders
@json_flag
def command(
    first: str,
    second: str,
    metrics: tuple[str, ...],
    draws: int,
    seed: int,
    results: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show first - second, with an interval over seeds and one over test videos: in all, by class, by video.

    Each side is a run's id or folder, several with commas between, a folder with runs of one configuration, or the name
    of others' detections (`ssldet evaluate --record`). Seeds are paired. Nothing is read but what runs leave: neither
    data nor detections. Tables are in percent, JSON in fractions 0-1.
    """
    from ssldet.report.comparison import compare
    from ssldet.util.files import plain

    comparison = compare(first, second, metrics=metrics or None, results=results or None, draws=draws, seed=seed)
    if as_json:
        print_json(plain(comparison))
    else:
        _show(comparison)


def _show(comparison: Comparison) -> None:
    console = stdout_console()
    console.print(aligned([("", ""), *_head(comparison)]).strip("\n"), highlight=False, markup=False, soft_wrap=True)
    for title, table in (
        ("\nPercent; intervals of 95 %", _of_columns(comparison)),
        ("\nBy class", _of_classes(comparison)),
        (
            "\nVideos that moved a difference most: the difference with all videos less the one without it",
            _of_videos(comparison),
        ),
    ):
        if table.row_count:
            console.print(title, highlight=False, markup=False)
            console.print(table)
    if any(each.few for column in comparison.columns for each in column.classes):
        console.print("* fewer than 5 groups of test videos: their intervals over videos say little", highlight=False)
    console.print()
    for remark in comparison.remarks:
        console.print(remark, highlight=False, markup=False)
    next_step("`ssldet runs show RUN --videos` shows which videos are worst; --json is for scripts")


def _head(comparison: Comparison) -> Iterator[tuple[str, str]]:
    yield "first", _side(comparison.first)
    yield "second", _side(comparison.second)
    yield "first has", ", ".join(comparison.settings) or "the same settings: what differs is noise of the seed"
    groups = f", {comparison.groups} groups" if comparison.groups < comparison.videos else ""
    yield "tested on", f"{comparison.dataset}, split {comparison.split}, {comparison.videos} videos{groups}"
    for side in (comparison.first, comparison.second):
        for left_out in side.left_out:
            yield "left out", f"{left_out.run}, {left_out.kind}: {left_out.reason}"


def _side(side: Compared) -> str:
    if None in side.seeds:
        return side.title
    runs = ", ".join(f"{run} (seed {seed})" for run, seed in zip(side.runs, side.seeds, strict=True))
    return f"{side.title}: {runs}"


def _of_columns(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table()
    for title in ("", "metric", "first", "second", "difference", "over seeds", "p", "over videos"):
        table.add_column(title, justify="right" if title not in ("", "metric") else "left")
    for column in comparison.columns:
        table.add_row(
            column.title,
            f"{column.metric}, {column.protocol}",
            f"{100 * column.first:.2f}",
            f"{100 * column.second:.2f}",
            f"{100 * column.difference:+.2f}",
            _interval(column.over_seeds),
            "-" if column.p is None else f"{column.p:.3f}",
            _interval(column.over_videos),
        )
    return table


def _of_classes(comparison: Comparison) -> Table:
    """A line a class; * marks those whose intervals over videos say little."""
    from rich.table import Table

    table = Table()
    with_seeds = len(comparison.pairs) > 1
    table.add_column("class", no_wrap=True)
    table.add_column("groups", justify="right")
    for column in comparison.columns:
        table.add_column(column.title, justify="right")
        for title in ("over seeds", "over videos") if with_seeds else ("over videos",):
            table.add_column(title, justify="right")
    names = dict.fromkeys(
        (each.name, each.groups, each.few) for column in comparison.columns for each in column.classes
    )
    for name, groups, is_few in names:
        cells = [cell for column in comparison.columns for cell in _cells(column, name, with_seeds)]
        table.add_row(name, f"{groups}{'*' if is_few else ''}", *cells)
    return table


def _cells(column: ColumnDifference, name: str, with_seeds: bool) -> list[str]:
    found = next((each for each in column.classes if each.name == name), None)
    if found is None:
        return ["-"] * (3 if with_seeds else 2)
    seeds = [_interval(found.over_seeds)] if with_seeds else []
    return [f"{100 * found.difference:+.2f}", *seeds, _interval(found.over_videos)]


def _of_videos(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("")
    table.add_column("video", overflow="fold")
    table.add_column("group", no_wrap=True, max_width=GROUP_WIDTH)
    table.add_column("points", justify="right")
    for column in comparison.columns:
        for video in column.videos[:SHOWN_VIDEOS]:
            table.add_row(column.title, video.id, video.group, f"{100 * video.share:+.2f}")
    return table


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"
