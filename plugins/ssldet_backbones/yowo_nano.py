"""`yowo_nano`: YOWO's architecture scaled down so that two CPU cores train it in minutes.

A 3D branch over the clip, a 2D branch over the key frame, channel fusion with attention, a 1x1 box head. Made for
clips of 8 frames at 112 x 112 (a 7 x 7 grid); any T and any size that 16 divides will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ssldet.contracts import Backbone, DatasetFacts, Detector
from ssldet.detector.detector import GridDetector, GridOptions
from ssldet.detector.weights import load_parts, read_weights
from ssldet.errors import WeightsError
from ssldet.nn import CFAM, BatchNorm3d, Conv3d, FrameHead
from ssldet.nn.frame_head import FramePool

PRETRAINED = {"synthetic": {"features": "yowo_nano-synthetic.safetensors"}}
"""Nobody publishes these: `pretraining` makes them."""

PRETRAINING: Mapping[str, Mapping[str, Any]] = {
    "synthetic": {
        "strategy": "supervised",
        "dataset": "synthetic",
        "dataset_options": {"flavour": "pretraining"},
        "ratio": 1.0,
    }
}

HEADS = ("box_head.", "frame_head.")
"""What a run's weights hold beside the features: heads over its own classes."""


class NanoOptions(GridOptions):
    """Options of `yowo_nano`, beside those of every grid."""

    width: int = Field(16, ge=4, multiple_of=2)
    """Channels of the first layer; the stages have 1.5, 3 and 6 times as many."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of whole channels that are dropped, before the last layer of G."""
    objectness_bias: float = -4.0
    """Initial confidence logit of every cell."""
    frame_hidden: int = Field(128, ge=1)
    """Width of the frame head."""
    frame_scale: float = Field(10.0, gt=0)
    """Initial inverse temperature of the frame head's cosine classifier."""
    learn_frame_scale: bool = True
    """Whether training moves this temperature."""
    frame_pool: FramePool = "max"
    """How the frame head pools the grid, "mean" or "max"."""


class YOWONano(Backbone):
    """The small backbone; trained from scratch, or on the synthetic data from features of other classes."""

    Config = NanoOptions
    stride = 16
    parts: ClassVar[Mapping[str, str]] = {"features": "features"}
    config: NanoOptions

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> Detector:
        options = self.config
        features = NanoFeatures(options.width, options.dropout)
        box_head, head = nano_heads(features.channels, facts, options)
        return GridDetector(
            features, box_head, head if frame_head else None, facts=facts, stride=self.stride, options=options
        )

    def pretrained_files(self, dataset: str) -> Mapping[str, str]:
        return PRETRAINED.get(dataset, {})

    def pretraining(self, dataset: str) -> Mapping[str, Any] | None:
        return PRETRAINING.get(dataset)

    def read_part(self, part: str, file: Path) -> Mapping[str, Tensor]:
        if part not in self.parts:
            raise WeightsError(f"yowo_nano has no part {part!r}: its weights are of the part 'features'")
        state = read_weights(file)
        return {name.removeprefix("features."): state[name] for name in state if not name.startswith(HEADS)}

    def load_pretrained(self, detector: Detector, files: Mapping[str, Path]) -> Mapping[str, Any]:
        return load_parts(self, detector, files)


class NanoFeatures(nn.Module):
    """G: clips (b, 3, t, h, w) -> features (b, 6 * width, h / 16, w / 16)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.branch_3d, self.channels = motion_branch(width)
        self.branch_2d = _branch_2d(width, 2 * width, 4 * width)
        self.cfam = CFAM(self.channels + 4 * width, self.channels, dropout=dropout)
        # channels last makes a training step on the CPU a fifth to a half faster
        self.branch_2d.to(memory_format=torch.channels_last)
        self.cfam.to(memory_format=torch.channels_last)

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        clips_bcthw = clips_bcthw.contiguous(memory_format=torch.channels_last_3d)
        motion = self.branch_3d(clips_bcthw).mean(dim=2)
        appearance = self.branch_2d(clips_bcthw[:, :, -1].contiguous(memory_format=torch.channels_last))
        fused: Tensor = self.cfam(torch.cat((motion, appearance), dim=1))
        return fused


def nano_heads(channels: int, facts: DatasetFacts, options: NanoOptions) -> tuple[nn.Conv2d, FrameHead]:
    """P and F, which is drawn first, so that P starts the same where F is not kept.

    P is a 1x1 convolution whose confidence logits start at `objectness_bias`, since nearly all cells are empty.
    """
    frame_head = FrameHead(
        channels,
        facts,
        hidden=options.frame_hidden,
        scale=options.frame_scale,
        learn_scale=options.learn_frame_scale,
        pool=options.frame_pool,
    )
    anchors, depth = len(options.anchors_for(facts)), 5 + facts.num_classes
    box_head = nn.Conv2d(channels, anchors * depth, 1)
    nn.init.normal_(box_head.weight, std=0.01)
    bias = torch.zeros(anchors, depth)
    bias[:, 4] = options.objectness_bias
    box_head.bias = nn.Parameter(bias.flatten())
    return box_head, frame_head


def motion_branch(width: int) -> tuple[nn.Sequential, int]:
    """The 3D branch, (b, 3, t, h, w) -> (b, channels, t / 4, h / 16, w / 16), and its number of channels."""
    branch = _branch_3d(width, width * 3 // 2, 3 * width, 6 * width)
    return branch.to(memory_format=torch.channels_last_3d), 6 * width


def _branch_3d(stem: int, low: int, middle: int, high: int) -> nn.Sequential:
    """8 x 112 x 112 -> 2 x 7 x 7.

    Where two time steps are left kernels span one: `Conv3d` would have to leave bfloat16 there.
    """
    return nn.Sequential(
        _layer_3d(3, stem, (1, 5, 5), (1, 4, 4)),
        _layer_3d(stem, stem, (1, 3, 3)),
        _layer_3d(stem, stem, (3, 1, 1)),
        _layer_3d(stem, low, (3, 3, 3), (1, 2, 2)),
        _layer_3d(low, middle, (3, 3, 3), (2, 1, 1)),
        _layer_3d(middle, middle, (3, 3, 3)),
        _layer_3d(middle, high, (3, 3, 3), (2, 2, 2)),
        _layer_3d(high, high, (1, 3, 3)),
        _layer_3d(high, high, (1, 3, 3)),
    )


def _branch_2d(low: int, middle: int, high: int) -> nn.Sequential:
    return nn.Sequential(
        _layer_2d(3, low, 5, 4),
        _layer_2d(low, middle, 3, 2),
        _layer_2d(middle, high, 3, 2),
        _layer_2d(high, high, 3, 1),
    )


def _layer_3d(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    convolution = Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, BatchNorm3d(outputs), nn.ReLU(inplace=True))


def _layer_2d(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
