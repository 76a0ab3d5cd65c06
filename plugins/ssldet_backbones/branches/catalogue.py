"""Every branch by name."""

from __future__ import annotations

from collections.abc import Iterable

from ssldet.errors import UnknownName
from ssldet_backbones.branches import darknet, mobilenet3d, resnet3d, resnext3d, shufflenet3d
from ssldet_backbones.branches.branch import BranchKind


def branch_3d(name: str) -> BranchKind:
    """Raises UnknownName."""
    return _by_name("3D branch", name, KINDS_3D)


def branch_2d(name: str) -> BranchKind:
    """Raises UnknownName."""
    return _by_name("2D branch", name, KINDS_2D)


def _by_name(what: str, name: str, kinds: Iterable[BranchKind]) -> BranchKind:
    known = {kind.name: kind for kind in kinds}
    if name not in known:
        raise UnknownName(what, name, known)
    return known[name]


KINDS_3D: tuple[BranchKind, ...] = (*resnext3d.KINDS, *resnet3d.KINDS, *mobilenet3d.KINDS, *shufflenet3d.KINDS)
KINDS_2D: tuple[BranchKind, ...] = (*darknet.KINDS,)
