"""`ssldet split`: labelled and unlabelled videos, drawn, shown, checked, or taken from someone's list."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from ssldet.cli.completion import complete_plugins
from ssldet.cli.options import PluginName, data_options, data_root, data_settings, json_flag, open_data, split_number
from ssldet.cli.output import next_step, print_json


@click.group(epilog="Example: ssldet split show ucf24")
def command() -> None:
    """Make, show and check splits into labelled and unlabelled videos."""


@command.command("make", epilog="Example: ssldet split make ava ava-20.json --ratio 0.2 --data-root data")
@click.argument("name", metavar="D", type=PluginName("dataset"), shell_complete=complete_plugins("dataset"))
@click.argument("out", type=click.Path(path_type=Path))
@data_root
@split_number
@data_settings
@click.option("--ratio", type=float, help="Share of training videos that keep their labels, in (0, 1].")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draw.")
@click.option("--val-fraction", type=float, default=0.0, help="Share of labelled videos kept for validation.")
@click.option("--from", "listed", type=click.Path(path_type=Path), help="Published list of labelled videos.")
@json_flag
def make(
    name: str,
    out: Path,
    data_root: Path | None,
    split: int,
    assignments: tuple[str, ...],
    ratio: float | None,
    seed: int,
    val_fraction: float,
    listed: Path | None,
    as_json: bool,
) -> None:
    """Draw a split of data set D, the same as a run with this ratio and seed draws, or import a published list."""
    from ssldet.data import split_files, splits
    from ssldet.data.split_summary import in_words, summary
    from ssldet.errors import ConfigError

    if (ratio is None) == (listed is None):
        raise ConfigError("give either --ratio, to draw a split, or --from, to import a list")
    dataset = open_data(name, data_root, assignments)
    videos = dataset.videos("train", split)
    facts = dataset.facts
    unknown: list[str] = []
    if listed is not None:
        chosen, unknown = split_files.imported(facts.name, listed, videos, split)
    else:
        assert ratio is not None
        chosen = splits.draw(
            facts.name, videos, facts.classes, split=split, ratio=ratio, seed=seed, val_fraction=val_fraction
        )
    splits.write(chosen, out)
    for video_id in unknown:
        click.echo(f"left out: {video_id} is no training video here", err=True)
    if as_json:
        print_json({"file": str(out), **summary(chosen), "left_out": unknown})
    else:
        click.echo(f"{out}: {in_words(chosen)}")
        next_step(f"`ssldet split show {out}` shows it video by video")


@command.command("show", epilog="Example: ssldet split show ucf24")
@click.argument("file", type=click.Path(path_type=Path), shell_complete=complete_plugins("dataset"))
@json_flag
def show(file: Path, as_json: bool) -> None:
    """Show a split file: how many videos of each class are labelled. FILE may be NAME of a data set that ships some."""
    from ssldet.data.split_summary import find_splits, in_words, summary

    found = find_splits(file)
    content = [summary(split) for split in found]
    if as_json:
        print_json(content)
        return
    for split, row in zip(found, content, strict=True):
        click.echo(in_words(split))
        if len(content) == 1:
            for folder, (labelled, every) in row["folders"].items():
                click.echo(f"  {folder}: {labelled} of {every}")
    next_step(f"`ssldet split verify {file} --data-root DIR` compares it with the data")


@command.command("verify", epilog="Example: ssldet split verify --data-root data")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@data_root
@data_settings
@json_flag
def verify(files: tuple[Path, ...], data_root: Path | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Check split files, or all that ship with the installed data sets: unchanged, and the same as the data gives.

    Without the data at hand only the hashes are checked. A split file does not say which options its data set had:
    --set gives them. Exit 1 where something differs.
    """
    from ssldet.data.split_summary import compare_with_data, find_splits, shipped_splits
    from ssldet.errors import RequestError

    if assignments and not files:
        raise RequestError("--set is about the data set of the FILES given, and none is given")
    options = data_options(assignments)
    found = [split for file in files for split in find_splits(file)] if files else shipped_splits(_say_fault)
    checks = [compare_with_data(split, data_root, options) for split in found]
    if as_json:
        print_json([asdict(check) for check in checks])
    for check in () if as_json else checks:
        click.echo(f"{check.split}: {check.found}")
    differs = any(check.differs for check in checks)
    if not as_json:
        look = "`ssldet data verify D` says whether the data are whole, then the same command"
        next_step(look if differs else "`ssldet run --dataset D --ratio R` trains on such a split")
    sys.exit(1 if differs else 0)


def _say_fault(fault: str) -> None:
    click.echo(f"fault: {fault}", err=True)
