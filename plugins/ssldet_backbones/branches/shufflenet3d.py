"""3D ShuffleNets (Köpüklü et al., arXiv 1904.02422) at twice the width: version 1 with 3 groups, version 2.

Entries are named as in the published Kinetics weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet_backbones.branches.branch import Branch
from ssldet_backbones.branches.published_3d import conv_bn, depthwise_bn, draw_weights, efficient_kind

GROUPS = 3
BLOCKS = (4, 8, 4)
"""Of each stage after the first convolution and pool, which halve the map twice."""


class ShuffleNet3D(Branch):
    """(b, 3, t >= 16, h, w) -> (b, 1920, h / 32, w / 32), averaged over what is left of time (one step at t = 16)."""

    channels = 1920

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _first(48)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.layer1 = _stage(48, 480, BLOCKS[0])
        self.layer2 = _stage(480, 960, BLOCKS[1])
        self.layer3 = _stage(960, 1920, BLOCKS[2])
        draw_weights(self)

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        """Raises ConfigError for clips of fewer than 16 frames."""
        SHUFFLENET.check_frames(clips_bcthw.shape[2])
        x = self.maxpool(self.conv1(clips_bcthw))
        return torch.mean(self.layer3(self.layer2(self.layer1(x))), dim=2)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        return [self.conv1], [self.layer1], [self.layer2], [self.layer3]


class GroupBottleneck(nn.Module):
    """Grouped 1x1x1, shuffle, depthwise and grouped 1x1x1 convolution around a shortcut.

    With stride 2 the shortcut is an average of 2x3x3 and gives the last channels of the output, not a summand.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width, self.stride = outputs // 4, stride
        self.conv1, self.bn1 = conv_bn(inputs, width, groups=GROUPS)
        self.conv2, self.bn2 = depthwise_bn(width, stride=stride)
        self.conv3, self.bn3 = conv_bn(width, outputs - inputs if stride == 2 else outputs, groups=GROUPS)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            x = x[:, :, x.shape[2] % 2 :]  # the average takes steps two by two: an odd one, the oldest, is left out
        out = shuffle(F.relu(self.bn1(self.conv1(x)), inplace=True), GROUPS)
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        out = torch.cat((out, _averaged(x)), dim=1) if self.stride == 2 else out + x
        return F.relu(out, inplace=True)


def _averaged(x: Tensor) -> Tensor:
    """Means of 2x3x3 with stride 2; zeros around the map count. Padded before, since torch refuses maps of 2x2."""
    return F.avg_pool3d(F.pad(x, (1, 1, 1, 1)), (2, 3, 3), 2)


class ShuffleNetV2(Branch):
    """(b, 3, t, h, w) -> (b, 2048, h / 32, w / 32), averaged over what is left of time (one step up to t = 16)."""

    channels = 2048

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _first(24)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        blocks: list[nn.Module] = []
        for (inputs, outputs), count in zip(itertools.pairwise((24, 224, 488, 976)), BLOCKS, strict=True):
            blocks += [HalvingUnit(inputs, outputs), *(SplitUnit(outputs) for _ in range(count - 1))]
        self.features = nn.Sequential(*blocks)
        self.conv_last = nn.Sequential(*conv_bn(976, self.channels), nn.ReLU(inplace=True))
        draw_weights(self)

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        x = self.features(self.maxpool(self.conv1(clips_bcthw)))
        return torch.mean(self.conv_last(x), dim=2)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """Four, each of which ends where the next halves the map."""
        blocks = list(self.features)
        return [self.conv1], blocks[:4], blocks[4:12], [*blocks[12:], self.conv_last]


class SplitUnit(nn.Module):
    """Half of the channels is passed on, the other half convolved; both are shuffled together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.banch2 = _convolved(channels // 2, channels // 2, stride=1)  # the published spelling

    def forward(self, x: Tensor) -> Tensor:
        passed, convolved = x.chunk(2, dim=1)
        return shuffle(torch.cat((passed, self.banch2(convolved)), dim=1), 2)


class HalvingUnit(nn.Module):
    """Two convolved branches of all channels, each with half of the outputs, shuffled together."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.banch1 = nn.Sequential(*depthwise_bn(inputs, stride=2), *conv_bn(inputs, half), nn.ReLU(inplace=True))
        self.banch2 = _convolved(inputs, half, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(torch.cat((self.banch1(x), self.banch2(x)), dim=1), 2)


def shuffle(x_bcthw: Tensor, groups: int) -> Tensor:
    """Channels in another order: the first of each group, then the second of each, and so on."""
    return x_bcthw.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _first(outputs: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn(3, outputs, 3, stride=(1, 2, 2)), nn.ReLU(inplace=True))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    rest = (GroupBottleneck(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(GroupBottleneck(inputs, outputs, 2), *rest)


def _convolved(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    """1x1x1, depthwise, 1x1x1."""
    widening = (*conv_bn(inputs, outputs), nn.ReLU(inplace=True))
    return nn.Sequential(
        *widening, *depthwise_bn(outputs, stride=stride), *conv_bn(outputs, outputs), nn.ReLU(inplace=True)
    )


SHUFFLENET = replace(
    efficient_kind("shufflenet_2x", ShuffleNet3D, "kinetics_shufflenet_2.0x_G3_RGB_16_best.pth"),
    least_frames=16,
    why_least="its shortcuts average steps of time two by two, and of shorter clips the last one gets a single step",
)

KINDS = (SHUFFLENET, efficient_kind("shufflenetv2_2x", ShuffleNetV2, "kinetics_shufflenetv2_2.0x_RGB_16_best.pth"))
