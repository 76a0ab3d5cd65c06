"""How weights files fit the networks that are installed.

describe(file)               what a file is, and which network it belongs to
compare_with_network(...)    how its entries fit one network, or a part of it
convert(file, out, ...)      the same values under the network's names
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssldet import plugins
from ssldet.contracts import Backbone, DatasetFacts
from ssldet.detector.build import build_detector
from ssldet.detector.weights import (
    WeightsReport,
    compare_weights,
    darknet_header,
    open_weights,
    read_weights,
    write_weights,
)
from ssldet.errors import PluginError, WeightsError

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Ends of entries that are no parameters: what batch normalisation counts."""


def describe(file: Path, on_fault: Callable[[str], None] = lambda fault: None) -> dict[str, Any]:
    """What a weights file is, which installed network it belongs to, and what entries it has.

    Args:
        file: safetensors, a checkpoint of torch, or Darknet's weights. Nothing in it is executed.
        on_fault: hears of each installed backbone that cannot be used.

    Returns:
        Plain data: file, kind, bytes, parameters, values, metadata, network (None where none fits) and entries, each
        with name, shape and dtype.

    Raises:
        WeightsError: the file is absent or of no kind that is known.
    """
    try:
        header = darknet_header(file)
    except WeightsError:
        opened = open_weights(file)
        match = _best(_matches(file, opened.state, on_fault))
        return _described(file, opened.kind, opened.metadata, match, opened.state)
    match = _best(_matches(file, {}, on_fault))  # its values have no names: those come from the network that they fill
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
        faults = {kind: len(getattr(self.report, kind)) for kind in ("missing", "unexpected", "shape_mismatch")}
        words = ", ".join(f"{count} {kind}" for kind, count in faults.items() if count)
        return f"{self.backbone}, {self.where}" + (f" ({words} entries)" if words else "")


def _best(matches: Iterator[Match]) -> Match | None:
    """The first complete match, else that of the most entries; None where fewer than half fit."""
    best: Match | None = None
    for match in matches:
        if match.report.complete:
            return match
        loaded = len(match.report.loaded)
        if 2 * loaded >= len(match.state) and (best is None or loaded > len(best.report.loaded)):
            best = match
    return best


def _matches(file: Path, state: Mapping[str, Tensor], on_fault: Callable[[str], None]) -> Iterator[Match]:
    """How the file fits every installed backbone that it shares entries with, and every part of them.

    Networks that options make come last, since each is one more to build.
    """
    backbones = dict(_backbones(on_fault))
    for name, backbone in backbones.items():
        yield from _whole_matches(name, backbone, file, state)
        for part in backbone.parts:
            yield from _part_matches(name, backbone, part, {}, file)
    for name, backbone in backbones.items():
        for part, choices in backbone.part_options().items():
            for options in choices:
                chosen = type(backbone)(backbone.Config(**options))
                yield from _part_matches(name, chosen, part, options, file)


def _backbones(on_fault: Callable[[str], None]) -> Iterator[tuple[str, Backbone]]:
    """Every installed backbone that can be used, with default options."""
    for name in dict.fromkeys(info.name for info in plugins.available("backbone")):
        try:
            kind = plugins.load("backbone", name)
            yield name, kind(kind.Config())
        except PluginError as error:
            on_fault(f"backbone {name}: {error}")


def _part_matches(name: str, backbone: Backbone, part: str, options: Mapping[str, Any], file: Path) -> Iterator[Match]:
    """How the file fits a part, at most once; `options` are those that are not as by default."""
    try:
        entries = backbone.read_part(part, file)
    except WeightsError:  # it is no file of this part
        return
    report = compare_with_network(backbone, _any_dataset(), part, entries, str(file))
    if report.loaded:
        where = ", ".join([f"part {part}", *(f"{option}={value}" for option, value in options.items())])
        yield Match(name, where, report, entries)


def _whole_matches(name: str, backbone: Backbone, file: Path, state: Mapping[str, Tensor]) -> Iterator[Match]:
    """How a checkpoint fits the network for each data set: only the heads depend on it."""
    entries = backbone.translate_weights(state)
    for dataset in dict.fromkeys(info.name for info in plugins.available("dataset")):
        report = compare_with_network(backbone, dataset, None, entries, str(file))
        if not report.loaded:
            return
        yield Match(name, f"whole, classes of {dataset}", report, entries)


def _any_dataset() -> str:
    """A data set, for what does not depend on it."""
    return plugins.available("dataset")[0].name


def read_named(backbone: Backbone, part: str | None, file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by the names they have in the network, or in the module of its part."""
    return backbone.read_part(part, file) if part else backbone.translate_weights(read_weights(file))


def compare_with_network(
    backbone: Backbone, dataset: str | DatasetFacts, part: str | None, state: Mapping[str, Tensor], source: str
) -> WeightsReport:
    """How tensors fit the network, or its part. The network is built without memory for its values."""
    with_head = any(name.startswith("frame_head.") for name in state)
    with torch.device("meta"):
        detector = build_detector(backbone, dataset=dataset, frame_head=with_head)
    module = detector.get_submodule(backbone.parts[part]) if part else detector
    return compare_weights(module.state_dict(), state, source=source)


def convert(
    file: Path,
    out: Path,
    backbone: Backbone,
    name: str,
    dataset: str,
    part: str | None = None,
    *,
    partial: bool = False,
) -> WeightsReport:
    """Write the entries of a file under the network's names, whole or not at all.

    Args:
        file, out: what is read, and the safetensors file that is written.
        backbone, name, dataset: the network, and the names by which the file says whose weights it holds.
        part: the file holds this part of the network only.
        partial: write what fits even if entries are missing or left over.

    Raises:
        WeightsError: the weights do not fit, or the file cannot be read or written.
    """
    state = read_named(backbone, part, file)
    report = compare_with_network(backbone, dataset, part, state, str(file))
    if not report.loaded or not (report.complete or partial):
        advice = "" if not report.loaded else "; --partial writes what fits"
        raise WeightsError(f"the weights do not fit {name}{advice}. {report}")
    prefix = f"{backbone.parts[part]}." if part else ""
    about = {"backbone": name, "dataset": dataset, "part": part or "whole", "source": file.name}
    write_weights(out, {prefix + entry: state[entry] for entry in report.loaded}, {"format": "pt", **about})
    return report
