"""Operations that the speed benchmarks count: a backward pass of grouped convolutions has no more than its groups."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

COMMON = Path(__file__).parents[1] / "benchmarks" / "performance" / "common.py"


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("first", [True, False])
def test_a_backward_pass_has_the_forward_pass_once_for_each_gradient(groups: int, first: bool) -> None:
    """One gradient is that of the weight; the first layer of all needs none of its input."""
    flop_counter = runpy.run_path(str(COMMON))["flop_counter"]
    layer = nn.Conv3d(16, 32, 3, (1, 2, 2), 1, groups=groups, device="meta")
    x = torch.empty(2, 16, 4, 8, 8, device="meta", requires_grad=not first)
    with flop_counter() as forward:
        out = layer(x)
    with flop_counter() as backward:
        out.sum().backward()
    assert forward.get_total_flops() == 2 * out.numel() * layer.weight[0].numel()
    assert backward.get_total_flops() == (1 if first else 2) * forward.get_total_flops()
