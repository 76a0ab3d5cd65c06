"""What a run is said to take: measured in processor time, so that other work on the machine does not lengthen it."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers import QUICK

from ssldet.cli import main
from ssldet.cli.run import time_needed
from ssldet.config import resolve
from ssldet.runs.estimate import (
    PROCESS_BYTES,
    WORKING_MEMORY,
    Pace,
    _kept_bytes,
    clips_per_step,
    estimate,
    memory_needed,
    pace,
    seconds_by_phase,
)
from ssldet.runs.planning import Plan, plan

SETS = (*QUICK, "dataset.train_per_class=10", "dataset.test_per_class=1", "clip.size=32", "clip.frames=4")
COMMAND = ["run", "--strategy", "supervised", "--dataset", "synthetic", "--ratio", "0.3", "--preset", "smoke"]


@pytest.fixture
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand seconds pass while the process computes for one."""
    wall, processor = count(step=1000.0), count(step=1.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(time, "thread_time", lambda: next(processor))


@pytest.mark.usefixtures("busy_machine")
def test_other_work_on_the_machine_is_no_part_of_an_estimate(tmp_path: Path) -> None:
    asked = {"strategy": "supervised", "dataset": "synthetic", "ratio": 0.3, "device": "cpu", "results": tmp_path}
    planned = plan(resolve(asked, preset="smoke", assignments=SETS))
    measured = pace(planned)
    assert (measured.forward, measured.step) == (1.0, 1.0)


@pytest.mark.usefixtures("busy_machine")
def test_a_busy_machine_is_warned_of_processor_time(tmp_path: Path) -> None:
    sets = [part for one in (*SETS, "train.steps=16") for part in ("--set", one)]
    shown = CliRunner().invoke(main, [*COMMAND, *sets, "--device", "cpu", "--results", str(tmp_path), "--dry-run"])
    assert shown.exit_code == 0, shown.stderr
    assert "min of processor time; longer on a busy machine" in shown.stdout


def test_time_on_an_accelerator_is_not_called_processor_time() -> None:
    assert time_needed(420, torch.device("cpu")) == "about 7 min of processor time; longer on a busy machine"
    assert time_needed(420, torch.device("cuda")) == "about 7 min"


def planned_lite(tmp_path: Path, **flags: object) -> Plan:
    asked = {"strategy": "dual_guidance", "dataset": "synthetic", "ratio": 0.3, "device": "cpu", "results": tmp_path}
    return plan(resolve({**asked, **flags}, preset="lite", assignments=SETS))


def test_what_is_frozen_is_not_trained_and_has_no_state_of_an_optimiser(tmp_path: Path) -> None:
    lite, scratch = estimate(planned_lite(tmp_path)), estimate(planned_lite(tmp_path, pretrained=False))
    assert lite.parameters == lite.trained + 2_958_848 and scratch.trained == scratch.parameters == lite.parameters
    assert lite.memory_bytes == 16 * lite.trained + 4 * (lite.parameters - lite.trained) + 4 * lite.parameters
    assert scratch.memory_bytes == (16 + 4) * scratch.parameters


def test_a_step_of_what_is_frozen_takes_less_beside_its_forward_pass(tmp_path: Path) -> None:
    lite, scratch = pace(planned_lite(tmp_path)), pace(planned_lite(tmp_path, pretrained=False))
    assert lite.step / lite.forward < scratch.step / scratch.forward
    assert 0 < lite.kept_bytes < scratch.kept_bytes and 0 < lite.state_bytes < scratch.state_bytes


def test_what_a_forward_pass_keeps_is_counted_once_and_without_weights() -> None:
    layer, x = torch.nn.Linear(8, 4), torch.zeros(2, 8)
    with _kept_bytes(layer) as kept:
        y = layer(x).relu()
        y.square().sum()
    assert sum(kept.values()) == x.nbytes + y.nbytes


def test_memory_follows_from_the_clips_that_go_through_the_network_at_once(tmp_path: Path) -> None:
    planned, measured = planned_lite(tmp_path), Pace(1.0, 1.0, kept_bytes=100.0, state_bytes=10)
    clips = clips_per_step(planned)["second"] / planned.config.experiment.train.groups
    assert memory_needed(planned, measured) == int(PROCESS_BYTES + 10 + WORKING_MEMORY * 100 * clips)
    machine = planned.config.machine.model_copy(update={"loader_workers": 2})
    planned.config = planned.config.model_copy(update={"machine": machine})
    assert memory_needed(planned, measured) == int(3 * PROCESS_BYTES + 10 + WORKING_MEMORY * 100 * clips)
    planned.device = torch.device("cuda")
    assert memory_needed(planned, measured) == 0, "what a GPU's memory holds is no main memory"


def test_phases_follow_from_the_pace_of_a_clip(tmp_path: Path) -> None:
    planned = planned_lite(tmp_path)
    seconds, clips = seconds_by_phase(planned, Pace(forward=1.0, step=10.0)), clips_per_step(planned)
    burn_in = planned.config.experiment.train.burn_in
    assert seconds["first_stage"] == pytest.approx(16 * burn_in * 10 * clips["first"])
    assert seconds["train"] == pytest.approx(16 * (1 - burn_in) * (10 * clips["second"] + clips["teacher"]))


def test_clips_that_a_strategy_adds_to_those_of_a_batch_are_counted(tmp_path: Path) -> None:
    plain, mirrored = planned_lite(tmp_path, strategy="mean_teacher"), planned_lite(tmp_path, strategy="consistency")
    train = plain.config.experiment.train
    added = clips_per_step(mirrored)["second"] - clips_per_step(plain)["second"]
    assert added == train.batch + train.unlabelled > 0


def test_clips_that_a_strategy_adds_are_those_of_each_group(tmp_path: Path) -> None:
    """One mosaic for four clips, and at least one a group: eight groups of two have eight, and not four."""
    plain, mixed = (planned_lite(tmp_path, strategy=name) for name in ("mean_teacher", "mixpl"))
    for planned in (plain, mixed):
        train = planned.config.experiment.train.model_copy(update={"batch": 16, "unlabelled_batch": 16, "bn_batch": 2})
        experiment = planned.config.experiment.model_copy(update={"train": train})
        planned.config = planned.config.model_copy(update={"experiment": experiment})
    assert clips_per_step(mixed)["second"] - clips_per_step(plain)["second"] == 8


@pytest.mark.parametrize(("device", "share"), [("cuda", 0.5), ("cpu", 1.0)])
def test_gpus_share_the_time_and_processes_on_a_cpu_add_up(tmp_path: Path, device: str, share: float) -> None:
    planned = planned_lite(tmp_path)
    one = seconds_by_phase(planned, Pace(1.0, 3.0))
    planned.device = torch.device(device)
    machine = planned.config.machine.model_copy(update={"devices": 2})
    planned.config = planned.config.model_copy(update={"machine": machine})
    two = seconds_by_phase(planned, Pace(1.0, 3.0))
    shares = {phase: 1.0 if phase == "decode" else share for phase in one}
    assert two == pytest.approx({phase: shares[phase] * seconds for phase, seconds in one.items()})


def test_a_plan_says_how_many_processes_train(tmp_path: Path) -> None:
    sets = [part for setting in (*SETS, "train.bn_batch=2") for part in ("--set", setting)]
    asked = [*COMMAND, *sets, "--device", "cpu", "--devices", "2", "--results", str(tmp_path), "--dry-run"]
    shown = CliRunner().invoke(main, asked)
    assert shown.exit_code == 0, shown.stderr
    assert "2 processes on cpu" in shown.stdout and not list(tmp_path.iterdir())


def test_a_run_does_not_wait_for_a_training_step_to_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = planned_lite(tmp_path)
    monkeypatch.setattr("ssldet.runs.estimate._measured_step", lambda *asked: pytest.fail("a step is measured"))
    monkeypatch.setattr("ssldet.runs.estimate._seconds_per_clip", lambda *asked: 1.0)
    assert estimate(planned, quick=True).seconds == seconds_by_phase(planned, Pace(forward=1.0, step=3.0))


def packed(tmp_path: Path, *assignments: str, **flags: object) -> Plan:
    asked = {"strategy": "dual_guidance", "dataset": "synthetic", "ratio": 0.3, "device": "cpu", "results": tmp_path}
    return plan(resolve({**asked, **flags}, preset="smoke", assignments=[*SETS, *assignments]))


def test_frames_that_are_stored_as_jpegs_take_their_time(tmp_path: Path) -> None:
    """Made once, read in training and, where clips overlap, hardly more than once each in detection."""
    planned = packed(tmp_path, "clip.jpeg_quality=90", "train.burn_in=0.5")
    raw, jpegs = (seconds_by_phase(planned, Pace(1.0, 1.0, read, pack)) for read, pack in ((0, 0), (0.5, 2.0)))
    clips, half = clips_per_step(planned), planned.steps / 2
    assert jpegs["decode"] - raw["decode"] == pytest.approx(
        2.0 * sum(video.num_frames for video in planned.used) / planned.config.machine.workers
    )
    assert jpegs["first_stage"] - raw["first_stage"] == pytest.approx(half * clips["first"] * 4 * 0.5)
    assert jpegs["train"] - raw["train"] == pytest.approx(half * clips["second"] * 4 * 0.5)
    assert 0.5 * raw["detect"] < jpegs["detect"] - raw["detect"] < 4 * 0.5 * raw["detect"]


def test_workers_read_while_the_network_computes(tmp_path: Path) -> None:
    alone, helped = (packed(tmp_path, loader_workers=workers) for workers in (0, 2))
    slow, quick = Pace(1.0, 1.0, read=1.0), Pace(1.0, 1.0, read=0.01)
    bare = seconds_by_phase(alone, Pace(1.0, 1.0))["first_stage"]
    assert seconds_by_phase(alone, quick)["first_stage"] == pytest.approx(1.04 * bare)
    assert seconds_by_phase(helped, quick)["first_stage"] == pytest.approx(bare)
    assert seconds_by_phase(helped, slow)["first_stage"] == pytest.approx(4 / 2 * bare)


def test_what_a_jpeg_takes_is_measured_where_frames_are_packed(tmp_path: Path) -> None:
    assert pace(packed(tmp_path)).read == pace(packed(tmp_path)).pack == 0
    measured = pace(packed(tmp_path, "clip.jpeg_quality=90"))
    assert 0 < measured.read < 0.05 and 0 < measured.pack < 0.05
