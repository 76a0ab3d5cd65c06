"""`ssldet export`: a trained detector in a file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssldet.cli.options import json_flag
from ssldet.cli.output import aligned, next_step, print_json
from ssldet.cli.trained import trained_detector, trained_options


@click.command("export", epilog="Example: ssldet export --run 3f2a --format onnx")
@trained_options
@click.option("--format", "form", type=click.Choice(["torchscript", "onnx"]), required=True, help="Of the file.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: detector.pt or .onnx]"
)
@json_flag
def command(form: str, out: Path | None, as_json: bool, **of_weights: Any) -> None:
    """Write a trained detector as TorchScript or ONNX, and check that the file gives what the detector gives.

    It takes clips, (b, 3, t, h, w) in [0, 1], and gives all boxes in pixels of the clip, their confidence and class
    scores; nothing is filtered or suppressed. Classes and settings are in the file too.
    """
    from ssldet.detector.export import SUFFIXES, export_detector
    from ssldet.util.files import plain

    trained = trained_detector(**of_weights)
    network = trained.network
    path = out or Path(f"detector{SUFFIXES[form]}")
    about = {"weights": trained.source, **plain(network)}
    clip = network.clip
    exported = export_detector(trained.detector, path, form, frames=clip.frames, size=clip.size, about=about)
    if as_json:
        print_json(plain(exported))
        return
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, clips (b, {', '.join(map(str, exported.clips))})")
    rows = [(name, f"{largest:.2g}") for name, largest in exported.differences.items()]
    click.echo(aligned([("output", "largest difference"), *rows]))
    next_step("docs/predict.md says what goes in and what comes out")
