"""The loss L_frame of the frame head F, which `ssldet.nn` has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssldet.contracts import DatasetFacts, Targets
from ssldet.nn.frame_head import CosineLinear as CosineLinear
from ssldet.nn.frame_head import FrameHead as FrameHead


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
