"""Dense Teacher (Zhou et al., "Dense Teacher: Dense Pseudo-Labels for Semi-supervised Object Detection", arXiv
2207.02541) for clips.

There are no pseudo-boxes, no threshold and no suppression. The cells in which a moving average is surest are positives,
all others are negatives:

    S      = the top 1 % of all cells by s = objectness x best class of the teacher
    L_cls  = sum over S of (p_t - p_s)^2 BCE(p_s, p_t) + sum over the others of p_s^2 BCE(p_s, 0)
    L_u    = (4 L_cls + sum over S of s (1 - GIoU(b_s, b_t)) + sum over S of BCE(o_s, o_t)) / sum over S of s

p = objectness o x class probability, summed over classes. Published: these weights (4, 1, 1), moving average 0.9996, a
first stage on labels, and a weight of L_u that then rises linearly over as many steps.

Deviations. The published detector (FCOS) has a class probability and a centerness where this one has objectness and
classes: o x class stands for the former, o for the latter. Its views share their geometry, so that a cell is the same
in both; here a cell of the teacher answers in the strong view to the cell below the centre of its carried box, of the
same anchor, and one that the crop pushed out answers to none. The top 1 % is of a group's clips, and at least one cell;
sums over S are over those of its cells that have an answer, and the denominator is at least 1, so that a teacher which
finds nothing teaches next to nothing. All three parts have one denominator (published code: the second and the third
are means over S, weighted by the teacher's centerness in the former), and labelled clips are trained on in one view
(published code: in both). The log counts what suppression leaves of S. The decay of the average has a warm-up. There
are no candidates that guidance could filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from ssldet.contracts import Batch, Cells, Decoded, Detector, Needs, Predictions, Progress, PseudoLabels
from ssldet.data.views import clip_and_filter
from ssldet.detector.postprocess import BoxRecords
from ssldet.detector.region import class_probabilities
from ssldet.ops.boxes import aligned_giou
from ssldet.training.objectives import PredictionPair
from ssldet.training.pseudo_labels import Confidence, confident_boxes
from ssldet.training.teachers import AveragedTeacher, AverageOptions, StrongView
from ssldet_strategies.cell_maps import cells_of, cells_under

SMALLEST = 1e-6
"""Probabilities in logarithms lie at least this far from 0 and 1."""


class DenseTeacher(AveragedTeacher):
    """The surest cells of the teacher are positives, all others negatives."""

    class Config(AverageOptions):
        """Options of `dense_teacher`, beside those of an averaged teacher."""

        top: float = Field(0.01, gt=0, le=1)
        """Share of a group's cells that are positives."""
        o_th: float = Field(0.0, ge=0, le=1)
        """No cell is a positive unless its confidence is above (strictly)."""
        confidence: Confidence = "objectness_class"
        """What cells are ranked by: objectness, or objectness x best class."""
        class_weight: float = Field(4.0, ge=0)
        """Weight of L_cls."""
        box_weight: float = Field(1.0, ge=0)
        """Weight of the overlap."""
        quality_weight: float = Field(1.0, ge=0)
        """Weight of the objectness."""
        ema_decay: float = Field(0.9996, ge=0, lt=1)
        """Decay of the average: teacher = decay * teacher + (1 - decay) * student after each step."""
        linear_ramp: float = Field(1.0, ge=0)
        """The weight of L_u rises linearly from 0 over this many times the steps of the first stage; 0: at once."""

        @model_validator(mode="after")
        def _one_ramp(self) -> Self:
            if self.linear_ramp and self.unlabelled_ramp:
                raise ValueError("unlabelled_ramp and linear_ramp would both apply; set linear_ramp=0 for the former")
            return self

    config: Config

    @property
    def needs(self) -> Needs:
        return Needs()

    def weight_at(self, progress: Progress) -> float:
        """The weight of L_u, which rises linearly after the first stage."""
        length = self.config.linear_ramp * progress.burn_in
        rise = min(1.0, (progress.step - progress.burn_in) / length) if length else 1.0
        return rise * super().weight_at(progress)

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        """For the log: what suppression leaves of the positives, each as a box of its best class."""
        facts, decoded = self.teacher.network.facts, self.teacher.network.decode(predictions)
        kept_bn, score_bn = self._positives(decoded)
        candidates = BoxRecords.of(decoded, kept_bn, score_bn).nms(self.config.nms_iou)
        return confident_boxes(candidates, len(predictions), facts)

    def strong_view(self, pseudo: PseudoLabels, predictions: Predictions, batch: Batch) -> StrongView:
        """The strong view, and which of its cells are positives of what."""
        assert batch.unlabelled is not None
        geometry, network = batch.unlabelled.geometry, self.teacher.network
        cells, decoded = cells_of(network, predictions, "dense_teacher"), network.decode(predictions)
        kept_bn, score_bn = self._positives(decoded)
        clip_m, cell_m = kept_bn.nonzero(as_tuple=True)
        carried_m4 = geometry.to_strong(decoded.boxes_bn4[clip_m, cell_m].clamp(0, geometry.size), clip_m)
        boxes_m4, seen_m = clip_and_filter(carried_m4, geometry.size, self.config.min_visible)
        answers_m = cells_under(boxes_m4, cell_m, cells.shapes, geometry.size)
        rows = surest_of_each(clip_m * kept_bn.shape[1] + answers_m, score_bn[clip_m, cell_m], seen_m)
        clip_m, cell_m = clip_m[rows], cell_m[rows]
        objectness_m = decoded.confidence_bn[clip_m, cell_m]
        extras = {
            "clip_m": clip_m,
            "cell_m": answers_m[rows],
            "boxes_m4": boxes_m4[rows],
            "objectness_m": objectness_m,
            "scores_mk": objectness_m[:, None] * decoded.scores_bnk[clip_m, cell_m],
        }
        return StrongView(batch.unlabelled.strong_bcthw, pseudo.targets, extras)

    def unlabelled_terms(
        self, student: Detector, pair: PredictionPair, view: StrongView, details: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """L_u, in three parts."""
        config, given = self.config, view.extras
        cells = cells_of(student, pair[0], "dense_teacher")
        parts = dense_losses(cells, given, class_probabilities(cells.classes_bnk, student.facts))
        weights = {"cls": config.class_weight, "box": config.box_weight, "quality": config.quality_weight}
        parts = {name: weights[name] * part for name, part in parts.items()}
        details.update({f"box_u/{name}": part.detach() for name, part in parts.items()})
        return {"box_u": torch.stack(list(parts.values())).sum()}

    def _positives(self, decoded: Decoded) -> tuple[Tensor, Tensor]:
        """S as a mask (b, n), and the confidence (b, n) that cells are ranked by."""
        score_bn = decoded.confidence_bn
        if self.config.confidence == "objectness_class":
            score_bn = score_bn * decoded.scores_bnk.amax(dim=2)
        count = max(1, round(self.config.top * score_bn.numel()))
        kept_bn = torch.zeros_like(score_bn, dtype=torch.bool)
        kept_bn.view(-1)[score_bn.flatten().topk(count).indices] = True
        return kept_bn & (score_bn > self.config.o_th), score_bn


def surest_of_each(key_m: Tensor, score_m: Tensor, wanted_m: Tensor) -> Tensor:
    """Of the wanted rows of each key that of the greatest score, as indices."""
    order = score_m.argsort(descending=True, stable=True)
    order = order[wanted_m[order]]
    order = order[key_m[order].argsort(stable=True)]
    keys = key_m[order]
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    return order[first]


def dense_losses(cells: Cells, given: Mapping[str, Tensor], classes_bnk: Tensor) -> dict[str, Tensor]:
    """The three parts of L_u, unweighted: cls, box, quality.

    Args:
        cells: of the student.
        given: clip_m, cell_m, boxes_m4, objectness_m and scores_mk = objectness x class of the positives.
        classes_bnk: the student's class probabilities.
    """
    at, scores_mk = (given["clip_m"], given["cell_m"]), given["scores_mk"]
    surest_m = scores_mk.amax(dim=1)
    scale = surest_m.sum().clamp_min(1)
    p_bnk = cells.confidence_bn.sigmoid()[:, :, None] * classes_bnk
    y_bnk = torch.zeros_like(p_bnk)
    y_bnk[at] = scores_mk.to(y_bnk)
    sure_bnk = p_bnk.clamp(SMALLEST, 1 - SMALLEST)  # torch's own cross-entropy of them is refused under autocast
    entropy_bnk = -(y_bnk * sure_bnk.log() + (1 - y_bnk) * torch.log1p(-sure_bnk))
    overlap_m = aligned_giou(cells.boxes_bn4[at], given["boxes_m4"])
    quality = functional.binary_cross_entropy_with_logits(
        cells.confidence_bn[at], given["objectness_m"], reduction="sum"
    )
    return {
        "cls": ((y_bnk - p_bnk).square() * entropy_bnk).sum() / scale,
        "box": (surest_m * (1 - overlap_m)).sum() / scale,
        "quality": quality / scale,
    }
