"""What the log says of training beside its loss terms; nothing of it is fed back.

PseudoLabelMeter    how good pseudo-labels are, against the hidden truth
unlabelled_ratio    the terms of unlabelled clips beside the others
Watch               warns when unlabelled clips drown the labelled ones, or teach nothing
TermGradients       how strongly each loss term pulls
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

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
        """Take in one batch: its pseudo-labels in the weak view, and which key frames it shows.

        Boxes whose class weighs nothing are no labels, and are not counted.
        """
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
        if found.weights_n3 is not None:
            rows = found.weights_n3[:, 2] > 0
            found = replace(
                found, clip_n=found.clip_n[rows], boxes_n4=found.boxes_n4[rows], labels_nk=found.labels_nk[rows]
            )
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


MAX_UNLABELLED_RATIO = 10.0
"""Terms of unlabelled clips, as a multiple of the others, above which labels hardly count any more."""

WARNINGS = {
    "unlabelled_ratio": (
        f"the loss terms of unlabelled clips stayed above {MAX_UNLABELLED_RATIO:g} times the others for an epoch; "
        "lower their weight (strategy.unlabelled_weight) or let it rise slowly (strategy.unlabelled_ramp)"
    ),
    "pseudo_labels": (
        "no pseudo-label was accepted for an epoch, in which unlabelled clips taught nothing; lower the strategy's "
        "thresholds, or train the first stage longer (train.burn_in)"
    ),
}


def unlabelled_ratio(terms: Mapping[str, float]) -> float | None:
    """The sum of the terms of unlabelled clips (`..._u`) over that of the others; None where one is missing.

    Args:
        terms: weighted loss terms by name.
    """
    unlabelled = [value for name, value in terms.items() if name.endswith("_u")]
    others = sum(value for name, value in terms.items() if not name.endswith("_u"))
    return sum(unlabelled) / others if unlabelled and others > 0 else None


def teaches(terms: Mapping[str, float]) -> bool:
    """Whether a term of unlabelled clips is above 0, L_tmp left out: some teach by cells or maps, without a box."""
    return any(value > 0 for name, value in terms.items() if name.endswith("_u") and name != "temporal_u")


class Watch:
    """Gives each of `WARNINGS` once a run, when what it speaks of has lasted; it hears of every line of the log.

    Args:
        epoch: the steps for which it must last.
    """

    def __init__(self, epoch: int):
        self.epoch = epoch
        self.lasted: Counter[str] = Counter()
        self.said: set[str] = set()

    def look(
        self, steps: int, ratio: float | None, pseudo_labels: Mapping[str, Any] | None, *, taught: bool = False
    ) -> list[str]:
        """The warnings that a line of the log calls for.

        Args:
            steps: how many steps of the second stage the line speaks of.
            ratio: see `unlabelled_ratio`.
            pseudo_labels: what `PseudoLabelMeter.compute` gave; None where there are none.
            taught: whether unlabelled clips taught something all the same; see `teaches`.
        """
        labels = pseudo_labels or {}
        lasts = {
            "unlabelled_ratio": ratio is not None and ratio > MAX_UNLABELLED_RATIO,
            "pseudo_labels": bool(labels.get("clips")) and not (taught or labels["boxes"] or labels["frame_labels"]),
        }
        self.lasted = Counter({topic: self.lasted[topic] + steps for topic, still in lasts.items() if still})
        news = [topic for topic, lasted in self.lasted.items() if lasted >= self.epoch and topic not in self.said]
        self.said |= set(news)
        return [WARNINGS[topic] for topic in news]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run warns when an uninterrupted one would."""
        return {"lasted": dict(self.lasted), "said": sorted(self.said)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.lasted, self.said = Counter(state["lasted"]), set(state["said"])


class TermGradients:
    """The gradient of every loss term with respect to the same parameters, added up over the parts of a step.

    It takes nothing away: the graph stays for the backward pass over the sum of the terms, and no `grad` is touched.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.sums: dict[str, list[Tensor | None]] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add a part's terms; one that depends on no parameter adds nothing."""
        for name, term in terms.items():
            sums = self.sums.setdefault(name, [None] * len(self.parameters))
            if term.requires_grad:
                found = torch.autograd.grad(term, self.parameters, retain_graph=True, allow_unused=True)
                self.sums[name] = [_sum(pair) for pair in zip(sums, found, strict=True)]

    def norms(self) -> dict[str, float]:
        """The L2 norm of each term's gradient."""
        return {name: _norm([grad for grad in sums if grad is not None]) for name, sums in self.sums.items()}


def _sum(pair: tuple[Tensor | None, Tensor | None]) -> Tensor | None:
    one, other = pair
    return other if one is None else one if other is None else one + other


def _norm(gradients: Sequence[Tensor]) -> float:
    return float(torch.stack([gradient.float().norm() for gradient in gradients]).norm()) if gradients else 0.0


def _frames_agree(found: Targets, truth: Targets) -> Tensor:
    if truth.frame_labels_b.ndim == 1:
        return found.frame_labels_b == truth.frame_labels_b
    return ((found.frame_labels_b > 0) <= (truth.frame_labels_b > 0)).all(dim=1)  # every label given is true


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
