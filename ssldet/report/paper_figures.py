"""The paper's figures as pictures, in one call.

paper_figure(number, ...)       which runs it shows is worked out, what it shows is read, and it is drawn
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import Settings
from ssldet.data.datasets import load_dataset
from ssldet.errors import DataError, RequestError, UnknownName
from ssldet.report import drawing, figures, qualitative
from ssldet.report.cell_matching import CellMatcher, requested_settings
from ssldet.report.qualitative import Frames
from ssldet.report.run_selection import Folders, Run, RunCollection, collect_runs, result_folders
from ssldet.runs import layout
from ssldet.runs.store import find_run, find_runs
from ssldet.util.files import plain

FIGURES = ("3", "4", "5")


@dataclass(frozen=True, slots=True, eq=False)
class DrawnFigure:
    """A figure.

    Attributes:
        figure: of matplotlib; `drawing.save` writes it.
        content: what it shows, as plain data. remarks: what it does not show, and why.
    """

    figure: Figure
    content: dict[str, Any]
    remarks: tuple[str, ...] = ()


def paper_figure(
    number: int | str,
    *,
    results: Folders | None = None,
    preset: str | None = None,
    dataset_map: Mapping[str, str] | str | None = None,
    assignments: Sequence[str] = (),
    split: int = 1,
    data_root: str | Path | None = None,
    threshold: str = "0.5",
    run: str | None = None,
    seed: int = 0,
    videos: Sequence[str] | None = None,
) -> DrawnFigure:
    """Draw Figure 3, 4 or 5 of the paper from the records and detections of runs.

    Args:
        number: 3: what each class gains over Supervised; 4: thresholds of pseudo-labels; 5: frames with boxes.
        results: the folder, or folders, to search for runs; by default `results/runs`.
        preset: shows runs of this preset; without `preset` and `dataset_map`, those that fill most of the figure.
        dataset_map: the data that stand in for the paper's, such as `{"ucf24": "synthetic:ucf24"}`.
        assignments: settings that the runs were given, "KEY=VALUE" as `--set` takes them.
        split: an official split.
        data_root: the folder of the data; Figure 5 takes the run's own where none is given.
        threshold: Figure 3: of the overlap of tubes, as records name it.
        run: Figure 5: the folder of the run to look at, or the start of its id.
        seed: Figure 5: of the draw of frames.
        videos: Figure 5: ids; of each a row of frames, rather than a draw over all videos. Needs `run`.

    Raises:
        UnknownName: no such figure, preset or data set. RequestError: there are no such runs.
        ConfigError, DataError, DetectionsError: as settings, data and detections ask for.
    """
    if str(number) not in FIGURES:
        raise UnknownName("figure", str(number), FIGURES)
    folders = result_folders(results)
    if str(number) == "5" and run:
        return _draw_frames(_named_run(run, folders), data_root, seed, videos)
    if videos:
        raise RequestError("videos are named for Figure 5 with the run to look at: --run RUN")
    collection = collect_runs(folders)
    settings = figures.choose_settings(
        "figure4" if str(number) == "4" else "figure3",
        collection,
        requested_settings(preset, dataset_map, assignments),
        assignments,
    )
    if str(number) == "3":
        return _draw_changes(collection, settings, threshold, split, data_root)
    if str(number) == "4":
        return _draw_sweep(collection, settings, split)
    return _draw_frames(_best_match(collection, settings, split), data_root, seed)


def _draw_changes(
    collection: RunCollection, settings: Settings, threshold: str, split: int, data_root: str | Path | None
) -> DrawnFigure:
    """Figure 3. Without the data, its classes stand in the order of labels."""
    remarks = []
    changes = figures.class_changes(collection, settings, threshold=threshold, split=split)
    data = settings.dataset(changes.dataset)
    try:
        changes = figures.by_training_videos(changes, load_dataset(data.name, data_root, **data.options), split)
    except DataError as error:
        why = str(error).splitlines()[0]
        remarks.append(f"classes stand in the order of labels: training videos cannot be counted ({why})")
    if changes.left_out:
        remarks.append(f"left out, without truth or not scored: {', '.join(changes.left_out)}")
    return DrawnFigure(drawing.draw_changes(changes), plain(changes), tuple(remarks))


def _draw_sweep(collection: RunCollection, settings: Settings, split: int) -> DrawnFigure:
    """Figure 4."""
    sweep = figures.sweep(collection, settings, split=split)
    empty = {panel.option: [f"{point.value:g}" for point in panel.points if not point.n] for panel in sweep.panels}
    remarks = (f"no run with {option} = {', '.join(values)}" for option, values in empty.items() if values)
    return DrawnFigure(drawing.draw_sweep(sweep), plain(sweep), tuple(remarks))


def _draw_frames(run: Run, data_root: str | Path | None, seed: int, videos: Sequence[str] | None = None) -> DrawnFigure:
    """Figure 5."""
    experiment = run.experiment
    root = data_root or run.entry.machine.get("data_root")
    dataset = load_dataset(experiment.dataset, root, **experiment.dataset_options)
    chosen = list(dict.fromkeys(videos or ()))
    frames = (
        qualitative.frames_of(run, dataset, chosen) if chosen else qualitative.choose_frames(run, dataset, seed=seed)
    )
    shown = [frame for row in frames.rows for frame in row]
    clip = experiment.clip
    pictures = {(frame.video.id, frame.frame): qualitative.picture(dataset, frame, clip) for frame in shown}
    return DrawnFigure(drawing.draw_frames(frames, pictures), _frames_content(frames))


def _frames_content(frames: Frames) -> dict[str, Any]:
    return {
        "run": frames.run.entry.id,
        "seed": frames.seed,
        "judged": frames.judged,
        "right": frames.right,
        "frames": [
            {
                "kind": "right" if frame.right else "failure",
                "video": frame.video.id,
                "frame": frame.number,
                "iou": round(frame.iou, 4),
            }
            for row in frames.rows
            for frame in row
        ],
    }


def _named_run(name: str, folders: Sequence[Path]) -> Run:
    """The finished run that is meant. Raises RequestError."""
    entry = find_run(name, find_runs(folders), folders)
    for run in collect_runs([entry.folder]).runs:
        if run.done:
            return run
    raise RequestError(f"run {entry.id} is {entry.status} and has no detections to show: {entry.problem}")


def _best_match(collection: RunCollection, settings: Settings, split: int) -> Run:
    """The run of Figure 3's proposed strategy with the lowest seed, which keeps its detections if one does."""
    spec = benchmark.spec("figure3")
    (row,) = [row for row in spec.rows if row.strategy != spec.baseline]
    runs = list(figures.runs_of(CellMatcher(spec, collection, settings), row, split).values())
    if not runs:
        raise figures.no_runs(spec, row.approach, collection, settings)
    return next((run for run in runs if (run.entry.folder / layout.DETECTIONS).is_file()), runs[0])
