"""3D MobileNets (Köpüklü et al., arXiv 1904.02422): version 1 at twice the width, version 2 at its own.

Entries are named as in the published Kinetics weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet_backbones.branches.branch import Branch
from ssldet_backbones.branches.published_3d import conv_bn, depthwise_bn, draw_weights, efficient_kind


class _Features(Branch):
    """(b, 3, t, h, w) -> (b, channels, h / 32, w / 32), averaged over what is left of time (one step up to t = 16).

    Attributes:
        starts: the modules with which its stages begin, from 0.
    """

    starts: ClassVar[tuple[int, ...]]
    features: nn.Sequential

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        return torch.mean(self.features(clips_bcthw), dim=2)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """Five, each of which ends where the next halves the map."""
        edges = (*self.starts, len(self.features))
        return [list(self.features)[first:last] for first, last in itertools.pairwise(edges)]


class MobileNet3D(_Features):
    """Version 1 at twice the width: 13 blocks of a depthwise and a 1x1x1 convolution."""

    channels = 2048
    starts = (0, 1, 2, 4, 6)
    outputs: ClassVar[tuple[int, ...]] = (128, 256, 256, 512, 512, *[1024] * 6, 2048, 2048)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 64, 3, stride=(1, 2, 2)), nn.ReLU(inplace=True))]
        for index, (inputs, outputs) in enumerate(itertools.pairwise((64, *self.outputs)), start=1):
            layers.append(Separable(inputs, outputs, stride=2 if index in self.starts else 1))
        self.features = nn.Sequential(*layers)
        draw_weights(self)


class Separable(nn.Module):
    """A depthwise and a 1x1x1 convolution, each normalised and rectified."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = depthwise_bn(inputs, stride=stride)
        self.conv2, self.bn2 = conv_bn(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class MobileNetV2(_Features):
    """Version 2: 17 inverted residuals, of which the first does not widen, and a last 1x1x1 convolution."""

    channels = 1280
    starts = (0, 2, 4, 7, 14)
    outputs: ClassVar[tuple[int, ...]] = (16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 32, 3, stride=(1, 2, 2)), nn.ReLU6(inplace=True))]
        for index, (inputs, outputs) in enumerate(itertools.pairwise((32, *self.outputs)), start=1):
            stride = 2 if index in self.starts else 1
            layers.append(InvertedResidual(inputs, outputs, stride=stride, widened=1 if index == 1 else 6))
        layers.append(nn.Sequential(*conv_bn(320, self.channels), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*layers)
        draw_weights(self)


class InvertedResidual(nn.Module):
    """1x1x1 convolution to `widened` times the channels (none for 1), depthwise, and a linear 1x1x1 one."""

    def __init__(self, inputs: int, outputs: int, stride: int, widened: int) -> None:
        super().__init__()
        width = widened * inputs
        widening = () if widened == 1 else (*conv_bn(inputs, width), nn.ReLU6(inplace=True))
        depthwise = (*depthwise_bn(width, stride=stride), nn.ReLU6(inplace=True))
        self.conv = nn.Sequential(*widening, *depthwise, *conv_bn(width, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


KINDS = (
    efficient_kind("mobilenet_2x", MobileNet3D, "kinetics_mobilenet_2.0x_RGB_16_best.pth"),
    efficient_kind("mobilenetv2_1x", MobileNetV2, "kinetics_mobilenetv2_1.0x_RGB_16_best.pth"),
)
