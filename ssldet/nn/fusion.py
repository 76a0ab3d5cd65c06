"""Channel fusion and attention (Köpüklü et al., arXiv 1911.06644, Sec. 3.1.2): what joins the 3D and the 2D branch.

Entries are named as in published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """out = gamma * (A x) + x, with A = softmax(rowmax(E) - E) and E = x x^T over flattened space; gamma starts at 0.

    Computed in the precision of `gamma` also under autocast: energies of half-precision features overflow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_bchw: Tensor) -> Tensor:
        with torch.autocast(x_bchw.device.type, enabled=False):
            flat = x_bchw.flatten(2).to(self.gamma.dtype)
            energy = flat @ flat.transpose(1, 2)
            attention = (energy.amax(dim=-1, keepdim=True) - energy).softmax(dim=-1)
            return (self.gamma * (attention @ flat) + flat).view(x_bchw.shape)


class CFAM(nn.Module):
    """(b, inputs, h, w) -> (b, width, h, w)."""

    def __init__(self, inputs: int, width: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv_bn_relu1 = _conv_bn_relu(inputs, width, 1)
        self.conv_bn_relu2 = _conv_bn_relu(width, width, 3)
        self.sc = ChannelAttention()
        self.conv_bn_relu3 = _conv_bn_relu(width, width, 3)
        self.conv_out = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, width, 1))

    def forward(self, x_bchw: Tensor) -> Tensor:
        fused = self.conv_bn_relu2(self.conv_bn_relu1(x_bchw))
        out: Tensor = self.conv_out(self.conv_bn_relu3(self.sc(fused)))
        return out


def _conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
