"""Soft Teacher for clips (Xu et al., "End-to-End Semi-Supervised Object Detection with Soft Teacher", arXiv
2106.09018).

A moving average labels unlabelled clips. What it does not take for a box is a negative only as far as it takes it for
background, and a box's coordinates teach only where the teacher is sure of them.

    L_u   = class and objectness of boxes with s > tau_c  +  coordinates of boxes with spread < tau_b
            + sum over cells j of w_j L_noobj(j),    w_j = n r_j / sum_k r_k,    r = 1 - the teacher's objectness
    spread = 1/4 sum over (x1, y1, x2, y2) of  std / (1/2 (height + width))

over boxes with s = objectness x best class > O_th, n cells a clip. Published: tau_c 0.9, O_th 0.5, lambda_u 4, tau_b
0.02, moving average 0.999, four unlabelled images to a labelled one (`train.unlabelled_batch`).

Deviations. The detector is one-stage: it has no second head that would refine jittered copies of a box, and std is
over the boxes that suppression merges into it, all of a clip's above `merge_th` that overlap it by `nms_iou` or more,
each weighed by its objectness; a box that stands alone has spread 0. w has mean 1, since the no-object part is a sum
over cells where the published one is a mean. A box that is sure of one thing alone is no negative for the other; a
clip without any such box adds nothing. r is carried to the strong view as a map; outside the weak view it is 1. The
decay of the average has a warm-up.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import Batch, Decoded, Needs, Predictions, PseudoLabels
from ssldet.detector.postprocess import BoxRecords
from ssldet.ops.boxes import aligned_iou
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.pseudo_labels import Confidence, chosen_boxes
from ssldet.training.teachers import AveragedTeacher, AverageOptions, StrongView
from ssldet_strategies.cell_maps import cells_of, confidence_levels


class SoftTeacher(AveragedTeacher):
    """Soft negatives, and coordinates of reliable boxes alone."""

    class Config(AverageOptions, GuidanceOptions):
        """Options of `soft_teacher`, beside those of an averaged teacher and of guidance."""

        o_th: float = Field(0.5, ge=0, le=1)
        """O_th, the first filter; a box of the teacher is a candidate when its confidence is above (strictly)."""
        confidence: Confidence = "objectness_class"
        """The confidence of a box: objectness, or objectness x best class."""
        class_th: float = Field(0.9, ge=0, le=1)
        """tau_c; a candidate's class and objectness count when its confidence is above (strictly)."""
        spread_th: float = Field(0.02, ge=0)
        """tau_b; a candidate's coordinates count when its spread is below."""
        merge_th: float = Field(0.01, ge=0, le=1)
        """Boxes whose objectness is above (strictly) count for the spread of the candidate that they overlap."""
        soft_negatives: bool = True
        """Cells weigh in the no-object part what the teacher's background probability says; without it all weigh 1."""
        unlabelled_weight: float = Field(4.0, ge=0)
        """lambda_u, the weight of all terms of unlabelled clips."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        """Candidates that are sure of their class, of their coordinates or of both, with weights that say so."""
        config, network = self.config, self.teacher.network
        candidates = self.candidates(predictions)
        rows, labels = guided_boxes(candidates, predictions, network.facts, config)
        kept = candidates[rows]
        spread_n = merged_spread(kept, network.decode(predictions), config.nms_iou, config.merge_th)
        sure_n, reliable_n = kept.confidence_n > config.class_th, spread_n < config.spread_th
        weights_n3 = torch.stack((reliable_n, sure_n, sure_n), dim=1).to(kept.boxes_n4)
        labels.targets = chosen_boxes(replace(labels.targets, weights_n3=weights_n3), sure_n | reliable_n)
        return labels

    def strong_view(self, pseudo: PseudoLabels, predictions: Predictions, batch: Batch) -> StrongView:
        """The strong view, where cells weigh what the teacher's background probability says."""
        view = super().strong_view(pseudo, predictions, batch)
        if self.config.soft_negatives:
            assert batch.unlabelled is not None
            cells = cells_of(self.teacher.network, predictions, "soft_teacher")
            maps = confidence_levels(cells.confidence_bn.sigmoid(), cells.shapes)
            carried = [batch.unlabelled.geometry.warp(each).flatten(1) for each in maps]
            view.targets.background_weights_bn = background_weights(torch.cat(carried, dim=1))
        return view


def background_weights(objectness_bn: Tensor) -> Tensor:
    """w_j = n r_j / sum_k r_k of each clip, r = 1 - objectness."""
    r_bn = 1 - objectness_bn
    return r_bn / r_bn.mean(dim=1, keepdim=True).clamp_min(torch.finfo(r_bn.dtype).tiny)


def merged_spread(candidates: BoxRecords, decoded: Decoded, nms_iou: float, merge_th: float) -> Tensor:
    """The spread (n,) of the boxes that suppression merges into each box of `candidates`, in units of its mean side.

    Args:
        candidates: boxes that suppression left.
        decoded: all boxes of the same clips.
        nms_iou: from this overlap on a box is merged into another.
        merge_th: boxes whose objectness is not above count for nothing.
    """
    boxes_nm4, objectness_nm = decoded.boxes_bn4[candidates.clip_n], decoded.confidence_bn[candidates.clip_n]
    merged_nm = (aligned_iou(candidates.boxes_n4[:, None], boxes_nm4) >= nms_iou) & (objectness_nm > merge_th)
    share_nm = torch.where(merged_nm, objectness_nm, 0)
    share_nm = (share_nm / share_nm.sum(dim=1, keepdim=True).clamp_min(1e-12))[:, :, None]
    mean_n14 = (share_nm * boxes_nm4).sum(dim=1, keepdim=True)
    std_n4 = (share_nm * (boxes_nm4 - mean_n14).square()).sum(dim=1).sqrt()
    side_n = (candidates.boxes_n4[:, 2:] - candidates.boxes_n4[:, :2]).mean(dim=1)
    return std_n4.mean(dim=1) / side_n.clamp_min(1e-6)
