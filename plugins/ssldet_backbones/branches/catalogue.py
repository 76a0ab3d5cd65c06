"""Every branch by name."""

from __future__ import annotations

from ssldet.errors import ConfigError, UnknownName, nearest
from ssldet_backbones.branches import (
    darknet,
    mobilenet3d,
    resnet3d,
    resnext3d,
    shufflenet3d,
    timm_images,
    video_libraries,
)
from ssldet_backbones.branches.branch import BranchKind


def branch_3d(name: str) -> BranchKind:
    """Raises UnknownName."""
    known = {kind.name: kind for kind in KINDS_3D}
    if name not in known:
        raise UnknownName("3D branch", name, known)
    return known[name]


def branch_2d(name: str) -> BranchKind:
    """One of ours, or timm:NAME. Raises ConfigError."""
    if name.startswith(timm_images.PREFIX):
        return timm_images.timm_kind(name)
    known = {kind.name: kind for kind in KINDS_2D}
    if name not in known:
        near = nearest(name, [*known, *(timm_images.PREFIX + network for network in timm_images.timm_names())])
        raise ConfigError(
            f"unknown 2D branch {name!r}{near} (known: {', '.join(sorted(known))}, and timm:NAME for a network of timm "
            f"that has a map of stride {timm_images.STRIDE})"
        )
    return known[name]


KINDS_3D: tuple[BranchKind, ...] = (
    *resnext3d.KINDS,
    *resnet3d.KINDS,
    *mobilenet3d.KINDS,
    *shufflenet3d.KINDS,
    *video_libraries.KINDS,
)
KINDS_2D: tuple[BranchKind, ...] = (*darknet.KINDS,)
