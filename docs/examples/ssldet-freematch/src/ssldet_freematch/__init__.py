"""FreeMatch (Wang et al., ICLR 2023, arXiv 2205.07246) carried to boxes: thresholds that follow the network.

FixMatch takes for true what stands above one fixed threshold. FreeMatch has a threshold a class, estimated from the
network's own confidence on unlabelled data: low while the network is unsure, and lower for classes that it rarely
finds. The README says what was carried over and what was not.

Shape letters: b clips, n boxes, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from ssldet.contracts import Decoded, Detector, Needs, Predictions, Progress, PseudoLabels, TrainingInfo
from ssldet.training import Teacher, TeacherOptions, TeacherStudent, confident_boxes
from torch import Tensor


class FreeMatch(TeacherStudent):
    """The student's own weak boxes above self-adaptive thresholds a class are pseudo-labels of the strong view."""

    class Config(TeacherOptions):
        """Options of `freematch`, beside those of every teacher."""

        threshold_decay: float = Field(0.999, ge=0, lt=1)
        """Lambda (Sec. 4.1), threshold = lambda * threshold + (1 - lambda) * this step's mean."""
        o_th: float = Field(0.0, ge=0, le=1)
        """A bound below the adaptive thresholds; no box under it is taken."""
        confidence: Literal["objectness_class"] = "objectness_class"
        """Confidence of a box; the thresholds are estimated for objectness x best class, and for nothing else."""

    config: Config

    @property
    def needs(self) -> Needs:
        return Needs()

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, "shared")

    def start(self, student: Detector, info: TrainingInfo) -> None:
        """Every estimate begins at chance, 1 / k."""
        super().start(student, info)
        k, device = student.facts.num_classes, next(student.parameters()).device
        self.threshold = torch.full((), 1 / k, device=device)
        self.class_mean_k = torch.full((k,), 1 / k, device=device)
        self._forget()

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        network = self.teacher.network
        self._observe(clip_scores(network.decode(predictions)))
        found = self.candidates(predictions)
        threshold_n = class_thresholds(self.threshold, self.class_mean_k)[found.scores_nk.argmax(dim=1)]
        passed = found[found.confidence_n > threshold_n]
        return confident_boxes(passed, len(predictions), network.facts)

    def after_step(self, student: Detector, progress: Progress) -> None:
        """Move the estimates by all clips of the step, in however many parts and processes they came."""
        super().after_step(student, progress)
        seen = torch.cat([self.best_sum[None], self.class_sum_k, self.best_sum.new_tensor([self.clips])])
        best_sum, *class_sums, clips = progress.gather(seen[None]).sum(0)
        if clips:
            weight = 1 - self.config.threshold_decay
            self.threshold.lerp_(best_sum / clips, weight)
            self.class_mean_k.lerp_(torch.stack(class_sums) / clips, weight)
        self._forget()

    def forget_step(self) -> None:
        """Of a step that the memory did not hold nothing was learnt."""
        self._forget()

    def state_dict(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold, "class_mean_k": self.class_mean_k}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.threshold.copy_(state["threshold"])
        self.class_mean_k.copy_(state["class_mean_k"])

    def _observe(self, scores_bk: Tensor) -> None:
        self.clips += len(scores_bk)
        self.best_sum += scores_bk.amax(dim=1).sum()
        self.class_sum_k += scores_bk.sum(dim=0)

    def _forget(self) -> None:
        self.clips = 0
        self.best_sum = torch.zeros_like(self.threshold)
        self.class_sum_k = torch.zeros_like(self.class_mean_k)


def clip_scores(decoded: Decoded) -> Tensor:
    """q (b, k): how surely a clip shows each class, the largest objectness x class probability of its boxes."""
    return (decoded.confidence_bn[:, :, None] * decoded.scores_bnk).amax(dim=1).float()


def class_thresholds(threshold: Tensor, class_mean_k: Tensor) -> Tensor:
    """tau(c) = tau * p(c) / max p: the class that is found most has the global threshold, others less.

    Args:
        threshold: tau, the running mean of a clip's highest score.
        class_mean_k: p, the running mean of its score of each class; where all are 0, all have tau.
    """
    highest = class_mean_k.amax()
    return threshold * torch.where(highest > 0, class_mean_k / highest, torch.ones_like(class_mean_k))
