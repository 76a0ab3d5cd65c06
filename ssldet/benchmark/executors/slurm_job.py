"""What runs inside a Slurm job: tasks of a grid, of which the one under way leaves a checkpoint at a signal.

Slurm says by a signal that a job must go: USR2 shortly before its time limit, where it asked for that; TERM (or USR2)
when a job of higher priority takes its place, when it is cancelled or its node is drained. The task stops after its
step. What then happens is Slurm's to say: a job that was cancelled ends, one that must make way is queued again, and
runs the same task from its checkpoint; tasks that it had done take it a moment.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssldet.benchmark.executors import slurm_queue
from ssldet.benchmark.executors.job_files import JobFiles
from ssldet.benchmark.tasks import ProgressReporter, attempt
from ssldet.contracts import GridTask, TaskProgress, TaskResult
from ssldet.errors import RequestError, SsldetError
from ssldet.runs.planning import DatasetCache
from ssldet.util.allocator import keep_freed_memory
from ssldet.util.interrupts import StopRequest, graceful_interrupts

SECONDS_BETWEEN_PROGRESS = 5.0

SECONDS_FOR_SLURM = 60.0
"""How long a task that heard TERM leaves it to Slurm to end or requeue its job, before it asks for the latter."""


class TaskFailed(SsldetError):
    """The task of a job failed: the job must end with an error, so that jobs that need it do not begin."""


class SlurmJob:
    """Tasks that are pickled, carried to a node and called there, once or, after a requeue, several times."""

    def __init__(self, tasks: Sequence[GridTask], results: Path) -> None:
        self.tasks, self.results = tuple(tasks), results

    def __call__(self) -> None:
        """Do the tasks one after another, or what is left of them. Raises TaskFailed where one failed, at the end."""
        keep_freed_memory()
        files, datasets = JobFiles(self.results), DatasetCache()
        if not files.is_known(self.tasks[0].key):
            raise RequestError(f"the node {os.uname().nodename} does not see the results folder {self.results}")
        with graceful_interrupts(lambda: None, impatient=False) as stopping:
            ended = [_do(task, files, stopping, datasets) for task in self.tasks]
        if failed := [result.details or result.reason for result in ended if result.state == "failed"]:
            raise TaskFailed("\n".join(failed))

    def checkpoint(self) -> Any:
        """What submitit carries over when its signal comes before a task listens: the same tasks."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _do(task: GridTask, files: JobFiles, stopping: StopRequest, datasets: DatasetCache) -> TaskResult:
    """Do a task and note how it ended; one that was interrupted does not return."""
    files.forget_result(task.key)  # of the turn before
    result = attempt(task, _FileReporter(files, task.key, stopping), datasets, math.inf)
    files.write_result(task.key, os.environ["SLURM_JOB_ID"], result)
    if result.state == "interrupted":
        leave_to_slurm(stopping)
    return result


class _FileReporter(ProgressReporter):
    """Notes in the results folder how far the task is."""

    def __init__(self, files: JobFiles, key: str, stopping: StopRequest) -> None:
        super().__init__(SECONDS_BETWEEN_PROGRESS)
        self.files, self.key, self.stopping = files, key, stopping

    def send(self, progress: TaskProgress) -> None:
        self.files.write_progress(self.key, progress)

    def stop(self) -> bool:
        return self.stopping()


def leave_to_slurm(stopping: StopRequest) -> None:
    """Wait for the end of the job, whose task left a checkpoint; have it queued again unless it is being ended.

    Never returns: what a job returns counts as its result, and there is none yet. Where Slurm's commands are out of
    reach, in a container say, the job ends, and the grid hands its task out again.
    """
    number = os.environ["SLURM_JOB_ID"]
    if stopping.signal in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # Slurm knows what it wants
        time.sleep(SECONDS_FOR_SLURM)
    if _is_running(number):
        with suppress(OSError, subprocess.TimeoutExpired):
            requeue = ["scontrol", "requeue", number]
            subprocess.run(requeue, check=False, timeout=slurm_queue.COMMAND_SECONDS)
        time.sleep(SECONDS_FOR_SLURM)
    os._exit(128 + (stopping.signal or signal.SIGTERM))


def _is_running(number: str) -> bool:
    """Whether Slurm lets the job go on; a cancelled one is COMPLETING while its processes live."""
    found = (slurm_queue.queue() or {}).get(number)
    return found is not None and found.state == "RUNNING"
