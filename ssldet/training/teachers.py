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
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ssldet.contracts import (
    Batch,
    Detector,
    LabelledBatch,
    Predictions,
    Progress,
    PseudoLabels,
    StepLosses,
    Strategy,
    Targets,
    TrainingInfo,
    UnlabelledBatch,
)
from ssldet.detector.modes import evaluation_mode
from ssldet.detector.postprocess import BoxRecords
from ssldet.errors import TrainingError
from ssldet.nn.batch_norm import StatisticsSnapshot
from ssldet.training.objectives import (
    PredictionPair,
    forward_groups,
    forward_views,
    ramp_up,
    supervised_group_terms,
    unlabelled_pair_terms,
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


@dataclass(slots=True)
class StrongView:
    """What a student learns from a group of unlabelled clips.

    Attributes:
        clips_bcthw: what it is shown.
        targets: what it should find there, in pixels of that view.
        extras: whatever else a strategy's own terms are made of, by name.
    """

    clips_bcthw: Tensor
    targets: Targets
    extras: dict[str, Tensor] = field(default_factory=dict)


class TeacherStudent(Strategy):
    """A teacher labels the weak view of unlabelled clips; the student learns their strong view from these labels.

    A subclass says what it `needs`, which teacher it has, and how a teacher's predictions become pseudo-labels; its
    Config derives from TeacherOptions. It may also change what is trained on (`labelled_view`, `strong_view`) and the
    terms of unlabelled clips (`unlabelled_terms`), group by group.

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

    def weight_at(self, progress: Progress) -> float:
        """The weight of all terms of unlabelled clips at a step: the only place where it rises."""
        return self.config.unlabelled_weight * ramp_up(progress, self.config.unlabelled_ramp)

    def labelled_view(self, batch: Batch) -> LabelledBatch:
        """The labelled clips that a group trains on, and what they show: as they came, unless overridden."""
        return batch.labelled

    def strong_view(self, pseudo: PseudoLabels, predictions: Predictions, batch: Batch) -> StrongView:
        """What the student is shown of a group's unlabelled clips, and what it should find there.

        As it stands the strong view as it came, with the pseudo-labels carried there. Draws come from
        `batch.generator`.

        Args:
            pseudo: what `pseudo_labels` gave, in the weak view.
            predictions: the teacher's of the weak view.
            batch: the group.
        """
        assert batch.unlabelled is not None
        clips = batch.unlabelled
        return StrongView(clips.strong_bcthw, carry_to_strong(pseudo.targets, clips.geometry, self.config.min_visible))

    def unlabelled_terms(
        self, student: Detector, pair: PredictionPair, view: StrongView, details: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The terms of a group's unlabelled clips before the weight of all of them; see `objectives.unlabelled_terms`.

        Args:
            student: the network.
            pair: its predictions of the strong view, and of the partners where there are any.
            view: what `strong_view` gave.
            details: parts of the terms are written here, detached, for the log.
        """
        return unlabelled_pair_terms(student, pair, view.targets, self.needs, details=details)

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
        strong = [self.strong_view(*of_group) for of_group in zip(pseudo, predictions, batches, strict=True)]
        details, parts = ([dict[str, Tensor]() for _ in batches] for _ in range(2))
        labelled, partners = [self.labelled_view(batch) for batch in batches], [group.following for group in groups]
        pairs, pairs_u = self._forward_once(student, labelled, strong, partners) if self.forward_once else (None, None)
        terms = supervised_group_terms(student, labelled, self.needs, details=details, pairs=pairs)
        pairs_u = pairs_u or forward_groups(student, [view.clips_bcthw for view in strong], partners)
        terms_u = [self.unlabelled_terms(student, *of_group) for of_group in zip(pairs_u, strong, parts, strict=True)]
        return [
            StepLosses(
                terms[i] | self._weighted(terms_u[i], progress),
                pseudo[i],
                teacher_clips=len(group.weak_bcthw),
                details=details[i] | self._weighted(parts[i], progress),
                extra_clips=_added(labelled[i], batches[i].labelled) + _added(strong[i], group),
            )
            for i, group in enumerate(groups)
        ]

    def _forward_once(
        self,
        student: Detector,
        labelled: Sequence[LabelledBatch],
        strong: Sequence[StrongView],
        partners: Sequence[Tensor | None],
    ) -> tuple[list[PredictionPair], list[PredictionPair]]:
        """Predictions of the labelled clips and of the strong views of all groups, from one call."""
        views = [
            [(clips.clips_bcthw, clips.following), (view.clips_bcthw, following)]
            for clips, view, following in zip(labelled, strong, partners, strict=True)
        ]
        first, second = zip(*forward_views(student, views), strict=True)
        return list(first), list(second)

    def _weighted(self, terms: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        weight = self.weight_at(progress)
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


class AveragedTeacher(TeacherStudent):
    """A `TeacherStudent` whose teacher is a moving average of the student; its Config derives from AverageOptions."""

    Config = AverageOptions
    config: AverageOptions

    def build_teacher(self, student: Detector) -> Teacher:
        return Teacher(student, "ema", self.config.ema_decay, warmup=self.config.ema_warmup)


def _added(shown: LabelledBatch | StrongView, came: LabelledBatch | UnlabelledBatch) -> int:
    """How many more clips the student is shown than came."""
    before = came.clips_bcthw if isinstance(came, LabelledBatch) else came.strong_bcthw
    return len(shown.clips_bcthw) - len(before)
