"""Error recovery of Stable Mean Teacher: a network from an objectness map to one with fewer mistakes."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ErrorRecovery(nn.Module):
    """R: an objectness map in [0, 1], (b, 1, h, w) -> logits of one with fewer mistakes; at first of the same.

    Its first weights are the same for every seed.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        widths = (1, channels, channels, 1)
        convolutions = [nn.Conv2d(*pair, 3, padding=1) for pair in pairwise(widths)]
        self.layers = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        generator = torch.Generator().manual_seed(0)
        for convolution in convolutions:
            nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu", generator=generator)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        nn.init.zeros_(convolutions[2].weight)

    def forward(self, map_b1hw: Tensor) -> Tensor:
        logits: Tensor = torch.logit(map_b1hw.float(), eps=1e-4) + self.layers(map_b1hw)
        return logits


def recovery_loss(logits_b1hw: Tensor, truth_b1hw: Tensor, known_b1hw: Tensor) -> Tensor:
    """BCE + Dice, over places about which the truth is known; Dice is 1 - (2 sum p y + 1) / (sum p + sum y + 1)."""
    known, p = known_b1hw.float(), logits_b1hw.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits_b1hw, truth_b1hw, known, reduction="sum")
    overlap, total = (known * p * truth_b1hw).sum(), (known * (p + truth_b1hw)).sum()
    return entropy / known.sum().clamp_min(1) + 1 - (2 * overlap + 1) / (total + 1)
