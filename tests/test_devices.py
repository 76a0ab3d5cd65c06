"""Whole runs in two processes: stopped, resumed with another number of them, detected in together, under torchrun."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import EASY, QUICK
from made_detections import perfect
from safetensors.torch import load_file
from test_runner import SMALL, StopAt, config

from ssldet.contracts import Video, VideoDetections
from ssldet.data.batches import ClipReader
from ssldet.data.frame_store import FrameStore
from ssldet.errors import ConfigError, RequestError, TrainingError
from ssldet.evaluation.detections import read_detections
from ssldet.runs import layout, runner
from ssldet.runs.log import read_log
from ssldet.runs.planning import build_student
from ssldet.runs.validation import Detect, detections_of, shared_out, shares
from ssldet.training.loop import StepReport
from ssldet.util.ranks import Ranks

GROUPS = ("train.bn_batch=2",)
"""Two groups a step."""


def of(results: Path, devices: int, **fields: Any) -> runner.Plan:
    sets = (*GROUPS, "train.checkpoint_every=4", "detect.score_threshold=0")  # so short a training is sure of nothing
    return runner.plan(config(results, sets=sets, device="cpu", devices=devices, threads=1, **fields))


class StopFrom(StopAt):
    """Asks to stop from a step on; of several processes it hears of a step a little later."""

    def stop(self) -> bool:
        return self.now >= self.at


class KillAt(StopAt):
    """Kills the second of two processes in the midst of training."""

    def step(self, report: StepReport) -> None:
        super().step(report)
        if report.step == self.at:
            [second] = [process for process in multiprocessing.active_children() if process.name == "rank 1"]
            second.kill()

    def stop(self) -> bool:
        return False


def is_logged_alike(one: runner.Plan, several: runner.Plan) -> None:
    """The losses that the logs of two runs have are equal, but for rounding."""
    ours, theirs = (read_log(planned.folder / layout.LOG) for planned in (one, several))
    assert [line["step"] for line in theirs] == [line["step"] for line in ours]
    for line, same in zip(ours, theirs, strict=True):
        assert same["losses"] == pytest.approx(line["losses"], rel=1e-3, abs=1e-4)


def stopped(planned: runner.Plan, step: int) -> None:
    with pytest.raises(runner.Interrupted, match=f"stopped after step {step} of 16"):
        runner.execute(planned, StopAt(step))


def test_a_killed_process_ends_the_run_which_one_process_finishes(tmp_path: Path) -> None:
    """In the second stage, after a checkpoint; training ends with the numbers of one process."""
    stopped(one := of(tmp_path / "one", 1), 16)
    both = of(tmp_path / "both", 2)
    with pytest.raises(TrainingError, match=r"rank 1 \(cpu\).*SIGKILL.*the same command goes on from it"):
        runner.execute(both, KillAt(13))
    assert runner.Record.read(both.record_path).status == "failed" and (both.folder / layout.CHECKPOINT).exists()
    stopped(of(tmp_path / "both", 1), 16)
    is_logged_alike(one, both)


@pytest.mark.acceptance
def test_a_run_of_one_and_of_two_processes_by_turns_is_that_of_one(tmp_path: Path) -> None:
    """It is stopped after 10 steps of two processes, and after 15 in one; two end it, and detect together."""
    runner.execute(one := of(tmp_path / "one", 1), runner.Reporter())
    both, alone = of(tmp_path / "both", 2), of(tmp_path / "both", 1)
    with pytest.raises(runner.Interrupted, match=r"stopped after step 1\d of 16"):
        runner.execute(both, StopFrom(10))
    stopped(alone, 15)
    record = runner.execute(both, reporter := StopAt(-1))
    assert reporter.now == 16 and reporter.phases == ["decode", "train", "detect", "score"]
    assert record.hardware["devices"] == 2 and record.training.steps == 16
    is_logged_alike(one, both)
    is_what_one_process_detects(both)


def is_what_one_process_detects(planned: runner.Plan) -> None:
    """The detections file has what the weights beside it give in this process, but for rounding."""
    facts, clip = planned.dataset.facts, planned.config.experiment.clip
    detector, _ = build_student(planned)
    detector.load_state_dict(load_file(planned.folder / layout.WEIGHTS))
    reader = ClipReader(FrameStore.for_clips(planned.dataset, clip).frames, clip)
    written = read_detections(planned.folder / layout.DETECTIONS, facts, planned.evaluated)
    for video, detected in detections_of(planned, detector, planned.evaluated, reader):
        assert len(detected) > 0
        have_the_same_boxes(written[video.id], detected)


def have_the_same_boxes(first: VideoDetections, second: VideoDetections) -> None:
    """Each box of one has a box of the other; their order hangs on the last bits of scores, which are no promise."""
    assert len(first) == len(second)
    for frame in np.unique(first.frames_n):
        here = [some[some.frames_n == frame] for some in (first, second)]
        rows = [np.column_stack([some.boxes_n4, some.scores_nk, some.confidence_n]) for some in here]
        distances_nn = np.abs(rows[0][:, None] - rows[1][None]).max(axis=2)
        assert max(distances_nn.min(axis=0).max(), distances_nn.min(axis=1).max()) < 1e-2


def test_the_number_of_processes_is_no_part_of_the_id(tmp_path: Path) -> None:
    assert of(tmp_path, 1).id == of(tmp_path, 2).id


def test_processes_that_cannot_share_a_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--devices 3: a step has 2 groups .* give --devices 1 or 2, or another"):
        of(tmp_path, 3)


def test_compiled_blocks_are_for_one_process(tmp_path: Path) -> None:
    sets = (*GROUPS, "compile=on")
    with pytest.raises(ConfigError, match=r"compile=on and 2 processes do not go together"):
        runner.plan(config(tmp_path, sets=sets, device="cpu", devices=2))


def test_a_profile_is_of_one_process(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="leave --devices and torchrun out"):
        runner.profile(of(tmp_path, 2), 2, runner.Reporter())


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without GPUs")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_fewer_devices_than_asked_for_are_refused(device: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0 CUDA devices; .*--device cpu"):
        runner.plan(config(tmp_path, sets=GROUPS, device=device, devices=2))


@pytest.mark.parametrize(("device", "count"), [("cuda:1", 4), ("cuda", 1)])
def test_one_named_device_is_not_several(
    device: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    wanted = {4: "one device, and --devices 2 takes several", 1: "this machine has 1 CUDA devices"}[count]
    with pytest.raises(ConfigError, match=wanted):
        runner.plan(config(tmp_path, sets=GROUPS, device=device, devices=2))


def test_ranks_of_gpus_are_the_gpus_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert runner.plan(config(tmp_path, sets=GROUPS, device="cuda", devices=2)).device == torch.device("cuda", 0)
    assert runner.rank_device(torch.device("cuda", 0), 1) == torch.device("cuda", 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    planned = runner.plan(config(tmp_path, sets=GROUPS, device="cuda"))
    assert planned.device == torch.device("cuda", 1) and planned.config.machine.devices == 2
    with pytest.raises(ConfigError, match="--devices 4: torchrun started 2 processes"):
        runner.plan(config(tmp_path, sets=GROUPS, device="cuda", devices=4))


def test_videos_are_dealt_out_whole(tmp_path: Path) -> None:
    videos = of(tmp_path, 1).evaluated
    dealt = shares(videos, 4)
    assert sorted(video.id for some in dealt for video in some) == sorted(video.id for video in videos)
    frames = [sum(video.num_frames for video in some) for some in dealt]
    assert max(frames) - min(frames) <= max(video.num_frames for video in videos)


class FirstOfThree(Ranks):
    """The first of three processes; what the others detect is asked for at once."""

    rank, size = 0, 3

    def __init__(self, videos: Sequence[Video], detect: Detect) -> None:
        self.others = [dict(detect_ids(detect, some)) for some in shares(videos, 3)[1:]]

    def gather_objects(self, value: Any) -> list[Any]:
        return [value, *self.others]


def detect_ids(detect: Detect, videos: Sequence[Video]) -> Iterator[tuple[str, VideoDetections]]:
    return ((video.id, detections) for video, detections in detect(videos))


def test_every_video_is_detected_in_once_and_comes_in_its_place(tmp_path: Path) -> None:
    planned, calls = of(tmp_path, 1), Counter[str]()

    def detect(some: Sequence[Video]) -> Iterator[tuple[Video, VideoDetections]]:
        for video in some:
            calls[video.id] += 1
            yield video, perfect(planned.dataset.truth(video.id))

    ranks = FirstOfThree(planned.evaluated, detect)
    together = list(shared_out(ranks, planned.evaluated, detect))
    assert [video.id for video, _ in together] == [video.id for video in planned.evaluated]
    assert set(calls.values()) == {1} and len(calls) == len(planned.evaluated)
    for video, detections in together:
        np.testing.assert_array_equal(detections.boxes_n4, perfect(planned.dataset.truth(video.id)).boxes_n4)


@pytest.mark.acceptance
def test_processes_of_torchrun_make_one_run(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [f"--set={text}" for text in (*QUICK, *EASY["supervised"], *GROUPS)]
    settings += [f"--set=dataset.{name}={value}" for name, value in SMALL.items()]
    request = ["--strategy=supervised", "--dataset=synthetic", "--ratio=0.4", "--preset=smoke", "--device=cpu"]
    command = [sys.executable, "-m", "ssldet", "run", *request, f"--results={tmp_path}", "--threads=1", *settings]
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **rendezvous, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=250) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "supervised on synthetic" in said[0][0] and said[1][0] == ""
    [record] = tmp_path.glob(f"*/{layout.RECORD}")
    assert runner.Record.read(record).hardware["devices"] == 2
