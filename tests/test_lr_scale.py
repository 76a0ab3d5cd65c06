"""A learning rate per part of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FACTS, tiny_detector
from test_training import OPTIONS, same, training, weights
from torch import nn

import ssldet
from ssldet.config import RunConfig, TrainOptions, resolve
from ssldet.detector.detector import GridDetector
from ssldet.errors import ConfigError
from ssldet.runs.first_stage import first_stage
from ssldet.runs.planning import plan
from ssldet.training.loop import parameter_groups, rate_scales, scaled_groups
from ssldet_backbones.yowo import YOWO, YOWOOptions
from ssldet_strategies.supervised import Supervised


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_part_moves_scale_times_as_much_in_a_step_of_sgd(optimizer: str) -> None:
    module, options = TwoLayers(), TrainOptions(optimizer=optimizer, lr_scale={"a": 0.1}, weight_decay=0.0)
    groups = scaled_groups(parameter_groups(module, options), rate_scales(options, {"a": module.first.parameters()}))
    sgd = torch.optim.SGD(groups, lr=1.0)
    for group in sgd.param_groups:
        group["lr"] = 0.5 * group["lr_scale"]
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    sgd.step()
    moved = {name: (before[name] - p.detach()).unique() for name, p in module.named_parameters()}
    for name, amount in moved.items():
        torch.testing.assert_close(amount.mean(), torch.tensor(0.05 if name.startswith("first") else 0.5))


def test_the_loop_gives_each_part_its_rate_and_logs_the_schedule() -> None:
    lines: list[dict[str, Any]] = []
    options = OPTIONS.model_copy(update={"lr_scale": {"head": 0.25}, "schedule": "cosine", "log_every": 1})
    student = tiny_detector(frame_head=False)
    run = training(Supervised(Supervised.Config()), options, log=lines.append, student=student, parts=head(student))
    run.step_once()
    heads = {id(p) for p in student.box_head.parameters()}
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(student.parameters())) and heads <= rates.keys()
    for key, rate in rates.items():
        assert rate == pytest.approx(options.rate(0, 8) * (0.25 if key in heads else 1.0))
    run.run()
    assert [line["lr"] for line in lines] == [options.rate(step, 8) for step in range(1, 8)]


def head(student: GridDetector) -> Mapping[str, Iterable[nn.Parameter]]:
    return {"head": student.box_head.parameters()}


def test_a_scale_of_one_trains_as_no_scale_does() -> None:
    student = tiny_detector(frame_head=False)
    options = OPTIONS.model_copy(update={"lr_scale": {"head": 1.0}})
    scaled = training(Supervised(Supervised.Config()), options, student=student, parts=head(student))
    plain = training(Supervised(Supervised.Config()), student=tiny_detector(frame_head=False))
    scaled.run()
    plain.run()
    assert same(weights(scaled), weights(plain))


def test_what_cannot_be_scaled_is_refused() -> None:
    module = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ConfigError, match=r"no part '2dd'; did you mean '2d'\? \(known: 2d, 3d\)"):
        rate_scales(TrainOptions(lr_scale={"2dd": 0.1}), {"2d": [], "3d": []})
    with pytest.raises(ConfigError, match="the part 2d is frozen, and has no learning rate"):
        rate_scales(TrainOptions(lr_scale={"2d": 0.1}), {"2d": module.parameters()})
    with pytest.raises(ValueError, match="greater than 0"):
        TrainOptions(lr_scale={"2d": 0.0})


def test_the_parts_of_yowo_are_its_branches() -> None:
    with torch.device("meta"):
        backbone = YOWO(YOWOOptions(branch_2d="timm:resnet10t", freeze_3d=2))
        detector = backbone.build(FACTS, frame_head=False)
    parts = {part: {id(p) for p in parameters} for part, parameters in backbone.parameter_parts(detector).items()}
    assert parts["2d"] == {id(p) for p in detector.features.backbone_2d.parameters()}
    scales = rate_scales(TrainOptions(lr_scale={"3d": 0.5}), backbone.parameter_parts(detector))
    branch = detector.features.backbone_3d
    assert {id(p) for p in scales} == {
        id(p) for layer in (branch.layer2, branch.layer3, branch.layer4) for p in layer.parameters()
    }


# ------------------------------------------------------------------------------------------------------ of a run


def asked(results: Path, *sets: str) -> RunConfig:
    flags = {"strategy": "supervised", "dataset": "synthetic", "results": results}
    return resolve(flags, preset="smoke", assignments=sets)


def test_a_run_without_scales_keeps_its_name(tmp_path: Path) -> None:
    plain = asked(tmp_path)
    assert "lr_scale" not in plain.experiment.identity()["train"]
    assert asked(tmp_path, "train.lr_scale={}").experiment.identity() == plain.experiment.identity()
    scaled = asked(tmp_path, "train.lr_scale={features: 0.1}")
    assert scaled.experiment.identity() != plain.experiment.identity()
    assert asked(tmp_path, "train.lr_scale.features=0.1").experiment == scaled.experiment


def test_its_first_stage_is_another_one(tmp_path: Path) -> None:
    plain, scaled = (first_stage(plan(asked(tmp_path, *sets))) for sets in ((), ("train.lr_scale={features: 0.1}",)))
    assert plain is not None and scaled is not None
    assert plain.key != scaled.key and "lr_scale" not in plain.identity["train"]


def test_an_unknown_part_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no part 'feature'; did you mean 'features'"):
        plan(asked(tmp_path, "train.lr_scale={feature: 0.1}"))


# -------------------------------------------------------------------------------------------- options of a detector


def test_options_of_a_detector_come_in_either_form() -> None:
    with torch.device("meta"):
        made = ssldet.build_detector("yowo_nano", dataset="ucf24", options={"width": 8}, frame_hidden=32)
        same = ssldet.build_detector("yowo_nano", dataset="ucf24", width=8, frame_hidden=32)
    shapes = [{name: p.shape for name, p in detector.named_parameters()} for detector in (made, same)]
    assert shapes[0] == shapes[1]
    with torch.device("meta"):
        branch = ssldet.build_detector("yowo", dataset="ucf24", options={"branch_3d": "resnet50"})
    assert type(branch.get_submodule("features.backbone_3d")).__name__ == "ResNet3D"


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="width: given in options= and as a keyword"):
        ssldet.build_detector("yowo_nano", dataset="ucf24", options={"width": 8}, width=8)
