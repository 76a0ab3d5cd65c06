"""From a teacher's predictions in the weak view to targets in the strong view: the steps that strategies share."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ssldet.contracts import DatasetFacts, Decoded, Geometry, Options, PseudoLabels, Targets
from ssldet.data.targets import in_strong_view
from ssldet.detector.postprocess import BoxRecords

Confidence = Literal["objectness", "objectness_class"]


class CandidateOptions(Options):
    """How a teacher's boxes become candidates, the same for every strategy."""

    o_th: float = Field(0.4, ge=0, le=1)
    """O_th; a box is a candidate when its confidence is above (strictly)."""
    confidence: Confidence = "objectness"
    """The confidence of a box: objectness, or objectness x best class."""
    nms_iou: float = Field(0.4, gt=0, le=1)
    """IoU from which a pseudo-box suppresses a lesser one."""
    min_visible: float = Field(0.25, ge=0, le=1)
    """A pseudo-box is dropped when less than this share of its part in the weak view stays in the strong view."""


def candidate_boxes(
    decoded: Decoded, *, threshold: float, nms_iou: float, confidence: Confidence = "objectness"
) -> BoxRecords:
    """Boxes with confidence > threshold (O_th, strictly) after class-agnostic NMS, by falling confidence.

    The threshold comes first, which changes nothing: a box below it could only suppress boxes lower still.
    """
    score_bn = decoded.confidence_bn
    if confidence == "objectness_class":
        score_bn = score_bn * decoded.scores_bnk.amax(dim=2)
    return BoxRecords.of(decoded, score_bn > threshold, score_bn).nms(nms_iou)


def box_targets(found: BoxRecords, labels_nk: Tensor, frame_labels_b: Tensor, frame_mask_b: Tensor) -> Targets:
    """Targets from boxes that passed every filter; a clip's box loss counts when one of its boxes did."""
    box_mask_b = torch.zeros_like(frame_mask_b)
    box_mask_b[found.clip_n] = True
    return Targets(found.clip_n, found.boxes_n4, labels_nk, box_mask_b, frame_labels_b, frame_mask_b)


def confident_boxes(found: BoxRecords, clips: int, facts: DatasetFacts) -> PseudoLabels:
    """Every candidate is a pseudo-box of its best class, as in Mean Teacher and FixMatch; no frame is labelled.

    On multi-label data a box also has the other classes that it scores above 1/2.
    """
    k, device = facts.num_classes, found.clip_n.device
    labels_nk = functional.one_hot(found.scores_nk.argmax(dim=1), k).bool()
    if facts.multilabel:
        labels_nk = labels_nk | (found.scores_nk > 0.5)
    shape = (clips, k) if facts.multilabel else (clips,)
    frame_labels_b = torch.zeros(shape, dtype=torch.float32 if facts.multilabel else torch.int64, device=device)
    nowhere_b = torch.zeros(clips, dtype=torch.bool, device=device)
    return PseudoLabels(box_targets(found, labels_nk.float(), frame_labels_b, nowhere_b), candidates=len(found))


def chosen_boxes(pseudo: Targets, chosen_n: Tensor) -> Targets:
    """The pseudo-labels with some of their boxes; a clip that keeps none loses its box loss, not its frame label."""
    rows = chosen_n.nonzero()[:, 0]
    chosen = replace(
        pseudo,
        clip_n=pseudo.clip_n[rows],
        boxes_n4=pseudo.boxes_n4[rows],
        labels_nk=pseudo.labels_nk[rows],
        box_mask_b=torch.zeros_like(pseudo.box_mask_b),
        weights_n3=None if pseudo.weights_n3 is None else pseudo.weights_n3[rows],
        label_mask_nk=None if pseudo.label_mask_nk is None else pseudo.label_mask_nk[rows],
    )
    chosen.box_mask_b[chosen.clip_n] = True
    return chosen


def carry_to_strong(pseudo: Targets, geometry: Geometry, min_visible: float) -> Targets:
    """Pseudo-labels of the weak view as targets of the strong view; see `in_strong_view`.

    Predicted boxes are cut to the weak view first: what nobody could see there is no part that the strong view lost.
    A clip that keeps no box loses its box loss, but not its frame label.
    """
    cut = replace(pseudo, boxes_n4=pseudo.boxes_n4.clamp(0, geometry.size))
    strong = in_strong_view(cut, geometry, min_visible)
    strong.box_mask_b = torch.zeros_like(pseudo.box_mask_b)
    strong.box_mask_b[strong.clip_n] = True
    return strong
