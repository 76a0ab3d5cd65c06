"""What tests have several processes do; a module of its own, which these import."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FACTS, tiny_detector
from test_groups import STRATEGIES
from test_training import OPTIONS, training
from torch import Tensor, nn

from ssldet.config import TrainOptions
from ssldet.contracts import Batch, Detector, Progress, StepLosses, Strategy, TrainingInfo
from ssldet.data.sampling import Sampling
from ssldet.errors import TrainingError
from ssldet.training.loop import Training
from ssldet.util.rank_processes import Line
from ssldet.util.ranks import ALONE, Ranks
from ssldet_strategies.consistent_teacher import ConsistentTeacher
from ssldet_strategies.flexmatch import FlexMatch
from ssldet_strategies.mean_teacher import MeanTeacher
from ssldet_strategies.softmatch import SoftMatch
from ssldet_strategies.stable_mean_teacher import StableMeanTeacher

STEPS = 6


class Remembering(MeanTeacher):
    """A strategy whose state and trained module follow from what it saw, and that draws numbers of its own."""

    gathers = True

    def start(self, student: Detector, info: TrainingInfo) -> None:
        super().start(student, info)
        self.head = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.unused = nn.Linear(2, 2)
        self.seen = torch.zeros(1)
        self.mean = torch.zeros(1)

    def trained_modules(self) -> Mapping[str, nn.Module]:
        return {"head": self.head, "unused": self.unused}

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        result = super().losses(batch, student, progress)
        assert batch.unlabelled is not None
        self.seen = self.seen + batch.unlabelled.weak_bcthw.mean()
        colours = batch.unlabelled.strong_bcthw.mean(dim=(2, 3, 4))
        result.terms["colour_u"] = self.head(colours).square().mean()
        return result

    def after_step(self, student: Detector, progress: Progress) -> None:
        super().after_step(student, progress)
        seen = progress.gather(self.seen).sum(0, keepdim=True) if self.gathers else self.seen
        self.mean, self.seen = 0.9 * self.mean + 0.1 * seen, torch.zeros(1)

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "mean": self.mean}


class Forgetful(Remembering):
    """The same, but each process keeps to what it saw itself."""

    gathers = False


JOINT = "dual_guidance, all groups normalised together"
JOINT_SHARED = "fixmatch, all groups normalised together"

CASES: Mapping[str, Callable[[], Strategy]] = {
    **{name: STRATEGIES[name] for name in ("dual_guidance", "fixmatch", "supervised, equal clips")},
    JOINT: STRATEGIES["dual_guidance"],
    JOINT_SHARED: STRATEGIES["fixmatch"],
    "consistent_teacher": lambda: ConsistentTeacher(ConsistentTeacher.Config(first_tau=0.1)),
    "flexmatch": lambda: FlexMatch(FlexMatch.Config(tau=0.1, o_th=0.1)),
    "softmatch": lambda: SoftMatch(SoftMatch.Config(o_th=0.1)),
    "stable_mean_teacher": lambda: StableMeanTeacher(StableMeanTeacher.Config(o_th=0.1)),
    "remembering": lambda: Remembering(MeanTeacher.Config(o_th=0.3)),
}


TOGETHER = {"sync_bn": True, "micro_batch": "auto"}

EXTRA: Mapping[str, Mapping[str, Any]] = {JOINT: TOGETHER, JOINT_SHARED: TOGETHER}
"""Settings of the schedule that some cases have of their own."""


def fresh(strategy: Strategy, ranks: Ranks = ALONE, **options: Any) -> Training:
    """Training with four groups of two clips a step."""
    schedule = {"batch": 8, "bn_batch": 2, "micro_batch": 2, "steps": STEPS, "lr": 1e-3, "log_every": 3}
    student = tiny_detector(FACTS, frame_head=strategy.needs.frame_head)
    every = TrainOptions(**OPTIONS.model_dump() | schedule | options)
    run = training(strategy, every, student=student, ranks=ranks)
    run.source.sampling = Sampling(8, 8, 0.5)
    run.optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)  # Adam makes steps of rounding errors
    return run


def trained(name: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What six steps leave behind: losses of every step, lines of the log, weights and buffers, counts."""
    run = fresh(CASES[name](), ranks, gradient_norms=True, **EXTRA.get(name, {}))
    lines, losses = list[Any](), defaultdict(list)
    run.log = lines.append
    run.run(on_step=lambda report: [losses[name].append(value) for name, value in report.losses.items()] and None)
    return {
        "losses": dict(losses),
        "lines": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "state": {name: tensor.clone() for name, tensor in run._state().items()},
        "clips": (run.counts.gradient_clips, run.counts.teacher_clips),
    }


def train_all(line: Line, folder: Path) -> dict[str, Any]:
    """Every strategy in turn; and how one is refused whose state is not that of all processes."""
    torch.set_num_threads(1)
    made: dict[str, Any] = {name: trained(name, line.ranks) for name in CASES}
    with pytest.raises(TrainingError) as refused:
        fresh(Forgetful(MeanTeacher.Config(o_th=0.3)), line.ranks).run(folder / "checkpoint")
    return made | {"refused": str(refused.value)}
