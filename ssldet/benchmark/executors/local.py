"""Tasks in worker processes on this machine: workers stay from one task to the next, and none outlives the grid.

A worker has a pipe to the grid. It gets tasks, tells how they go, and stops after the current step, leaving a
checkpoint, when it is told to or when the grid's process is gone. A worker that dies takes its task along and nothing
else: the task is marked as failed and another worker takes its place.

Workers are forked from a server process that has imported torch and this module, and done nothing else: it takes the
seconds that imports cost once, not once a worker, and never holds threads or a GPU, which must not be forked.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import psutil
from pydantic import Field

from ssldet.benchmark.executors import memory
from ssldet.benchmark.tasks import ProgressReporter, Task, attempt
from ssldet.contracts import Executor, GridCallback, GridTask, Options, TaskGrid, TaskProgress, TaskResult
from ssldet.runs.planning import DatasetCache
from ssldet.util.allocator import keep_freed_memory
from ssldet.util.interrupts import leave_signals_to_parent
from ssldet.util.temporary import keep_sockets_apart

POLL_SECONDS = 0.5


# ---------------------------------------------------------------------------------------------- the grid's side


@dataclass(slots=True)
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    task: GridTask | None = None
    told_to_stop: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """What tasks may take together on this machine.

    Attributes:
        memory: bytes.
        cores: CPU cores; None leaves them to the number of tasks at a time.
    """

    memory: int = field(default_factory=memory.of_this_machine)
    cores: int | None = None

    def refusal(self, task: GridTask) -> str:
        """Why a task cannot begin even alone; "" where it can."""
        if task.memory_bytes > self.memory:
            return (
                f"it takes about {memory.in_words(task.memory_bytes)} of memory, and runs may take "
                f"{memory.in_words(self.memory)} here; --set executor.memory=32G allows more"
            )
        if self.cores is not None and task.cores > self.cores:
            return f"it takes {task.cores} cores, and executor.cores allows {self.cores}; give fewer with --threads"
        return ""

    def holds(self, tasks: Iterable[GridTask]) -> bool:
        """Whether it is enough for some tasks together."""
        listed = list(tasks)
        cores = sum(task.cores for task in listed)
        return sum(task.memory_bytes for task in listed) <= self.memory and (self.cores is None or cores <= self.cores)


class Local(Executor):
    """Worker processes on this machine, `--jobs` at a time; they end with the command, at Ctrl-C with a checkpoint."""

    class Config(Options):
        """What runs may take together: those that do not fit beside others wait."""

        memory: str | None = Field(None, pattern=memory.PATTERN)
        """Memory of all runs at a time, by their estimates, such as 16G; None means all that this machine has."""
        cores: int | None = Field(None, ge=1)
        """CPU cores of all runs at a time; None leaves it to `--jobs`."""

    config: Config

    def run(self, grid: TaskGrid, *, jobs: int, callback: GridCallback) -> bool:
        c = self.config
        budget = Budget(memory.read_memory(c.memory) if c.memory else memory.of_this_machine(), c.cores)
        return run_grid(grid, jobs=jobs, callback=callback, budget=budget)


def run_grid(grid: TaskGrid, *, jobs: int, callback: GridCallback, budget: Budget | None = None) -> bool:
    """Run all tasks of a grid that can be run, `jobs` at a time. Returns whether it came to its end.

    What fails is marked and the rest goes on. False: the callback asked it to stop; what was under way can be resumed.

    Args:
        budget: what tasks may take together; None means this machine's memory, and any number of cores.
    """
    workers: list[_Worker] = []
    budget = budget or Budget()
    try:
        while True:
            stopping = callback.stop()
            if not stopping:
                _hand_out(grid, workers, jobs, callback, budget)
            busy = [worker for worker in workers if worker.task]
            if not busy:
                if stopping or not grid.waits_for_others():
                    return not stopping
                time.sleep(POLL_SECONDS)
            if stopping:
                _tell_to_stop(busy)
            for pipe in wait([worker.pipe for worker in busy], timeout=POLL_SECONDS):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                if not _listen(grid, worker, callback):
                    workers.remove(worker)
            callback.tick()
    finally:
        _dismiss(workers)


def _hand_out(grid: TaskGrid, workers: list[_Worker], jobs: int, callback: GridCallback, budget: Budget) -> None:
    """Give every idle worker a task that can begin, and start workers while there are fewer than `jobs`.

    A task waits for which the budget has no room beside those under way, and smaller ones go before it.
    """
    for task in list(grid.ready()):
        if refusal := budget.refusal(task):
            grid.ended(task, TaskResult("blocked", refusal))
            continue
        if not budget.holds([task, *(worker.task for worker in workers if worker.task)]):
            continue
        worker = _idle_worker(workers, jobs)
        if worker is None:
            return
        worker.task = task
        grid.began(task)
        callback.began(worker.number, task)
        with suppress(OSError):  # it has just died: listening to it will tell
            worker.pipe.send(task)


def _idle_worker(workers: list[_Worker], jobs: int) -> _Worker | None:
    """A worker without a task, started if need be; None when all `jobs` are busy."""
    for worker in [worker for worker in workers if worker.task is None]:
        if worker.process.is_alive():
            return worker
        workers.remove(worker)
    taken = {worker.number for worker in workers}
    if len(taken) == jobs:
        return None
    workers.append(_start(min(number for number in range(jobs) if number not in taken)))
    return workers[-1]


def _start(number: int) -> _Worker:
    keep_sockets_apart()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, dict(os.environ)), name=f"ssldet-worker-{number}")
    process.start()
    theirs.close()  # so that its death is seen as the end of the pipe
    return _Worker(number, process, ours)


def _listen(grid: TaskGrid, worker: _Worker, callback: GridCallback) -> bool:
    """Take in one message of a busy worker. False: it has died."""
    task = worker.task
    assert task is not None
    try:
        message: TaskProgress | TaskResult = worker.pipe.recv()
        alive = True
    except (EOFError, OSError):
        worker.process.join()
        message, alive = TaskResult("failed", _death(worker.process.exitcode)), False
    if isinstance(message, TaskProgress):
        grid.progressed(task, message)
        callback.progressed(worker.number, task, message)
        return True
    worker.task = None
    grid.ended(task, message)
    callback.ended(worker.number, task, message)
    return alive


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; the system may have run out of memory: try --jobs 1" if name == "SIGKILL" else ""
        return f"its worker was ended by {name}{hint}"
    return f"its worker ended with exit code {exit_code}"


def _tell_to_stop(workers: list[_Worker]) -> None:
    for worker in workers:
        if not worker.told_to_stop:
            worker.told_to_stop = True
            with suppress(OSError):
                worker.pipe.send("stop")


def _dismiss(workers: list[_Worker]) -> None:
    """Let idle workers go; end those that still work (after an error, or a second Ctrl-C)."""
    for worker in workers:
        if worker.task is not None:
            _terminate_with_children(worker.process)
        worker.pipe.close()
    for worker in workers:
        worker.process.join()


def _terminate_with_children(process: BaseProcess) -> None:
    """End a worker and the processes that decode videos for it."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.terminate()
    process.terminate()


# -------------------------------------------------------------------------------------------- the worker's side


class _PipeReporter(ProgressReporter):
    """Tells the grid how a task goes, a few times a second."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe
        self.stopping = False

    def stop(self) -> bool:
        """Whether the grid said so, or is gone: the pipe then ends, as nobody else holds its other end."""
        if not self.stopping:
            try:
                self.stopping = self.pipe.poll() and self.pipe.recv() == "stop"
            except (EOFError, OSError):
                self.stopping = True
        return self.stopping

    def send(self, progress: TaskProgress) -> None:
        try:
            self.pipe.send(progress)
        except OSError:  # nobody is there to hear it
            self.stopping = True


def _work(pipe: Connection, environment: dict[str, str]) -> None:
    """A worker's life: one task after another until the pipe closes.

    `environment` is the grid's: the fork server's is that of the first grid of the process.
    """
    os.environ.clear()
    os.environ.update(environment)
    leave_signals_to_parent()
    keep_freed_memory()
    datasets = DatasetCache()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        if not isinstance(task, Task):  # told to stop between two tasks
            continue
        result = attempt(task, _PipeReporter(pipe), datasets)
        try:
            pipe.send(result)
        except OSError:
            return
