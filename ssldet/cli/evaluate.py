"""`ssldet evaluate`: score anyone's detections against a data set's truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.options import (
    FOLDER,
    data_root,
    data_settings,
    json_flag,
    open_data,
    plugin_option,
    split_number,
    videos_option,
)
from ssldet.cli.output import next_step, print_json, stdout_console

if TYPE_CHECKING:
    from ssldet.contracts import MetricResult
    from ssldet.evaluation.results import Results
    from ssldet.runs.external import External


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
@plugin_option(
    "dataset", "--dataset", "Data set whose truth counts, or its folder; the annotation is enough.", required=True
)
@data_root
@data_settings
@split_number
@videos_option("Score these videos only")
@plugin_option("metric", "--metric", "A metric, such as frame_map; several are allowed.", multiple=True, required=True)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    help="standard, yowo or act; several are allowed.  [default: the data set's, else the metric's]",
)
@click.option("--lenient", is_flag=True, help="Drop and count unsound rows instead of refusing the file.")
@click.option("--first-frame", type=int, help="Number of a video's first frame in the file.  [default: 1; AVA: 900]")
@click.option(
    "--first-label", type=int, default=0, show_default=True, help="Number of the first class, where labels are numbers."
)
@click.option(
    "--boxes",
    type=click.Choice(["xyxy", "xywh"]),
    default="xyxy",
    show_default=True,
    help="Corners, or corner and size.",
)
@click.option(
    "--unit", type=click.Choice(["pixels", "fractions"]), default="pixels", show_default=True, help="Of the boxes."
)
@click.option(
    "--scores",
    type=click.Choice(["fractions", "percent"]),
    default="fractions",
    show_default=True,
    help="0-1, or 0-100.",
)
@click.option("--record", "name", help="Keep the numbers under this name: tables show them as external, beside ours.")
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1, min_open=True),
    help="With --record: the label ratio, as the author states it.  [default: not stated]",
)
@click.option(
    "--seed", type=click.IntRange(0), help="With --record: the seed, as the author states it.  [default: not stated]"
)
@click.option("--results", type=FOLDER, help="With --record: folder of results.  [default: results/runs]")
@click.option("--replace", is_flag=True, help="With --record: replace what is kept under the name.")
@json_flag
def command(
    path: Path,
    dataset: str,
    data_root: Path | None,
    assignments: tuple[str, ...],
    split: int,
    videos: tuple[str, ...] | None,
    metric: tuple[str, ...],
    protocols: tuple[str, ...],
    lenient: bool,
    name: str | None,
    ratio: float | None,
    seed: int | None,
    results: Path | None,
    replace: bool,
    as_json: bool,
    **conventions: Any,
) -> None:
    """Score a detections file. Nothing in it is filtered or suppressed: what is in the file counts.

    A video without rows is a video with no detections. Videos are matched by id. Tables are in percent, JSON in
    fractions 0-1: metric -> its result, or with several protocols metric -> protocol -> result.

    With --record NAME the numbers are kept in external/NAME of the results' folder, with the SHA-256 of the detections.
    `ssldet table` shows them in a row of their own, `ssldet compare NAME RUN` holds them against a run.
    """
    from ssldet import plugins
    from ssldet.evaluation.detection_conventions import FileConventions
    from ssldet.evaluation.evaluator import evaluate
    from ssldet.runs.external_scoring import record_external

    keeping = {"ratio": ratio, "seed": seed, "results": results, "replace": replace or None}
    _check_recording(name, keeping)
    for wanted in metric:  # an unknown name should not cost the opening of the data
        plugins.load("metric", wanted)
    data = open_data(dataset, data_root, assignments)
    metrics = {wanted: list(dict.fromkeys(protocols)) for wanted in metric}
    reading = FileConventions(**conventions)
    options: dict[str, Any] = {"split": split, "videos": videos, "lenient": lenient, "conventions": reading}
    kept: External | None = None
    if name is None:
        evaluation = evaluate(path, data, metrics, **options)
    else:
        options |= {key: value for key, value in keeping.items() if value is not None}
        kept, evaluation = record_external(name, path, data, metrics, **options)
    _report_dropped(evaluation.dropped)
    for text in (*evaluation.remarks, *(f"warning: {warning}" for warning in evaluation.warnings)):
        click.echo(text, err=True)
    if kept is not None and kept.record is not None:
        click.echo(f"kept in {kept.folder}, as external: detections {kept.record.short_hash}", err=True)
    if as_json:
        print_json(_as_json(evaluation.results))
    else:
        show_results(evaluation.results)
        if kept is not None and kept.record is not None:
            shown = f"`ssldet table --dataset {kept.record.dataset_name}` shows it beside runs"
            next_step(f"{shown}, `ssldet compare {kept.name} RUN` against one")
        elif "errors" not in metric:
            next_step("the same with `--metric errors` says what kinds of mistakes these are; --json is for scripts")


def _check_recording(name: str | None, keeping: Mapping[str, Any]) -> None:
    """Raises RequestError where the name is no good, or where there is none and something else goes with it."""
    from ssldet.errors import RequestError
    from ssldet.runs.external_scoring import check_name

    if name is not None:
        check_name(name)
    elif given := [f"--{key}" for key, value in keeping.items() if value is not None]:
        raise RequestError(f"{given[0]} belongs to --record NAME, which keeps the numbers; give a name")


def _report_dropped(dropped: Mapping[str, int]) -> None:
    if dropped:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted(dropped.items()))
        click.echo(f"dropped {sum(dropped.values())} rows: {reasons}", err=True)


def _each(results: Results) -> list[tuple[str, MetricResult]]:
    """Each metric under each of its protocols."""
    return [(metric, result) for metric, by_protocol in results.items() for result in by_protocol.values()]


def _as_json(results: Results) -> dict[str, Any]:
    """Metric -> its one result, or protocol -> result where there are several."""
    from ssldet.evaluation.results import result_as_json

    content = {name: {key: result_as_json(result) for key, result in of.items()} for name, of in results.items()}
    return {name: next(iter(of.values())) if len(of) == 1 else of for name, of in content.items()}


def show_results(results: Results) -> None:
    """A table for each metric and protocol, in percent."""
    from rich.table import Table

    from ssldet.evaluation.results import column_titles

    console = stdout_console()
    for metric, result in _each(results):
        titles = column_titles(metric)
        table = Table(title=f"{metric}, protocol {result.protocol}, percent", title_justify="left")
        table.add_column("class", no_wrap=True)
        for key in result.numbers:
            table.add_column(titles.get(key, key), justify="right")
        for label, values in _lines(result):
            table.add_row(label, *("-" if value is None else f"{100 * value:.2f}" for value in values))
        console.print(table)
        for note, value in result.notes.items():
            words = ", ".join(value) if isinstance(value, list) else value
            console.print(f"{note.replace('_', ' ')}: {words}", highlight=False)


def _lines(result: MetricResult) -> Iterable[tuple[str, list[float | None]]]:
    """The lines of a table: each class, then the mean."""
    values = list(result.by_class.values())
    for label in values[0].per_class if values else ():
        yield label, [value.per_class[label] for value in values]
    yield "all" if result.scalars else "mean", [*result.numbers.values()]
