"""Dual Guidance (arXiv 2507.21247): frame labels and boxes of a teacher check each other.

A pseudo-box of the weak view counts only if the frame head is sure of the frame's action and the box's own class
agrees with it (Sec. 3.3, Algorithm 1).

    L     = L_bou + beta L_frame + L_bou_u + delta L_frame_u + L_tmp, the last of labelled and unlabelled clips
    yhat  = argmax F(G(U)), accepted where max F(G(U)) > F_th
    boxes = those of P(G(U)) with confidence > O_th, after suppression, whose class is the accepted yhat

This is the paper that the suite implements: docs/paper-map.md has each equation's place and every deviation and default
of ours.
"""

from __future__ import annotations

from ssldet.contracts import Detector, Needs, Predictions, PseudoLabels
from ssldet.training.guidance import FrameLabelOptions, accepted_frames, agreeing_boxes
from ssldet.training.objectives import TemporalOptions
from ssldet.training.teachers import AverageOptions, Teacher, TeacherKind, TeacherStudent


class DualGuidance(TeacherStudent):
    """L_sup + L_u + L_tmp on both kinds of clips (Eqs. 7-11)."""

    class Config(AverageOptions, FrameLabelOptions, TemporalOptions):
        """Options of `dual_guidance`, beside those of an averaged teacher, of frame labels and of L_tmp."""

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
        candidates = self.candidates(predictions)
        frames = accepted_frames(predictions, self.teacher.network.facts, self.config)
        agreed = candidates[frames.allow(candidates)]
        return PseudoLabels(agreeing_boxes(agreed, frames), candidates=len(candidates))
