"""3D convolutions whose half-precision gradients can be trusted on the CPU, and that can be computed in other ways;
and how a library's network gets our layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssldet.nn.formulations import formulations_of
from ssldet.nn.normalisation import BatchNorm3d


class Conv3d(nn.Conv3d):
    """As torch's, but two time steps are convolved in float32 where bfloat16 on the CPU would be used.

    There torch (2.12 and 2.14 at least) computes a weight gradient that has nothing to do with the right one when
    the temporal kernel is 3; neither an error nor a value that is not finite tells of it.

    Attributes:
        formulation: how it is computed, by a name of `ssldet.nn.formulations`; None: as torch does.
    """

    formulation: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.shape[2] != 2 or self.kernel_size[0] == 1 or not _half(x):
            other = None if self.formulation is None else formulations_of(self).get(self.formulation)
            return super().forward(x) if other is None else other(self, x)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(x.float(), self.weight.float(), bias).to(torch.bfloat16)


def take_own_layers(network: nn.Module) -> None:
    """Let the 3D layers of a library's network compute as `Conv3d` and `BatchNorm3d` do; weights and names stay."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.__class__ = Conv3d
        elif type(module) is nn.BatchNorm3d:
            module.__class__ = BatchNorm3d


def _half(x: Tensor) -> bool:
    return torch.is_autocast_enabled("cpu") or x.dtype == torch.bfloat16
