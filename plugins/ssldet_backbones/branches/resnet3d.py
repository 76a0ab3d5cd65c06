"""3D ResNets (Hara et al. 2018): 18 layers of basic blocks, 50 and 101 layers of bottlenecks.

Entries are named as in the published Kinetics weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet.nn import BatchNorm3d, Conv3d
from ssldet.nn.overlap import convolve_runs, runs_of, shares_frames
from ssldet_backbones.branches.branch import Branch, BranchKind
from ssldet_backbones.branches.published_3d import DATASETS, conv_bn, draw_weights, read_kinetics

Block = Callable[[int, int, int], nn.Module]
"""(inputs, outputs, stride) -> a block around a shortcut."""


class ResNet3D(Branch):
    """(b, 3, t, h, w) -> (b, channels, h / 32, w / 32), averaged over what is left of time (one step up to t = 16).

    Args:
        block: makes the blocks.
        blocks: how many each of the four stages has.
        outputs: channels of the first stage; each further stage doubles them.
    """

    def __init__(self, block: Block, blocks: tuple[int, int, int, int], outputs: int) -> None:
        super().__init__()
        self.channels = 8 * outputs
        self.conv1 = Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.layer1 = _stage(block, 64, outputs, blocks[0], stride=1)
        self.layer2 = _stage(block, outputs, 2 * outputs, blocks[1], stride=2)
        self.layer3 = _stage(block, 2 * outputs, 4 * outputs, blocks[2], stride=2)
        self.layer4 = _stage(block, 4 * outputs, 8 * outputs, blocks[3], stride=2)
        draw_weights(self, "fan_out")

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        runs = runs_of(clips_bcthw) if shares_frames(self.conv1, clips_bcthw.shape[2]) else ()
        if not runs:
            return self._later_layers(self.maxpool(self._activated(self.conv1(clips_bcthw))))
        x = self._first_layers_of_runs(clips_bcthw, runs)
        # maps of one clip stay in the cache of a CPU
        return torch.cat([self._later_layers(part) for part in (x.split(1) if x.device.type == "cpu" else (x,))])

    def _later_layers(self, x: Tensor) -> Tensor:
        return torch.mean(self.layer4(self.layer3(self.layer2(self.layer1(x)))), dim=2)

    def _activated(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(x), inplace=True)

    def _first_layers_of_runs(self, clips_bcthw: Tensor, runs: Sequence[int]) -> Tensor:
        """The first convolution and pool of overlapping clips; the pool is one over space, then one over time."""

        def then(x: Tensor) -> Tensor:
            return F.max_pool3d(self._activated(x), (1, 3, 3), (1, 2, 2), (0, 1, 1))

        pooled = F.max_pool3d(convolve_runs(self.conv1, clips_bcthw, runs, then), (3, 1, 1), (2, 1, 1), (1, 0, 0))
        last = self.conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)
        return pooled.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        return [self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]


class Bottleneck(nn.Module):
    """1x1x1, grouped 3x3x3 and 1x1x1 convolution around a shortcut, which is projected where shapes differ (B)."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, expansion: int = 4, cardinality: int = 1) -> None:
        super().__init__()
        width = outputs // expansion
        self.conv1, self.bn1 = conv_bn(inputs, width)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride=stride, groups=cardinality)
        self.conv3, self.bn3 = conv_bn(width, outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(*conv_bn(inputs, outputs, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return F.relu(self.bn3(self.conv3(out)) + shortcut, inplace=True)


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions around a shortcut, subsampled and filled up with zero channels where shapes differ (A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride=stride)
        self.conv2, self.bn2 = conv_bn(outputs, outputs, 3)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        step = self.stride
        shortcut = F.pad(x[:, :, ::step, ::step, ::step], (0, 0, 0, 0, 0, 0, 0, self.added))
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + shortcut, inplace=True)


def _stage(block: Block, inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = ((str(index), block(outputs, outputs, 1)) for index in range(1, blocks))
    return nn.Sequential(OrderedDict([("0", block(inputs, outputs, stride)), *rest]))


def _kind(name: str, file: str, block: Block, blocks: tuple[int, int, int, int], outputs: int) -> BranchKind:
    return BranchKind(
        name,
        partial(ResNet3D, block, blocks, outputs),
        read_kinetics,
        origin="3D ResNets (Hara et al.), as published with YOWO",
        licence="MIT",
        weights="the pretrained models of github.com/kenshohara/3D-ResNets-PyTorch",
        files=dict.fromkeys(DATASETS, file),
    )


KINDS = (
    _kind("resnet18", "resnet-18-kinetics.pth", BasicBlock, (2, 2, 2, 2), 64),
    _kind("resnet50", "resnet-50-kinetics.pth", Bottleneck, (3, 4, 6, 3), 256),
    _kind("resnet101", "resnet-101-kinetics.pth", Bottleneck, (3, 4, 23, 3), 256),
)
