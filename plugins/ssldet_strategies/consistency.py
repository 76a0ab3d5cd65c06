"""CSD (Jeong et al., "Consistency-based Semi-supervised Learning for Object Detection", NeurIPS 2019) carried to clips.

What a network says of a clip and of its mirror image should be mirror images too. There is no teacher and there are no
pseudo-labels:

    L      = L_bou + w(t) (L_con on labelled clips + L_con on unlabelled clips)
    L_con  = mean over cells with m = 1 of  JS(p, p') + 1/4 ((x - x')^2 + (y - y')^2 + (w - w')^2 + (h - h')^2)
    JS     = 1/2 KL(p, q) + 1/2 KL(p', q),  q = (p + p') / 2
    m      = 1 where the likeliest class of the clip, not of its mirror image, is not the background
    w(t)   = exp(-5 (1 - t / up)^2), then 1, then exp(-12.5 (1 - (1 - t) / down)^2);  t runs from 0 to 1

p is the distribution over the k classes and the background at a cell, a primed value that of the mirrored clip carried
back. Where m = 0 everywhere L_con is exactly 0.

Deviations. The background's probability is 1 - objectness, a class's is objectness x class (the published detector has
a softmax with a background class); on multi-label data JS is the sum over classes of that of each class against its
absence. x, y are in cells and w, h logarithms of pixels, YOWO's parametrisation (the published code: offsets of SSD).
JS and its gradient are the paper's; the published code takes the mean of both divergences, each with its target held
fixed. There it is one mean over the cells of labelled and unlabelled images; here each kind has its own mean, over a
group's clips. Consistency begins after the first stage, which strategies share, and the ramps are shares of what
follows it (published: 32,000, 100,000 and 120,000 iterations); at their first step w is exp(-5), not 0. Unlabelled
clips are seen in the strong view, and a group's clips and their mirror images are one batch of batch normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import (
    Batch,
    Cells,
    DatasetFacts,
    Detector,
    Needs,
    Options,
    Predictions,
    Progress,
    StepLosses,
    Strategy,
)
from ssldet.detector.region import class_probabilities
from ssldet.ops.boxes import cxcywh_from_xyxy
from ssldet.training.objectives import forward_groups, ramp_up, supervised_group_terms
from ssldet_strategies.cell_maps import cell_sides, cells_of, mirrored

SMALLEST = 1e-7
"""Least probability in a logarithm, and least side of a box in pixels."""


class Consistency(Strategy):
    """L_bou on labelled clips, and agreement with the mirrored clip on all."""

    class Config(Options):
        """Options of `consistency`."""

        o_th: float | None = Field(None, ge=0, le=1)
        """Cells whose objectness is above (strictly) are compared; None, as published: those with a class that is
        likelier than the background.
        """
        consistency_weight: float = Field(1.0, ge=0)
        """Weight of L_con, beside its ramps."""
        ramp_up: float = Field(0.267, ge=0, le=1)
        """Share of the second stage over which the weight of L_con rises."""
        ramp_down: float = Field(0.167, ge=0, le=1)
        """Share of the second stage, at its end, over which it falls."""

    config: Config

    @property
    def needs(self) -> Needs:
        return Needs()

    def extra_clips(self, labelled: int, unlabelled: int) -> int:
        """Every clip has a mirror image."""
        return labelled + unlabelled

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        return Consistency.group_losses(self, [batch], student, progress)[0]

    def group_losses(self, batches: Sequence[Batch], student: Detector, progress: Progress) -> list[StepLosses]:
        """As `losses`, with one call of the network for the labelled clips of all groups, one for the others."""
        labelled = [batch.labelled for batch in batches]
        pairs = _with_mirrors(student, [group.clips_bcthw for group in labelled])
        strong = [batch.unlabelled.strong_bcthw for batch in batches if batch.unlabelled is not None]
        assert len(strong) == len(batches), "the second stage needs unlabelled clips"
        pairs_u = _with_mirrors(student, strong)
        details = [dict[str, Tensor]() for _ in batches]
        plain = [(predictions, None) for predictions, _ in pairs]
        terms = supervised_group_terms(student, labelled, self.needs, details=details, pairs=plain)
        weight = self.config.consistency_weight * self.ramp(progress)
        return [
            StepLosses(
                terms[i]
                | {
                    "consistency": weight * self._between(student, pairs[i], group.clips_bcthw.shape[-1]),
                    "consistency_u": weight * self._between(student, pairs_u[i], strong[i].shape[-1]),
                },
                details=details[i],
                extra_clips=len(group.clips_bcthw) + len(strong[i]),
            )
            for i, group in enumerate(labelled)
        ]

    def ramp(self, progress: Progress) -> float:
        """w(t), without `consistency_weight`."""
        length = self.config.ramp_down * (progress.steps - progress.burn_in)
        left = min(1.0, (progress.steps - progress.step) / length) if length else 1.0
        return ramp_up(progress, self.config.ramp_up) * math.exp(-12.5 * (1 - left) ** 2)

    def _between(self, student: Detector, pair: tuple[Predictions, Predictions], size: int) -> Tensor:
        cells, of_mirror = (cells_of(student, predictions, "consistency") for predictions in pair)
        return consistency_loss(cells, mirrored(of_mirror, size), student.facts, size, self.config.o_th)


def _with_mirrors(student: Detector, clips: Sequence[Tensor]) -> list[tuple[Predictions, Predictions]]:
    """Predictions of clips and of their mirror images."""
    pairs = forward_groups(student, clips, [group.flip(-1) for group in clips])
    return [(predictions, of_mirror) for predictions, of_mirror in pairs if of_mirror is not None]


def consistency_loss(cells: Cells, carried: Cells, facts: DatasetFacts, size: int, o_th: float | None) -> Tensor:
    """L_con, a mean over the cells that are compared; exactly 0 where there are none.

    Args:
        cells: of clips.
        carried: of their mirror images, carried back.
        size: of the view in pixels.
        o_th: see `Consistency.Config`.
    """
    compared_bn = foreground(cells, facts, o_th)
    sides_n2 = cell_sides(cells, size)
    by_cell_bn = js_divergence(_outcomes(cells, facts), _outcomes(carried, facts))
    offsets = _offsets(cells, sides_n2) - _offsets(carried, sides_n2)
    by_cell_bn = by_cell_bn + offsets.square().mean(dim=2)
    return torch.where(compared_bn, by_cell_bn, 0).sum() / compared_bn.sum().clamp_min(1)


@torch.no_grad()
def foreground(cells: Cells, facts: DatasetFacts, o_th: float | None) -> Tensor:
    """m, (b, n) bool: the cells that are compared."""
    objectness_bn = cells.confidence_bn.sigmoid()
    if o_th is not None:
        return objectness_bn > o_th
    return objectness_bn * class_probabilities(cells.classes_bnk, facts).amax(dim=2) > 1 - objectness_bn


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """JS of distributions along the last dimension, summed over the others from the third on: (b, n, ..., c) -> (b, n).

    Either may hold zeros.
    """
    middle = ((p + q) / 2).clamp_min(SMALLEST).log()
    divergence = 0.5 * sum(part * (part.clamp_min(SMALLEST).log() - middle) for part in (p, q))
    return torch.as_tensor(divergence).flatten(2).sum(dim=2)


def _outcomes(cells: Cells, facts: DatasetFacts) -> Tensor:
    """(b, n, k + 1): classes and background; on multi-label data (b, n, k, 2): each class and its absence."""
    objectness_bn1 = cells.confidence_bn.sigmoid()[:, :, None]
    classes_bnk = objectness_bn1 * class_probabilities(cells.classes_bnk, facts)
    if facts.multilabel:
        return torch.stack((classes_bnk, 1 - classes_bnk), dim=3)
    return torch.cat((classes_bnk, 1 - objectness_bn1), dim=2)


def _offsets(cells: Cells, sides_n2: Tensor) -> Tensor:
    """(b, n, 4): centres in cells, logarithms of the sides in pixels."""
    centre_size = cxcywh_from_xyxy(cells.boxes_bn4)
    centres, sizes = centre_size[..., :2] / sides_n2, centre_size[..., 2:].clamp_min(SMALLEST).log()
    return torch.cat((centres, sizes), dim=2)
