"""The tasks of a grid: what each one is, how it is run in whatever process it lands in, and what is told of it.

run_task(task, ...)    do it, or what is left of it
GridCallback           hears what the tasks do: TaskProgress, TaskResult
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ssldet.config import RunConfig
from ssldet.runs import layout
from ssldet.runs.planning import DatasetCache, Plan, plan
from ssldet.runs.runner import Reporter, execute, train_first_stage
from ssldet.util.files import replacing

Kind = Literal["pretraining", "first stage", "run"]
State = Literal["done", "to run", "running", "failed", "blocked"]
STATES: tuple[State, ...] = get_args(State)

LOCK_TIMEOUT_SECONDS = 120.0
"""How long a task waits for a process that still does the same run: one that outlived a killed grid, say."""


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
    """

    kind: Kind
    key: str
    name: str
    config: RunConfig | None = None
    needs: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    cell: Mapping[str, Any] = field(default_factory=dict)
    state: State = "to run"
    reason: str = ""
    run_id: str = ""
    folder: Path | None = None
    seconds: float = 0.0
    progress: float = 0.0
    files: tuple[Path, ...] = ()

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
        }


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a task is: `done` of `total` `unit` of a phase; `note` is what its reporter adds, losses say."""

    phase: str
    done: int
    total: int
    unit: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended; `details`: a traceback, where the error is no message for users."""

    state: Literal["done", "failed", "interrupted"]
    reason: str = ""
    details: str = ""


class GridCallback:
    """Is called while an executor runs a grid. This one does nothing; the command line draws bars.

    The grid has taken in what happened by then. Workers count from 0.
    """

    def began(self, worker: int, task: Task) -> None:
        """A worker has taken up a task."""

    def progressed(self, worker: int, task: Task, progress: TaskProgress) -> None:
        """The task is so far; called a few times a second."""

    def ended(self, worker: int, task: Task, result: TaskResult) -> None:
        """The task has ended."""

    def tick(self) -> None:
        """Called about twice a second."""

    def stop(self) -> bool:
        """Whether the executor should begin nothing more and let what is under way leave checkpoints."""
        return False


def start(cell: Mapping[str, Any]) -> str:
    """Where a cell's weights come from, in a word."""
    return "pretrained" if cell["pretrained"] else "scratch"


def run_task(task: Task, reporter: Reporter, datasets: DatasetCache) -> None:
    """Do a task, or what is left of it. Raises as `runner.run` does."""
    assert task.config is not None
    planned = plan(task.config, datasets)
    if task.kind == "first stage":
        train_first_stage(planned, reporter)
        return
    execute(planned, reporter, lock_timeout=LOCK_TIMEOUT_SECONDS)
    for file in task.files:
        _keep_weights(planned, file)


def _keep_weights(planned: Plan, file: Path) -> None:
    with replacing(file) as temporary:
        shutil.copyfile(planned.folder / layout.WEIGHTS, temporary)
