"""`yowo`: the published network (Köpüklü et al., arXiv 1911.06644), which the paper builds on.

3D ResNeXt-101 over the clip and Darknet-19 over the key frame, or other branches in their place, joined by channel
fusion and attention; 1x1 box head without bias. Made for clips of 8, 16 or 32 frames at 224 x 224 (a 7 x 7 grid).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ssldet.contracts import Backbone, DatasetFacts, Detector
from ssldet.detector.detector import GridDetector, GridOptions
from ssldet.detector.weights import load_parts
from ssldet.errors import ConfigError, WeightsError
from ssldet.nn import CFAM, FrameHead, FrozenParts
from ssldet.nn.frame_head import FramePool
from ssldet_backbones.branches.branch import Branch, BranchKind, first_stages
from ssldet_backbones.branches.catalogue import KINDS_2D, KINDS_3D, branch_2d, branch_3d
from ssldet_backbones.branches.description import rows_2d, rows_3d

WIDTH = 1024


class YOWOOptions(GridOptions):
    """Options of `yowo`, beside those of every grid."""

    branch_3d: str = "resnext101"
    """The network over the clip; `ssldet plugins show yowo` lists them."""
    branch_2d: str = "darknet19"
    """The network over the key frame, likewise; timm:NAME is any of timm that has a map of stride 32."""
    freeze_2d: bool | Annotated[int, Field(ge=0)] = False
    """The 2D branch is not trained, or so many of its first stages; their batch normalisation keeps its statistics."""
    freeze_3d: bool | Annotated[int, Field(ge=0)] = False
    """The 3D branch is not trained, or so many of its first stages, likewise."""
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
        branches = {part: kind.build() for part, kind in self.kinds().items()}
        features = YOWOFeatures(
            branches["3d"],
            branches["2d"],
            dropout=options.dropout,
            freeze_3d=options.freeze_3d,
            freeze_2d=options.freeze_2d,
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

    def kinds(self) -> dict[str, BranchKind]:
        """The branch of each part. Raises ConfigError or UnknownName."""
        return {"2d": branch_2d(self.config.branch_2d), "3d": branch_3d(self.config.branch_3d)}

    def check_clips(self, frames: int, size: int) -> None:
        """Clips must be long enough, and both branches give a grid of one cell a stride."""
        for kind in self.kinds().values():
            kind.check_frames(frames)
        wanted = (size // self.stride, size // self.stride)
        names = {"branch_3d": self.config.branch_3d, "branch_2d": self.config.branch_2d}
        grids = grids_of(*names.values(), frames, size)
        if any(grid != wanted for grid in grids):
            came = ", ".join(
                f"{option} {name} gives {_sizes(grid)}"
                for (option, name), grid in zip(names.items(), grids, strict=True)
            )
            raise ConfigError(
                f"the branches of yowo must give a grid of {_sizes(wanted)} cells over clips of {size} pixels (stride "
                f"{self.stride}), and {came}; choose other branches"
            )

    def frozen_parts(self) -> Mapping[str, str]:
        options = self.config
        return {part: f"freeze_{part}" for part in self.parts if getattr(options, f"freeze_{part}")}

    def describe(self, *, measure: bool = False) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Every branch of ours, and some of timm."""
        return {
            "3D branches": rows_3d(KINDS_3D, measure=measure),
            "2D branches": rows_2d(KINDS_2D, measure=measure),
        }

    def pretrained_files(self, dataset: str) -> Mapping[str, str]:
        """What the paper calls pretrained; it does not say for AVA, which gets what UCF101-24 has."""
        files = {part: kind.files.get(dataset, kind.any_file) for part, kind in self.kinds().items()}
        return {part: file for part, file in files.items() if file}

    def installed_weights(self, dataset: str) -> Mapping[str, Path]:
        files = {part: kind.installed() for part, kind in self.kinds().items()}
        return {part: file for part, file in files.items() if file is not None}

    def fetch_weights(self, part: str, dataset: str) -> Path | None:
        fetch = self.kinds()[part].fetch
        return None if fetch is None else fetch()

    def read_part(self, part: str, file: Path) -> Mapping[str, Tensor]:
        if part not in self.parts:
            raise WeightsError(f"yowo takes weights of the parts 2d and 3d, not {part}")
        prefix = f"{self.parts[part]}."  # of entries in files of our own
        return {name.removeprefix(prefix): value for name, value in self.kinds()[part].read(file).items()}

    def part_options(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {
            part: [{option: kind.name} for kind in kinds if kind.name != self.Config.model_fields[option].default]
            for part, option, kinds in (("2d", "branch_2d", KINDS_2D), ("3d", "branch_3d", KINDS_3D))
        }

    def weights_place(self, dataset: str) -> str:
        return ", and ".join(kind.weights for kind in self.kinds().values() if kind.weights)

    def load_pretrained(self, detector: Detector, files: Mapping[str, Path]) -> Mapping[str, Any]:
        return load_parts(self, detector, files)

    def translate_weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {detector_name(name): value for name, value in state.items()}


@cache
def grids_of(branch_3d_name: str, branch_2d_name: str, frames: int, size: int) -> tuple[tuple[int, ...], ...]:
    """(rows, columns) of what the 3D and the 2D branch give for clips of this form; nothing is computed."""
    with torch.device("meta"), torch.no_grad():
        clips = torch.empty(1, 3, frames, size, size)
        maps = (
            branch_3d(branch_3d_name).build().eval()(clips),
            branch_2d(branch_2d_name).build().eval()(clips[:, :, -1]),
        )
    return tuple(tuple(each.shape[-2:]) for each in maps)


def _sizes(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def detector_name(published: str) -> str:
    """The Detector's name of an entry of a published YOWO checkpoint; other names are left as they are."""
    if published.startswith("conv_final."):
        return "box_head." + published.removeprefix("conv_final.")
    if published.startswith(("backbone_2d.", "backbone_3d.", "cfam.")):
        return "features." + published
    return published


class YOWOFeatures(FrozenParts):
    """G: clips (b, 3, t, h, w) -> features (b, 1024, h / 32, w / 32).

    Args:
        branch_3d, branch_2d: the branches.
        dropout: of whole channels, before the last layer.
        freeze_3d, freeze_2d: True: the branch is not trained; n: so many of its first stages.

    Raises:
        ConfigError: more stages are to be frozen than a branch has.
    """

    def __init__(
        self,
        branch_3d: Branch,
        branch_2d: Branch,
        *,
        dropout: float = 0.1,
        freeze_3d: bool | int = False,
        freeze_2d: bool | int = False,
    ) -> None:
        super().__init__()
        self.backbone_2d = branch_2d
        self.backbone_3d = branch_3d
        self.cfam = CFAM(branch_3d.channels + branch_2d.channels, WIDTH, dropout=dropout)
        self.freeze(*first_stages(branch_2d, freeze_2d), *first_stages(branch_3d, freeze_3d))

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        appearance = self.backbone_2d(clips_bcthw[:, :, -1])
        motion = self.backbone_3d(clips_bcthw)
        if motion.shape[-2:] != appearance.shape[-2:]:
            sizes = (_sizes(tuple(each.shape[-2:])) for each in (motion, appearance))
            raise ConfigError("the 3D branch gives a grid of {} cells, the 2D branch one of {}".format(*sizes))
        fused: Tensor = self.cfam(torch.cat((motion, appearance), dim=1))
        return fused
