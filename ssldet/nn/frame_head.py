"""The frame head F."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet.contracts import DatasetFacts

FramePool = Literal["mean", "max"]
"""How a frame head pools the grid."""


class FrameHead(nn.Module):
    """F: features of G pooled over the grid -> linear -> ReLU -> classifier.

    On single-label data the classifier is a cosine one over k + 1 classes, background last: logits are
    `scale` * cos(hidden, class weight). On multi-label data it is linear over k classes.

    Args:
        channels: of G's output.
        facts: classes and label kind.
        hidden: width between the two layers.
        scale: inverse temperature of the cosine classifier.
        learn_scale: whether training moves it.
        pool: over the grid, "mean" or "max".
    """

    def __init__(
        self,
        channels: int,
        facts: DatasetFacts,
        *,
        hidden: int = 512,
        scale: float = 10.0,
        learn_scale: bool = True,
        pool: FramePool = "mean",
    ) -> None:
        super().__init__()
        self.pool = pool
        self.hidden = nn.Linear(channels, hidden)
        self.classifier: nn.Module
        if facts.multilabel:
            self.classifier = nn.Linear(hidden, facts.num_classes)
        else:
            self.classifier = CosineLinear(hidden, facts.num_classes + 1, scale=scale, learn_scale=learn_scale)

    def forward(self, features_bchw: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, k + 1) logits, or (b, k) on multi-label data."""
        pooled_bc = features_bchw.mean(dim=(2, 3)) if self.pool == "mean" else features_bchw.amax(dim=(2, 3))
        logits: Tensor = self.classifier(F.relu(self.hidden(pooled_bc)))
        return logits


class CosineLinear(nn.Module):
    """Logits are `scale` times the cosine between the input and each class's weight, in float32."""

    def __init__(self, inputs: int, outputs: int, *, scale: float, learn_scale: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=learn_scale)

    def forward(self, hidden_bc: Tensor) -> Tensor:
        # bfloat16 would shift a logit by up to scale / 256, as much as the temporal term measures
        with torch.autocast(hidden_bc.device.type, enabled=False):
            directions_bc = F.normalize(hidden_bc.to(self.weight.dtype), dim=1)
            return self.scale * F.linear(directions_bc, F.normalize(self.weight, dim=1))
