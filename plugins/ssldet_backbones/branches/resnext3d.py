"""3D ResNeXt-101 (Hara et al. 2018): cardinality 32, bottlenecks [3, 4, 23, 3].

Entries are named as in the published Kinetics weights.
"""

from __future__ import annotations

from functools import partial

from ssldet_backbones.branches.branch import BranchKind
from ssldet_backbones.branches.published_3d import read_kinetics
from ssldet_backbones.branches.resnet3d import Bottleneck, ResNet3D

CARDINALITY = 32
EXPANSION = 2


class ResNeXt3D(ResNet3D):
    """(b, 3, t, h, w) -> (b, 2048, h / 32, w / 32), averaged over what is left of time (one step up to t = 16)."""

    def __init__(self) -> None:
        super().__init__(partial(Bottleneck, expansion=EXPANSION, cardinality=CARDINALITY), (3, 4, 23, 3), 256)


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
