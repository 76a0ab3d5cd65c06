"""`ssldet predict`: a trained detector on videos of any kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.options import json_flag
from ssldet.cli.output import aligned, next_step, print_json
from ssldet.cli.trained import trained_detector, trained_options

if TYPE_CHECKING:
    from ssldet.report.prediction import PredictedVideo, Predictions, Progress
    from ssldet.runs.network import TrainedDetector


@click.command("predict", epilog="Example: ssldet predict holiday.mp4 clips/ --run 3f2a --tubes")
@click.argument("paths", metavar="VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path))
@trained_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("predictions"),
    show_default=True,
    help="Folder of the results.",
)
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.2, show_default=True, help="Least score of a tube.")
@click.option("--min-frames", type=click.IntRange(min=1), default=8, show_default=True, help="Least length of a tube.")
@click.option("--no-video", is_flag=True, help="Write no annotated videos.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["csv", "cvat", "coco"]),
    help="Write the tubes as boxes for the data set `folder` too, to be corrected and trained on.",
)
@click.option("--tubes", is_flag=True, help="Print every tube, not a line a video.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs, or with --device cpu processes, that share the videos.",
)
@json_flag
def command(
    paths: tuple[Path, ...],
    out: Path,
    min_score: float,
    min_frames: int,
    no_video: bool,
    form: str | None,
    tubes: bool,
    device: str,
    devices: int,
    as_json: bool,
    **of_weights: Any,
) -> None:
    """Find actions in videos, VIDEO..., with the weights of a run. Folders are gone through to any depth.

    Into --out go each video with its tubes drawn, NAME.mp4; all boxes, detections.parquet; all tubes, tubes.csv. A
    video that does not decode is named, and the others go on; exit code 1 then.
    """
    from ssldet.evaluation.prediction import TubeOptions
    from ssldet.report.prediction import PredictOptions, inputs_of, predict
    from ssldet.runs.planning import choose_devices

    chosen = choose_devices(device, devices)
    inputs = inputs_of(paths, out)
    trained = trained_detector(**of_weights)
    options = PredictOptions(out, TubeOptions(least_score=min_score, least_frames=min_frames), annotate=not no_video)
    with _progress() as progress:
        found = predict(trained, inputs, options, chosen, progress)
    for video_id, why in found.failed.items():
        click.echo(f"not looked at: {video_id}: {why}", err=True)
    annotations = [] if form is None else _write_annotations(form, found, out)
    if as_json:
        print_json(_as_json(found, trained) | {"annotations": annotations})
    else:
        _show(found, tubes)
        next_step(
            f"{out} has the annotated videos; the same with --tubes prints every tube, --min-score sets the least"
        )
    if found.failed:
        sys.exit(1)


@contextmanager
def _progress() -> Iterator[Progress]:
    """What hears of progress: a bar on a terminal, a line now and then elsewhere."""
    from ssldet.cli.progress import ProgressReporter

    with ProgressReporter(lambda: False) as reporter:

        def hear(done: int, total: int, video: str) -> None:
            if reporter.task is None:
                reporter.phase("predict", total, "steps")
            reporter.advance(done, video)

        yield hear


def _write_annotations(form: str, found: Predictions, out: Path) -> list[str]:
    """The files of boxes; says which videos have none."""
    from ssldet.report.annotation_files import write_annotations

    files = write_annotations(form, found.videos, found.facts, out)
    if bare := [video.id for video in found.videos if not video.tubes]:
        click.echo(
            f"no tubes, so no boxes, in {', '.join(bare)}: lower --min-score, or leave them unlabelled", err=True
        )
    return [str(file) for file in files]


def _as_json(found: Predictions, trained: TrainedDetector) -> dict[str, Any]:
    from ssldet.report.prediction import tube_rows

    videos = [
        {
            "video": video.id,
            "file": str(video.file),
            "frames": video.frames,
            "rate": video.rate,
            "size": list(video.size),
            "boxes": video.boxes,
            "annotated": None if video.annotated is None else str(video.annotated),
            "seconds": round(video.seconds, 3),
            "tubes": tube_rows(video, found.facts),
        }
        for video in found.videos
    ]
    files = {"detections": str(found.detections), "tubes": str(found.tubes)}
    return {
        "weights": trained.source,
        "classes": list(found.facts.classes),
        **files,
        "videos": videos,
        "failed": dict(found.failed),
    }


def _show(found: Predictions, tubes: bool) -> None:
    if not found.videos:
        return
    click.echo(aligned(_tube_table(found) if tubes else _video_table(found)))


def _video_table(found: Predictions) -> list[tuple[str, ...]]:
    from ssldet.report.prediction import class_counts

    rows: list[tuple[str, ...]] = [("video", "frames", "frames/s", "boxes", "tubes", "classes")]
    for video in found.videos:
        classes = ", ".join(f"{name} {count}" for name, count in class_counts(video, found.facts).items())
        rows.append((video.id, *_numbers(video), classes))
    return rows


def _numbers(video: PredictedVideo) -> tuple[str, ...]:
    speed = video.frames / max(video.seconds, 1e-9)
    return str(video.frames), f"{speed:.0f}", str(video.boxes), str(len(video.tubes))


def _tube_table(found: Predictions) -> list[tuple[str, ...]]:
    from ssldet.report.prediction import TUBE_COLUMNS, tube_rows

    rows = [
        tuple(row[column] for column in TUBE_COLUMNS) for video in found.videos for row in tube_rows(video, found.facts)
    ]
    return [tuple(name.replace("_", " ") for name in TUBE_COLUMNS), *(tuple(map(str, row)) for row in rows)]
