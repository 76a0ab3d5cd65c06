"""Dual Guidance (arXiv 2507.21247): frame labels and boxes of a teacher check each other.

A pseudo-box of the weak view counts only if the frame head is sure of the frame's action and the box's own class
agrees with it (Sec. 3.3, Algorithm 1).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ssldet.contracts import Detector, Needs, Predictions, PseudoLabels, Targets
from ssldet.detector.postprocess import BoxRecords
from ssldet.training.objectives import TemporalOptions, frame_probabilities
from ssldet.training.pseudo_labels import box_targets
from ssldet.training.teachers import AverageOptions, Teacher, TeacherKind, TeacherStudent


class DualGuidance(TeacherStudent):
    """L_sup + L_u + L_tmp on both kinds of clips (Eqs. 7-11)."""

    class Config(AverageOptions, TemporalOptions):
        """Options of `dual_guidance`, beside those of an averaged teacher and of L_tmp."""

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
        teacher: TeacherKind = "ema"
        """The teacher: a moving average of the student, the student itself, or a copy that stays as it was."""
        temporal: bool = True
        """Use L_tmp (Eq. 10), in both stages."""
        negative_sampling: bool = True
        """Unlabelled clips come from whole videos; without it, from the action's extent only, which reads hidden
        annotation and is for the ablation (Table 5).
        """

    config: Config

    @property
    def needs(self) -> Needs:
        return Needs(
            frame_head=True,
            temporal=self.config.temporal,
            unlabelled_extent="video" if self.config.negative_sampling else "action",
            beta=self.config.beta,
            delta=self.config.delta,
            temporal_weight=self.config.temporal_weight,
            temporal_reduction=self.config.temporal_reduction,
        )

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, self.config.teacher, self.config.ema_decay, warmup=self.config.ema_warmup)

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        """Frame labels above F_th, candidates above O_th, and of these the ones that agree with the frame."""
        found, multilabel = self.candidates(predictions), self.teacher.network.facts.multilabel
        assert predictions.frame_logits is not None
        probabilities = frame_probabilities(predictions.frame_logits, multilabel)
        f_th, mask_unsure = self.config.f_th, self.config.mask_unsure
        targets = (
            _guide_multilabel(found, probabilities, f_th, mask_unsure)
            if multilabel
            else _guide(found, probabilities, f_th)
        )
        return PseudoLabels(targets, candidates=len(found))


def _guide(found: BoxRecords, probabilities: Tensor, f_th: float) -> Targets:
    """Single-label data: keep a candidate whose best class is the frame's accepted label (Eq. 9)."""
    best, frame_labels = probabilities.max(dim=1)
    accepted = best > f_th
    labels = found.scores_nk.argmax(dim=1)
    agreed = found[accepted[found.clip_n] & (labels == frame_labels[found.clip_n])]
    labels_nk = functional.one_hot(agreed.scores_nk.argmax(dim=1), found.scores_nk.shape[1]).float()
    return box_targets(agreed, labels_nk, frame_labels, accepted)


def _guide_multilabel(found: BoxRecords, probabilities: Tensor, f_th: float, mask_unsure: bool) -> Targets:
    """Multi-label data, where the paper gives no form: classes above F_th are pseudo-positives of the frame.

    A box is kept if its best class is one of them; its labels are those of them that it scores above 1/2 itself,
    its best class always among them. `mask_unsure` leaves classes between 1 - F_th and F_th out of both.
    """
    positive_bk = probabilities > f_th
    best = found.scores_nk.argmax(dim=1)
    agreed_n = positive_bk[found.clip_n, best]
    agreed = found[agreed_n]
    labels_nk = positive_bk[agreed.clip_n] & (agreed.scores_nk > 0.5)
    labels_nk[torch.arange(len(agreed), device=best.device), best[agreed_n]] = True
    targets = box_targets(agreed, labels_nk.float(), positive_bk.float(), positive_bk.any(dim=1))
    if mask_unsure:
        sure_bk = positive_bk | (probabilities < 1 - f_th)
        targets.frame_label_mask_bk, targets.label_mask_nk = sure_bk, sure_bk[agreed.clip_n]
    return targets
