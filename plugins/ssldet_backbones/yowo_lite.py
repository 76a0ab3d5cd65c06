"""`yowo_lite`: a small YOWO whose 2D branch knows ImageNet, for two CPU cores.

EfficientNet-Lite0 over the key frame, enlarged twice, read at strides 16 and 32 and, where it starts from weights,
frozen; a narrow 3D branch over what changes from frame to frame, dropped whole for some clips, since with few labelled
videos scenes and motion are learnt by heart; channel fusion with attention, and heads as in `yowo_nano`. Made for clips
of 8 frames at 112 x 112 (a 7 x 7 grid).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssldet.contracts import Backbone, DatasetFacts, Detector
from ssldet.detector.detector import GridDetector
from ssldet.detector.weights import load_parts, read_weights
from ssldet.errors import WeightsError
from ssldet.nn import CFAM
from ssldet_backbones import lite_weights
from ssldet_backbones.lite_images import LiteImages
from ssldet_backbones.yowo_nano import NanoOptions, motion_branch, nano_heads

CHANNELS = 96


class LiteOptions(NanoOptions):
    """Options of `yowo_lite`, beside those of `yowo_nano`."""

    freeze_2d: bool | None = None
    """Whether the 2D branch is left as it starts, statistics too; None: where it starts from weights."""
    width: int = Field(8, ge=4, multiple_of=2)
    """Channels of the first layer over the clip; the stages have 1.5, 3 and 6 times as many."""
    motion_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of clips in training whose 3D branch is dropped whole."""


class YOWOLite(Backbone):
    """The small backbone with pretrained features of the key frame."""

    Config = LiteOptions
    stride = 16
    parts: ClassVar[Mapping[str, str]] = {"2d": "features.branch_2d.network"}
    config: LiteOptions

    def build(self, facts: DatasetFacts, *, frame_head: bool) -> Detector:
        options = self.config
        features = LiteFeatures(options.width, options.dropout, options.motion_dropout)
        if options.freeze_2d:
            features.branch_2d.freeze(features.branch_2d.network)
        box_head, head = nano_heads(CHANNELS, facts, options)
        return GridDetector(
            features, box_head, head if frame_head else None, facts=facts, stride=self.stride, options=options
        )

    def frozen_parts(self) -> Mapping[str, str]:
        return {"2d": "freeze_2d"} if self.config.freeze_2d else {}

    def pretrained_files(self, dataset: str) -> Mapping[str, str]:
        return {"2d": lite_weights.FILE}

    def installed_weights(self, dataset: str) -> Mapping[str, Path]:
        file = lite_weights.installed()
        return {} if file is None else {"2d": file}

    def weights_place(self, dataset: str) -> str:
        return lite_weights.PLACE

    def read_part(self, part: str, file: Path) -> Mapping[str, Tensor]:
        if part not in self.parts:
            raise WeightsError(f"yowo_lite has no part {part!r}: its weights are of the part '2d'")
        prefix = f"{self.parts['2d']}."
        state = {name.removeprefix(prefix): value for name, value in read_weights(file).items()}
        return lite_weights.as_branch(state)

    def load_pretrained(self, detector: Detector, files: Mapping[str, Path]) -> Mapping[str, Any]:
        branch = detector.get_submodule("features.branch_2d")
        assert isinstance(branch, LiteImages)
        report = load_parts(self, detector, files)
        if self.config.freeze_2d is not False:
            branch.freeze(branch.network)
        return report


class LiteFeatures(nn.Module):
    """G: clips (b, 3, t, h, w) -> features (b, 96, h / 16, w / 16)."""

    def __init__(self, width: int, dropout: float, motion_dropout: float) -> None:
        super().__init__()
        self.branch_2d = LiteImages()
        self.branch_3d, self.motion_channels = motion_branch(width)
        self.cfam = CFAM(self.motion_channels + self.branch_2d.channels, CHANNELS, dropout=dropout)
        self.motion_dropout = motion_dropout
        self.cfam.to(memory_format=torch.channels_last)

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        appearance = self.branch_2d(clips_bcthw[:, :, -1])
        fused: Tensor = self.cfam(torch.cat((self._motion(clips_bcthw, appearance), appearance), dim=1))
        return fused

    def _motion(self, clips_bcthw: Tensor, appearance_bchw: Tensor) -> Tensor:
        """(b, c, h / 16, w / 16), in training 0 for the clips whose branch is dropped, which it does not see.

        One clip at least is seen, so that every weight has a gradient in every step.
        """
        if not (self.training and self.motion_dropout):
            return self._seen(clips_bcthw)
        draws_b = torch.rand(len(clips_bcthw), device=clips_bcthw.device)
        kept_b = (draws_b >= self.motion_dropout) | (draws_b == draws_b.max())
        motion = appearance_bchw.new_zeros(len(clips_bcthw), self.motion_channels, *appearance_bchw.shape[-2:])
        motion[kept_b] = self._seen(clips_bcthw[kept_b]).to(motion.dtype) / (1 - self.motion_dropout)
        return motion

    def _seen(self, clips_bcthw: Tensor) -> Tensor:
        """The 3D branch over what each frame changes of the frame before it, 0 for the first one."""
        changes_bcthw = F.pad(clips_bcthw.diff(dim=2), (0, 0, 0, 0, 1, 0))
        seen: Tensor = self.branch_3d(changes_bcthw.contiguous(memory_format=torch.channels_last_3d)).mean(dim=2)
        return seen
