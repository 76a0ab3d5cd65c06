"""`ssldet data`: what data sets are here, what is missing, what they hold; prepared frames and stand-ins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.completion import complete_plugins
from ssldet.cli.options import (
    FOLDER,
    PluginName,
    check_root,
    data_root,
    data_settings,
    json_flag,
    open_data,
    plugin_option,
    split_number,
    videos_option,
    workers_option,
)
from ssldet.cli.output import bar, next_step, print_json, stdout_console

if TYPE_CHECKING:
    from ssldet.contracts import Dataset, Subset, Video
    from ssldet.data.frame_store import FrameStore
    from ssldet.data.statistics import Statistics

dataset_name = click.argument(
    "name", metavar="D", type=PluginName("dataset"), shell_complete=complete_plugins("dataset")
)


@click.group(epilog="Example: ssldet data list --data-root data")
def command() -> None:
    """Find, check, count and prepare data sets. D is a data set's name, or a folder to be recognised."""


@command.command("list", epilog="Example: ssldet data list --data-root data")
@data_root
@json_flag
def list_data(data_root: Path | None, as_json: bool) -> None:
    """List the data sets that can be read, and which of them lie below the data root."""
    from ssldet import plugins
    from ssldet.data.datasets import identify

    check_root(data_root)
    found = identify(data_root) if data_root else {}
    rows = [{"name": name, "layout": found[name].layout() if name in found else None} for name in _readable(plugins)]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        layout = row["layout"]
        lines = layout.splitlines() if layout else ["not found below the data root" if data_root else ""]
        click.echo(f"{row['name']:<12}{('; '.join(lines))}".rstrip())
    next_step("`ssldet data guide NAME` says where to get one, `ssldet data verify NAME` checks it")


@command.command("verify", epilog="Example: ssldet data verify jhmdb --data-root data --decode")
@dataset_name
@data_root
@split_number
@data_settings
@videos_option("Check these videos only")
@click.option("--decode", is_flag=True, help="Decode every video, which finds damage inside the files.")
@click.option("--deep", is_flag=True, help="Look at tubes, labels, class balance and copies of videos too; a table.")
@click.option(
    "--draw", "sheets", type=FOLDER, help="Write a sheet of frames with boxes for each video into this folder."
)
@workers_option
@json_flag
def verify(
    name: str,
    data_root: Path | None,
    split: int,
    assignments: tuple[str, ...],
    videos: tuple[str, ...] | None,
    decode: bool,
    deep: bool,
    sheets: Path | None,
    workers: int,
    as_json: bool,
) -> None:
    """Say what layout was found, what it holds, every file that is missing or damaged, and what looks wrong.

    Errors end in exit 1. Doubts are a numbered list for a look and stop nothing.
    """
    from ssldet.cli import data_check
    from ssldet.data.datasets import check_ids
    from ssldet.data.health import examine

    dataset = open_data(name, data_root, assignments)
    if videos is not None:
        check_ids(dataset, videos, split)
    health = examine(dataset, split, only=videos, deep=deep)
    checked = {
        subset: [video for video in listed if videos is None or video.id in videos]
        for subset, listed in _videos(dataset, split).items()
    }
    everything = [video for listed in checked.values() for video in listed]
    decoded = data_check.decode(dataset, everything, workers) if decode else None
    if decoded:
        health.checks["decoding"] = data_check.damaged(decoded)
    if sheets is not None:
        data_check.draw(dataset, split, sheets, only=videos)
    counts = {subset: len(listed) for subset, listed in checked.items()}
    if as_json:
        print_json(data_check.report_json(dataset, counts, health, decoded, deep))
    else:
        data_check.show(dataset, counts, health, decoded, deep)
        _say_what_is_next(name, dataset.facts.name, data_root, bool(health.errors), drawn=sheets is not None)
    sys.exit(1 if health.errors else 0)


def _say_what_is_next(name: str, recognised: str, root: Path | None, faulty: bool, *, drawn: bool) -> None:
    if faulty:
        next_step("mend what is listed, then the same command")
    elif drawn:
        which = _for_run(name, recognised, root)
        next_step(f"`ssldet run --strategy supervised --dataset {which} --preset smoke` trains a first detector")
    else:
        next_step("the same with `--draw sheets` for a look at the boxes, then `ssldet run`")


def _for_run(name: str, recognised: str, root: Path | None) -> str:
    """What `run --dataset` takes; a folder that was recognised goes to it as a data root."""
    is_folder = root is None and Path(name).is_dir()
    return f"{recognised} --data-root {name}" if is_folder else f"{name} --data-root {root}" if root else name


@command.command("stats", epilog="Example: ssldet data stats ucf24 --data-root data --json")
@dataset_name
@data_root
@split_number
@data_settings
@json_flag
def stats(name: str, data_root: Path | None, split: int, assignments: tuple[str, ...], as_json: bool) -> None:
    """Count videos, tubes, boxes, frames and background per class, from the annotation; and the paper's Table 1."""
    from ssldet.data.statistics import count, table_1

    dataset = open_data(name, data_root, assignments)
    found = count(dataset, split)
    rows = table_1(found, dataset.reported)
    if as_json:
        content = {"dataset": dataset.facts.name, "split": split, "subsets": found.as_json(), "table_1": rows}
        print_json({**content, "absent": found.absent, "groups": found.groups})
    else:
        _show_stats(dataset, found, rows)
        which = _for_run(name, dataset.facts.name, data_root)
        next_step(f"`ssldet run --strategy supervised --dataset {which}` trains on it")


@command.command("prepare", epilog="Example: ssldet data prepare jhmdb --data-root data --size 112")
@dataset_name
@data_root
@split_number
@data_settings
@click.option(
    "--size",
    type=click.IntRange(min=16),
    default=224,
    show_default=True,
    help="Side of the frames: clip.size of the runs.",
)
@click.option(
    "--jpeg-quality",
    type=click.IntRange(min=0, max=100),
    help="Store JPEGs of this quality, 0 raw frames: clip.jpeg_quality of the runs.  [default: the data set's]",
)
@click.option(
    "--clip",
    "reach",
    type=(click.IntRange(min=1), click.IntRange(min=1)),
    metavar="FRAMES STRIDE",
    default=(16, 1),
    show_default=True,
    help="clip.frames and clip.stride of the runs: where not all frames have boxes, JPEGs of what clips show are kept.",
)
@click.option("--skip-damaged", is_flag=True, help="Leave out videos that do not decode.")
@click.option("--check", is_flag=True, help="First read all JPEGs against their checksums; damaged videos are redone.")
@click.option("--dry-run", is_flag=True, help="Only say what it would take.")
@workers_option
@json_flag
def prepare(
    name: str,
    data_root: Path | None,
    split: int,
    assignments: tuple[str, ...],
    size: int,
    jpeg_quality: int | None,
    reach: tuple[int, int],
    skip_damaged: bool,
    check: bool,
    dry_run: bool,
    workers: int,
    as_json: bool,
) -> None:
    """Decode all videos to frames at the training size, which runs then share; goes on where it was stopped."""
    from ssldet.data.batches import ClipOptions
    from ssldet.data.frame_store import FrameStore
    from ssldet.data.stored_frames import default_quality

    dataset = open_data(name, data_root, assignments)
    videos = [video for found in _videos(dataset, split).values() for video in found]
    quality = default_quality(dataset.facts, size) if jpeg_quality is None else jpeg_quality or None
    store = FrameStore.for_clips(
        dataset, ClipOptions(frames=reach[0], stride=reach[1], size=size, jpeg_quality=quality)
    )
    damaged = _redo_damaged(store, videos, keep=dry_run) if check else {}
    space = _space(store, videos)
    _say_what_it_takes(store, space)
    if dry_run:
        if as_json:
            print_json({"folder": str(store.folder), "damaged": damaged, **space})
        else:
            next_step("the same command without --dry-run")
        return
    with bar("decode", len(videos)) as advance:
        report = store.prepare(
            videos, workers=workers, progress=lambda done, _: advance(done), skip_damaged=skip_damaged
        )
    if as_json:
        taken = store.bytes_taken()
        print_json({"folder": str(store.folder), **asdict(report), "damaged": damaged, **space, "bytes_taken": taken})
        return
    click.echo(f"{report.decoded} videos decoded into {store.folder}, which takes {store.bytes_taken() / 1e6:,.1f} MB")
    for video_id, (decoded, annotated) in sorted(report.short.items()):
        click.echo(f"short: {video_id} has {decoded} of {annotated} frames; the others repeat those before them")
    for video_id in report.skipped:
        click.echo(f"skipped: {video_id} does not decode")
    stored = "null" if quality is None else quality
    next_step(f"`ssldet run --dataset {name} --set clip.size={size} --set clip.jpeg_quality={stored}` takes them there")


def _redo_damaged(store: FrameStore, videos: Sequence[Video], *, keep: bool) -> dict[str, list[int]]:
    """Name the videos of a store whose bytes have changed, and remove them, to be decoded anew, unless `keep`."""
    damaged = store.damaged(videos)
    for video_id, frames in sorted(damaged.items()):
        what = "would be decoded anew" if keep else "is decoded anew"
        click.echo(f"damaged: {video_id}, {len(frames)} frames from number {frames[0]} on; {what}", err=True)
    if not damaged:
        click.echo("no stored frame is damaged", err=True)
    elif not keep:
        store.discard(list(damaged))
    return damaged


def _space(store: FrameStore, videos: Sequence[Video]) -> dict[str, int]:
    missing = store.missing(videos)
    needed, free = store.bytes_needed(missing), store.bytes_free()
    return {"videos": len(videos), "missing": len(missing), "bytes_needed": needed, "bytes_free": free}


def _say_what_it_takes(store: FrameStore, space: dict[str, int]) -> None:
    what = f"JPEG, quality {store.form.name.removeprefix('jpeg')}, about" if store.form.name else "raw,"
    click.echo(f"{space['missing']} of {space['videos']} videos to decode", err=True)
    click.echo(
        f"frames: {what} {space['bytes_needed'] / 1e6:,.1f} MB to be written, {space['bytes_free'] / 1e6:,.0f} MB free",
        err=True,
    )


@command.command("synth", epilog="Example: ssldet data synth stand-ins/ucf24 --like ucf24")
@click.argument("folder", metavar="D", type=click.Path(path_type=Path))
@plugin_option("dataset", "--like", "Data set to imitate.", required=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed makes other videos.")
@json_flag
def synth(folder: Path, like: str, seed: int, as_json: bool) -> None:
    """Write small made-up data into folder D, in the layout and formats of a real data set."""
    from ssldet import plugins
    from ssldet.util.settings import split_flavour

    plugin: type[Dataset] = plugins.load("dataset", split_flavour(like)[0])
    plugin.write_stand_in(folder, seed)
    if as_json:
        print_json({"folder": str(folder), "like": like, "seed": seed})
    else:
        click.echo(f"{folder}: stand-in data like {like}; numbers made on it mean nothing")
        next_step(f"`ssldet data verify {like} --data-root {folder}`")


@command.command("guide", epilog="Example: ssldet data guide ava")
@dataset_name
@json_flag
def guide(name: str, as_json: bool) -> None:
    """Say where to get a data set, under which licence, and which folders are expected."""
    from ssldet import plugins
    from ssldet.util.settings import split_flavour

    plugin: type[Dataset] = plugins.load("dataset", split_flavour(name)[0])
    if as_json:
        print_json({"dataset": name, "guide": plugin.guide()})
    else:
        click.echo(plugin.guide() or f"{name} needs nothing: it is made on first use")
        check = f"`ssldet data verify {name} --data-root DIR` checks it, once it lies there"
        next_step(check if plugin.guide() else f"`ssldet run --strategy supervised --dataset {name} --preset smoke`")


def _readable(plugins: Any) -> list[str]:
    """Installed data sets that can be imported."""
    broken = {fault.distribution for fault in plugins.faults()}
    return sorted({p.name for p in plugins.available("dataset") if p.distribution not in broken})


def _videos(dataset: Dataset, split: int) -> dict[str, Sequence[Video]]:
    from ssldet.errors import DataError

    videos: dict[str, Sequence[Video]] = {}
    subsets: tuple[Subset, ...] = ("train", "test")
    for subset in subsets:
        try:
            videos[subset] = dataset.videos(subset, split)
        except DataError:
            videos[subset] = []  # verify says why
    return videos


# ------------------------------------------------------------------------------------------------- showing


def _show_stats(dataset: Dataset, found: Statistics, rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    from ssldet.cli import data_check

    console = stdout_console()
    columns = ("videos", "tubes", "boxes", "labels", "frames", "annotated_frames", "background")
    for subset, counts in found.subsets.items():
        table = Table(title=f"{dataset.facts.name}, {subset}", title_justify="left")
        table.add_column("class", no_wrap=True)
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for name, part in [*found.classes[subset].items(), (subset, counts)]:
            if part.videos:
                values = part.as_json()
                table.add_row(name, *(_cell(values[column]) for column in columns))
        console.print(table)
    if found.groups:
        console.print(data_check.groups_line(found.groups), highlight=False, soft_wrap=True)
    for subset, why in found.absent.items():
        console.print(f"{subset}: not counted: {why}", highlight=False, soft_wrap=True)
    for row in rows:
        words = f"{row['column']}: {row['counted'] or row['detail']}"
        detail = f" ({row['detail']})" if row["counted"] else ""
        printed = f"; Table 1 prints {row['printed']!r}" if row["differs"] else ""
        console.print(words + detail + printed, highlight=False, soft_wrap=True)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if isinstance(value, float) else f"{value:,}"
