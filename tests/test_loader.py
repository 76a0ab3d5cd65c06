"""Workers that make batches: no number changes, none outlives its training, and one that dies is replaced once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from frames_for_workers import AreAbsent, CountsThreads, EndsTheProcess
from helpers import TinyDataset
from test_clips import CLIP
from test_clips import source as source_of_dataset
from test_training import OPTIONS, dual_guidance, same, weights
from test_training import training as training_of_dataset

from ssldet.config import TrainOptions
from ssldet.contracts import Needs
from ssldet.data.batches import BatchSource, ClipReader
from ssldet.data.frame_store import FrameStore
from ssldet.data.loader import BatchKey, BatchKeys, batch_source
from ssldet.data.views import ViewOptions
from ssldet.errors import DataError, TrainingError
from ssldet.training.loop import StepReport, Training
from ssldet.util.cache import safe_name

COLOURED = ViewOptions(labelled_colour=0.3, strong_colour=0.3, strong_grey=0.5, strong_blur=0.5, strong_cutout=0.5)
PARTS = OPTIONS.model_copy(update={"micro_batch": 2, "bn_batch": 2})


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """No test may leave a process or another handler behind."""
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGCHLD) is handler


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """The frames of the tiny data set on disk, where workers read them."""
    data = TinyDataset()
    store = FrameStore(data, CLIP.size, tmp_path_factory.mktemp("frames"))
    store.folder.mkdir(parents=True)
    for video in data.videos("train"):
        np.save(store.folder / f"{safe_name(video.id)}.npy", data.frames(video.id))
    return store


def source(store: FrameStore, views: ViewOptions | None = None) -> BatchSource:
    batches = source_of_dataset(views=views)
    batches.reader = ClipReader(store.frames, CLIP)
    return batches


def training(store: FrameStore, options: TrainOptions = PARTS, **extra: Any) -> Training:
    run = training_of_dataset(dual_guidance(), options, **extra)
    run.source.reader = ClipReader(store.frames, CLIP)
    return run


def equal(one: Any, other: Any) -> bool:
    """Whether two batches are the same in every bit, generators' states included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, torch.Generator):
        return torch.equal(one.get_state(), other.get_state())
    if is_dataclass(one):
        return all(equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def keys(steps: int, parts: int = 2, burn_in: int = 1) -> BatchKeys:
    return BatchKeys(range(steps), parts, burn_in)


def made(batches: Any, wanted: BatchKeys, places: slice = slice(None)) -> list[Any]:
    some = [wanted[place] for place in range(len(wanted))[places]]
    return [batches.batch(key.step, key.part, key.parts, unlabelled=key.unlabelled) for key in some]


def test_keys_name_the_parts_of_steps_in_order() -> None:
    wanted = BatchKeys(range(4, 7), 2, 5)
    assert [wanted[place] for place in range(len(wanted))] == [
        BatchKey(step, part, 2, step >= 5) for step in (4, 5, 6) for part in (0, 1)
    ]


def test_workers_make_the_bits_that_the_source_makes(store: FrameStore) -> None:
    batches = source(store, COLOURED)
    batches.needs = Needs(frame_head=True, temporal=True, extra_labelled=True, labelled_weak=True, weak_following=True)
    wanted = keys(3)
    with batch_source(batches, wanted, 2) as loaded:
        assert len(multiprocessing.active_children()) == 2
        ahead = made(loaded, wanted)
    alone = made(batches, wanted)
    assert equal(ahead[5], alone[5]) and all(map(equal, ahead, alone))
    assert not equal(alone[5], alone[3])
    assert ahead[5][0].unlabelled.following is not None and ahead[5][0].labelled.weak_bcthw is not None


@pytest.fixture(scope="module")
def plain(store: FrameStore) -> dict[str, torch.Tensor]:
    """The student after a training whose batches its own process made."""
    run = training(store)
    run.run()
    return weights(run)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_bit_of_the_weights(
    workers: int, store: FrameStore, plain: dict[str, torch.Tensor]
) -> None:
    run = training(store, loader_workers=workers)
    assert run.run()
    assert same(weights(run), plain)


def test_a_run_stopped_amid_prefetched_batches_ends_the_same(
    tmp_path: Path, store: FrameStore, plain: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    run = training(store, loader_workers=1)
    assert not run.run(path, stop=lambda: run.counts.step == 5)
    again = training(store, loader_workers=1)
    again.resume(path)
    assert again.counts.step == 5 and again.run(path)
    assert same(weights(again), plain)


def killing(run: Training, steps: Sequence[int]) -> Any:
    """A listener that ends one of the workers after these steps."""

    def on_step(report: StepReport) -> None:
        if report.step in steps:
            worker = multiprocessing.active_children()[0]
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()

    return on_step


def test_a_worker_that_dies_is_replaced_once(store: FrameStore, plain: dict[str, torch.Tensor]) -> None:
    lines: list[dict[str, Any]] = []
    run = training(store, loader_workers=1, log=lines.append)
    assert run.run(on_step=killing(run, [2]))
    assert same(weights(run), plain)
    said = [warning for line in lines for warning in line["warnings"] if "worker" in warning]
    assert len(said) == 1
    assert "was ended by SIGKILL" in said[0] and "started again" in said[0]


def test_a_second_death_is_an_error_that_names_the_videos(store: FrameStore, tmp_path: Path) -> None:
    run = training(store, OPTIONS, loader_workers=1)
    with pytest.raises(DataError, match=r"SIGKILL.* at step \d \(videos v\d.*one had died before.*--loader-workers"):
        run.run(tmp_path / "checkpoint.safetensors", on_step=killing(run, [2, 5]))
    assert run.counts.step < 8 and (tmp_path / "checkpoint.safetensors").exists()  # that of step 3 stays


def test_a_death_is_told_with_the_videos_that_the_worker_was_at(store: FrameStore) -> None:
    batches, wanted = source(store), keys(4, parts=1)
    batches.reader = ClipReader(EndsTheProcess(store.frames, "v4"), CLIP)
    with (
        pytest.raises(DataError, match=r"ended with exit code 3 at step 2 ") as caught,
        batch_source(batches, wanted, 1) as loaded,
    ):
        made(loaded, wanted)
    named = str(caught.value).split("(videos ")[1].split(")")[0].split(", ")
    assert named == batches.videos(1, unlabelled=True) and "v4" in named


def test_the_videos_of_a_step_are_those_that_its_batch_reads(store: FrameStore) -> None:
    batches, read = source(store), set[str]()

    def frames(video: str) -> np.ndarray:
        read.add(video)
        return TinyDataset().frames(video)

    batches.reader = ClipReader(frames, CLIP)
    batches.batch(3, 1, 2, unlabelled=True)
    assert batches.videos(3, 1, 2, unlabelled=True) == sorted(read)


def test_an_error_of_a_worker_is_that_of_the_loop(store: FrameStore) -> None:
    batches, wanted = source(store), keys(4, parts=1)
    batches.reader = ClipReader(AreAbsent(store.frames, "v4"), CLIP)
    with pytest.raises(DataError, match=r"^no frames of v4 in the store$"), batch_source(batches, wanted, 1) as loaded:
        made(loaded, wanted)


def test_a_source_that_cannot_be_sent_is_refused(store: FrameStore) -> None:
    batches = source(store)
    batches.reader = ClipReader(lambda video: TinyDataset().frames(video), CLIP)
    with pytest.raises(DataError, match="choose --loader-workers 0"), batch_source(batches, keys(2), 1):
        pass


def test_a_step_may_come_to_be_cut_into_more_parts(store: FrameStore) -> None:
    """Workers follow whatever is asked for, from its first part on, to the end."""
    batches, finer = source(store), BatchKeys(range(1, 3), 4, 1)
    with batch_source(batches, keys(3), 1) as loaded:
        ahead = made(loaded, keys(3), slice(3)) + made(loaded, finer)
    assert all(map(equal, ahead, made(batches, keys(3), slice(3)) + made(batches, finer)))
    assert len(ahead) == 11


def test_a_worker_uses_one_thread(store: FrameStore) -> None:
    batches = source(store)
    batches.reader = ClipReader(CountsThreads(store.frames), CLIP)
    threads = torch.get_num_threads()
    with batch_source(batches, keys(2), 1) as loaded:
        (batch, _), *_ = made(loaded, keys(2))
    assert round(float(batch.labelled.clips_bcthw.max()) * 255) == 1  # black lies around the frames
    assert torch.get_num_threads() == threads


def test_workers_end_with_a_training_that_fails(store: FrameStore) -> None:
    run = training(store, OPTIONS.model_copy(update={"lr": 1e30}), loader_workers=2)
    with pytest.raises(TrainingError):
        run.run()


def test_signals_are_the_loops_alone(store: FrameStore) -> None:
    """Workers make the batch of the step under way, whatever a terminal or job system sends to all its processes."""
    wanted = keys(6, parts=1)
    with batch_source(source(store), wanted, 1) as loaded:
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(worker.pid, number)  # while it starts
        assert len(made(loaded, wanted, slice(1))) == 1
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(worker.pid, number)
        assert len(made(loaded, wanted, slice(1, None))) == 5
        assert worker.is_alive()


ABANDONED = """
import multiprocessing, pickle, sys
from pathlib import Path
from ssldet.data.loader import BatchKey, BatchKeys, batch_source

if __name__ == "__main__":
    source = pickle.loads(Path(sys.argv[1]).read_bytes())
    with batch_source(source, BatchKeys(range(1000), 1, 0), 2) as loaded:
        loaded.batch(0, 0, 1, unlabelled=True)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        sys.stdin.read()
"""


def test_workers_do_not_outlive_a_process_that_is_killed(store: FrameStore, tmp_path: Path) -> None:
    (script := tmp_path / "train.py").write_text(ABANDONED)
    (sent := tmp_path / "source.pickle").write_bytes(pickle.dumps(source(store).for_workers()))
    command = [sys.executable, str(script), str(sent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        workers = [psutil.Process(int(word)) for word in process.stdout.readline().split()]
        assert len(workers) == 2
        process.kill()
    deadline = time.monotonic() + 120
    while any(map(runs, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(process: psutil.Process) -> bool:
    """Whether a process is there, and not only its entry: nobody may be left to collect that."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_frame_store_is_sent_without_its_data_set(tmp_path: Path) -> None:
    data = TinyDataset()
    data.unpicklable = lambda: None  # type: ignore[attr-defined]
    store = FrameStore(data, 32, tmp_path)
    store.folder.mkdir(parents=True)
    np.save(store.folder / f"{safe_name('v0')}.npy", data.frames("v0"))
    sent = pickle.loads(pickle.dumps(store))
    assert np.array_equal(sent.frames("v0"), data.frames("v0"))
    assert store.dataset is data


def test_a_source_for_workers_reads_no_annotation(store: FrameStore) -> None:
    batches = source(store)
    light: BatchSource = batches.for_workers()
    light.table._truth_of("v0")
    with pytest.raises(KeyError):
        light.table._truth_of("v3")  # unlabelled: its truth is sent nowhere
    assert equal(light.batch(0, unlabelled=True), batches.batch(0, unlabelled=True))
