"""Teachers: the network that labels the weak view, and the strategies that have one.

ema      exponential moving average of the student, BatchNorm's buffers included
shared   the student itself, in evaluation mode
frozen   a copy of the student as the first stage left it

No gradient ever flows through a teacher.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import Batch, Detector, Predictions, Progress, PseudoLabels, StepLosses, Strategy, TrainingInfo
from ssldet.detector.modes import evaluation_mode
from ssldet.detector.postprocess import BoxRecords
from ssldet.errors import TrainingError
from ssldet.nn.batch_norm import StatisticsSnapshot
from ssldet.training.objectives import (
    PredictionPair,
    forward_views,
    ramp_up,
    supervised_group_terms,
    unlabelled_group_terms,
)
from ssldet.training.pseudo_labels import CandidateOptions, candidate_boxes, carry_to_strong

TeacherKind = Literal["ema", "shared", "frozen"]


class Teacher:
    """One of the three teachers over a student.

    Args:
        student: the network as the first stage left it; copied unless the teacher is shared.
        kind: "ema", "shared" or "frozen".
        decay: of the moving average, teacher = decay * teacher + (1 - decay) * student.
        warmup: whether the decay of update t, from 0, is at most (1 + t) / (10 + t), so that a short training leaves
            the network behind that the average began with.

    Attributes:
        updates: how often the average has moved.
    """

    def __init__(self, student: Detector, kind: TeacherKind, decay: float = 0.0, *, warmup: bool = False):
        self.kind, self.decay, self.warmup, self.updates = kind, decay, warmup, 0
        self._step: int | None = None
        self._begun: StatisticsSnapshot | None = None
        self.network = student if kind == "shared" else copy.deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def predict(self, weak_bcthw: Tensor) -> Predictions:
        """Predictions in evaluation mode; every module is left in the mode that it was in."""
        with self._statistics(), evaluation_mode(self.network):
            return self.network(weak_bcthw)

    def predict_groups(self, weak: Sequence[Tensor]) -> list[Predictions]:
        """`predict` of each of several groups of clips, which go through the network in one call."""
        if len(weak) == 1:
            return [self.predict(weak[0])]
        return list(self.predict(torch.cat(list(weak))).split([len(clips) for clips in weak]))

    def at_step(self, step: int) -> None:
        """Say which step predictions are for, before its student is trained on.

        Training moves the running statistics of a shared teacher group after group. What it labels follows from those
        that the step began with, so that it does not matter how many groups came before, or where.
        """
        if self.kind == "shared" and (self._begun is None or step != self._step):
            self._step, self._begun = step, StatisticsSnapshot(self.network)

    def _statistics(self) -> AbstractContextManager[None]:
        return nullcontext() if self._begun is None else self._begun.in_place()

    @torch.no_grad()
    def follow(self, student: Detector, decay: float | None = None) -> None:
        """After the optimiser's step: move the average. Integer buffers (counters) are copied.

        Args:
            decay: of this step, for schedules; None means the teacher's own. The warm-up bounds it in either case.

        Raises:
            TrainingError: the student's tensors have other names than the average's.
        """
        self._begun = None
        if self.kind != "ema":
            return
        mine, theirs = self.network.state_dict(), student.state_dict()
        if other := sorted(mine.keys() ^ theirs.keys()):
            raise TrainingError(
                f"the student's tensors have other names than those of its moving average, such as {other[0]!r}; "
                "give `follow` the network that `start` was given: torch.compile(network) is another one, whose names "
                "begin with '_orig_mod.', and network.compile() is not"
            )
        share = 1 - self._bounded(self.decay if decay is None else decay)
        self.updates += 1
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], share)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])

    def _bounded(self, decay: float) -> float:
        return min(decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else decay

    def state_dict(self) -> dict[str, Tensor]:
        """The network's tensors, and of an average also `updates`."""
        if self.kind == "shared":
            return {}
        counted = {"updates": torch.tensor(self.updates)} if self.kind == "ema" else {}
        return {**self.network.state_dict(), **counted}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tensors = dict(state)
        if self.kind == "ema":
            self.updates = int(tensors.pop("updates"))
        if self.kind != "shared":
            self.network.load_state_dict(tensors)


class TeacherOptions(CandidateOptions):
    """Options of every strategy with a teacher, beside those of its candidates."""

    evaluate: Literal["student", "teacher"] = "student"
    """The copy that is scored; of a shared teacher both are the same."""
    unlabelled_weight: float = Field(1.0, ge=0)
    """Weight of all terms of unlabelled clips, beside their own weights."""
    unlabelled_ramp: float = Field(0.0, ge=0, le=1)
    """Share of the second stage over which this weight rises from nearly 0."""


class AverageOptions(TeacherOptions):
    """Options of every strategy whose teacher is a moving average, beside those of every teacher."""

    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the average: teacher = decay * teacher + (1 - decay) * student after each step."""
    ema_warmup: bool = True
    """The decay of the average's update t, from 0, is at most (1 + t) / (10 + t)."""


class TeacherStudent(Strategy):
    """A teacher labels the weak view of unlabelled clips; the student learns their strong view from these labels.

    A subclass says what it `needs`, which teacher it has, and how a teacher's predictions become pseudo-labels; its
    Config derives from TeacherOptions.

    Attributes:
        teacher: from `start` on.
        forward_once: whether labelled clips and strong views go through the student in one call
            (`train.fused_forward`).
        progress: where training stands, while `pseudo_labels` is asked for: for thresholds that follow a schedule.
    """

    Config = TeacherOptions
    config: TeacherOptions
    takes_one_forward = True
    forward_once = False

    @abstractmethod
    def build_teacher(self, student: Detector) -> Teacher:
        """The teacher over the student that the first stage left."""

    @abstractmethod
    def pseudo_labels(self, predictions: Predictions) -> PseudoLabels:
        """What counts as true in the weak view, given the teacher's raw predictions of its clips."""

    def decay_at(self, progress: Progress) -> float | None:
        """The decay of an averaged teacher after a step, for schedules; None: the one that it was built with.

        A teacher that is built with `warmup` bounds it.
        """
        return None

    def start(self, student: Detector, info: TrainingInfo) -> None:
        self.teacher, self.forward_once = self.build_teacher(student), info.fused_forward

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        """One step of Algorithm 1: label the weak view, then the terms of labelled and of unlabelled clips."""
        return TeacherStudent.group_losses(self, [batch], student, progress)[0]

    def group_losses(self, batches: Sequence[Batch], student: Detector, progress: Progress) -> list[StepLosses]:
        """As `losses`, with one call of each network for all groups; labels and losses are made group by group."""
        groups = [batch.unlabelled for batch in batches if batch.unlabelled is not None]
        assert len(groups) == len(batches), "the second stage needs unlabelled clips"
        self.progress = progress
        self.teacher.at_step(progress.step)
        predictions = self.teacher.predict_groups([group.weak_bcthw for group in groups])
        pseudo = [self.pseudo_labels(of_group) for of_group in predictions]
        min_visible = self.config.min_visible
        strong = [
            carry_to_strong(labels.targets, group.geometry, min_visible)
            for labels, group in zip(pseudo, groups, strict=True)
        ]
        details, parts = ([dict[str, Tensor]() for _ in batches] for _ in range(2))
        pairs, pairs_u = self._forward_once(student, batches) if self.forward_once else (None, None)
        labelled = [batch.labelled for batch in batches]
        terms = supervised_group_terms(student, labelled, self.needs, details=details, pairs=pairs)
        terms_u = unlabelled_group_terms(
            student,
            [group.strong_bcthw for group in groups],
            [group.following for group in groups],
            strong,
            self.needs,
            details=parts,
            pairs=pairs_u,
        )
        return [
            StepLosses(
                terms[i] | self._weighted(terms_u[i], progress),
                pseudo[i],
                teacher_clips=len(group.weak_bcthw),
                details=details[i] | self._weighted(parts[i], progress),
            )
            for i, group in enumerate(groups)
        ]

    def _forward_once(
        self, student: Detector, batches: Sequence[Batch]
    ) -> tuple[list[PredictionPair], list[PredictionPair]]:
        """Predictions of the labelled clips and of the strong views of all groups, from one call."""
        views = [
            [(batch.labelled.clips_bcthw, batch.labelled.following), (clips.strong_bcthw, clips.following)]
            for batch in batches
            if (clips := batch.unlabelled)
        ]
        labelled, unlabelled = zip(*forward_views(student, views), strict=True)
        return list(labelled), list(unlabelled)

    def _weighted(self, terms: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        weight = self.config.unlabelled_weight * ramp_up(progress, self.config.unlabelled_ramp)
        return terms if weight == 1 else {name: weight * term for name, term in terms.items()}

    def candidates(self, predictions: Predictions) -> BoxRecords:
        """The teacher's boxes above O_th, suppressed, in the weak view."""
        config = self.config
        return candidate_boxes(
            self.teacher.network.decode(predictions),
            threshold=config.o_th,
            nms_iou=config.nms_iou,
            confidence=config.confidence,
        )

    def after_step(self, student: Detector, progress: Progress) -> None:
        self.teacher.follow(student, self.decay_at(progress))

    def evaluated(self, student: Detector) -> Detector:
        return self.teacher.network if self.config.evaluate == "teacher" else student

    def networks(self, student: Detector) -> dict[str, Detector]:
        """The student, and the teacher where it is another network."""
        teacher = self.teacher.network
        return {"student": student} if teacher is student else {"student": student, "teacher": teacher}

    def state_dict(self) -> dict[str, Tensor]:
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.teacher.load_state_dict(state)
