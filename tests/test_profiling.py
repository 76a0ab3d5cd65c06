"""What a step spends its time on: sections, their clock, a profile of training and its trace."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from test_runner import ARGUMENTS, SETS
from test_training import OPTIONS, dual_guidance, same, training, weights

from ssldet.cli import main
from ssldet.errors import ConfigError
from ssldet.training.loop import Training
from ssldet.training.profiling import SECTIONS, WARM_UP, profile_steps
from ssldet.util import sections
from ssldet.util.sections import SectionClock, measured, section


def test_a_section_has_its_own_time_without_those_within(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    monkeypatch.setattr(sections.time, "perf_counter", lambda: next(now))
    with measured() as clock, section("loss"), section("forward"):
        pass
    assert clock.seconds == {"other": 1.0 + 16.0, "loss": 2.0 + 8.0, "forward": 4.0}


def test_time_counts_where_the_device_was_asked() -> None:
    waits: list[str] = []
    with measured(lambda: waits.append("waited")), section("forward"):
        pass
    assert len(waits) == 3  # where it begins, where it ends, and at the end of all


def test_a_section_that_fails_is_left() -> None:
    with measured() as clock, pytest.raises(ValueError, match="in the midst"), section("views"):
        raise ValueError("in the midst")
    assert isinstance(clock, SectionClock) and clock._open == ["other"]


def fresh() -> Training:
    return training(dual_guidance(), OPTIONS.model_copy(update={"steps": 20}))


def test_a_profile_knows_each_part_of_a_step(tmp_path: Path) -> None:
    profiled = profile_steps(fresh(), 3, tmp_path / "trace.json.gz")
    assert tuple(profiled.seconds) == SECTIONS and profiled.steps == 3
    assert all(profiled.seconds[name] > 0 for name in SECTIONS)
    assert sum(profiled.share(name) for name in SECTIONS) == pytest.approx(1)
    assert profiled.clips > OPTIONS.batch  # labelled clips, unlabelled ones and partners


def test_the_trace_has_the_sections_of_the_steps_that_were_not_measured(tmp_path: Path) -> None:
    profile_steps(fresh(), 2, tmp_path / "trace.json.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]
    events = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    marks = [str(event["name"]) for event in events if str(event.get("name", "")).startswith("ssldet: ")]
    assert marks.count("ssldet: backward") == 2
    assert {"ssldet: forward", "ssldet: teacher", "ssldet: waiting for data"} <= set(marks)


def test_measuring_moves_no_number(tmp_path: Path) -> None:
    profiled, plain = fresh(), fresh()
    profile_steps(profiled, 1, tmp_path / "trace.json.gz")
    plain.counts.step = plain.burn_in
    plain.run(until=plain.burn_in + WARM_UP + 2)
    assert same(weights(profiled), weights(plain))
    assert not profiled.student._forward_hooks and not profiled.student._forward_pre_hooks


def test_a_run_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="a profile of 5 steps trains 12, and the second stage of the run has 10: ask for fewer"
    ):
        profile_steps(fresh(), 5, tmp_path / "trace.json.gz")


def test_the_command_prints_shares_and_leaves_the_trace_alone(tmp_path: Path) -> None:
    asked = [*ARGUMENTS, *SETS, "--results", str(tmp_path), "--profile", "2"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line[:18].strip() for line in lines] == ["section", *SECTIONS, "all", f"trace: {tmp_path}"[:18].strip()]
    assert [path.name for path in tmp_path.iterdir()] == ["profiles"]
    assert torch.is_grad_enabled()
