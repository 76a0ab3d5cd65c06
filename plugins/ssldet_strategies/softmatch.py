"""SoftMatch (Chen et al., "SoftMatch: Addressing the Quantity-Quality Tradeoff in Semi-supervised Learning", ICLR 2023,
arXiv 2301.10921) carried to boxes: no pseudo-box is thrown away, a doubtful one weighs less.

    lambda(p)   = exp(-min(p - mu, 0)^2 / (2 sigma^2 / n^2))
    mu, sigma^2 = moving averages of a step's mean and variance of the clips' confidence
    p           = objectness x max of the aligned classes;  aligned_c = s_c (1 / k) / E[s_c], to a sum of 1

lambda multiplies every part of a pseudo-box's loss. Alignment moves weights, never labels; E[s] is a moving average of
the clips' class probabilities. A clip's confidence and class probabilities are those of its best box. The averages
begin at mu = E[s_c] = 1 / k and sigma^2 = 1.

Deviations. A clip has many boxes where an image of the published method has one label, so the statistics are those of
best boxes, and O_th bounds the boxes that are weighed: a cell of no confidence at all is no pseudo-box. What lies under
no pseudo-box counts as no object with full weight. The averages have the decay's warm-up (published: decay 0.999 from
the first step, under which a short run never leaves the first values). They move after a step, by all its clips.
Multi-label data have no alignment: their classes are not shares of a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import Detector, Needs, Predictions, Progress, PseudoLabels, TrainingInfo
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.teachers import Teacher, TeacherOptions, TeacherStudent


class SoftMatch(TeacherStudent):
    """L_bou on labelled clips, and on unlabelled ones against the student's weak boxes, weighed by their confidence."""

    class Config(TeacherOptions, GuidanceOptions):
        """Options of `softmatch`, beside those of every teacher and of guidance."""

        n_sigma: float = Field(2.0, gt=0)
        """n: the weight falls as a Gaussian of deviation sigma / n below mu."""
        alignment: bool = True
        """Classes that are predicted often weigh less, rare ones more; single-label data."""
        statistics_decay: float = Field(0.999, ge=0, lt=1)
        """Decay of the averages of mu, sigma^2 and the class probabilities."""
        statistics_warmup: bool = True
        """The decay of the averages' update t, from 0, is at most (1 + t) / (10 + t)."""
        o_th: float = Field(0.4, ge=0, le=1)
        """A box is weighed when its confidence is above (strictly); below it is no pseudo-box."""
        confidence: Literal["objectness_class"] = "objectness_class"
        """The confidence of a box: objectness x best class, and nothing else, since classes are aligned."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, "shared")

    def start(self, student: Detector, info: TrainingInfo) -> None:
        super().start(student, info)
        k, device = student.facts.num_classes, next(student.parameters()).device
        self.mean, self.variance = torch.full((), 1 / k, device=device), torch.ones((), device=device)
        self.class_mean_k = torch.full((k,), 1 / k, device=device)
        self.updates = 0
        self.forget_step()

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        network = self.teacher.network
        decoded = network.decode(predictions)
        best_b1 = (decoded.confidence_bn * decoded.scores_bnk.amax(dim=2)).argmax(dim=1, keepdim=True)
        objectness_b, scores_bk = decoded.confidence_bn.gather(1, best_b1)[:, 0], _rows(decoded.scores_bnk, best_b1)
        self._seen.append((objectness_b * self.aligned(scores_bk).amax(dim=1), scores_bk))
        candidates = self.candidates(predictions)
        objectness_n = candidates.confidence_n / candidates.scores_nk.amax(dim=1).clamp_min(1e-12)
        weight_n = self.weights(objectness_n * self.aligned(candidates.scores_nk).amax(dim=1))
        rows, labels = guided_boxes(candidates, predictions, network.facts, self.config)
        labels.targets.weights_n3 = weight_n[rows, None].repeat(1, 3)
        return labels

    def thresholds(self) -> Mapping[str, float]:
        return {"mu": float(self.mean)}

    def weights(self, confidence_n: Tensor) -> Tensor:
        """lambda of each confidence, as the averages stand."""
        return soft_weights(confidence_n, self.mean, self.variance, self.config.n_sigma)

    def aligned(self, scores_nk: Tensor) -> Tensor:
        """Class probabilities, uniformly aligned where that is asked for."""
        if not self.config.alignment or self.teacher.network.facts.multilabel:
            return scores_nk
        return align(scores_nk, self.class_mean_k)

    def after_step(self, student: Detector, progress: Progress) -> None:
        """Move the averages by all clips of the step, in however many parts and processes they came."""
        super().after_step(student, progress)
        if self._seen:
            confidence_b, scores_bk = (progress.gather(torch.cat(parts)) for parts in zip(*self._seen, strict=True))
            share = 1 - self._decay()
            self.mean.lerp_(confidence_b.mean(), share)
            self.variance.lerp_(confidence_b.var(unbiased=len(confidence_b) > 1), share)
            self.class_mean_k.lerp_(scores_bk.mean(dim=0), share)
            self.updates += 1
        self.forget_step()

    def forget_step(self) -> None:
        """Of a step that the memory of the machine did not hold nothing was seen."""
        self._seen: list[tuple[Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Tensor]:
        averages = {"mean": self.mean, "variance": self.variance, "class_mean_k": self.class_mean_k}
        return {**super().state_dict(), **averages, "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.mean.copy_(state["mean"])
        self.variance.copy_(state["variance"])
        self.class_mean_k.copy_(state["class_mean_k"])
        self.updates = int(state["updates"])

    def _decay(self) -> float:
        young = (1 + self.updates) / (10 + self.updates) if self.config.statistics_warmup else 1.0
        return min(self.config.statistics_decay, young)


def soft_weights(confidence_n: Tensor, mean: Tensor, variance: Tensor, n_sigma: float) -> Tensor:
    """lambda = exp(-min(p - mu, 0)^2 / (2 sigma^2 / n^2)); 1 from mu on, and 0 below it where sigma is 0."""
    below_n = (confidence_n - mean).clamp_max(0)
    return torch.exp(-below_n.square() * n_sigma**2 / (2 * variance.clamp_min(torch.finfo(variance.dtype).tiny)))


def align(scores_nk: Tensor, class_mean_k: Tensor) -> Tensor:
    """s_c (1 / k) / E[s_c], scaled to a sum of 1 a row."""
    aligned_nk = scores_nk / class_mean_k.clamp_min(1e-6)
    return aligned_nk / aligned_nk.sum(dim=1, keepdim=True).clamp_min(1e-12)


def _rows(scores_bnk: Tensor, at_b1: Tensor) -> Tensor:
    """(b, k): one row a clip."""
    return scores_bnk.gather(1, at_b1[:, :, None].expand(-1, -1, scores_bnk.shape[2]))[:, 0]
