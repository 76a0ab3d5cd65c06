"""`ssldet split`: labelled and unlabelled videos, drawn, shown, checked, or taken from someone's list."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.completion import complete_plugins
from ssldet.cli.options import data_options, data_root, data_settings, json_flag, open_data, split_number
from ssldet.cli.output import print_json

if TYPE_CHECKING:
    from ssldet.data.splits import LabelSplit


@click.group(epilog="Example: ssldet split show ucf24")
def command() -> None:
    """Make, show and check splits into labelled and unlabelled videos."""


@command.command("make", epilog="Example: ssldet split make ava ava-20.json --ratio 0.2 --data-root data")
@click.argument("name", metavar="D", shell_complete=complete_plugins("dataset"))
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
        print_json({"file": str(out), **_summary(chosen), "left_out": unknown})
    else:
        click.echo(f"{out}: {_words(chosen)}")


@command.command("show", epilog="Example: ssldet split show ucf24")
@click.argument("file", type=click.Path(path_type=Path), shell_complete=complete_plugins("dataset"))
@json_flag
def show(file: Path, as_json: bool) -> None:
    """Show a split file: how many videos of each class are labelled. FILE may be NAME of a data set that ships some."""
    content = [_summary(split) for split in _splits_of(file)]
    if as_json:
        print_json(content)
        return
    for split, row in zip(_splits_of(file), content, strict=True):
        click.echo(_words(split))
        if len(content) == 1:
            for folder, (labelled, every) in row["folders"].items():
                click.echo(f"  {folder}: {labelled} of {every}")


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
    from ssldet.errors import RequestError

    if assignments and not files:
        raise RequestError("--set is about the data set of the FILES given, and none is given")
    options = data_options(assignments)
    found = [split for file in files for split in _splits_of(file)] if files else _shipped()
    rows = [_check(split, data_root, options) for split in found]
    if as_json:
        print_json(rows)
    for row in () if as_json else rows:
        click.echo(f"{row['split']}: {row['found']}")
    sys.exit(1 if any(row["differs"] for row in rows) else 0)


def _check(split: LabelSplit, data_root: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a split is what the data at hand gives."""
    from ssldet.data.datasets import load_dataset
    from ssldet.data.split_files import differences
    from ssldet.errors import DataError

    try:
        dataset = load_dataset(split.dataset, data_root, **options)
        videos = dataset.videos("train", split.split)
    except DataError as error:
        found = f"unchanged; not compared with the data ({str(error).splitlines()[0]})"
        return {"split": _words(split), "differs": False, "found": found}
    differing = differences(split, videos, dataset.facts.classes)
    return {"split": _words(split), "differs": bool(differing), "found": "; ".join(differing) or "the same as the data"}


def _splits_of(file: Path) -> list[LabelSplit]:
    """The split of a file, or those that ship with the data set of that name."""
    from ssldet import plugins
    from ssldet.data import split_files, splits
    from ssldet.errors import SplitError

    if file.exists() or str(file) not in plugins.names("dataset"):
        return [splits.read(file)]
    found = split_files.frozen(plugins.load("dataset", str(file)))
    if not found:
        raise SplitError(f"no splits ship with {file}; make one with: ssldet split make {file} FILE --ratio R")
    return found


def _shipped() -> list[LabelSplit]:
    from ssldet import plugins
    from ssldet.data import split_files
    from ssldet.errors import PluginError

    found = []
    for name in plugins.names("dataset"):
        try:
            found += split_files.frozen(plugins.load("dataset", name))
        except PluginError as error:
            click.echo(f"fault: {error}", err=True)
    return found


def _summary(split: LabelSplit) -> dict[str, Any]:
    labelled = Counter(video_id.rpartition("/")[0] for video_id in split.labelled)
    parts = (split.labelled, split.unlabelled, split.validation)
    every = Counter(video_id.rpartition("/")[0] for part in parts for video_id in part)
    return {
        "dataset": split.dataset,
        "split": split.split,
        "ratio": split.ratio,
        "seed": split.seed,
        "hash": split.hash,
        "labelled": len(split.labelled),
        "unlabelled": len(split.unlabelled),
        "validation": len(split.validation),
        "folders": {name: (labelled[name], count) for name, count in sorted(every.items())},
    }


def _words(split: LabelSplit) -> str:
    drawn = "imported" if split.seed < 0 else f"seed {split.seed}"
    parts = f"{len(split.labelled)} labelled, {len(split.unlabelled)} unlabelled"
    held = f", {len(split.validation)} validation" if split.validation else ""
    return f"{split.dataset} split {split.split}, ratio {split.ratio:g}, {drawn}: {parts}{held} ({split.hash[:12]})"
