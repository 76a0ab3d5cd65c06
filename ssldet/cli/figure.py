"""`ssldet figure`: the paper's figures from records and detections, as .png or .pdf."""

from __future__ import annotations

from collections.abc import Sequence
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
)
from ssldet.cli.output import print_json
from ssldet.cli.run_choice import chosen_run, complete_runs, places_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ssldet.benchmark.cells import Settings
    from ssldet.contracts import Dataset
    from ssldet.report.qualitative import Frames
    from ssldet.report.run_selection import Run, RunCollection

Drawn = tuple["Figure", dict[str, Any]]
"""A figure, and what it shows as plain data."""

FIGURES = ("3", "4", "5")


def _number(context: click.Context, parameter: click.Parameter, value: str) -> str:
    from ssldet.errors import UnknownName

    if value not in FIGURES:
        raise UnknownName("figure", value, FIGURES)
    return value


@click.command("figure", epilog="Example: ssldet figure 3 --preset nano --out figure3.pdf")
@click.argument(
    "number", metavar="3|4|5", callback=_number, shell_complete=quietly(lambda context: [(one, "") for one in FIGURES])
)
@click.option("--out", type=click.Path(path_type=Path), help="A .png or .pdf file.  [default: figure<N>.png]")
@results_folders
@preset_option("Runs under this preset.  [default: that of most runs]")
@dataset_map
@run_settings("A setting that the runs were given.")
@split_number
@data_root
@click.option("--threshold", default="0.5", show_default=True, help="Figure 3: overlap of tubes.")
@click.option("--run", "name", metavar="RUN", shell_complete=complete_runs, help="Figure 5: the run to look at.")
@click.option("--seed", type=int, default=0, show_default=True, help="Figure 5: of the draw of frames.")
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
    as_json: bool,
) -> None:
    """Draw a figure of the paper from runs.

    3: what each class gains over Supervised. 4: thresholds of pseudo-labels. 5: frames with truth and detections.
    With --json what the figure shows is printed; it is drawn all the same.
    """
    from ssldet.report.drawing import check_format, save
    from ssldet.report.run_selection import collect_runs

    out = out or Path(f"figure{number}.png")
    check_format(out)
    collection = collect_runs(places_of(results))
    if number == "5" and name:
        figure, content = _frames(_named_run(name, results, collection), data_root, seed)
    else:
        settings = _settings(number, collection, preset, dataset_map, assignments)
        if number == "3":
            figure, content = _changes(collection, settings, threshold, split, data_root)
        elif number == "4":
            figure, content = _sweep(collection, settings, split)
        else:
            figure, content = _frames(_best_match(collection, settings, split), data_root, seed)
    save(figure, out)
    if as_json:
        print_json({"file": str(out), **content})
    else:
        click.echo(str(out))


def _settings(
    number: str, collection: RunCollection, preset: str | None, dataset_map: str | None, assignments: Sequence[str]
) -> Settings:
    from ssldet.benchmark.cells import Settings, parse_dataset_map
    from ssldet.config import DEFAULT_PRESET
    from ssldet.report.figures import choose_settings

    asked = None
    if preset or dataset_map:
        asked = Settings(preset or DEFAULT_PRESET, parse_dataset_map(dataset_map or ""), assignments)
    return choose_settings("figure4" if number == "4" else "figure3", collection, asked, assignments)


def _changes(
    collection: RunCollection, settings: Settings, threshold: str, split: int, data_root: Path | None
) -> Drawn:
    from ssldet.errors import DataError
    from ssldet.report import drawing, figures
    from ssldet.util.files import plain

    found = figures.class_changes(collection, settings, threshold=threshold, split=split)
    data = settings.dataset(found.dataset)
    try:
        found = figures.by_training_videos(found, _open(data.name, data_root, data.options), split)
    except DataError as error:
        first = str(error).splitlines()[0]
        click.echo(f"classes stand in the order of labels: training videos cannot be counted ({first})", err=True)
    if found.left_out:
        click.echo(f"left out, without truth or not scored: {', '.join(found.left_out)}", err=True)
    return drawing.draw_changes(found), plain(found)


def _sweep(collection: RunCollection, settings: Settings, split: int) -> Drawn:
    from ssldet.report import drawing, figures
    from ssldet.util.files import plain

    found = figures.sweep(collection, settings, split=split)
    for panel in found.panels:
        if absent := [f"{point.value:g}" for point in panel.points if not point.n]:
            click.echo(f"no run with {panel.option} = {', '.join(absent)}", err=True)
    return drawing.draw_sweep(found), plain(found)


def _frames(run: Run, data_root: Path | None, seed: int) -> Drawn:
    from ssldet.report import drawing, qualitative

    experiment = run.experiment
    dataset = _open(experiment.dataset, data_root or run.entry.machine.get("data_root"), experiment.dataset_options)
    found = qualitative.choose_frames(run, dataset, seed=seed)
    shown = [frame for row in found.rows for frame in row]
    pictures = {frame.video.id: qualitative.picture(dataset, frame, experiment.clip.size) for frame in shown}
    return drawing.draw_frames(found, pictures), _frames_content(found)


def _frames_content(found: Frames) -> dict[str, Any]:
    names = [*["right"] * (len(found.rows) - 1), "failure"]
    return {
        "run": found.run.entry.id,
        "seed": found.seed,
        "judged": found.judged,
        "right": found.right,
        "frames": [
            {"kind": kind, "video": frame.video.id, "frame": frame.number, "iou": round(frame.iou, 4)}
            for kind, row in zip(names, found.rows, strict=True)
            for frame in row
        ],
    }


def _named_run(name: str, results: Sequence[Path], collection: RunCollection) -> Run:
    from ssldet.errors import RequestError
    from ssldet.report.run_selection import collect_runs

    entry = chosen_run(name, results)
    for run in collect_runs([entry.folder]).runs:
        if run.done:
            return run
    raise RequestError(f"run {entry.id} is {entry.status} and has no detections to show: {entry.problem}")


def _best_match(collection: RunCollection, settings: Settings, split: int) -> Run:
    """The run of Figure 3's proposed strategy with the lowest seed, which keeps its detections if one does."""
    from ssldet.benchmark.spec import spec
    from ssldet.report.cell_matching import CellMatcher
    from ssldet.report.figures import no_runs, runs_of
    from ssldet.runs import layout

    figure = spec("figure3")
    (row,) = [row for row in figure.rows if row.strategy != figure.baseline]
    found = list(runs_of(CellMatcher(figure, collection, settings), row, split).values())
    if not found:
        raise no_runs(figure, row.approach, collection, settings)
    return next((run for run in found if (run.entry.folder / layout.DETECTIONS).is_file()), found[0])


def _open(name: str, data_root: Any, options: Any) -> Dataset:
    from ssldet.data.datasets import load_dataset

    return load_dataset(name, data_root, **options)
