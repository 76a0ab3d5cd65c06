"""What the published 3D branches share: convolutions, initial weights, and the reader of their Kinetics files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from ssldet.detector.weights import read_weights
from ssldet.nn import BatchNorm3d, Conv3d
from ssldet_backbones.branches.branch import Branch, BranchKind

DATASETS = ("ucf24", "jhmdb", "ava")
"""The data sets that YOWO was published on."""

CLASSIFIER = re.compile(r"(fc|classifier)\.")
"""How entries of the classifier begin, which no branch has."""

Stride = int | tuple[int, int, int]


def conv_bn(
    inputs: int, outputs: int, kernel: int = 1, *, stride: Stride = 1, groups: int = 1
) -> tuple[Conv3d, BatchNorm3d]:
    """A convolution that keeps the size but for its stride, and its normalisation; `kernel` is odd."""
    convolution = Conv3d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return convolution, BatchNorm3d(outputs)


def depthwise_bn(channels: int, *, stride: Stride = 1) -> tuple[Conv3d, BatchNorm3d]:
    """The same with one 3x3x3 filter a channel."""
    return conv_bn(channels, channels, 3, stride=stride, groups=channels)


def draw_weights(network: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """He initialisation of every convolution (He et al. 2015, Eq. 10; with fan_out Eq. 14)."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode=mode)


def read_kinetics(path: Path, classifier: re.Pattern[str] = CLASSIFIER) -> Mapping[str, Tensor]:
    """A published checkpoint, or our own safetensors form of it, without the classifier. Raises WeightsError."""
    return {name: value for name, value in read_weights(path).items() if not classifier.match(name)}


def efficient_kind(name: str, build: Callable[[], Branch], file: str) -> BranchKind:
    """A branch of "Resource Efficient 3D CNNs", whose weights on Kinetics are in `file`."""
    return BranchKind(
        name,
        build,
        read_kinetics,
        origin="Resource Efficient 3D CNNs (Köpüklü et al.), as published with YOWO",
        licence="MIT",
        weights="the pretrained models of github.com/okankop/Efficient-3DCNNs",
        files=dict.fromkeys(DATASETS, file),
    )
