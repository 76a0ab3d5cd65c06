"""The frame head F, and its loss L_frame."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet.contracts import DatasetFacts, Targets

FramePool = Literal["mean", "max"]


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


def frame_loss(logits: Tensor, targets: Targets, facts: DatasetFacts) -> Tensor:
    """L_frame: cross-entropy of the accepted clips, divided by the number of all clips.

    Multi-label data: binary cross-entropy, mean over classes, with the weights exp(1 - ratio) of present and
    exp(ratio) of absent classes that the published region loss uses (the paper gives none). Classes outside
    `frame_label_mask_bk` add 0 to the mean over all of them.
    """
    logits, clips = logits.float(), logits.shape[0]
    if facts.multilabel:
        wanted = targets.frame_labels_b.to(logits)
        weight = _presence_weights(wanted, facts.class_ratios)
        loss_bk = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none")
        if targets.frame_label_mask_bk is not None:
            loss_bk = torch.where(targets.frame_label_mask_bk, loss_bk, 0)
        loss_b = loss_bk.mean(dim=1)
    else:
        loss_b = F.cross_entropy(logits, targets.frame_labels_b, reduction="none")
    return (loss_b * targets.frame_mask_b.to(loss_b)).sum() / clips


def _presence_weights(wanted_bk: Tensor, ratios: tuple[float, ...] | None) -> Tensor | None:
    if ratios is None:
        return None
    ratio = wanted_bk.new_tensor(ratios)
    return torch.where(wanted_bk > 0, (1 - ratio).exp(), ratio.exp())
