"""The thresholds of Consistent-Teacher over a moving average (Wang et al., "Consistent-Teacher: Towards Reducing
Inconsistent Pseudo-Targets in Semi-Supervised Object Detection", arXiv 2209.01589).

A queue a class holds the last scores s = objectness x best class of the teacher's boxes. Each is taken for a mixture of
two Gaussians, that of boxes which are nothing and that of boxes which are something:

    P(s | c)  = w0 N(s; mu0, v0) + w1 N(s; mu1, v1),   mu0 <= mu1
    tau_c     = mu1, the mode of the positive component
    L         = L_bou + lambda_u L_bou(strong view, boxes of class c with s > tau_c)

Published: queues of 100 scores, moving average 0.9995, lambda_u 2.

Deviations. This is the third of the published method's three parts; its anchor assignment and its head are parts of a
detector, not of a strategy. The mixture is fitted by expectation and maximisation from the least and the greatest score
with the variance of all of them, for a fixed number of rounds; the published code takes in place of the mode that score
of the queue which is the likeliest of those nearer to the positive component. There boxes first compete within their
image, of which about as many stay as their scores add up to; here every candidate enters a queue. Before a class has
`min_scores` scores its threshold is `first_tau` (published code: 0). Queues move after a step by all its clips, so that
the number of parts of a step changes nothing. A box no longer counts when it is at tau_c exactly. The decay of the
average has a warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import Detector, Needs, Predictions, Progress, PseudoLabels, TrainingInfo
from ssldet.training.guidance import GuidanceOptions, guided_boxes
from ssldet.training.pseudo_labels import Confidence, chosen_boxes
from ssldet.training.teachers import AveragedTeacher, AverageOptions

NO_SCORE = -1.0
"""Fills a queue that is not full."""

ROUNDS = 50
"""Of expectation and maximisation; two components of a hundred scores have settled by then."""

SMALLEST_VARIANCE = 1e-4
"""A component is at least a hundredth wide: equal scores would make it infinitely narrow."""


class ConsistentTeacher(AveragedTeacher):
    """L_bou on labelled clips, and on unlabelled ones against boxes above the threshold of their class."""

    class Config(AverageOptions, GuidanceOptions):
        """Options of `consistent_teacher`, beside those of an averaged teacher and of guidance."""

        o_th: float = Field(0.05, ge=0, le=1)
        """A box enters the queue of its class when its confidence is above (strictly)."""
        confidence: Confidence = "objectness_class"
        """The confidence of a box: objectness, or objectness x best class."""
        queue: int = Field(100, ge=2)
        """Scores that are remembered of each class."""
        min_scores: int = Field(4, ge=2)
        """Scores that a class has when its threshold is first fitted."""
        first_tau: float = Field(0.5, ge=0, le=1)
        """The threshold of a class before."""
        ema_decay: float = Field(0.9995, ge=0, lt=1)
        """Decay of the average: teacher = decay * teacher + (1 - decay) * student after each step."""
        unlabelled_weight: float = Field(2.0, ge=0)
        """lambda_u, the weight of all terms of unlabelled clips."""

    config: Config

    @property
    def needs(self) -> Needs:
        return self.config.needs()

    def start(self, student: Detector, info: TrainingInfo) -> None:
        super().start(student, info)
        self.queue_kq = torch.full((student.facts.num_classes, self.config.queue), NO_SCORE)
        self.tau_k = self.fitted_tau()
        self.forget_step()

    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        """Boxes above the threshold of their class; all candidates will enter the queues."""
        candidates = self.candidates(predictions)
        by_clip = candidates.clip_n.argsort(stable=True)  # by confidence a full queue would hold the least sure boxes
        self._seen.append((candidates.scores_nk.argmax(dim=1)[by_clip], candidates.confidence_n[by_clip]))
        rows, labels = guided_boxes(candidates, predictions, self.teacher.network.facts, self.config)
        kept = candidates[rows]
        tau_n = self.tau_k.to(kept.confidence_n)[kept.scores_nk.argmax(dim=1)]
        labels.targets = chosen_boxes(labels.targets, kept.confidence_n > tau_n)
        return labels

    def thresholds(self) -> Mapping[str, float]:
        return dict(zip(self.teacher.network.facts.classes, self.tau_k.tolist(), strict=True))

    def fitted_tau(self) -> Tensor:
        """tau_c (k,) of the queues as they are."""
        known_k = (self.queue_kq != NO_SCORE).sum(dim=1) >= self.config.min_scores
        fitted_k = torch.full((len(known_k),), self.config.first_tau)
        fitted_k[known_k] = positive_mode(self.queue_kq[known_k])
        return fitted_k

    def after_step(self, student: Detector, progress: Progress) -> None:
        """Let the boxes of the step into the queues, in however many parts and processes they came."""
        super().after_step(student, progress)
        if not self._seen:
            return
        seen = (progress.gather(torch.cat(parts)).cpu() for parts in zip(*self._seen, strict=True))
        classes_n, scores_n = seen
        for label in classes_n.unique().tolist():
            queued = torch.cat((self.queue_kq[label], scores_n[classes_n == label].float()))
            self.queue_kq[label] = queued[-self.config.queue :]
        self.tau_k = self.fitted_tau()
        self.forget_step()

    def forget_step(self) -> None:
        """Of a step that the memory of the machine did not hold nothing was seen."""
        self._seen: list[tuple[Tensor, Tensor]] = []

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "queue_kq": self.queue_kq}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.queue_kq.copy_(state["queue_kq"])
        self.tau_k = self.fitted_tau()
        super().load_state_dict({name: tensor for name, tensor in state.items() if name != "queue_kq"})


def positive_mode(scores_kq: Tensor) -> Tensor:
    """The greater mean (k,) of two Gaussians fitted to each row's scores; `NO_SCORE` is none, and each row has some."""
    known_kq, scores_k1q = scores_kq != NO_SCORE, scores_kq.double()[:, None]
    among_k1q = known_kq[:, None].double()
    counts_k1 = among_k1q.sum(dim=2)
    least_k = torch.where(known_kq, scores_kq, torch.inf).amin(dim=1)
    mean_k2 = torch.stack((least_k, scores_kq.amax(dim=1)), dim=1).double()
    middle_k1 = (scores_k1q * among_k1q).sum(dim=2) / counts_k1
    spread_k1 = ((scores_k1q - middle_k1[:, :, None]).square() * among_k1q).sum(dim=2) / counts_k1
    variance_k2 = spread_k1.clamp_min(SMALLEST_VARIANCE).repeat(1, 2)
    weight_k2 = torch.full_like(mean_k2, 0.5)
    for _ in range(ROUNDS):
        square_k2q = (scores_k1q - mean_k2[:, :, None]).square() / variance_k2[:, :, None]
        log_k2q = (weight_k2.log() - 0.5 * variance_k2.log())[:, :, None] - 0.5 * square_k2q
        share_k2q = log_k2q.softmax(dim=1) * among_k1q
        total_k2 = share_k2q.sum(dim=2).clamp_min(1e-12)
        mean_k2 = (share_k2q * scores_k1q).sum(dim=2) / total_k2
        variance_k2 = (share_k2q * (scores_k1q - mean_k2[:, :, None]).square()).sum(dim=2) / total_k2
        variance_k2, weight_k2 = variance_k2.clamp_min(SMALLEST_VARIANCE), total_k2 / counts_k1
    return mean_k2.amax(dim=1).float()
