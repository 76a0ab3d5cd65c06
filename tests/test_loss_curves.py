"""Two hundred steps under each option of a step, held against plain float32; and bfloat16 gradients against float64."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ANCHORS, FACTS
from test_formulations import EVERY, LAYERS, with_gradients
from test_training import OPTIONS, training
from torch import Tensor, nn

from ssldet.config import TrainOptions
from ssldet.data.sampling import Sampling
from ssldet.detector.detector import GridDetector, GridOptions
from ssldet.nn import Conv3d, FrameHead
from ssldet.training.acceleration import Accelerator
from ssldet.training.loop import Training
from ssldet_strategies.dual_guidance import DualGuidance

STEPS, WINDOW, CHANNELS = 200, 25, 8


class ClipFeatures(nn.Module):
    """G: two blocks over the clip, averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(block(3), block(CHANNELS))

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        features: Tensor = self.layers(clips_bcthw).mean(dim=2)
        return features


def block(inputs: int) -> nn.Sequential:
    convolution = Conv3d(inputs, CHANNELS, (3, 4, 4), (1, 4, 4), (1, 0, 0))
    return nn.Sequential(convolution, nn.BatchNorm3d(CHANNELS), nn.ReLU(inplace=True))


def dual_guidance(machine: dict[str, str], **train: Any) -> Training:
    """Two groups of two clips a step, half of the run with unlabelled ones; many boxes pass as pseudo-labels."""
    torch.manual_seed(3)
    grid = nn.Conv2d(CHANNELS, len(ANCHORS) * (5 + FACTS.num_classes), 1)
    frame_head = FrameHead(CHANNELS, FACTS)
    student = GridDetector(ClipFeatures(), grid, frame_head, facts=FACTS, stride=16, options=GridOptions())
    steps = {"batch": 4, "bn_batch": 2, "micro_batch": 2, "steps": STEPS, "lr": 3e-3}
    strategy = DualGuidance(DualGuidance.Config(o_th=0.0, f_th=0.0, ema_decay=0.9))
    run = training(strategy, TrainOptions(**OPTIONS.model_dump() | steps | train), student=student)
    run.source.sampling = Sampling(4, 4, 0.5)
    run.accelerator = Accelerator(machine, run.device, run.notices.append)
    return run


def loss_curves(run: Training) -> dict[str, np.ndarray]:
    """Each term's mean over windows of steps; 0 where a step has no such term."""
    run.student.train()
    run._accelerate()
    steps = [run.step_once()[0] for _ in range(STEPS)]
    terms = sorted({name for step in steps for name in step})
    return {name: np.reshape([step.get(name, 0.0) for step in steps], (-1, WINDOW)).mean(axis=1) for name in terms}


@cache
def plain_curves() -> dict[str, np.ndarray]:
    run = dual_guidance({})
    curves = loss_curves(run)
    assert run.meter and run.meter.counts["boxes"] > 100  # otherwise no pseudo-box is compared
    assert curves["box"][-1] < 0.75 * curves["box"][0] and curves["box_u"][-1] > 0
    return curves


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "machine", "apart"),
    [
        ({"checkpoint_activations": True}, {}, 0.0),
        ({"micro_batch": 4}, {}, 1e-3),
        ({}, {"channels_last": "on"}, 0.01),
        ({}, {"fused_optimizer": "on"}, 0.01),
        ({"precision": "bfloat16"}, {}, 0.05),
    ],
    ids=str,
)
def test_losses_of_two_hundred_steps_are_those_of_plain_float32(
    train: dict[str, Any], machine: dict[str, str], apart: float
) -> None:
    """`apart`: how far any term's mean over a window may lie from the plain one, as a part of the mean sum of terms."""
    curves, expected = loss_curves(dual_guidance(machine, **train)), plain_curves()
    assert curves.keys() == expected.keys()
    allowed = apart * sum(expected.values(), np.zeros(STEPS // WINDOW)).mean()
    for name, plain in expected.items():
        assert np.abs(curves[name] - plain).max() <= allowed, f"{name}: {curves[name]}, plain {plain}"


@pytest.mark.parametrize(("name", "way"), EVERY)
def test_gradients_in_bfloat16_are_those_of_float64_within_its_rounding(name: str, way: str) -> None:
    """Within eight units of bfloat16 (2^-8) of the largest value: torch's own gradients of inputs take up to seven."""
    layer = copy.deepcopy(LAYERS[name])
    x = torch.rand(2, layer.in_channels, 7, 6, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    layer.to(torch.bfloat16)
    exact = with_gradients(copy.deepcopy(layer).double(), x.double())
    layer.formulation = way
    for rounded, value in zip(with_gradients(layer, x), exact, strict=True):
        scale = float(value.abs().max())
        assert float((rounded.double() - value).abs().max()) <= 8 * 2**-8 * scale
