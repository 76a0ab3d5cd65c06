"""`yowo`: the published network (Köpüklü et al., arXiv 1911.06644), which the paper builds on.

3D ResNeXt-101 over the clip and Darknet-19 over the key frame, joined by channel fusion and attention; 1x1 box head
without bias. Made for clips of 8, 16 or 32 frames at 224 x 224 (a 7 x 7 grid).
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
from ssldet.detector.heads import FrameHead, FramePool
from ssldet.detector.weights import apply_weights, read_weights
from ssldet.errors import WeightsError
from ssldet_backbones import darknet, resnext3d
from ssldet_backbones.cfam import CFAM

WIDTH = 1024

PRETRAINED = {
    "ucf24": {"3d": "resnext-101-kinetics.pth", "2d": "yolo.weights"},
    "jhmdb": {"3d": "resnext-101-kinetics-hmdb51_split1.pth", "2d": "yolo.weights"},
    "ava": {"3d": "resnext-101-kinetics.pth", "2d": "yolo.weights"},
}
"""What the paper calls pretrained; it does not say for AVA, which gets what UCF101-24 has."""


class YOWOOptions(GridOptions):
    """Options of `yowo`, beside those of every grid."""

    freeze_2d: bool = False
    """The 2D branch is not trained; its batch normalisation keeps its statistics."""
    freeze_3d: bool = False
    """The 3D branch is not trained, likewise."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of whole channels that are dropped, before the last layer of G."""
    frame_hidden: int = Field(512, ge=1)
    """Width of the frame head."""
    frame_scale: float = Field(10.0, gt=0)
    """Initial inverse temperature of the frame head's cosine classifier."""
    learn_frame_scale: bool = True
    """Whether training moves this temperature."""
    frame_pool: FramePool = "mean"
    """How the frame head pools the grid, "mean" or "max"."""


class YOWO(Backbone):
    """The published backbone."""

    Config = YOWOOptions
    stride = 32
    parts: ClassVar[Mapping[str, str]] = {"2d": "features.backbone_2d", "3d": "features.backbone_3d"}
    config: YOWOOptions

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> Detector:
        options = self.config
        features = YOWOFeatures(
            dropout=options.dropout,
            frozen=tuple(
                name
                for name, freeze in (("backbone_2d", options.freeze_2d), ("backbone_3d", options.freeze_3d))
                if freeze
            ),
        )
        box_head = nn.Conv2d(WIDTH, len(options.anchors_for(facts)) * (5 + facts.num_classes), 1, bias=False)
        head = None
        if frame_head:
            head = FrameHead(
                WIDTH,
                facts,
                hidden=options.frame_hidden,
                scale=options.frame_scale,
                learn_scale=options.learn_frame_scale,
                pool=options.frame_pool,
            )
        return GridDetector(features, box_head, head, facts=facts, stride=self.stride, options=options)

    def pretrained_files(self, dataset: str) -> Mapping[str, str]:
        return PRETRAINED.get(dataset, {})

    def read_part(self, part: str, file: Path) -> Mapping[str, Tensor]:
        if part not in self.parts:
            raise WeightsError(f"yowo takes weights of the parts 2d and 3d, not {part}")
        if part == "2d" and file.suffix != ".safetensors":
            return darknet.read_darknet(file)
        # as converted, entries bear their names in a Detector; the classifier over Kinetics or HMDB-51 is no part
        state = {name.removeprefix(f"{self.parts[part]}."): value for name, value in read_weights(file).items()}
        return {name: value for name, value in state.items() if not name.startswith("fc.")}

    def load_pretrained(self, detector: Detector, files: Mapping[str, Path]) -> Mapping[str, Any]:
        report: dict[str, Any] = {}
        for part, path in files.items():
            state = self.read_part(part, path)
            report[part] = apply_weights(detector.get_submodule(self.parts[part]), state, source=str(path)).as_dict()
        return report

    def translate_weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {detector_name(name): value for name, value in state.items()}


def detector_name(published: str) -> str:
    """The Detector's name of an entry of a published YOWO checkpoint; other names are left as they are."""
    if published.startswith("conv_final."):
        return "box_head." + published.removeprefix("conv_final.")
    if published.startswith(("backbone_2d.", "backbone_3d.", "cfam.")):
        return "features." + published
    return published


class YOWOFeatures(nn.Module):
    """G: clips (b, 3, t, h, w) -> features (b, 1024, h / 32, w / 32).

    Args:
        dropout: of whole channels, before the last layer.
        frozen: names of branches that are not trained.
    """

    def __init__(self, *, dropout: float = 0.1, frozen: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.backbone_2d = darknet.Darknet19()
        self.backbone_3d = resnext3d.ResNeXt3D()
        self.cfam = CFAM(resnext3d.OUTPUT_CHANNELS + darknet.OUTPUT_CHANNELS, WIDTH, dropout=dropout)
        self.frozen = frozen
        for name in frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> YOWOFeatures:
        """As usual, except that frozen branches stay in evaluation mode: their statistics are frozen too."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        appearance = self.backbone_2d(clips_bcthw[:, :, -1])
        motion = self.backbone_3d(clips_bcthw)
        fused: Tensor = self.cfam(torch.cat((motion, appearance), dim=1))
        return fused
