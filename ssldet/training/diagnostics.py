"""How good pseudo-labels are, against the hidden truth: for the log alone, never fed back into training."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from ssldet.contracts import PseudoLabels, Targets
from ssldet.data.sampling import ClipRefs
from ssldet.data.targets import TruthTable
from ssldet.ops.boxes import pairwise_iou


class PseudoLabelMeter:
    """Counts since the last `compute`.

    Frames about which the hidden annotation says nothing count towards coverage, and are neither right nor wrong.

    Args:
        hidden: the truth of unlabelled videos, which nothing but this meter reads.
        min_iou: a pseudo-box is right when it overlaps a truth of its class by at least this much.
    """

    def __init__(self, hidden: TruthTable, min_iou: float = 0.5):
        self.hidden, self.min_iou = hidden, min_iou
        self.counts: Counter[str] = Counter()

    def update(self, pseudo: PseudoLabels, refs: ClipRefs) -> None:
        """Take in one batch: its pseudo-labels in the weak view, and which key frames it shows."""
        truth = self.hidden.targets(refs.videos, refs.frames)
        judged = self.hidden.annotated(refs.videos, refs.frames)
        found = pseudo.targets.to(torch.device("cpu"))
        accepted = found.frame_mask_b
        self.counts["clips"] += len(accepted)
        self.counts["clips_judged"] += int(judged.sum())
        self.counts["frames_accepted"] += int(accepted.sum())
        self.counts["frames_judged"] += int((accepted & judged).sum())
        self.counts["frames_right"] += int((accepted & judged & _frames_agree(found, truth)).sum())
        self.counts["clips_with_boxes"] += int(found.box_mask_b.sum())
        self.counts["candidates"] += pseudo.candidates
        self._count_boxes(found, truth, judged)

    def _count_boxes(self, found: Targets, truth: Targets, judged_b: Tensor) -> None:
        hit = (found.clip_n[:, None] == truth.clip_n) & (pairwise_iou(found.boxes_n4, truth.boxes_n4) >= self.min_iou)
        right = hit & ((found.labels_nk @ truth.labels_nk.T) > 0)
        self.counts["boxes"] += len(found.clip_n)
        self.counts["boxes_judged"] += int(judged_b[found.clip_n].sum())
        self.counts["boxes_localized"] += int(hit.any(dim=1).sum())
        self.counts["boxes_right"] += int(right.any(dim=1).sum())
        self.counts["truths"] += len(truth.clip_n)
        self.counts["truths_found"] += int(right.any(dim=0).sum())

    def compute(self) -> dict[str, float | int | None]:
        """Coverage, precision and recall since the last call; None where nothing was there to be right about."""
        c = self.counts
        values: dict[str, float | int | None] = {
            "clips": c["clips"],
            "frame_labels": c["frames_accepted"],
            "frame_coverage": _ratio(c["frames_accepted"], c["clips"]),
            "frame_precision": _ratio(c["frames_right"], c["frames_judged"]),
            "frame_recall": _ratio(c["frames_right"], c["clips_judged"]),
            "box_coverage": _ratio(c["clips_with_boxes"], c["clips"]),
            "candidates": c["candidates"],
            "boxes": c["boxes"],
            "box_localized": _ratio(c["boxes_localized"], c["boxes_judged"]),
            "box_precision": _ratio(c["boxes_right"], c["boxes_judged"]),
            "box_recall": _ratio(c["truths_found"], c["truths"]),
        }
        self.counts = Counter()
        return values


def _frames_agree(found: Targets, truth: Targets) -> Tensor:
    if truth.frame_labels_b.ndim == 1:
        return found.frame_labels_b == truth.frame_labels_b
    return ((found.frame_labels_b > 0) <= (truth.frame_labels_b > 0)).all(dim=1)  # every label given is true


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
