"""What a training step spends its time on: shares by section, and a torch trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from ssldet.errors import ConfigError
from ssldet.training.loop import StepReport, Training
from ssldet.util.devices import wait_for
from ssldet.util.files import replacing
from ssldet.util.sections import SectionClock, measured, observed, section

WARM_UP = 2
"""Steps before the first that counts: workers start, memory is taken, kernels are chosen."""

SECTIONS = ("waiting for data", "upload", "views", "forward", "backward", "loss", "teacher", "optimiser", "other")
"""In the order of a step. "loss" is what a strategy computes beside its networks, "teacher" its calls and its moves."""


@dataclass(frozen=True, slots=True)
class StepProfile:
    """What some steps of the second stage took.

    Attributes:
        steps: how many were measured, and as many more traced.
        clips: with gradients, in each step.
        seconds: of each section in all these steps; the sections of `SECTIONS`.
        trace: the file for a viewer of traces, such as ui.perfetto.dev; a trace makes steps slower, so that it is taken
            of other steps than `seconds`.
    """

    steps: int
    clips: int
    seconds: Mapping[str, float]
    trace: Path

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def share(self, name: str) -> float:
        """Of a section, in [0, 1]."""
        return self.seconds[name] / self.total_seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "steps": self.steps,
            "clips_per_step": self.clips,
            "seconds_per_step": self.total_seconds / self.steps,
            "seconds": dict(self.seconds),
            "shares": {name: self.share(name) for name in self.seconds},
            "trace": str(self.trace),
        }


def profile_steps(
    training: Training, steps: int, trace: Path, on_step: Callable[[StepReport], None] = lambda report: None
) -> StepProfile:
    """Train fresh training for a few steps of its second stage, measured and traced. The student is moved by them.

    Args:
        training: at step 0; it goes to its second stage at once.
        steps: to measure, and as many to trace.
        trace: a new file, .json.gz.
        on_step: called after every step.

    Raises:
        ConfigError: the second stage has fewer steps than that.
    """
    wanted, there_are = WARM_UP + 2 * steps, training.steps - training.burn_in
    if wanted > there_are:
        raise ConfigError(
            f"a profile of {steps} steps trains {wanted}, and the second stage of the run has {there_are}: "
            "ask for fewer"
        )
    training.counts.step = training.burn_in
    profiler = _Profiler(training, steps, trace, on_step)
    with profiler.stack:
        training.run(until=training.counts.step + wanted, on_step=profiler.step)
    seconds = {name: profiler.clock.seconds.get(name, 0.0) for name in SECTIONS}
    return StepProfile(steps, training.counts.gradient_clips // wanted, seconds, trace)


class _Profiler:
    """Begins and ends measuring and tracing between the steps of a training."""

    clock: SectionClock

    def __init__(self, training: Training, steps: int, trace: Path, on_step: Callable[[StepReport], None]) -> None:
        self.training, self.steps, self.trace, self.on_step = training, steps, trace, on_step
        self.first = training.counts.step
        self.stack = ExitStack()

    def step(self, report: StepReport) -> None:
        self.on_step(report)
        match report.step - self.first - WARM_UP:
            case 0:
                self.stack.enter_context(_networks_as_sections(self.training))
                self._measuring = ExitStack()
                self.clock = self._measuring.enter_context(measured(partial(wait_for, self.training.device)))
            case self.steps:
                self._measuring.close()
                self.stack.enter_context(_traced(self.trace, self.training.device))


@contextmanager
def _networks_as_sections(training: Training) -> Iterator[None]:
    """Calls of the student and of modules that are trained with it count as "forward", those of teachers as such."""
    networks = dict(training.strategy.networks(training.student)) | training.modules
    with ExitStack() as hooks:
        for network in networks.values():
            trained = network is training.student or network in training.modules.values()
            hooks.enter_context(_as_section(network, "forward" if trained else "teacher"))
        yield


@contextmanager
def _as_section(network: nn.Module, name: str) -> Iterator[None]:
    calls: list[Any] = []

    def begin(*_: object) -> None:
        calls.append(section(name))
        calls[-1].__enter__()

    def end(*_: object) -> None:
        calls.pop().__exit__(None, None, None)

    handles = [network.register_forward_pre_hook(begin), network.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Marks:
    """Sections as ranges of a trace."""

    def __init__(self) -> None:
        self._open: list[record_function] = []

    def enter(self, name: str) -> None:
        self._open.append(record_function(f"ssldet: {name}"))
        self._open[-1].__enter__()

    def leave(self) -> None:
        self._open.pop().__exit__(None, None, None)


@contextmanager
def _traced(path: Path, device: torch.device) -> Iterator[None]:
    """Everything within is written as a trace."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as traced, observed(_Marks()):
        yield
    with replacing(path) as temporary:
        compressed = temporary.with_name(f"{temporary.name}.json.gz")  # torch goes by the ending of the name
        traced.export_chrome_trace(str(compressed))
        compressed.replace(temporary)
