"""What a branch of `yowo` is, and what is known of one before it is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ssldet.errors import ConfigError


class Branch(nn.Module, ABC):
    """(b, 3, t, h, w) or, over the key frame, (b, 3, h, w), in [0, 1] -> (b, channels, h / 32, w / 32).

    A 3D branch averages what is left of time away. Whatever mean and standard deviation the weights were trained with
    are applied within, so that every branch is fed the same clips. Entries are named as in the published weights.

    Attributes:
        channels: of the output.
    """

    channels: int

    @abstractmethod
    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """Its parts from the input on, all of them together: `freeze_2d=2` freezes the first two."""


@dataclass(frozen=True, slots=True)
class BranchKind:
    """A branch by name.

    Attributes:
        name: what `--set backbone.branch_3d=NAME` takes.
        build: makes it, with random weights from torch's global generator.
        read: the entries of a weights file by their names in the branch, without those of its classifier.
        origin: who published the network.
        licence: of the known weights; "" where none are known.
        weights: where these are to be found, in words.
        files: data set -> file below the weights root that `--pretrained` loads.
        any_file: the same for every other data set; "" where there is none.
        installed: the file where it lies elsewhere on this machine, such as in a cache; None: it does not.
        fetch: downloads the file; None: it is nowhere to be had so.
        least_frames: clips need as many; `why_least` says why.
    """

    name: str
    build: Callable[[], Branch]
    read: Callable[[Path], Mapping[str, Tensor]]
    origin: str
    licence: str = ""
    weights: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    any_file: str = ""
    installed: Callable[[], Path | None] = lambda: None
    fetch: Callable[[], Path] | None = None
    least_frames: int = 1
    why_least: str = ""

    def check_frames(self, frames: int) -> None:
        """Raises ConfigError where clips of so many frames are too short for it."""
        if frames < self.least_frames:
            raise ConfigError(
                f"{self.name} needs clips of {self.least_frames} frames or more, not {frames}: {self.why_least}; "
                "set clip.frames, or choose another backbone.branch_3d"
            )


class Standardise(nn.Module):
    """x -> (x - mean) / std along dimension 1. No weights file holds these numbers."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)


def first_stages(branch: Branch, stages: int | bool) -> list[nn.Module]:
    """The modules of so many stages from the input on; with True the whole branch, with False nothing.

    Raises:
        ConfigError: the branch has fewer stages.
    """
    if isinstance(stages, bool):
        return [branch] if stages else []
    parts = branch.stages()
    if stages > len(parts):
        raise ConfigError(f"{stages} stages are to be frozen, and this branch has {len(parts)}")
    return [module for stage in parts[:stages] for module in stage]
