"""`ssldet evaluate`: score anyone's detections against a data set's truth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ssldet.contracts import Dataset, MetricResult, Subset, Video
    from ssldet.scoring import Results


@click.command(
    "evaluate",
    epilog="Example: ssldet evaluate --detections detections.parquet --dataset jhmdb --metric video_map",
)
@click.option(
    "--detections",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="Parquet or CSV (wide or long), AVA's csv, an ACT-style pickle, or a folder of Class_video_00001.txt.",
)
@click.option("--dataset", "name", required=True, help="Data set whose truth counts; its annotation is enough.")
@click.option("--data-root", type=click.Path(path_type=Path), envvar="SSLDET_DATA", help="Folder of the data set.")
@click.option("--split", type=int, default=1, show_default=True, help="Official split.")
@click.option("--videos", "listed", help="Score these videos only: a file with one id a line, or ids with commas.")
@click.option("--metric", "metrics", multiple=True, required=True, help="frame_map, video_map, recall, errors.")
@click.option("--protocol", help="standard, yowo or act.  [default: the metric's]")
@click.option("--lenient", is_flag=True, help="Drop and count unsound rows instead of refusing the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, fractions 0-1, instead of tables of percent.")
def command(
    path: Path,
    name: str,
    data_root: Path | None,
    split: int,
    listed: str | None,
    metrics: tuple[str, ...],
    protocol: str | None,
    lenient: bool,
    as_json: bool,
) -> None:
    """Score a detections file. Nothing in it is filtered or suppressed: what is in the file counts.

    A video without rows is a video with no detections. Videos are matched by id.
    """
    from ssldet import plugins
    from ssldet.datasets import load_dataset
    from ssldet.detections import read_detections
    from ssldet.scoring import result_as_json, score

    dataset = load_dataset(name, data_root)
    scored, known = choose_videos(dataset, split, listed)
    wanted = {metric: [protocol] if protocol else [] for metric in metrics}
    for metric in wanted:  # an unknown name should not cost the reading of a large file
        plugins.load("metric", metric)
    detections = read_detections(path, dataset.facts, known, lenient=lenient)
    _report_dropped(detections.dropped)
    results = score(dataset.facts, scored, dataset.truth, detections, wanted)
    if as_json:
        content = {metric: result_as_json(result) for metric, result in _single(results)}
        click.echo(json.dumps(content, indent=2))
    else:
        _show(results)


def choose_videos(dataset: Dataset, split: int, listed: str | None) -> tuple[Sequence[Video], Sequence[Video]]:
    """The videos to score, and those that a detections file may speak of: the test videos unless others are listed.

    Raises:
        DataError: a listed id is none of the data set's, or the list is empty.
    """
    from ssldet.errors import DataError, did_you_mean

    test = dataset.videos("test", split)
    if listed is None:
        return test, test
    ids = read_ids(listed)
    known = {video.id: video for video in test}
    for subset in _other_subsets(ids, known):
        known = {video.id: video for video in dataset.videos(subset, split)} | known
    for video_id in ids:
        if video_id not in known:
            near = did_you_mean(video_id, known).split(" (known:")[0]
            raise DataError(f"--videos: {dataset.facts.name} has no video {video_id!r} in split {split}{near}")
    return [known[video_id] for video_id in ids], list(known.values())


def _other_subsets(ids: Iterable[str], known: Mapping[str, Video]) -> list[Subset]:
    return [] if all(video_id in known for video_id in ids) else ["train"]


def read_ids(listed: str) -> list[str]:
    """The ids of a file with one a line, or of a list with commas; each once, sorted."""
    from ssldet.errors import DataError

    is_file = "," not in listed and Path(listed).is_file()
    parts = Path(listed).read_text(encoding="utf-8").splitlines() if is_file else listed.split(",")
    ids = sorted({part.strip() for part in parts} - {""})
    if not ids:
        raise DataError(f"--videos {listed!r}: expected a file with one video id a line, or ids with commas")
    return ids


def _report_dropped(dropped: Mapping[str, int]) -> None:
    if dropped:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted(dropped.items()))
        click.echo(f"dropped {sum(dropped.values())} rows: {reasons}", err=True)


def _single(results: Results) -> list[tuple[str, MetricResult]]:
    """Each metric with its one protocol."""
    return [(metric, result) for metric, by_protocol in results.items() for result in by_protocol.values()]


def _show(results: Results) -> None:
    from rich.console import Console
    from rich.table import Table

    from ssldet import plugins

    console = Console()
    for metric, result in _single(results):
        titles = plugins.load("metric", metric).columns
        table = Table(title=f"{metric}, protocol {result.protocol}, percent", title_justify="left")
        table.add_column("class", no_wrap=True)
        for key in (*result.thresholds, *result.scalars):
            table.add_column(titles.get(key, key), justify="right")
        for label, values in _lines(result):
            table.add_row(label, *("-" if value is None else f"{100 * value:.2f}" for value in values))
        console.print(table)
        for note, value in result.notes.items():
            words = ", ".join(value) if isinstance(value, list) else value
            console.print(f"{note.replace('_', ' ')}: {words}", highlight=False)


def _lines(result: MetricResult) -> Iterable[tuple[str, list[float | None]]]:
    """The lines of a table: each class, then the mean."""
    values = list(result.thresholds.values())
    for label in values[0].per_class if values else ():
        yield label, [value.per_class[label] for value in values]
    yield "all" if result.scalars else "mean", [*(value.mean for value in values), *result.scalars.values()]
