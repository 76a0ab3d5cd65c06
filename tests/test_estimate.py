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
from ssldet.runs.estimate import seconds_per_clip
from ssldet.runs.planning import plan

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
    assert seconds_per_clip(planned) == 1.0


@pytest.mark.usefixtures("busy_machine")
def test_a_busy_machine_is_warned_of_processor_time(tmp_path: Path) -> None:
    sets = [part for one in (*SETS, "train.steps=16") for part in ("--set", one)]
    shown = CliRunner().invoke(main, [*COMMAND, *sets, "--device", "cpu", "--results", str(tmp_path), "--dry-run"])
    assert shown.exit_code == 0, shown.stderr
    assert "min of processor time; longer on a busy machine" in shown.stdout


def test_time_on_an_accelerator_is_not_called_processor_time() -> None:
    assert time_needed(420, torch.device("cpu")) == "about 7 min of processor time; longer on a busy machine"
    assert time_needed(420, torch.device("cuda")) == "about 7 min"
