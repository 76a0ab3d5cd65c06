"""Teachers: the network that labels the weak view. No gradient ever flows through one.

ema      exponential moving average of the student, BatchNorm's buffers included
shared   the student itself, in evaluation mode
frozen   a copy of the student as the first stage left it
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ssldet.contracts import Predictions
from ssldet.detector import Detector

TeacherKind = Literal["ema", "shared", "frozen"]


class Teacher:
    """One of the three teachers over a student.

    Args:
        student: the network as the first stage left it; copied unless the teacher is shared.
        kind: "ema", "shared" or "frozen".
        decay: of the moving average, teacher = decay * teacher + (1 - decay) * student.
    """

    def __init__(self, student: Detector, kind: TeacherKind, decay: float):
        self.kind, self.decay = kind, decay
        self.network = student if kind == "shared" else copy.deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def predict(self, weak_bcthw: Tensor) -> Predictions:
        """Predictions in evaluation mode; the network is left in the mode that it was in."""
        training = self.network.training
        self.network.eval()
        try:
            return self.network(weak_bcthw)
        finally:
            self.network.train(training)

    @torch.no_grad()
    def follow(self, student: Detector) -> None:
        """After the optimiser's step: move the average. Integer buffers (counters) are copied."""
        if self.kind != "ema":
            return
        mine, theirs = self.network.state_dict(), student.state_dict()
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - self.decay)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.kind == "shared" else self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.kind != "shared":
            self.network.load_state_dict(state)
