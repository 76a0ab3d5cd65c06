"""FlexMatch (Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling", arXiv
2110.08263) carried to boxes: FixMatch with a threshold a class that rises as the class is learnt.

    tau_c   = tau beta_c / (2 - beta_c)
    beta_c  = sigma_c / max(max_c sigma_c, N - sum_c sigma_c)
    sigma_c = how many of the N unlabelled clips were last predicted to show class c above tau

A clip is predicted what its best box is; a memory holds the last class of each unlabelled clip that was ever predicted
above tau. A box of class c is a pseudo-box when its confidence is above tau_c.

Deviations. A clip has many boxes where an image of the published method has one label: the confidence of a box is its
objectness x best class, that of a clip its best box's. Thresholds begin at 0, where every cell would be a pseudo-box:
O_th bounds them from below. The memory moves after a step, by all its clips, so that the number of parts of a step
changes nothing. N counts key frames. On multi-label data the memory holds the best class alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import (
    Batch,
    Decoded,
    Detector,
    Needs,
    Predictions,
    Progress,
    PseudoLabels,
    StepLosses,
    TrainingInfo,
)
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.teachers import Teacher, TeacherOptions, TeacherStudent

NEVER = -1
"""The last class of a clip that was never predicted above tau."""


class FlexMatch(TeacherStudent):
    """L_bou on labelled clips, and on unlabelled ones against weak boxes above the threshold of their class."""

    class Config(TeacherOptions, GuidanceOptions):
        """Options of `flexmatch`, beside those of every teacher and of guidance."""

        tau: float = Field(0.95, ge=0, le=1)
        """The threshold of a class that is learnt as well as the best one."""
        threshold_warmup: bool = True
        """Thresholds stay low while most clips were never predicted above tau; without it beta_c is
        sigma_c / max_c sigma_c.
        """
        o_th: float = Field(0.4, ge=0, le=1)
        """A bound below the thresholds: no box under it is taken."""
        confidence: Literal["objectness_class"] = "objectness_class"
        """The confidence of a box: objectness x best class, and nothing else, since thresholds are of classes."""

    config: Config
    takes_one_forward = True

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, "shared")

    def start(self, student: Detector, info: TrainingInfo) -> None:
        super().start(student, info)
        device = next(student.parameters()).device
        self.last_class_n = torch.full((info.unlabelled_clips,), NEVER, dtype=torch.int64, device=device)
        self.forget_step()

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        return FlexMatch.group_losses(self, [batch], student, progress)[0]

    def group_losses(self, batches: Sequence[Batch], student: Detector, progress: Progress) -> list[StepLosses]:
        self._indices = iter([batch.unlabelled.index_b for batch in batches if batch.unlabelled is not None])
        return super().group_losses(batches, student, progress)

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        network = self.teacher.network
        self._seen.append((next(self._indices), *clip_classes(network.decode(predictions))))
        candidates = self.candidates(predictions)
        threshold_n = self.tau()[candidates.scores_nk.argmax(dim=1)]
        passed = candidates[candidates.confidence_n > threshold_n]
        return guided_boxes(passed, predictions, network.facts, self.config)[1]

    def thresholds(self) -> Mapping[str, float]:
        return dict(zip(self.teacher.network.facts.classes, self.tau().tolist(), strict=True))

    def tau(self) -> Tensor:
        """tau_c (k,) as the memory stands."""
        k, config = self.teacher.network.facts.num_classes, self.config
        return class_thresholds(config.tau, self.last_class_n, k, warmup=config.threshold_warmup)

    def after_step(self, student: Detector, progress: Progress) -> None:
        """Remember the classes of all clips of the step, in however many parts and processes they came."""
        super().after_step(student, progress)
        if self._seen:
            seen = (progress.gather(torch.cat(parts)) for parts in zip(*self._seen, strict=True))
            index_b, confidence_b, class_b = seen
            sure = (confidence_b > self.config.tau).nonzero()[:, 0]
            self.last_class_n[index_b[sure]] = class_b[sure]
        self.forget_step()

    def forget_step(self) -> None:
        """Of a step that the memory of the machine did not hold nothing was seen."""
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "last_class_n": self.last_class_n}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.last_class_n.copy_(state["last_class_n"])


def clip_classes(decoded: Decoded) -> tuple[Tensor, Tensor]:
    """Confidence (b,) and class (b,) of the best box of each clip, by objectness x best class."""
    best_bn, class_bn = decoded.scores_bnk.max(dim=2)
    confidence_b, at_b = (decoded.confidence_bn * best_bn).max(dim=1)
    return confidence_b, class_bn.gather(1, at_b[:, None])[:, 0]


def class_thresholds(tau: float, last_class_n: Tensor, classes: int, *, warmup: bool = True) -> Tensor:
    """tau_c (k,), 0 for a class that no clip was predicted to show.

    Args:
        tau: the threshold of a class that is learnt.
        last_class_n: the last class of each of the N clips, -1 for one that was never predicted above tau.
        classes: k.
        warmup: whether clips that were never predicted count in the denominator.
    """
    known_n = last_class_n != NEVER
    sigma_k = last_class_n[known_n].bincount(minlength=classes).float()
    most = sigma_k.amax().clamp_min(1)
    if warmup:
        most = torch.maximum(most, (~known_n).sum())
    beta_k = sigma_k / most
    return tau * beta_k / (2 - beta_k)
