"""Guidance: what a frame head says of unlabelled clips, and which candidates agree with it (Sec. 3.3, Algorithm 1).

`dual_guidance` is made of it; as an option of other strategies it is a component: F is trained with L_frame and
L_frame_u, without L_tmp, and candidates of another class than F's accepted one are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor
from torch.nn import functional

from ssldet.contracts import DatasetFacts, Needs, Options, Predictions, PseudoLabels, Targets
from ssldet.detector.postprocess import BoxRecords
from ssldet.training.objectives import frame_probabilities
from ssldet.training.pseudo_labels import box_targets, confident_boxes


class FrameLabelOptions(Options):
    """Options of every strategy that takes frame labels of unlabelled clips from a frame head."""

    f_th: float = Field(0.8, ge=0, le=1)
    """F_th; a frame label is accepted when its probability is above (strictly)."""
    beta: float = Field(1.0, ge=0)
    """Weight of L_frame on labelled clips."""
    delta: float = Field(1.0, ge=0)
    """Weight of L_frame on unlabelled clips."""
    mask_unsure: bool = True
    """Multi-label data: classes that the teacher is unsure of (between 1 - F_th and F_th) count neither as present
    nor as absent; without it they are absent.
    """


class GuidanceOptions(FrameLabelOptions):
    """Guidance as a component of a strategy with candidates: off, the frame head alone, or with the filter.

    Without a frame head these options do nothing. They are then no part of a run's settings, so that runs are named
    as before there were such options.
    """

    guidance: bool = False
    """Train F with L_frame and L_frame_u, without L_tmp, and keep candidates whose class is F's accepted one alone."""
    frame_head: bool = False
    """Train F as `guidance` does, and keep every candidate: what the filter does is the difference."""

    @property
    def has_frame_head(self) -> bool:
        """Whether F is built and trained."""
        return self.guidance or self.frame_head

    def needs(self, **others: Any) -> Needs:
        """What a strategy with these options needs; `others` are fields of `Needs` beside those of the frame head."""
        return Needs(frame_head=self.has_frame_head, beta=self.beta, delta=self.delta, **others)

    @model_validator(mode="after")
    def _each_does_something(self) -> Self:
        """Runs that differ in options which do nothing would be one training under several names."""
        if self.guidance and self.frame_head:
            raise ValueError("guidance=true trains the frame head already; leave frame_head out")
        weights = ("beta", "delta", "mask_unsure")  # presets propose f_th to whoever has it
        given = [n for n in weights if getattr(self, n) != type(self).model_fields[n].default]
        if given and not self.has_frame_head:
            raise ValueError(f"{', '.join(given)} do nothing without guidance=true or frame_head=true")
        return self

    @model_serializer(mode="wrap")
    def _without_what_does_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: Mapping[str, Any] = dump(self)
        idle = {} if self.has_frame_head else GuidanceOptions.model_fields
        return {name: value for name, value in fields.items() if name not in idle}


@dataclass(slots=True)
class FrameLabels:
    """What F says of b clips.

    Attributes:
        labels_b: int64 class, k = background; (b, k) float 0/1 on multi-label data.
        accepted_b: bool: F is sure enough.
        label_mask_bk: bool, on multi-label data: the classes of which it is sure, present or absent; None: of all.
    """

    labels_b: Tensor
    accepted_b: Tensor
    label_mask_bk: Tensor | None = None

    def allow(self, candidates: BoxRecords) -> Tensor:
        """(n,) bool: boxes whose best class is the accepted label of their frame, or one of these (Eq. 9)."""
        best_n = candidates.scores_nk.argmax(dim=1)
        if self.labels_b.ndim == 2:
            return self.labels_b.bool()[candidates.clip_n, best_n]
        return self.accepted_b[candidates.clip_n] & (best_n == self.labels_b[candidates.clip_n])


def accepted_frames(predictions: Predictions, facts: DatasetFacts, options: FrameLabelOptions) -> FrameLabels:
    """What F says of frames, and where it is sure enough.

    Raises:
        ValueError: there is no frame head.
    """
    if predictions.frame_logits is None:
        raise ValueError("guidance needs a frame head; ask for it in `needs`, as `GuidanceOptions.needs` does")
    return frames_above(frame_probabilities(predictions.frame_logits, facts.multilabel), facts.multilabel, options)


def frames_above(probabilities: Tensor, multilabel: bool, options: FrameLabelOptions) -> FrameLabels:
    """Labels of frames whose probability is above F_th (strictly).

    On multi-label data, where the paper gives no form, classes above F_th are pseudo-positives of the frame.

    Args:
        probabilities: (b, k + 1), background last; (b, k) on multi-label data.
        multilabel: the label kind.
        options: F_th, and whether classes between count neither way.
    """
    if not multilabel:
        best_b, labels_b = probabilities.max(dim=1)
        return FrameLabels(labels_b, best_b > options.f_th)
    positive_bk = probabilities > options.f_th
    sure_bk = positive_bk | (probabilities < 1 - options.f_th) if options.mask_unsure else None
    return FrameLabels(positive_bk.float(), positive_bk.any(dim=1), sure_bk)


def agreeing_boxes(candidates: BoxRecords, frames: FrameLabels) -> Targets:
    """Pseudo-labels of candidates that all agree with their frames (`FrameLabels.allow`), and of the frames.

    On multi-label data a box's labels are those of its frame's that it scores above 1/2 itself, its best class always
    among them; what the frame is unsure of counts neither way.
    """
    best_n = candidates.scores_nk.argmax(dim=1)
    if frames.labels_b.ndim == 1:
        labels_nk = functional.one_hot(best_n, candidates.scores_nk.shape[1]).float()
        return box_targets(candidates, labels_nk, frames.labels_b, frames.accepted_b)
    labels_nk = frames.labels_b.bool()[candidates.clip_n] & (candidates.scores_nk > 0.5)
    labels_nk[torch.arange(len(candidates), device=best_n.device), best_n] = True
    targets = box_targets(candidates, labels_nk.float(), frames.labels_b, frames.accepted_b)
    if frames.label_mask_bk is not None:
        targets.frame_label_mask_bk, targets.label_mask_nk = (
            frames.label_mask_bk,
            frames.label_mask_bk[candidates.clip_n],
        )
    return targets


def guided_boxes(
    candidates: BoxRecords, predictions: Predictions, facts: DatasetFacts, options: GuidanceOptions
) -> tuple[Tensor, PseudoLabels]:
    """Candidates as pseudo-boxes of their best class: all of them, or with guidance those that agree with the frame.

    Args:
        candidates: boxes of the weak view.
        predictions: the teacher's, of which the frame head's part is read where there is one.
        facts: classes and label kind.
        options: whether there is a frame head, and whether it filters.

    Returns:
        The rows of `candidates` that were kept, int64, and their pseudo-labels in this order, frame labels included.
    """
    rows = torch.arange(len(candidates), device=candidates.clip_n.device)
    plain = confident_boxes(candidates, len(predictions), facts)
    if not options.has_frame_head:
        return rows, plain
    frames = accepted_frames(predictions, facts, options)
    if options.guidance:
        rows = frames.allow(candidates).nonzero()[:, 0]
        return rows, PseudoLabels(agreeing_boxes(candidates[rows], frames), candidates=len(candidates))
    targets = plain.targets
    targets.frame_labels_b, targets.frame_mask_b = frames.labels_b, frames.accepted_b
    targets.frame_label_mask_bk = frames.label_mask_bk
    return rows, plain
