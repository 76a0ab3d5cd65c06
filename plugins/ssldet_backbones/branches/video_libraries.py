"""3D branches of pytorchvideo and torchvision, imported when one is built.

Each is the library's own network without its classifier, and its entries are named as in the public checkpoints.
X3D keeps the convolution of its head that stands before the pool (conv5, 432 channels), which is no classifier. The
18-layer networks of torchvision have stride 16 and were trained on clips of 112 pixels: they see clips halved.
"""

from __future__ import annotations

import importlib
import itertools
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet.nn.convolution import take_own_layers
from ssldet_backbones.branches.branch import Branch, BranchKind, Standardise
from ssldet_backbones.branches.published_3d import DATASETS, read_kinetics

PYTORCHVIDEO_FILES = {
    "x3d_xs": "X3D_XS.pyth",
    "x3d_s": "X3D_S.pyth",
    "x3d_m": "X3D_M.pyth",
    "x3d_l": "X3D_L.pyth",
    "slow_r50": "SLOW_8x8_R50.pyth",
    "c2d_r50": "C2D_8x8_R50.pyth",
    "i3d_r50": "I3D_8x8_R50.pyth",
    "csn_r101": "CSN_32x2_R101.pyth",
    "r2plus1d_r50": "R2PLUS1D_16x4_R50.pyth",
}
"""Networks of pytorchvideo, and their public checkpoints."""

TORCHVISION_FILES = {
    "r3d_18": "r3d_18-b3b3357e.pth",
    "mc3_18": "mc3_18-a90a0ba3.pth",
    "r2plus1d_18": "r2plus1d_18-91a641e6.pth",
    "s3d": "s3d-d76dad2f.pth",
}
"""Networks of torchvision, likewise."""

LEAST_FRAMES = {"c2d_r50": 2, "i3d_r50": 2, "s3d": 5}
"""The pools in time of these need as many."""

PYTORCHVIDEO_CLASSIFIER = re.compile(r"blocks\.\d+\.(proj|pool\.post_conv)\.")


class LibraryBranch(Branch):
    """A library's network without its classifier: (b, 3, t, h, w) in [0, 1] -> (b, channels, h / 32, w / 32).

    What the network leaves of time is averaged away.

    Args:
        parts: its modules in their order, by the names that they have in the library.
        stages: the same modules, or modules of theirs, in groups from the input on.
        channels: of the output.
        mean, std: per colour, of what the public weights were trained on.
        halved: whether the network sees clips of half the size, averaged over 2 x 2 pixels.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        stages: Sequence[Sequence[nn.Module]],
        *,
        channels: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        halved: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.halved = channels, halved
        self.standardise = Standardise(mean, std)
        self._names = tuple(parts)
        for name, module in parts.items():
            self.add_module(name, module)
        self._stages = stages
        take_own_layers(self)

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        x: Tensor = self.standardise(F.avg_pool3d(clips_bcthw, (1, 2, 2)) if self.halved else clips_bcthw)
        for name in self._names:
            x = self.get_submodule(name)(x)
        return torch.mean(x, dim=2)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        return self._stages


# ------------------------------------------------------------------------------------------------ pytorchvideo


def pytorchvideo_branch(name: str) -> LibraryBranch:
    """A network of `pytorchvideo.models.hub` by its name there, with random weights."""
    network = _pytorchvideo(name)()
    _use_silu(network)
    *body, head = network.blocks
    projected = hasattr(head.pool, "pre_conv")  # so are the heads of X3D
    blocks = nn.Sequential(*body, *([_without_classifier(head.pool)] if projected else []))
    return LibraryBranch(
        {"blocks": blocks},
        _stages_of(blocks),
        channels=head.pool.pre_conv.out_channels if projected else head.proj.in_features,
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    )


def _pytorchvideo(name: str) -> Callable[[], Any]:
    """The library's function of this name. Its imports warn of what newer versions of torch no longer like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module("pytorchvideo.models.hub"), name)


def _use_silu(network: nn.Module) -> None:
    """Put torch's module for x * sigmoid(x) where the library has its own, whose gradient uses what torch gives up."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "Swish":
                setattr(module, name, nn.SiLU())


def _without_classifier(pool: Any) -> nn.Module:
    """The convolution of X3D's head that stands before the pool, under the names that it has there."""
    layers = OrderedDict(pre_conv=pool.pre_conv, pre_norm=pool.pre_norm, pre_act=pool.pre_act)
    return nn.Sequential(OrderedDict(pool=nn.Sequential(layers)))


def _stages_of(blocks: nn.Sequential) -> Sequence[Sequence[nn.Module]]:
    """One a block; a pool belongs to the one before it."""
    stages: list[list[nn.Module]] = []
    for block in blocks:
        if any(True for _ in block.parameters()):
            stages.append([])
        stages[-1].append(block)
    return stages


# ------------------------------------------------------------------------------------------------- torchvision


S3D_STAGES = (0, 1, 4, 7, 13, 16)
"""Edges of the stages among its layers: each from the second on begins with a pool."""


def torchvision_branch(name: str) -> LibraryBranch:
    """A network of `torchvision.models.video` by its name there, with random weights."""
    network = getattr(importlib.import_module("torchvision.models.video"), name)()
    parts = {part: module for part, module in network.named_children() if part not in ("avgpool", "fc", "classifier")}
    stages = [[module] for module in parts.values()]
    if deep := name == "s3d":
        layers = list(parts["features"].children())
        stages = [layers[first:last] for first, last in itertools.pairwise(S3D_STAGES)]
    return LibraryBranch(
        parts,
        stages,
        channels=1024 if deep else network.fc.in_features,
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        halved=not deep,
    )


def _kinds(
    files: Mapping[str, str],
    build: Callable[[str], Branch],
    read: Callable[[Path], Mapping[str, Tensor]],
    *,
    origin: str,
    licence: str,
    place: str,
) -> tuple[BranchKind, ...]:
    """A library's networks; `place` says where the file {} is to be found."""
    return tuple(
        BranchKind(
            name,
            partial(build, name),
            read,
            origin=origin,
            licence=licence,
            weights=place.format(file),
            files=dict.fromkeys(DATASETS, file),
            least_frames=LEAST_FRAMES.get(name, 1),
            why_least="its pools halve time until nothing is left",
        )
        for name, file in files.items()
    )


KINDS = (
    *_kinds(
        PYTORCHVIDEO_FILES,
        pytorchvideo_branch,
        partial(read_kinetics, classifier=PYTORCHVIDEO_CLASSIFIER),
        origin="pytorchvideo (Fan et al.)",
        licence="Apache-2.0",
        place="kinetics/{} of the model zoo of github.com/facebookresearch/pytorchvideo",
    ),
    *_kinds(
        TORCHVISION_FILES,
        torchvision_branch,
        read_kinetics,
        origin="torchvision",
        licence="BSD-3-Clause",
        place="download.pytorch.org/models/{}",
    ),
)
