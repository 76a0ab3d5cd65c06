"""Batch normalisation over all groups of a step (`train.sync_bn`); over processes: tests/test_ranks.py."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers import QUICK
from pydantic import ValidationError
from test_groups import STRATEGIES, after_steps, grouped
from timm.layers import BatchNormAct2d
from torch import nn

from ssldet.config import RunConfig, TrainOptions, resolve
from ssldet.errors import ConfigError
from ssldet.nn.batch_norm import normalised_in_groups
from ssldet.nn.joint_batch_norm import normalised_together
from ssldet.runs import planning
from ssldet.util.ranks import ALONE


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 1),
        BatchNormAct2d(5),
        nn.BatchNorm2d(5, affine=False, momentum=None),
        nn.Conv2d(5, 2, 1),
        nn.BatchNorm2d(2, track_running_stats=False),
    )


def test_all_groups_are_one_batch() -> None:
    """Outputs, gradients and running statistics are those of a plain call, in the midst of groups."""
    plain = network()
    joint, x = copy.deepcopy(plain), torch.randn(8, 3, 6, 6) * 3 + 1
    for _ in range(2):
        wanted = plain(x)
        with normalised_together(joint, ALONE), normalised_in_groups(joint, 4):
            out = joint(x)
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
        for made in (out, wanted):
            made.pow(3).mean().backward()
    for theirs, ours in zip(plain.parameters(), joint.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(joint.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)
    assert all("forward" not in vars(module) for module in joint.modules())


def test_layers_in_evaluation_mode_stay_so() -> None:
    layers = network().eval()
    x, before = torch.randn(4, 3, 6, 6), copy.deepcopy(layers.state_dict())
    wanted = layers(x)
    with normalised_together(layers, ALONE):
        assert torch.equal(layers(x), wanted)
    assert all(torch.equal(before[name], value) for name, value in layers.state_dict().items())


def test_a_student_that_labels_does_so_in_evaluation_mode() -> None:
    """In the midst of a part, whose student trains: what it says then, and its statistics, are those of evaluation."""
    student = network()
    student(torch.randn(8, 3, 6, 6) * 3 + 1)
    x, wanted = torch.randn(4, 3, 6, 6), copy.deepcopy(student).eval()
    with normalised_together(student, ALONE):
        said = student.eval()(x)
        student.train()
    torch.testing.assert_close(said, wanted(x))
    for name, buffer in wanted.named_buffers():
        assert torch.equal(student.get_buffer(name), buffer)


def test_it_is_another_step_than_that_of_groups() -> None:
    apart = after_steps(grouped(STRATEGIES["mean_teacher"](), 2), steps=1)
    run = grouped(STRATEGIES["mean_teacher"](), 2, train={"micro_batch": "auto", "sync_bn": True})
    assert run.micro_batch == 8
    together = after_steps(run, steps=1)
    assert together.keys() == apart.keys()
    assert not torch.allclose(together["0 box"], apart["0 box"], rtol=1e-4)


def config(*assignments: str, **fields: object) -> RunConfig:
    asked = {"strategy": "mean_teacher", "dataset": "synthetic", "ratio": 0.3, "device": "cpu", **fields}
    return resolve(asked, preset="smoke", assignments=[*QUICK, "train.bn_batch=2", *assignments])


def test_it_is_another_run_in_name() -> None:
    plain, joint = (config(f"train.sync_bn={on}").experiment.identity() for on in ("false", "true"))
    assert "sync_bn" not in plain["train"] and joint["train"] == plain["train"] | {"sync_bn": True}


@pytest.mark.parametrize(("other", "value"), [("micro_batch", 4), ("checkpoint_activations", True)])
def test_what_takes_groups_apart_is_refused(other: str, value: object) -> None:
    with pytest.raises(ValidationError, match=f"sync_bn .*{other}"):
        TrainOptions.model_validate({"batch": 8, "bn_batch": 4, "sync_bn": True, other: value})


def test_a_strategy_that_takes_groups_apart_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config("train.sync_bn=true", results=tmp_path)
    assert planning.plan(asked).config.experiment.train.groups == 2
    monkeypatch.setattr(planning, "takes_groups", lambda strategy: False)
    with pytest.raises(ConfigError, match=r"train\.sync_bn: mean_teacher takes one group of clips after another"):
        planning.plan(asked)
    with pytest.raises(ConfigError, match="compile=on takes one group of clips at once"):
        monkeypatch.undo()
        planning.plan(config("train.sync_bn=true", "compile=on", results=tmp_path))
