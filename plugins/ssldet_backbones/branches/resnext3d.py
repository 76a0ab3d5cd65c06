"""3D ResNeXt-101 (Hara et al. 2018): cardinality 32, bottlenecks [3, 4, 23, 3].

Entries are named as in the published Kinetics weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet.detector.weights import read_weights
from ssldet.nn import Conv3d
from ssldet_backbones.branches.branch import Branch, BranchKind

CARDINALITY = 32
EXPANSION = 2


class ResNeXt3D(Branch):
    """(b, 3, t, h, w) -> (b, 2048, h / 32, w / 32), averaged over what is left of time (one step up to t = 16)."""

    channels = 2048

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

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        return [self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]


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


def read_kinetics(path: Path) -> Mapping[str, Tensor]:
    """A published .pth file, or our own safetensors form of it, without the classifier. Raises WeightsError."""
    state = {name.removeprefix("features.backbone_3d."): value for name, value in read_weights(path).items()}
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


KINDS = (
    BranchKind(
        "resnext101",
        ResNeXt3D,
        read_kinetics,
        origin="3D ResNets (Hara et al.), as published with YOWO",
        licence="MIT",
        weights="the pretrained models of github.com/kenshohara/3D-ResNets-PyTorch, or of the YOWO repository",
        files={
            "ucf24": "resnext-101-kinetics.pth",
            "jhmdb": "resnext-101-kinetics-hmdb51_split1.pth",
            "ava": "resnext-101-kinetics.pth",
        },
    ),
)
