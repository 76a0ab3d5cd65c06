"""`ssldet figure`: the paper's figures, and figures of named runs, as .png, .pdf or .svg."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from ssldet.report.paper_figures import DrawnFigure

FIGURES = {
    "3": "the paper's",
    "4": "the paper's",
    "5": "the paper's",
    "curves": "of runs",
    "classes": "of runs",
    "pr": "of runs",
    "cost": "of runs",
    "confusion": "of a run",
}
PAPERS = ("3", "4", "5")


@click.command("figure", epilog="Example: ssldet figure curves 3f2a 81bc --out curves.pdf")
@click.argument("what", metavar=f"{'|'.join(FIGURES)}", shell_complete=quietly(lambda context: list(FIGURES.items())))
@click.argument("names", metavar="[RUN]...", nargs=-1, shell_complete=complete_runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A .png, .pdf or .svg file.  [default: figure<N>.png, curves.png]",
)
@click.option("--metric", default="V@0.5", show_default=True, help="Score in classes, pr and cost: V@0.5, F@0.5 ...")
@results_folders
@preset_option("Runs under this preset.  [default: that of most runs]")
@dataset_map
@run_settings("A setting that the runs were given.")
@split_number
@data_root
@click.option("--threshold", default="0.5", show_default=True, help="Figure 3: overlap of tubes.")
@click.option("--run", metavar="RUN", shell_complete=complete_runs, help="Figure 5: the run to look at.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Figure 5 without --videos: of the draw of frames."
)
@videos_option("Figure 5 of --run: frames spread evenly over these videos, a row each")
@json_flag
def command(
    what: str,
    names: tuple[str, ...],
    out: Path | None,
    metric: str,
    data_root: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Draw a figure of the paper, or of named runs; all can be read in grey.

    The paper's: 3, what each class gains over Supervised; 4, thresholds of pseudo-labels; 5, frames with truth and
    detections.

    Of runs, six at most: curves, all that their logs have over training; classes, a score class by class; pr,
    precision over recall, class by class; cost, a score over the clips that were trained on. Of one run: confusion,
    which class is taken for which.

    With --json what the figure shows is printed; it is drawn all the same.
    """
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which need not be installed here: nothing opens a window
    from ssldet.report.drawing import check_format, save

    if what not in FIGURES:
        from ssldet.errors import UnknownName

        raise UnknownName("figure", what, FIGURES)
    out = out or Path(f"figure{what}.png" if what in PAPERS else f"{what}.png")
    check_format(out)
    drawn = (
        _of_paper(what, names, data_root, asked) if what in PAPERS else _of_runs(what, names, metric, data_root, asked)
    )
    for remark in drawn.remarks:
        click.echo(remark, err=True)
    save(drawn.figure, out)
    if as_json:
        print_json({"file": str(out), **drawn.content})
    else:
        click.echo(str(out))
        next_step("--out NAME.pdf draws it for print, --json prints what it shows")


def _of_paper(number: str, names: tuple[str, ...], data_root: Path | None, asked: dict[str, Any]) -> DrawnFigure:
    from ssldet.errors import RequestError
    from ssldet.report.paper_figures import paper_figure

    if names:
        raise RequestError(f"figure {number} takes no runs as arguments; --run RUN names the one of figure 5")
    return paper_figure(number, data_root=data_root, **asked | {"results": asked["results"] or None})


def _of_runs(
    kind: str, names: tuple[str, ...], metric: str, data_root: Path | None, asked: dict[str, Any]
) -> DrawnFigure:
    from ssldet.report.run_pictures import run_figure

    return run_figure(kind, names, results=asked["results"] or None, metric=metric, data_root=data_root)
