"""Efficient Teacher (Xu et al., "Efficient Teacher: Semi-Supervised Object Detection for YOLOv5", arXiv 2302.07577) for
clips.

A moving average labels unlabelled clips, and two thresholds sort its boxes by s = objectness x best class:

    s > tau2          all losses
    tau1 < s <= tau2  objectness towards the teacher's, BCE(o_s, o_t); coordinates where o_t >= 0.99; no class
    s <= tau1         background

Published: tau1 0.1, tau2 0.6, lambda_u 3, moving average 0.999 rising to 0.9999 along a cosine.

Deviations. The cell whose objectness follows the teacher's is that of the student whose box overlaps the teacher's
most; where none overlaps, there is no such cell. This cell is no negative, and neither is the one that would answer for
the box. The weights of boxes and classes are the detector's own, and so is the assignment of sure boxes to cells (the
published one has several cells a box); the domain adaptation of the published code is left out. A clip that shows no
box above tau1 adds nothing. The decay of the average has a warm-up beside its schedule.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ssldet.contracts import Batch, Cells, Detector, Needs, Predictions, Progress, PseudoLabels
from ssldet.detector.postprocess import BoxRecords
from ssldet.ops.boxes import aligned_iou
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.objectives import PredictionPair
from ssldet.training.pseudo_labels import Confidence
from ssldet.training.teachers import AveragedTeacher, AverageOptions, StrongView
from ssldet_strategies.cell_maps import cells_of


class EfficientTeacher(AveragedTeacher):
    """Sure boxes teach all, unsure ones their objectness."""

    class Config(AverageOptions, GuidanceOptions):
        """Options of `efficient_teacher`, beside those of an averaged teacher and of guidance."""

        o_th: float = Field(0.1, ge=0, le=1)
        """tau1; a box of the teacher is background unless its confidence is above (strictly)."""
        tau2: float = Field(0.6, ge=0, le=1)
        """A box whose confidence is above (strictly) is sure."""
        box_th: float = Field(0.99, ge=0, le=1)
        """From this objectness on an unsure box teaches its coordinates."""
        confidence: Confidence = "objectness_class"
        """The confidence of a box: objectness, or objectness x best class."""
        unlabelled_weight: float = Field(3.0, ge=0)
        """lambda_u, the weight of all terms of unlabelled clips."""
        last_decay: float = Field(0.9999, ge=0, lt=1)
        """The decay of the average at the end, which rises from `ema_decay`; a lower one leaves it as it is."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def decay_at(self, progress: Progress) -> float:
        """last - (last - first) (1 + cos(pi t)) / 2 over the second stage."""
        first, last = self.config.ema_decay, max(self.config.ema_decay, self.config.last_decay)
        t = (progress.step - progress.burn_in) / max(1, progress.steps - progress.burn_in)
        return last - (last - first) * (1 + math.cos(math.pi * t)) / 2

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        """Boxes above tau1; the objectness weight of an unsure one is the teacher's objectness, until it is carried."""
        config, candidates = self.config, self.candidates(predictions)
        rows, labels = guided_boxes(candidates, predictions, self.teacher.network.facts, config)
        kept = candidates[rows]
        objectness_n = objectness(kept, config.confidence)
        unsure_n3 = torch.stack((objectness_n >= config.box_th, objectness_n, torch.zeros_like(objectness_n)), dim=1)
        sure_n = kept.confidence_n > config.tau2
        labels.targets.weights_n3 = torch.where(sure_n[:, None], torch.ones_like(unsure_n3), unsure_n3)
        return labels

    def strong_view(self, pseudo: PseudoLabels, predictions: Predictions, batch: Batch) -> StrongView:
        """The strong view; unsure boxes, and the objectness that they should have, are set apart."""
        view = super().strong_view(pseudo, predictions, batch)
        targets, weights_n3 = view.targets, view.targets.weights_n3
        assert weights_n3 is not None
        unsure = (weights_n3[:, 2] == 0).nonzero()[:, 0]
        view.extras = {
            "clip_m": targets.clip_n[unsure],
            "boxes_m4": targets.boxes_n4[unsure],
            "objectness_m": weights_n3[unsure, 1],
        }
        targets.weights_n3 = weights_n3.clone()
        targets.weights_n3[unsure, 1] = 0
        return view

    def unlabelled_terms(
        self, student: Detector, pair: PredictionPair, view: StrongView, details: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The usual terms of sure boxes, and the objectness of unsure ones."""
        cells = cells_of(student, pair[0], "efficient_teacher")
        at, rows = best_cells(cells, view.extras["clip_m"], view.extras["boxes_m4"])
        background_bn = torch.ones_like(cells.confidence_bn)
        background_bn[at] = 0
        targets = replace(view.targets, background_weights_bn=background_bn)
        terms = super().unlabelled_terms(student, pair, replace(view, targets=targets), details)
        wanted_m = view.extras["objectness_m"][rows]
        soft = functional.binary_cross_entropy_with_logits(cells.confidence_bn[at], wanted_m, reduction="sum")
        soft = soft / len(cells.confidence_bn)
        terms["box_u"] = terms["box_u"] + soft
        details["box_u/unsure"] = soft.detach()
        return terms


def objectness(candidates: BoxRecords, confidence: Confidence) -> Tensor:
    """The objectness of boxes whose confidence is objectness, or objectness x best class."""
    if confidence == "objectness":
        return candidates.confidence_n
    return (candidates.confidence_n / candidates.scores_nk.amax(dim=1).clamp_min(1e-12)).clamp(max=1)


def best_cells(cells: Cells, clip_m: Tensor, boxes_m4: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The cells whose boxes overlap given boxes most: ((clip, cell), the rows that overlap any)."""
    overlap_m, cell_m = aligned_iou(boxes_m4[:, None], cells.boxes_bn4.detach()[clip_m]).max(dim=1)
    rows = (overlap_m > 0).nonzero()[:, 0]
    return (clip_m[rows], cell_m[rows]), rows
