"""3D ResNeXt-101 (Hara et al. 2018): cardinality 32, bottlenecks [3, 4, 23, 3].

Entries are named as in the published Kinetics weights.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet_backbones.convolution import Conv3d

CARDINALITY = 32
EXPANSION = 2
OUTPUT_CHANNELS = 2048


class ResNeXt3D(nn.Module):
    """(b, 3, t, h, w) -> (b, 2048, h / 32, w / 32), averaged over what is left of time (one step up to t = 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.layer1 = _stage(64, 128, 3, stride=1)
        self.layer2 = _stage(256, 256, 4, stride=2)
        self.layer3 = _stage(512, 512, 23, stride=2)
        self.layer4 = _stage(1024, 1024, 3, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(clips_bcthw)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.mean(x, dim=2)


class Bottleneck(nn.Module):
    """1x1x1, grouped 3x3x3 and 1x1x1 convolution around a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = Conv3d(width, width, 3, stride, 1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return F.relu(self.bn3(self.conv3(out)) + shortcut, inplace=True)


def _stage(inputs: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = ((str(index), Bottleneck(EXPANSION * width, width, 1)) for index in range(1, blocks))
    return nn.Sequential(OrderedDict([("0", Bottleneck(inputs, width, stride)), *rest]))
