"""`ssldet weights`: what a weights file holds, whether it fits a network, and its conversion to our names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssldet.cli.completion import complete_settings
from ssldet.cli.options import json_flag, plugin_option, read_assignments
from ssldet.cli.output import next_step, print_json

if TYPE_CHECKING:
    from ssldet.contracts import Backbone
    from ssldet.detector.weights import WeightsReport

FILE = click.Path(path_type=Path)


@click.group(epilog="Example: ssldet weights inspect yowo_ucf24_16f_best.pth")
def command() -> None:
    """Inspect, verify and convert weights files. Nothing in a file is ever executed."""


# ---------------------------------------------------------------------------------------------------- inspect


@command.command("inspect", epilog="Example: ssldet weights inspect yowo_ucf24_16f_best.pth")
@click.argument("file", type=FILE)
@json_flag
def inspect_file(file: Path, as_json: bool) -> None:
    """Say what FILE is, which installed network it belongs to, and what entries it has."""
    from ssldet.detector.weights_fit import describe

    described = describe(file, lambda fault: click.echo(f"fault: {fault}", err=True))
    if as_json:
        print_json(described)
        return
    for key in ("kind", "bytes", "parameters", "values", *described["metadata"]):
        value = described.get(key, described["metadata"].get(key))
        click.echo(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value}")
    click.echo(f"network: {described['network'] or 'none that is installed'}")
    for entry in described["entries"]:
        click.echo(f"{entry['name']}  {tuple(entry['shape'])}  {entry['dtype']}")
    next_step(f"`ssldet weights verify {file} --backbone NAME --dataset D` says which of them fit a network")


# ------------------------------------------------------------------------------------------- verify and convert


def network_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that name a network."""
    options = (
        plugin_option("backbone", "--backbone", "Network whose weights they should be.", required=True),
        plugin_option("dataset", "--dataset", "Data set whose classes it predicts; no data is read.", required=True),
        click.option("--part", help="The file holds this part of the network only: 2d or 3d, say."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Option of the backbone, such as dropout=0.",
            shell_complete=complete_settings("backbone"),
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command(
    "verify", epilog="Example: ssldet weights verify yolo.weights --backbone yowo --dataset ucf24 --part 2d"
)
@click.argument("file", type=FILE)
@network_options
@json_flag
def verify_file(
    file: Path, backbone: str, dataset: str, part: str | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Report the entries of FILE that fit the network and those that do not. Exit code 1 unless all do."""
    from ssldet.detector.weights_fit import compare_with_network, read_named

    built = make_backbone(backbone, settings)
    report = compare_with_network(built, dataset, part, read_named(built, part, file), str(file))
    if as_json:
        print_json(asdict(report) | {"complete": report.complete})
    else:
        show(report)
        again = f"ssldet weights convert {file} OUT.safetensors --backbone {backbone} --dataset {dataset}"
        next_step(f"`{again}{'' if report.complete else ' --partial'}` keeps what fits under the network's names")
    click.get_current_context().exit(0 if report.complete else 1)


@command.command(
    "convert", epilog="Example: ssldet weights convert best.pth yowo.safetensors --backbone yowo --dataset ucf24"
)
@click.argument("file", type=FILE)
@click.argument("out", type=FILE)
@network_options
@click.option("--partial", is_flag=True, help="Write what fits even if entries are missing or left over.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_flag
def convert_file(
    file: Path,
    out: Path,
    backbone: str,
    dataset: str,
    part: str | None,
    settings: tuple[str, ...],
    partial: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write the entries of FILE as safetensors OUT under the network's names, whole or not at all."""
    from ssldet.detector.weights_fit import convert
    from ssldet.errors import WeightsError

    if out.suffix != ".safetensors":
        raise WeightsError(f"weights are converted to a file named .safetensors, not {out.name}")
    if out.exists() and not force:
        raise WeightsError(f"{out} exists; --force replaces it")
    report = convert(file, out, make_backbone(backbone, settings), backbone, dataset, part, partial=partial)
    if as_json:
        print_json({"file": str(out), **asdict(report), "complete": report.complete})
        return
    show(report)
    click.echo(f"wrote {out}: {len(report.loaded)} entries")
    next_step(f"`ssldet weights verify {out} --backbone {backbone} --dataset {dataset}` checks it")


def make_backbone(name: str, settings: tuple[str, ...]) -> Backbone:
    """A backbone by name, with options given as KEY=VALUE.

    Raises:
        UnknownName: there is no such backbone.
        ConfigError: an option is not of the form KEY=VALUE, or none that it has.
    """
    from ssldet import plugins
    from ssldet.util.settings import typed_options

    kind = plugins.load("backbone", name)
    options = read_assignments(settings, "backbone.", "dropout=0")
    backbone: Backbone = kind(typed_options(kind.Config, options, "backbone."))
    return backbone


def show(report: WeightsReport) -> None:
    """A line per kind of entry, and the names of those that do not fit."""
    click.echo(f"loaded: {len(report.loaded)}")
    for kind in ("missing", "unexpected", "shape_mismatch"):
        names = getattr(report, kind)
        click.echo(f"{kind}: {len(names)}" + "".join(f"\n  {name}" for name in names))
