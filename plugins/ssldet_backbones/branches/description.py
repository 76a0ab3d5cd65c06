"""What each branch costs and where its weights are: the rows of `ssldet plugins show yowo`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssldet_backbones.branches.branch import Branch, BranchKind
from ssldet_backbones.branches.timm_images import PREFIX, timm_kind

CLIP = (1, 3, 16, 224, 224)
"""The clip that multiplications are counted for, or as many more frames as a branch needs."""

REPEATS = 3

SHOWN_OF_TIMM = ("resnet18", "resnet50", "convnext_tiny", "tf_efficientnet_lite0")
"""Some of the networks of timm; all of them would take an hour."""


def rows_3d(kinds: Sequence[BranchKind], *, measure: bool) -> list[dict[str, Any]]:
    """A row for each branch over the clip."""
    batch, channels, frames, *size = CLIP
    return [_row(kind, (batch, channels, max(frames, kind.least_frames), *size), measure=measure) for kind in kinds]


def rows_2d(kinds: Sequence[BranchKind], *, measure: bool) -> list[dict[str, Any]]:
    """A row for each branch over the key frame, and for some of timm."""
    batch, channels, _, *size = CLIP
    some = [timm_kind(PREFIX + name) for name in SHOWN_OF_TIMM]
    return [_row(kind, (batch, channels, *size), measure=measure) for kind in (*kinds, *some)]


def _row(kind: BranchKind, shape: Sequence[int], *, measure: bool) -> dict[str, Any]:
    with torch.device("meta"):
        branch = kind.build().eval()
    row: dict[str, Any] = {
        "name": kind.name,
        "parameters": sum(parameter.numel() for parameter in branch.parameters()),
        "GMAC": round(multiplications(branch, shape) / 1e9, 2),
        "channels": branch.channels,
        "stages": len(branch.stages()),
    }
    if measure:
        row["clips/s"] = round(clips_per_second(kind.build().eval(), shape), 2)
    return row | {"licence": kind.licence, "weights": kind.weights, "origin": kind.origin}


def multiplications(branch: Branch, shape: Sequence[int]) -> int:
    """How often a forward pass multiplies and adds in convolutions and products, counted without values.

    The branch is of no use afterwards: its values are gone, and its normalisation, which counts for nothing and takes
    half of the time, is left out.
    """
    branch.to("meta")
    for module in branch.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = _same  # type: ignore[assignment, method-assign]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        branch(torch.empty(shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def _same(x: Tensor) -> Tensor:
    return x


@torch.inference_mode()
def clips_per_second(branch: Branch, shape: Sequence[int]) -> float:
    """The best of a few forward passes of one clip on this machine's processor, after one to warm up."""
    clip = torch.rand(shape)
    branch(clip)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        branch(clip)
        seconds.append(time.perf_counter() - began)
    return shape[0] / min(seconds)
