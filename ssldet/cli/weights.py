"""`ssldet weights`: what a weights file holds, whether it fits a network, and its conversion to our names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.completion import complete_settings
from ssldet.cli.options import json_flag, plugin_option, read_assignments
from ssldet.cli.output import print_json

if TYPE_CHECKING:
    from torch import Tensor

    from ssldet.contracts import Backbone
    from ssldet.detector.weights import WeightsReport

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Ends of entries that are no parameters: what batch normalisation counts."""

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
    described = describe(file)
    if as_json:
        print_json(described)
        return
    for key in ("kind", "bytes", "parameters", "values", *described["metadata"]):
        value = described.get(key, described["metadata"].get(key))
        click.echo(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value}")
    click.echo(f"network: {described['network'] or 'none that is installed'}")
    for entry in described["entries"]:
        click.echo(f"{entry['name']}  {tuple(entry['shape'])}  {entry['dtype']}")


def describe(file: Path) -> dict[str, Any]:
    """What `inspect` prints.

    Raises:
        WeightsError: the file is absent or of no kind that is known.
    """
    from ssldet.detector.weights import darknet_header, open_weights
    from ssldet.errors import WeightsError

    try:
        header = darknet_header(file)
    except WeightsError:
        opened = open_weights(file)
        match = _best(_matches(file, opened.state))
        return _described(file, opened.kind, opened.metadata, match, opened.state)
    match = _best(_matches(file, {}))  # its values have no names: those come from the network that they fill
    kind = f"Darknet weights, header of {header.size} bytes"
    metadata = {"version": header.version, "images seen": header.seen}
    content = _described(file, kind, metadata, match, match.state if match else {})
    return content | {"values": (file.stat().st_size - header.size) // 4}


def _described(
    file: Path, kind: str, metadata: Mapping[str, Any], match: Match | None, state: Mapping[str, Tensor]
) -> dict[str, Any]:
    return {
        "file": str(file),
        "kind": kind,
        "bytes": file.stat().st_size,
        "parameters": sum(value.numel() for name, value in state.items() if not name.endswith(STATISTICS)),
        "values": sum(value.numel() for value in state.values()),
        "metadata": dict(metadata),
        "network": str(match) if match else None,
        "entries": [
            {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in state.items()
        ],
    }


@dataclass(frozen=True)
class Match:
    """How a file fits a network, or a part of one."""

    backbone: str
    where: str
    report: WeightsReport
    state: Mapping[str, Tensor]

    def __str__(self) -> str:
        faults = {kind: len(getattr(self.report, kind)) for kind in ("missing", "unexpected", "misshapen")}
        words = ", ".join(f"{count} {kind}" for kind, count in faults.items() if count)
        return f"{self.backbone}, {self.where}" + (f" ({words} entries)" if words else "")


def _best(matches: Iterator[Match]) -> Match | None:
    """The match of the most entries, a complete one first; None where fewer than half fit."""
    found = [match for match in matches if 2 * len(match.report.loaded) >= len(match.state)]
    return max(found, key=lambda match: (match.report.complete, len(match.report.loaded)), default=None)


def _matches(file: Path, state: Mapping[str, Tensor]) -> Iterator[Match]:
    """How the file fits every installed backbone that it shares entries with, and every part of them."""
    from ssldet import plugins
    from ssldet.errors import PluginError, WeightsError

    for name in dict.fromkeys(info.name for info in plugins.available("backbone")):
        try:
            backbone = make_backbone(name, ())
        except PluginError as error:
            click.echo(f"fault: backbone {name}: {error}", err=True)
            continue
        for part in backbone.parts:
            try:
                entries = backbone.read_part(part, file)
            except WeightsError:  # it is no file of this part
                continue
            report = compare(backbone, _any_dataset(), part, entries, str(file))
            if report.loaded:
                yield Match(name, f"part {part}", report, entries)
        yield from _whole_matches(name, backbone, file, state)


def _whole_matches(name: str, backbone: Backbone, file: Path, state: Mapping[str, Tensor]) -> Iterator[Match]:
    """How a checkpoint fits the network for each data set: only the heads depend on it."""
    from ssldet import plugins

    entries = backbone.translate_weights(state)
    for dataset in dict.fromkeys(info.name for info in plugins.available("dataset")):
        report = compare(backbone, dataset, None, entries, str(file))
        if not report.loaded:
            return
        yield Match(name, f"whole, classes of {dataset}", report, entries)


def _any_dataset() -> str:
    """A data set, for what does not depend on it."""
    from ssldet import plugins

    return plugins.available("dataset")[0].name


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
    built = make_backbone(backbone, settings)
    report = compare(built, dataset, part, read(built, part, file), str(file))
    if as_json:
        print_json(asdict(report) | {"complete": report.complete})
    else:
        show(report)
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
    from ssldet.detector.weights import write_weights
    from ssldet.errors import WeightsError

    if out.suffix != ".safetensors":
        raise WeightsError(f"weights are converted to a file named .safetensors, not {out.name}")
    if out.exists() and not force:
        raise WeightsError(f"{out} exists; --force replaces it")
    built = make_backbone(backbone, settings)
    state = read(built, part, file)
    report = compare(built, dataset, part, state, str(file))
    if not report.loaded or not (report.complete or partial):
        advice = "" if not report.loaded else "; --partial writes what fits"
        raise WeightsError(f"the weights do not fit {backbone}{advice}. {report}")
    prefix = f"{built.parts[part]}." if part else ""
    about = {"backbone": backbone, "dataset": dataset, "part": part or "whole", "source": file.name}
    write_weights(out, {prefix + name: state[name] for name in report.loaded}, {"format": "pt", **about})
    if as_json:
        print_json({"file": str(out), **asdict(report), "complete": report.complete})
        return
    show(report)
    click.echo(f"wrote {out}: {len(report.loaded)} entries")


def make_backbone(name: str, settings: tuple[str, ...]) -> Backbone:
    """A backbone by name, with options given as KEY=VALUE.

    Raises:
        UnknownName: there is no such backbone.
        ConfigError: an option is not of the form KEY=VALUE, or none that it has.
    """
    from ssldet import plugins
    from ssldet.config import typed_options

    kind = plugins.load("backbone", name)
    options = read_assignments(settings, "backbone.", "dropout=0")
    backbone: Backbone = kind(typed_options(kind.Config, options, "backbone"))
    return backbone


def read(backbone: Backbone, part: str | None, file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by the names they have in the network, or in the module of its part."""
    from ssldet.detector.weights import read_weights

    return backbone.read_part(part, file) if part else backbone.translate_weights(read_weights(file))


def compare(
    backbone: Backbone, dataset: str, part: str | None, state: Mapping[str, Tensor], source: str
) -> WeightsReport:
    """How tensors fit the network, or its part. The network is built without memory for its values."""
    import torch

    from ssldet.detector.build import build_detector
    from ssldet.detector.weights import compare_weights

    with_head = any(name.startswith("frame_head.") for name in state)
    with torch.device("meta"):
        detector = build_detector(backbone, dataset=dataset, frame_head=with_head)
    module = detector.get_submodule(backbone.parts[part]) if part else detector
    return compare_weights(module.state_dict(), state, source=source)


def show(report: WeightsReport) -> None:
    """A line per kind of entry, and the names of those that do not fit."""
    click.echo(f"loaded: {len(report.loaded)}")
    for kind in ("missing", "unexpected", "misshapen"):
        names = getattr(report, kind)
        click.echo(f"{kind}: {len(names)}" + "".join(f"\n  {name}" for name in names))
