"""What `ssldet data verify` prints: errors, doubts in a numbered list, classes with counts; `--deep` as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.output import aligned, bar

if TYPE_CHECKING:
    from ssldet.contracts import Dataset, Problem, Video
    from ssldet.data.decoding import DecodeReport
    from ssldet.data.health import Health


def decode(dataset: Dataset, videos: Sequence[Video], workers: int) -> DecodeReport:
    """Decode all videos, with a bar."""
    from ssldet.data.decoding import decode_all

    with bar("decode", len(videos)) as advance:
        return decode_all(dataset, videos, workers, advance)


def draw(dataset: Dataset, split: int, folder: Path, only: Sequence[str] | None) -> None:
    """Write a sheet of frames with boxes for each annotated video."""
    from ssldet.data.doubts import annotated, listed_videos
    from ssldet.data.sheets import draw_sheets

    videos = annotated(dataset, listed_videos(dataset, split, only))
    drawn = 0
    with bar("draw", len(videos)) as advance:
        for done, (video_id, result) in enumerate(draw_sheets(dataset, videos, folder), 1):
            advance(done)
            drawn += not isinstance(result, str)
            if isinstance(result, str):
                click.echo(f"not drawn: {video_id}: {result}", err=True)
    click.echo(f"{drawn} sheets in {folder}: look whether boxes lie on the actors", err=True)


def report_json(
    dataset: Dataset, counts: dict[str, int], health: Health, decoded: DecodeReport | None, deep: bool
) -> dict[str, Any]:
    """All that was found, as plain data."""
    from ssldet.data.health import as_json

    checks = {name: [as_json(problem) for problem in problems] for name, problems in health.checks.items()}
    return {
        "dataset": dataset.facts.name,
        "layout": layout_lines(dataset),
        "videos": counts,
        "annotated": health.annotated,
        "groups": health.groups,
        "classes": health.classes,
        "frames": health.frames,
        "problems": [as_json(problem) for problem in health.errors],
        "doubts": [as_json(problem) for problem in health.doubts],
        **({"checks": checks} if deep else {}),
        **({"decoded": decoded.videos, "short": decoded.short} if decoded else {}),
    }


def show(dataset: Dataset, counts: dict[str, int], health: Health, decoded: DecodeReport | None, deep: bool) -> None:
    """Print what was found."""
    click.echo("\n".join([f"data set: {dataset.facts.name}", *layout_lines(dataset)]))
    click.echo("videos: " + ", ".join(_videos(subset, count, health) for subset, count in counts.items()))
    if health.groups:
        click.echo(groups_line(health.groups))
    click.echo(_frames(health.frames))
    click.echo(aligned(_class_rows(health.classes)))
    if decoded:
        click.echo(f"decoded: {decoded.videos} videos, {len(decoded.damaged)} damaged, {len(decoded.short)} short")
        for video_id, (present, annotated) in sorted(decoded.short.items()):
            click.echo(f"  short: {video_id} has {present} of {annotated} frames; frames are repeated")
    if deep:
        click.echo(aligned(_check_rows(health)))
    errors, doubts = health.errors, health.doubts
    for problem in errors:
        click.echo(f"  {problem}")
    for number, problem in enumerate(doubts, 1):
        click.echo(f"  doubt {number}: {problem}")
    click.echo(_verdict(len(errors), len(doubts)))


def layout_lines(dataset: Dataset) -> list[str]:
    """The layout that was found, or why there is none."""
    from ssldet.errors import DataError

    try:
        return dataset.layout().splitlines()
    except DataError as error:
        return [f"none: {str(error).splitlines()[0]}"]


def _videos(subset: str, count: int, health: Health) -> str:
    annotated = health.annotated[subset]
    bare = f" ({annotated} annotated, {count - annotated} unlabelled)" if annotated < count else ""
    return f"{count} {subset}{bare}"


def groups_line(groups: dict[str, int]) -> str:
    """How many groups the videos are of, in words."""
    counts = ", ".join(f"{count} {subset}" for subset, count in groups.items())
    return f"groups: {counts}; validation and intervals take whole ones"


def _frames(frames: dict[str, int]) -> str:
    listed = frames["listed"]
    share = f" ({frames['background'] / listed:.1%})" if listed else ""
    return (
        f"frames of annotated videos: {frames['frames']:,}, of which the annotation speaks of {listed:,}: "
        f"{frames['with_boxes']:,} with boxes, {frames['background']:,} background{share}"
    )


def _class_rows(classes: dict[str, dict[str, dict[str, int]]]) -> list[list[str]]:
    rows = [["class", "training videos", "boxes", "test videos", "boxes"]]
    for name, subsets in classes.items():
        counts = [subsets[subset][what] for subset in ("train", "test") for what in ("videos", "boxes")]
        rows += [[name, *(f"{number:,}" for number in counts)]] if any(counts) else []
    return rows


def _check_rows(health: Health) -> list[list[str]]:
    rows = [["check", "errors", "doubts"]]
    for name, problems in health.checks.items():
        errors = sum(problem.severity == "error" for problem in problems)
        rows.append([name, str(errors), str(len(problems) - errors)])
    return rows


def _verdict(errors: int, doubts: int) -> str:
    doubtful = f"{doubts} doubt{'' if doubts == 1 else 's'}" if doubts else ""
    if errors:
        return f"incomplete: {errors} problem{'' if errors == 1 else 's'}" + (f", {doubtful}" if doubts else "")
    return f"complete, with {doubtful}" if doubts else "complete"


def damaged(decoded: DecodeReport) -> list[Problem]:
    """Videos that do not decode, as errors."""
    from ssldet.contracts import Problem

    return [Problem(text, video=video_id) for video_id, text in sorted(decoded.damaged.items())]
