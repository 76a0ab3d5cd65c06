"""What a clip in both its views costs, against sixteen JPEGs read by PIL; and how long a step waits for its clips.

    python benchmarks/performance/bench_loader.py --data-root JHMDB [--videos 8] [--steps 40]

Clips of 16 frames at 224 pixels, in the weak view and a strong one, as the network takes them, on one thread. The clips
of a frame store are drawn at random, as in training. A video file or a folder of images is decoded once, when the
store is filled: there every frame counts once, decoding and both views of its clip included.

A step waits as long as the training loop stands still until a worker hands over what it made. Two loops are measured,
with one worker each: `yowo_nano` by dual guidance as the preset `nano` trains it, and a sleep of 100 ms in the place of
a network, with 4 labelled and 4 unlabelled clips a step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from common import Timer, peak_memory_mb, record
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from ssldet import plugins
from ssldet.config import resolve
from ssldet.contracts import Dataset, Needs, Video, VideoSource
from ssldet.data.batches import BatchSource, ClipOptions, ClipReader
from ssldet.data.frame_store import FrameStore
from ssldet.data.loader import BatchKeys, BatchLoader, batch_source
from ssldet.data.sampling import Sampling, key_frames
from ssldet.data.stored_frames import DEFAULT_QUALITY, PackedForm
from ssldet.data.targets import TruthTable
from ssldet.data.video import read_frames
from ssldet.data.views import ViewOptions, WindowGeometry, draw_geometry, normalised
from ssldet.runs.planning import build_student, plan
from ssldet.training.assembly import assemble_training

CLIP = ClipOptions(frames=16, stride=1, size=224)
CLIPS_A_VIDEO = 4
JPEG_QUALITY = 90
SLEEP = 0.1
WARM_UP = 5

Clip = tuple[Video, int]
"""A video and the last frame of a clip."""


def both_views(weak_bthwc: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """What the network gets of some clips: the weak and the strong view."""
    return normalised(weak_bthwc), normalised(geometry.apply(weak_bthwc))


def geometries(count: int) -> WindowGeometry:
    return draw_geometry(count, CLIP.size, ViewOptions(), torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------- ways to the clips


def from_sources(sources: Sequence[tuple[VideoSource, int]]) -> int:
    """Decode whole videos and make both views of their clips, one after the other; how many clips there were."""
    clips = 0
    for source, num_frames in sources:
        frames = read_frames(source, num_frames, (CLIP.size, CLIP.size)).frames_thwc
        whole = len(frames) // CLIP.frames
        weak_bthwc = torch.from_numpy(frames[: whole * CLIP.frames]).unflatten(0, (whole, CLIP.frames))
        for clip in range(whole):
            both_views(weak_bthwc[clip : clip + 1], geometries(1))
        clips += whole
    return clips


def from_store(store: FrameStore, clips: Sequence[Clip]) -> int:
    """Read clips of a frame store and make both views of them, four at a time."""
    reader = ClipReader(store.frames, CLIP)
    for start in range(0, len(clips), 4):
        videos, frames = zip(*((video.id, frame) for video, frame in clips[start : start + 4]), strict=True)
        both_views(reader.read(videos, frames), geometries(len(videos)))
    return len(clips)


def from_pictures(pictures: dict[str, list[Path]], clips: Sequence[Clip]) -> int:
    """The usual way: PIL reads a JPEG a frame, torchvision transforms it."""
    geometry = geometries(1)
    for video, frame in clips:
        by_pil([Image.open(pictures[video.id][at]) for at in indices(video, frame)], geometry)
    return len(clips)


def by_pil(pictures: Sequence[Image.Image], geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """Both views of one clip, (3, t, h, w) each."""
    weak, strong, size = [], [], [CLIP.size, CLIP.size]
    ((x1, y1, x2, y2),), (flip,) = geometry.window_b4.tolist(), geometry.flip_b.tolist()
    for picture in pictures:
        squeezed = functional.resize(picture.convert("RGB"), size)
        shown = functional.resized_crop(squeezed, y1, x1, y2 - y1, x2 - x1, size)
        weak.append(functional.to_tensor(squeezed))
        strong.append(functional.to_tensor(functional.hflip(shown) if flip else shown))
    return torch.stack(weak, 1), torch.stack(strong, 1)


def indices(video: Video, frame: int) -> list[int]:
    chosen: list[int] = ClipReader(lambda _: np.empty(0), CLIP).indices(frame, video.num_frames).tolist()
    return chosen


def check(pictures: dict[str, list[Path]], clip: Clip) -> None:
    """Both ways show the same: PIL's strong view is the suite's, of the same weak one."""
    geometry = geometries(1)
    weak, strong = by_pil([Image.open(pictures[clip[0].id][at]) for at in indices(*clip)], geometry)
    same = weak.mul(255).round().byte().permute(1, 2, 3, 0)[None]
    torch.testing.assert_close(both_views(same, geometry)[1][0], strong, atol=1.01 / 255, rtol=0)


def written_pictures(dataset: Dataset, videos: Sequence[Video], folder: Path) -> dict[str, list[Path]]:
    """The frames of videos as JPEGs of the videos' own size, a folder each."""
    pictures: dict[str, list[Path]] = {}
    for number, video in enumerate(videos):
        (place := folder / str(number)).mkdir(parents=True)
        frames = read_frames(dataset.source(video.id), video.num_frames).frames_thwc
        pictures[video.id] = [place / f"{at:05d}.jpg" for at in range(len(frames))]
        for path, frame in zip(pictures[video.id], frames, strict=True):
            Image.fromarray(frame).save(path, quality=JPEG_QUALITY)
    return pictures


def stores(dataset: Dataset, videos: Sequence[Video], folder: Path) -> dict[str, FrameStore]:
    """The forms of the frame store by name, filled."""
    forms = {"raw store": None, "packed store": PackedForm(CLIP.size, DEFAULT_QUALITY, offsets=tuple(range(-15, 1)))}
    filled = {name: FrameStore(dataset, CLIP.size, folder / "stores", form) for name, form in forms.items()}
    for store in filled.values():
        store.prepare(videos)
    return filled


def seconds_a_clip(way: Callable[[], int], repeats: int = 3) -> dict[str, float]:
    """The quickest of some repetitions, after one that is not counted."""
    way()
    timers = []
    for _ in range(repeats):
        with Timer() as timer:
            clips = way()
        timers.append((timer.seconds / clips, timer.wall_seconds / clips))
    seconds, wall_seconds = min(timers)
    return {"seconds": seconds, "wall_seconds": wall_seconds, "clips_a_second": round(1 / seconds, 1)}


def measure_ways(dataset: Dataset, videos: Sequence[Video], folder: Path) -> None:
    draws = np.random.default_rng(0)
    clips = [(video, int(frame)) for video in videos for frame in draws.integers(0, video.num_frames, CLIPS_A_VIDEO)]
    clips = [clips[place] for place in draws.permutation(len(clips))]
    pictures = written_pictures(dataset, videos, folder / "pictures")
    check(pictures, clips[0])
    ways: dict[str, Callable[[], int]] = {
        "video files": lambda: from_sources([(dataset.source(video.id), video.num_frames) for video in videos]),
        "folders of JPEGs": lambda: from_sources(
            [(VideoSource(images=tuple(pictures[video.id])), video.num_frames) for video in videos]
        ),
        **{name: partial(from_store, store, clips) for name, store in stores(dataset, videos, folder).items()},
    }
    loops = seconds_a_clip(lambda: from_pictures(pictures, clips))
    for name, way in ways.items():
        figures: dict[str, Any] = {**seconds_a_clip(way), "loops_seconds": loops["seconds"], "aim": "4x"}
        figures["loops_clips_a_second"] = loops["clips_a_second"]
        record(f"a clip of 16 frames at 224 pixels in both views, from {name}; 16 JPEGs by PIL", figures)


# ------------------------------------------------------------------------------------------- waiting


def record_waiting(name: str, waited: Sequence[float], steps: Sequence[float]) -> None:
    """Mean wait and length of a step, after the first ones; the ratio is what a step lasts over what it waits."""
    waiting, step = float(np.mean(waited[WARM_UP:])), float(np.mean(steps[WARM_UP:]))
    figures = {"seconds": waiting, "loops_seconds": step, "share": round(waiting / step, 4), "aim": "33x (3 %)"}
    record(f"wait for data, of a step of {name}, 1 worker", {**figures, "peak_memory_mb": peak_memory_mb()})


def measure_sleep(dataset: Dataset, videos: Sequence[Video], folder: Path, steps: int) -> None:
    source = sleeping_source(dataset, videos, stores(dataset, videos, folder)["raw store"])
    waited: list[float] = []
    lengths: list[float] = []
    with batch_source(source, BatchKeys(range(steps + WARM_UP), 1, 0), 1) as loader:
        assert isinstance(loader, BatchLoader)
        for step in range(steps + WARM_UP):
            with differences(lambda: loader.waited, waited), differences(time.perf_counter, lengths):
                loader.batch(step, unlabelled=True)
                time.sleep(SLEEP)
    record_waiting("4 + 4 clips at 224 pixels and a sleep of 100 ms", waited, lengths)


def sleeping_source(dataset: Dataset, videos: Sequence[Video], store: FrameStore) -> BatchSource:
    labelled, unlabelled = ([video.id for video in videos[half::2]] for half in (0, 1))
    by_id = {video.id: video for video in videos}
    return BatchSource(
        ClipReader(store.frames, CLIP),
        key_frames(labelled, lambda video: dataset.truth(video).key_frames_m),
        key_frames(unlabelled, lambda video: np.arange(by_id[video].num_frames)),
        TruthTable(dataset.facts, by_id, dataset.truth, CLIP.size),
        sampling=Sampling(4, 4, 0.0),
        views=ViewOptions(),
        needs=Needs(),
        seed=0,
        device=torch.device("cpu"),
    )


def measure_nano(data_root: Path, videos: int, folder: Path, steps: int) -> None:
    flags = {"strategy": "dual_guidance", "dataset": "jhmdb", "data_root": data_root, "ratio": 0.2, "threads": 1}
    planned = plan(resolve(flags, preset="nano", assignments=["train.burn_in=0", f"train.steps={steps + WARM_UP}"]))
    store = FrameStore(planned.dataset, planned.config.experiment.clip.size, folder / "nano")
    labelled, unlabelled = planned.split.labelled[:videos], planned.split.unlabelled[:videos]
    store.prepare([planned.train[video] for video in (*labelled, *unlabelled)])
    training = assemble_training(
        planned.config.experiment,
        planned.strategy,
        build_student(planned)[0],
        facts=planned.dataset.facts,
        videos=planned.train,
        truth_of=planned.dataset.truth,
        reader=ClipReader(store.frames, planned.config.experiment.clip),
        labelled=labelled,
        unlabelled=unlabelled,
        loader_workers=1,
    )
    waited, ends = [0.0], [time.perf_counter()]

    def on_step(_: object) -> None:
        assert isinstance(training.batches, BatchLoader)
        waited.append(training.batches.waited)
        ends.append(time.perf_counter())

    training.run(on_step=on_step)
    record_waiting("yowo_nano", np.diff(waited).tolist(), np.diff(ends).tolist())


@contextmanager
def differences(clock: Callable[[], float], into: list[float]) -> Iterator[None]:
    """Appends how far a clock went in the block."""
    began = clock()
    yield
    into.append(clock() - began)


@click.command()
@click.option("--data-root", required=True, type=click.Path(path_type=Path), help="J-HMDB's folder.")
@click.option("--videos", "count", default=8, show_default=True, help="Videos that clips are of.")
@click.option("--steps", default=40, show_default=True, help="Steps of the loops that may wait.")
def main(data_root: Path, count: int, steps: int) -> None:
    torch.set_num_threads(1)
    dataset = plugins.load("dataset", "jhmdb")(data_root)
    every = dataset.videos("train")
    videos = every[:: max(1, len(every) // count)][:count]
    with tempfile.TemporaryDirectory() as folder:
        measure_ways(dataset, videos, Path(folder))
        measure_sleep(dataset, videos, Path(folder), steps)
        measure_nano(data_root, 4 * count, Path(folder), steps)


if __name__ == "__main__":
    main()
