"""Unbiased Teacher (Liu et al., "Unbiased Teacher for Semi-Supervised Object Detection", arXiv 2102.09480) for clips.

A moving average labels unlabelled clips. Its boxes above tau teach the student what and whether, never where; the class
loss is focal, so that classes that are found often do not drown the others.

    L   = 1/2 (L_bou(weak view) + L_bou(strong view)) + lambda_u L_u
    L_u = L_obj + sum over boxes with s > tau of (1 - p)^gamma L_cls,    p = exp(-L_cls),  s = objectness x best class

The first half is of labelled clips. Published: tau 0.7, lambda_u 4, moving average 0.9996, gamma 1.5, as many
unlabelled images as labelled ones (`train.unlabelled_batch`).

Deviations. The detector is one-stage: L_obj, its objectness with the no-object part, stands for the losses of the
published proposal network, and L_cls is the detector's class loss of each box, whatever form it has. Where that is
cross-entropy, p is the probability of the box's class; the forms `paper` and `yowo` of the region loss are focal
already, and are not made so twice (`focal_gamma`). Labelled boxes keep the detector's loss. The decay of the average
has a warm-up (`ema_warmup`): with 0.9996 alone a short training would end with the teacher that it began with. Strong
views are the suite's; colours and cutout are asked for by `views`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import Batch, Detector, LabelledBatch, Needs, Predictions, PseudoLabels
from ssldet.data.batches import concat_labelled
from ssldet.detector.detector import GridDetector
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.objectives import PredictionPair
from ssldet.training.pseudo_labels import Confidence
from ssldet.training.teachers import AveragedTeacher, AverageOptions, StrongView

PUBLISHED_GAMMA = 1.5

SMALLEST_LOSS = 1e-6
"""Below it the slope of (1 - p)^gamma might have no bound."""


class UnbiasedTeacher(AveragedTeacher):
    """L_bou on both views of labelled clips; objectness and a focal class loss on pseudo-boxes of unlabelled ones."""

    class Config(AverageOptions, GuidanceOptions):
        """Options of `unbiased_teacher`, beside those of an averaged teacher and of guidance."""

        o_th: float = Field(0.7, ge=0, le=1)
        """tau; a box of the teacher is a pseudo-box when its confidence is above (strictly)."""
        confidence: Confidence = "objectness_class"
        """The confidence of a box: objectness, or objectness x best class."""
        unlabelled_weight: float = Field(4.0, ge=0)
        """lambda_u, the weight of all terms of unlabelled clips."""
        ema_decay: float = Field(0.9996, ge=0, lt=1)
        """Decay of the average: teacher = decay * teacher + (1 - decay) * student after each step."""
        focal_gamma: float | None = Field(None, ge=0)
        """gamma, of the class loss of pseudo-boxes; 0 leaves the detector's own. None means 1.5, or 0 where that is a
        region loss which is focal itself (forms `paper` and `yowo`).
        """
        both_views: bool = True
        """Labelled clips are trained on in the weak view too; without it as they come."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs(labelled_weak=self.config.both_views)

    def extra_clips(self, labelled: int, unlabelled: int) -> int:
        """Labelled clips come in both views."""
        return labelled if self.config.both_views else 0

    def labelled_view(self, batch: Batch) -> LabelledBatch:
        """Both views of the labelled clips, one after the other."""
        labelled = batch.labelled
        if labelled.weak_bcthw is None or labelled.weak_targets is None:
            return labelled
        return concat_labelled(labelled, LabelledBatch(labelled.weak_bcthw, labelled.weak_targets))

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        """Boxes above tau, whose coordinates weigh nothing."""
        candidates, facts = self.candidates(predictions), self.teacher.network.facts
        labels = guided_boxes(candidates, predictions, facts, self.config)[1]
        boxes_n4 = labels.targets.boxes_n4
        labels.targets.weights_n3 = boxes_n4.new_tensor([[0.0, 1.0, 1.0]]).repeat(len(boxes_n4), 1)
        return labels

    def gamma(self, student: Detector) -> float:
        """gamma of the class loss of pseudo-boxes, given whose loss it is."""
        if self.config.focal_gamma is not None:
            return self.config.focal_gamma
        return 0.0 if isinstance(student, GridDetector) and student.region.is_focal(student.facts) else PUBLISHED_GAMMA

    def unlabelled_terms(
        self, student: Detector, pair: PredictionPair, view: StrongView, details: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The usual terms, of which the class loss is made focal, box by box."""
        weights_n3 = view.targets.weights_n3
        gamma = self.gamma(student)
        if weights_n3 is None or not len(weights_n3) or gamma == 0:
            return super().unlabelled_terms(student, pair, view, details)
        weights_n3 = weights_n3.clone().requires_grad_()
        view = replace(view, targets=replace(view.targets, weights_n3=weights_n3))
        terms = super().unlabelled_terms(student, pair, view, details)
        clips = len(view.targets.box_mask_b)
        less = focal_reduction(terms["box_u"], weights_n3, gamma, clips)
        terms["box_u"] = terms["box_u"] - less
        details["box_u/cls"] = details.get("box_u/cls", torch.zeros_like(less)) - less.detach()
        return terms


def focal_reduction(loss: Tensor, weights_n3: Tensor, gamma: float, clips: int) -> Tensor:
    """By how much a box loss falls when the class loss L of each box is multiplied by (1 - p)^gamma, p = exp(-L).

    A box loss is linear in the weights of its boxes: its slope in the weight of a box's class is that box's L / clips.

    Args:
        loss: a mean over `clips` clips, with all class weights 1.
        weights_n3: the weights that it was computed with, which require a gradient.
        gamma: of the factor.
        clips: how many there were.
    """
    (slope_n3,) = torch.autograd.grad(loss, weights_n3, create_graph=True, allow_unused=True)
    if slope_n3 is None:  # no box was assigned to a cell
        return loss.new_zeros(())
    class_n = slope_n3[:, 2]
    missed_n = -torch.expm1(-(clips * class_n).clamp_min(SMALLEST_LOSS))
    return ((1 - missed_n.pow(gamma)) * class_n).sum()
