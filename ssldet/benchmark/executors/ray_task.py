"""What runs in a worker of Ray: one task of a grid, which leaves a checkpoint when Ray cancels it or stops its node."""

from __future__ import annotations

import math
import os
import pickle
import platform
import signal
from collections.abc import Sequence
from typing import Any

from ssldet.benchmark.executors.ray_keeper import Errand
from ssldet.benchmark.tasks import ProgressReporter, attempt
from ssldet.contracts import TaskProgress, TaskResult
from ssldet.runs.planning import DatasetCache
from ssldet.util.allocator import keep_freed_memory
from ssldet.util.interrupts import StopRequest, graceful_interrupts

SECONDS_BETWEEN_PROGRESS = 2.0


def carry_out(keeper: Any, errand: Errand, needed: Sequence[TaskResult]) -> TaskResult:
    """Do a task, or what is left of it. Ray cancels by SIGINT, and stops a node by SIGTERM.

    Args:
        keeper: the actor that hears how far it is.
        errand: the task.
        needed: how the tasks ended that it needs.
    """
    if any(result.state != "done" for result in needed):
        return TaskResult("interrupted", "what it needs did not come to its end")
    os.chdir(errand.folder)
    os.environ.update(errand.variables)
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a node that a script started by `&` ignores it
    with graceful_interrupts(lambda: None, impatient=False) as stopping:
        keeper.began.remote(errand.key, f"{platform.node()}, process {os.getpid()}")
        reporter = _KeeperReporter(keeper, errand.key, stopping)
        task = pickle.loads(errand.task)  # noqa: S301 # by the command, through the cluster that runs its code anyway
        return attempt(task, reporter, DatasetCache(), math.inf)


class _KeeperReporter(ProgressReporter):
    """Tells the keeper how far the task is, and waits for no answer."""

    def __init__(self, keeper: Any, key: str, stopping: StopRequest) -> None:
        super().__init__(SECONDS_BETWEEN_PROGRESS)
        self.keeper, self.key, self.stopping = keeper, key, stopping

    def send(self, progress: TaskProgress) -> None:
        self.keeper.progressed.remote(self.key, progress)

    def stop(self) -> bool:
        return self.stopping()
