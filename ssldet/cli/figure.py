"""`ssldet figure`: the paper's figures from records and detections, as .png or .pdf."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ssldet.cli.completion import quietly
from ssldet.cli.options import (
    data_root,
    dataset_map,
    json_flag,
    preset_option,
    results_folders,
    run_settings,
    split_number,
    videos_option,
)
from ssldet.cli.output import next_step, print_json
from ssldet.cli.run_choice import complete_runs

FIGURES = ("3", "4", "5")


@click.command("figure", epilog="Example: ssldet figure 3 --preset nano --out figure3.pdf")
@click.argument("number", metavar="3|4|5", shell_complete=quietly(lambda context: [(number, "") for number in FIGURES]))
@click.option("--out", type=click.Path(path_type=Path), help="A .png or .pdf file.  [default: figure<N>.png]")
@results_folders
@preset_option("Runs under this preset.  [default: that of most runs]")
@dataset_map
@run_settings("A setting that the runs were given.")
@split_number
@data_root
@click.option("--threshold", default="0.5", show_default=True, help="Figure 3: overlap of tubes.")
@click.option("--run", "name", metavar="RUN", shell_complete=complete_runs, help="Figure 5: the run to look at.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Figure 5 without --videos: of the draw of frames."
)
@videos_option("Figure 5 of --run: frames spread evenly over these videos, a row each")
@json_flag
def command(
    number: str,
    out: Path | None,
    results: tuple[Path, ...],
    preset: str | None,
    dataset_map: str | None,
    assignments: tuple[str, ...],
    split: int,
    data_root: Path | None,
    threshold: str,
    name: str | None,
    seed: int,
    videos: tuple[str, ...] | None,
    as_json: bool,
) -> None:
    """Draw a figure of the paper from runs.

    3: what each class gains over Supervised. 4: thresholds of pseudo-labels. 5: frames with truth and detections.
    With --json what the figure shows is printed; it is drawn all the same.
    """
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which need not be installed here: nothing opens a window
    from ssldet.report.drawing import check_format, save
    from ssldet.report.paper_figures import paper_figure

    out = out or Path(f"figure{number}.png")
    check_format(out)
    drawn = paper_figure(
        number,
        results=results or None,
        preset=preset,
        dataset_map=dataset_map,
        assignments=assignments,
        split=split,
        data_root=data_root,
        threshold=threshold,
        run=name,
        seed=seed,
        videos=videos,
    )
    for remark in drawn.remarks:
        click.echo(remark, err=True)
    save(drawn.figure, out)
    if as_json:
        print_json({"file": str(out), **drawn.content})
    else:
        click.echo(str(out))
        next_step("--out NAME.pdf draws it for print, --json prints what it shows")
