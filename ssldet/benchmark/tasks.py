"""The tasks of a grid: what each one is, how it is run in whatever process it lands in, and what is told of it.

run_task(task, ...)    do it, or what is left of it
attempt(task, ...)     the same, with what came of it as a TaskResult
ProgressReporter       tells now and then how a task goes
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, get_args

from ssldet.config import RunConfig
from ssldet.contracts import GridCallback, GridTask, TaskKind, TaskProgress, TaskResult, TaskState
from ssldet.errors import SsldetError
from ssldet.runs import layout
from ssldet.runs.claims import ClaimHeld, ClaimLost
from ssldet.runs.planning import DatasetCache, Plan, plan
from ssldet.runs.runner import Interrupted, Reporter, execute, train_first_stage
from ssldet.training.loop import StepReport
from ssldet.util.files import replacing

__all__ = ["STATES", "GridCallback", "ProgressReporter", "Task", "TaskProgress", "TaskResult", "attempt", "run_task"]

STATES: tuple[TaskState, ...] = get_args(TaskState)

SECONDS_BETWEEN_MESSAGES = 0.3


@dataclass(slots=True)
class Task:
    """One piece of work of a grid.

    Attributes:
        kind: a run that makes initial weights, a first stage that runs share, or a run of a cell.
        key: names it within the grid: the hash of its experiment, or of its first stage.
        config: of the run; of a first stage, that of one of the runs that begin with it.
        needs: keys of the tasks that must be done before.
        tables: names of the tables and figures that ask for it.
        name: what is done, without the cell's fields.
        cell: what the run is about, for filters and listings.
        state: where it stands; `reason`: why it is blocked or has failed. The grid alone changes them.
        run_id, folder: of the run, once they are known (not before the weights are that it starts from).
        seconds: estimate of what it takes; `progress`: share of it that is done, 0-1.
        files: of a pretraining, the weights files that it makes.
        memory_bytes: estimate of the main memory that it takes; 0 where it is not known.
    """

    kind: TaskKind
    key: str
    name: str
    config: RunConfig | None = None
    needs: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    cell: Mapping[str, Any] = field(default_factory=dict)
    state: TaskState = "to run"
    reason: str = ""
    run_id: str = ""
    folder: Path | None = None
    seconds: float = 0.0
    progress: float = 0.0
    files: tuple[Path, ...] = ()
    memory_bytes: int = 0

    @property
    def cores(self) -> int:
        """CPU cores that it takes: the threads of all its processes."""
        machine = self.config.machine if self.config else None
        return (machine.threads or 1) * machine.devices if machine else 1

    @property
    def title(self) -> str:
        """What is done and on what, in one line."""
        if not self.cell:
            return self.name
        c = self.cell
        return f"{self.name}, {c['dataset']} {c['ratio']:.0%}, {start(c)}, split {c['split']}, seed {c['seed']}"

    def as_json(self) -> dict[str, Any]:
        """What is known of it, without its configuration."""
        return {
            "kind": self.kind,
            "key": self.key,
            "title": self.title,
            **self.cell,
            "tables": list(self.tables),
            "needs": list(self.needs),
            "state": self.state,
            "reason": self.reason,
            "run": self.run_id,
            "folder": str(self.folder or ""),
            "estimated_seconds": round(self.seconds, 1),
            "estimated_memory_bytes": self.memory_bytes,
        }


def start(cell: Mapping[str, Any]) -> str:
    """Where a cell's weights come from, in a word."""
    return "pretrained" if cell["pretrained"] else "scratch"


def run_task(task: Task, reporter: Reporter, datasets: DatasetCache, patience: float = 0.0) -> None:
    """Do a task, or what is left of it. Raises as `runner.execute` does.

    Args:
        patience: seconds to wait for another process that does it.
    """
    assert task.config is not None
    planned = plan(task.config, datasets)
    if task.kind == "first stage":
        train_first_stage(planned, reporter, patience=patience)
        return
    execute(planned, reporter, patience=patience)
    for file in task.files:
        _keep_weights(planned, file)


def attempt(task: GridTask, reporter: Reporter, datasets: DatasetCache, patience: float = 0.0) -> TaskResult:
    """Do a task of a grid, or what is left of it, and say what came of it; no error of it ends the process.

    Args:
        patience: seconds to wait for another process that does it; after them the task is "held".
    """
    assert isinstance(task, Task)
    try:
        run_task(task, reporter, datasets, patience)
    except Interrupted:
        return TaskResult("interrupted")
    except (ClaimHeld, ClaimLost) as error:
        return TaskResult("held", str(error))
    except SsldetError as error:
        return TaskResult("failed", str(error))
    except Exception as error:  # a defect of a plugin or of ours: the rest of the grid goes on
        return TaskResult("failed", f"{type(error).__name__}: {error}", traceback.format_exc())
    return TaskResult("done")


class ProgressReporter(Reporter):
    """Tells how a task goes, every `seconds` at most: a subclass says to whom, in `send`."""

    def __init__(self, seconds: float = SECONDS_BETWEEN_MESSAGES) -> None:
        self.seconds = seconds
        self._phase: tuple[str, int, str] = ("", 0, "")
        self._last = 0.0

    def phase(self, name: str, total: int, unit: str) -> None:
        self._phase, self._last = (name, total, unit), 0.0
        self.advance(0)

    def advance(self, done: int, note: str = "") -> None:
        now = monotonic()
        if now - self._last < self.seconds:
            return
        self._last = now
        name, total, unit = self._phase
        self.send(TaskProgress(name, done, total, unit, note))

    def step(self, report: StepReport) -> None:
        losses = " ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
        self.advance(report.step, f"{losses}  {report.clips_per_second:.0f} clips/s")

    def send(self, progress: TaskProgress) -> None:
        """The task is so far."""


def _keep_weights(planned: Plan, file: Path) -> None:
    with replacing(file) as temporary:
        shutil.copyfile(planned.folder / layout.WEIGHTS, temporary)
