"""Darknet-19 with YOLOv2's detection layers (Redmon & Farhadi 2017), and its binary weights file.

Entries are named as in published YOWO checkpoints: `models.<block>.conv<i>`, `models.<block>.bn<i>`.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssldet.detector.weights import darknet_header, read_weights
from ssldet.errors import WeightsError
from ssldet_backbones.branches.branch import Branch, BranchKind

OUTPUT_CHANNELS = 425
"""The 2D feature is YOLOv2's detection output on COCO: 5 anchors x (5 + 80 classes)."""

BACKBONE: tuple[int | str | tuple[int, int], ...] = (
    *(32, "pool", 64, "pool", 128, (64, 1), 128, "pool", 256, (128, 1), 256, "pool"),
    *(512, (256, 1), 512, (256, 1), 512, "pool", 1024, (512, 1), 1024, (512, 1), 1024, 1024, 1024),
)
"""Blocks 0 to 24: output channels of a 3x3 convolution, (channels, 1) of a 1x1 one, or a halving pool."""

FINE = 16
"""The block whose finer output is routed around the last pool."""


POOLS = tuple(index for index, spec in enumerate(BACKBONE) if spec == "pool")


class Darknet19(Branch):
    """(b, 3, h, w) -> (b, 425, h / 32, w / 32)."""

    channels = OUTPUT_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels, number = 3, 0
        for spec in BACKBONE:
            if isinstance(spec, str):
                blocks.append(nn.MaxPool2d(2, 2))
                continue
            outputs, kernel = spec if isinstance(spec, tuple) else (spec, 3)
            number += 1
            blocks.append(_block(number, channels, outputs, kernel))
            channels = outputs
        # 25, 27 and 28 route and reorganise, which `forward` spells out; their places keep the published numbering
        blocks += [nn.Identity(), _block(21, 512, 64, 1), nn.Identity(), nn.Identity()]
        blocks += [_block(22, 256 + 1024, 1024, 3), _last_block(23, 1024, OUTPUT_CHANNELS)]
        self.models = nn.ModuleList(blocks)

    def forward(self, x_bchw: Tensor) -> Tensor:
        fine = x_bchw
        for index, block in enumerate(self.models[: len(BACKBONE)]):
            x_bchw = block(x_bchw)
            if index == FINE:
                fine = x_bchw
        fine = reorganise(self.models[26](fine))
        out: Tensor = self.models[30](self.models[29](torch.cat((fine, x_bchw), dim=1)))
        return out

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """Six between its pools; the last holds the detection layers too."""
        edges = (0, *POOLS, len(self.models))
        return [list(self.models[first:last]) for first, last in itertools.pairwise(edges)]


def reorganise(x_bchw: Tensor) -> Tensor:
    """(b, c, 2h, 2w) -> (b, 4c, h, w): each 2 x 2 neighbourhood becomes channels, position-major."""
    batch, channels, height, width = x_bchw.shape
    cut = x_bchw.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return cut.reshape(batch, 4 * channels, height // 2, width // 2)


def _block(number: int, inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    layers[f"bn{number}"] = nn.BatchNorm2d(outputs)
    layers[f"leaky{number}"] = nn.LeakyReLU(0.1, inplace=True)
    return nn.Sequential(layers)


def _last_block(number: int, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict([(f"conv{number}", nn.Conv2d(inputs, outputs, 1))]))


def read_darknet(path: Path) -> dict[str, Tensor]:
    """Tensors of a Darknet weights file (`yolo.weights`) by the names of `Darknet19`.

    Float32 per layer after the header: bias, and with batch normalisation scale, mean and variance; kernel.

    Raises:
        WeightsError: the file is absent, has no such header, or its length is not that of this network.
    """
    header = darknet_header(path)
    with torch.device("meta"):  # names and shapes are all that is wanted
        network = Darknet19()
    own = network.state_dict()
    names = [name for index, block in enumerate(network.models) for name in _file_order(f"models.{index}", block)]
    sizes = [own[name].numel() for name in names]
    expected, came = 4 * sum(sizes), path.stat().st_size - header.size
    if came != expected:
        raise WeightsError(
            f"{path} does not hold Darknet-19 with {OUTPUT_CHANNELS} outputs: {expected:,} bytes of values are "
            f"expected after a header of {header.size}, {came:,} came"
        )
    pieces = torch.from_numpy(np.fromfile(path, dtype="<f4", offset=header.size).astype(np.float32)).split(sizes)
    return {name: piece.view(own[name].shape).clone() for name, piece in zip(names, pieces, strict=True)}


def _file_order(prefix: str, block: nn.Module) -> list[str]:
    """Entry names of one block in the order of the file; none for a pool or route."""
    match [f"{prefix}.{name}" for name, _ in block.named_children()]:
        case [convolution, normalisation, _]:
            statistics = [f"{normalisation}.{part}" for part in ("bias", "weight", "running_mean", "running_var")]
            return [*statistics, f"{convolution}.weight"]
        case [convolution]:
            return [f"{convolution}.bias", f"{convolution}.weight"]
        case _:
            return []


def read_yolo(path: Path) -> Mapping[str, Tensor]:
    """`yolo.weights`, or one of our own weights files. Raises WeightsError."""
    return read_weights(path) if path.suffix == ".safetensors" else read_darknet(path)


KINDS = (
    BranchKind(
        "darknet19",
        Darknet19,
        read_yolo,
        origin="YOLOv2 (Redmon & Farhadi), as published with YOWO",
        licence="public domain, as Darknet is",
        weights="yolov2.weights of pjreddie.com/darknet/yolo, which YOWO calls yolo.weights",
        files=dict.fromkeys(("ucf24", "jhmdb", "ava"), "yolo.weights"),
    ),
)
