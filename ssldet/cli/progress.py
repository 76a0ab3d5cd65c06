"""Progress bars on a terminal, a line now and then elsewhere; both on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ssldet.runs.runner import Reporter
from ssldet.training.loop import StepReport

SECONDS_BETWEEN_LINES = 15.0


class ProgressReporter(Reporter):
    """Draws the phases of a run: losses, clips/s and time left while it trains.

    `stopping` tells whether the run should stop after the current step.
    """

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description:<7}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.stopping = stopping
        self._name, self._total, self._unit, self._last = "", 0, "", 0.0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def phase(self, name: str, total: int, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self.task = self.progress.add_task(name, total=total, note="")

    def advance(self, done: int, note: str = "") -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=done, note=note)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self._last > SECONDS_BETWEEN_LINES or done == self._total):
            self._last = now
            self.console.print(
                f"{self._name}: {done}/{self._total} {self._unit} {note}", highlight=False, soft_wrap=True
            )

    def step(self, report: StepReport) -> None:
        losses = " ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
        self.advance(report.step, f"{losses}  {report.clips_per_second:.0f} clips/s")

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True, markup=False)

    def stop(self) -> bool:
        return self.stopping()
