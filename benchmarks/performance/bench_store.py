"""The frame store: size, clips a second and core, and what JPEGs do to frames and to a network's numbers.

    python benchmarks/performance/bench_store.py --data-root DATA [--dataset jhmdb] [--videos 24] [--clips 200]
    python benchmarks/performance/bench_store.py --data-root DATA --run results/runs/jhmdb-...

The first form stores some videos of each data set raw and as JPEGs of each quality, at 112 and 224 pixels, and
reads the same random clips from all of them in turn (8 frames, stride 2, at 112; 16 frames at 224), so that ratios are
of one run. The second evaluates the weights of a finished run on its test videos, raw and packed, and puts what it
finds beside the record's own numbers. Figures go to `store.json`, and the first table to `docs/performance.md`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from common import HERE, Timer, machine, put_into_page
from safetensors.torch import load_file

from ssldet.config import Machine, RunConfig
from ssldet.contracts import Dataset, Video
from ssldet.data.batches import ClipOptions, ClipReader
from ssldet.data.datasets import load_dataset
from ssldet.data.frame_store import FrameStore
from ssldet.errors import DataError
from ssldet.evaluation import results
from ssldet.evaluation.inference import detect_videos
from ssldet.evaluation.scoring import score
from ssldet.runs import layout
from ssldet.runs.listing import headline_places
from ssldet.runs.record import Record
from ssldet.util.files import write_json

FILE = HERE / "store.json"
CLIPS = {112: {"frames": 8, "stride": 2, "size": 112}, 224: {"frames": 16, "stride": 1, "size": 224}}
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Stored:
    """Some videos in one form: where, and how long decoding and storing them took, on the processor."""

    store: FrameStore
    reader: ClipReader
    seconds: float


def forms(size: int, qualities: Sequence[int]) -> dict[str, ClipOptions]:
    named = {"raw": None} | {f"JPEG {quality}": quality for quality in qualities}
    return {name: ClipOptions(**CLIPS[size], jpeg_quality=quality) for name, quality in named.items()}


def stored(dataset: Dataset, videos: Sequence[Video], clip: ClipOptions, folder: Path) -> Stored:
    store = FrameStore.for_clips(dataset, clip, folder)
    with Timer() as timer:
        store.prepare(videos)
    return Stored(store, ClipReader(store.frames, clip), timer.seconds)


def is_there(dataset: Dataset, video: Video) -> bool:
    try:
        return bool(dataset.source(video.id))
    except DataError:
        return False


def evenly(videos: Sequence[Video], count: int) -> Sequence[Video]:
    return videos[:: max(1, len(videos) // count)][:count]


def random_clips(videos: Sequence[Video], count: int) -> list[tuple[str, int]]:
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(videos), size=count)
    return [(videos[i].id, int(rng.integers(videos[i].num_frames))) for i in chosen]


def seconds_per_clip(reader: ClipReader, clips: Sequence[tuple[str, int]]) -> float:
    """On the processor, one clip after the other, files in memory: what a loader's process spends on reading."""
    with Timer() as timer:
        for video, frame in clips:
            reader.read([video], [frame])
    return timer.seconds / len(clips)


def error(raw: ClipReader, other: ClipReader, clips: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Of pixels of 0 to 255, over some clips: the mean and the greatest difference."""
    videos, frames = zip(*clips[:32], strict=True)
    difference = (raw.read(videos, frames).int() - other.read(videos, frames).int()).abs()
    return {"mean_error": difference.float().mean().item(), "most_error": int(difference.max())}


def measure(dataset: Dataset, size: int, qualities: Sequence[int], videos: int, count: int) -> list[dict[str, Any]]:
    """One row a form, of the same clips of the same videos."""
    of_all = [*dataset.videos("train"), *dataset.videos("test")]
    some = evenly([video for video in of_all if is_there(dataset, video)], videos)
    clips = random_clips(some, count)
    share = sum(video.num_frames for video in some) / sum(video.num_frames for video in of_all)
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: stored(dataset, some, clip, Path(folder)) for name, clip in forms(size, qualities).items()}
        times: dict[str, list[float]] = {name: [] for name in kept}
        for _ in range(REPEATS + 1):  # in turn, so that others' load meets all forms; the first round warms up
            for name, one in kept.items():
                times[name].append(seconds_per_clip(one.reader, clips))
        frames = sum(video.num_frames for video in some)
        return [
            {
                "dataset": dataset.facts.name,
                "size": size,
                "form": name,
                "bytes_per_frame": one.store.bytes_taken() / frames,
                "gigabytes_of_all": one.store.bytes_taken() / share / 1e9,
                "clips_per_second": 1 / min(times[name][1:]),
                "ratio_to_raw": min(times[name][1:]) / min(times["raw"][1:]),
                "stored_frames_per_second": frames / one.seconds,
                **error(kept["raw"].reader, one.reader, clips),
            }
            for name, one in kept.items()
        ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    heading = (
        "| data set, pixels | form | GB of all videos | clips/s a core | ms a clip to raw | error, mean and most |\n"
        "|---|---|---|---|---|---|\n"
    )
    lines = (
        f"| {row['dataset']}, {row['size']} | {row['form']} | {row['gigabytes_of_all']:.3g} | "
        f"{row['clips_per_second']:.0f} | {row['ratio_to_raw']:.1f}x | "
        f"{row['mean_error']:.2f}, {row['most_error']} of 255 |\n"
        for row in rows
    )
    return heading + "".join(lines)


# ------------------------------------------------------------------------------------- what a network makes of it


def scores_of_run(folder: Path, data_root: Path, qualities: Sequence[int], count: int | None) -> dict[str, Any]:
    """The headline numbers of a finished run's weights on its test videos, in each form; and those of its record."""
    record = Record.read(folder / layout.RECORD)
    config = RunConfig.model_validate({"experiment": record.config["experiment"], "machine": Machine()})
    experiment = config.experiment
    dataset = load_dataset(experiment.dataset, data_root, **experiment.dataset_options)
    listed = dataset.videos("test", experiment.split)
    videos = evenly(listed, count) if count else listed
    strategy = config.build_strategy()
    detector = config.build_backbone().build(dataset.facts, frame_head=strategy.needs.frame_head)
    detector.load_state_dict(load_file(folder / layout.WEIGHTS))
    places = headline_places(dataset.facts.protocol)
    wanted = {metric: [protocol] for metric, protocol, _ in places.values()}
    found: dict[str, Any] = {"run": folder.name, "videos": len(videos), "of": len(listed)}
    found["record"] = {title: results.mean_where_truth(record.metrics, *place) for title, place in places.items()}
    for quality in (None, *qualities):
        clip = experiment.clip.model_copy(update={"jpeg_quality": quality})
        store = FrameStore.for_clips(dataset, clip)
        store.prepare(videos)
        detections = {
            video.id: detected
            for video, detected in detect_videos(
                detector,
                videos,
                lambda video: dataset.truth(video).key_frames_m,
                ClipReader(store.frames, clip),
                experiment.detect,
                device=torch.device("cpu"),
            )
        }
        scored = score(dataset.facts, videos, dataset.truth, detections, wanted)
        name = "raw" if quality is None else f"JPEG {quality}"
        found[name] = {title: results.mean_where_truth(scored, *place) for title, place in places.items()}
        print(name, found[name], flush=True)
    return found


def keep(key: str, figures: Any) -> None:
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    write_json(FILE, {**known, key: {"figures": figures, "machine": machine()}})


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the table between its marks into the page for readers."""
    text = table(rows)
    print(text)
    put_into_page("store", text)


@click.command()
@click.option("--data-root", required=True, type=click.Path(path_type=Path, exists=True), help="Folder of the data.")
@click.option("--dataset", "names", multiple=True, default=("jhmdb", "ucf24"), show_default=True)
@click.option("--sizes", multiple=True, type=click.Choice(["112", "224"]), default=("112", "224"), show_default=True)
@click.option("--quality", "qualities", multiple=True, type=int, default=(90, 95), show_default=True)
@click.option("--videos", type=int, help="So many, evenly from the list.  [default: 24; with --run all]")
@click.option("--clips", default=200, show_default=True, help="Clips that are read.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path, exists=True), help="Folder of a finished run.")
def main(
    data_root: Path,
    names: tuple[str, ...],
    sizes: tuple[str, ...],
    qualities: tuple[int, ...],
    videos: int | None,
    clips: int,
    run_folder: Path | None,
) -> None:
    torch.set_num_threads(1)
    if run_folder is not None:
        keep("scores", scores_of_run(run_folder, data_root, qualities, videos))
        return
    rows = []
    for name in names:
        dataset = load_dataset(name, data_root)
        for size in map(int, sizes):
            rows += measure(dataset, size, qualities, videos or 24, clips)
            print(table(rows), flush=True)
    keep("store", rows)
    show(rows)


if __name__ == "__main__":
    main()
