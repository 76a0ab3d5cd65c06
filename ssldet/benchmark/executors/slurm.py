"""Tasks as jobs of a Slurm cluster, one a job or several, submitted through submitit.

Slurm does what it can do: it queues, orders first stages before what needs them (dependencies), requeues what was
preempted or lost its node. What a task came to is read from the results folder, where its job is from the queue; so any
command on any login node can go on, and none must stay alive.
"""

from __future__ import annotations

import importlib.util
import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from ssldet.benchmark.executors import memory, slurm_queue
from ssldet.benchmark.executors.job_files import Job, JobFiles
from ssldet.benchmark.executors.looking import Places, pause
from ssldet.benchmark.executors.slurm_job import SlurmJob
from ssldet.benchmark.executors.slurm_probe import check_nodes
from ssldet.benchmark.executors.slurm_queue import UNDER_WAY, WAITING, QueueState
from ssldet.contracts import Executor, GridCallback, GridTask, Options, TaskGrid, TaskResult
from ssldet.errors import RequestError
from ssldet.runs.claims import claimed

SUBMITTING_SECONDS = 600.0
"""How long another command may take to submit a grid."""

SETTLING_SECONDS = 10.0
"""How long a result may be on its way through a shared file system after its job has ended."""

WARNING_SECONDS = 90
"""How long before its time limit a job is told, so that it can leave a checkpoint; a third of short limits."""

DEAF_AT_FIRST = """sh -c 'trap "" USR2 TERM; exec "$@"' ssldet-job"""
"""Starts Python so that a signal that comes while it imports does not kill it: there is no work yet that could be lost,
and TERM comes again at the time limit.
"""

LONGEST_HOURS = 24.0
"""Time limit of a job whose partition would give it any time."""


SPARE = 2.0
"""How much more time and memory than the estimate a job asks for: Slurm ends what takes more."""


class Slurm(Executor):
    """Jobs of a Slurm cluster. They go on without the command: Ctrl-C or --detach leaves them alone."""

    outlives: ClassVar[bool] = True

    class Config(Options):
        """What each job asks Slurm for."""

        partition: str | None = None
        """Where jobs are queued, several with commas; None means the cluster's default."""
        gpus: int = Field(0, ge=0)
        """GPUs of a job."""
        cpus: int = Field(1, ge=1)
        """CPU cores of a job; as many threads has a run whose preset leaves them open."""
        memory: str | None = Field(None, pattern=r"^\d+[KMGT]?B?$")
        """Memory of a job, such as 16G; None means twice the estimate, with GPUs what the cluster gives."""
        hours: float | None = Field(None, gt=0)
        """Time limit of each cell of a job; a run that needs longer goes on in its next turn. None: twice the estimate
        and half an hour, with GPUs 24 hours, and what the partition allows at most.
        """
        cells_per_job: int = Field(1, ge=1)
        """Runs that one job carries out, one after another: for queues that take few jobs, or short runs."""
        account: str | None = None
        """Account that is charged."""
        qos: str | None = None
        """Quality of service."""
        constraint: str | None = None
        """Features that a node must have."""
        sbatch: dict[str, str | int | bool] = Field(default_factory=dict)
        """Further options of sbatch, such as {exclude: n3}."""
        setup: tuple[str, ...] = ()
        """Lines of shell before a task, such as [module load cuda]."""
        python: str | None = None
        """Command that starts Python in a job, in a container say; None means the Python of this command."""
        retries: int = Field(3, ge=0)
        """How often a task is handed out again whose job died without a word."""
        poll_seconds: float = Field(10.0, gt=0)
        """Seconds between two looks at the queue."""

    config: Config

    def check(self) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise RequestError('the slurm executor needs submitit; pip install "ssldet[slurm]"')
        slurm_queue.check_reachable(self.config.partition)

    def cores(self) -> int | None:
        return self.config.cpus

    def run(self, grid: TaskGrid, *, jobs: int, callback: GridCallback) -> bool:
        jobs_of_grid = GridJobs(grid, self.config)
        jobs_of_grid.hand_out()
        while True:
            jobs_of_grid.submit_open()
            jobs_of_grid.look(callback)
            if jobs_of_grid.are_over():
                return True
            if not pause(self.config.poll_seconds, callback):
                return False

    def submit(self, grid: TaskGrid) -> int:
        return GridJobs(grid, self.config).hand_out()

    def attach(self, grid: TaskGrid) -> None:
        GridJobs(grid, self.config).attach()

    def cancel(self, grid: TaskGrid) -> int:
        jobs_of_grid = GridJobs(grid, self.config)
        jobs_of_grid.attach()
        return jobs_of_grid.cancel()


class GridJobs:
    """The jobs of one grid: which task is in the queue, and what becomes of it."""

    def __init__(self, grid: TaskGrid, config: Slurm.Config) -> None:
        self.grid, self.config = grid, config
        self.files = JobFiles(grid.results)
        self.jobs: dict[str, Job] = {}
        self._attempts: dict[str, int] = {}
        self._places = Places()
        self._ended: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        self._limits: Mapping[str, float | None] | None = None
        self._folder: Path | None = None

    def are_over(self) -> bool:
        """Whether nothing is in the queue, and nothing is to be put there."""
        return not self.jobs and all(task.state != "to run" for task in self.grid.tasks.values())

    # ------------------------------------------------------------------------------------------ earlier commands

    def attach(self) -> None:
        """Find the jobs that earlier commands submitted, and tell the grid of them. Raises RequestError."""
        queue = slurm_queue.queue()
        if queue is None:
            raise RequestError("Slurm does not answer: squeue gave no list of jobs; try again when it does")
        for task in list(self.grid.tasks.values()):
            job = self.files.read(task.key)
            state = _state_of(job, queue)
            if job is None or state is None or task.state != "to run" or state.state not in WAITING | UNDER_WAY:
                continue
            if (result := self.files.result(job)) and result.state == "failed":  # others of its job go on
                continue
            self.jobs[task.key], self._attempts[task.key] = job, job.attempt
            if state.state in UNDER_WAY and self._is_next(task.key, job):
                self._begin(task, job, state)
            else:
                self.grid.queued(task, _words(job, state))

    def hand_out(self) -> int:
        """Submit what no earlier command has submitted, while no other command does; gives how many tasks that were.

        Raises:
            RequestError: a node does not see the results folder, or Slurm does not answer. Nothing is submitted then.
        """
        with claimed(self.files.folder, patience=SUBMITTING_SECONDS):
            self.attach()
            if any(task.state == "to run" for task in self.grid.tasks.values()):
                check_nodes(self.files.folder, self._where())
            return self.submit_open()

    def _where(self) -> dict[str, str | int | bool]:
        """Options of sbatch that say where jobs run."""
        c = self.config
        named = {"partition": c.partition, "account": c.account, "qos": c.qos, "constraint": c.constraint}
        return {**{name: value for name, value in named.items() if value is not None}, **c.sbatch}

    def cancel(self) -> int:
        """End all jobs of the grid; gives their number. Raises RequestError."""
        slurm_queue.cancel(dict.fromkeys(job.id for job in self.jobs.values()))
        return len(self.jobs)

    # ------------------------------------------------------------------------------------------------ submission

    def submit_open(self) -> int:
        """Submit every task that is to run, what it needs before it; gives how many were."""
        before = len(self.jobs)
        listed = list(self.grid.tasks.values())
        waiting = (task for task in listed if task.state == "to run" and task.key not in self.jobs)
        for tasks in together(waiting, self.config.cells_per_job):
            self._submit(tasks)
        return len(self.jobs) - before

    def _submit(self, tasks: Sequence[GridTask]) -> None:
        """Submit one job for some tasks."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self._folder = self._folder or self.files.new_folder()
        name, folder = f"ssldet-{tasks[0].key[:12]}", str(self._folder)
        jobs = [Job(task.key, "", name, folder, self._attempts.get(task.key, 0) + 1) for task in tasks]
        for job in jobs:  # before it can begin: it looks whether it sees these files
            self.files.write(job)
        try:
            number = self._sbatch(tasks, jobs[0])
        except (FailedJobError, FailedSubmissionError) as error:
            self._is_refused(tasks, _complaint(error))
            return
        for task, job in zip(tasks, jobs, strict=True):
            self.jobs[task.key] = self.files.give_number(job, number)
            self._attempts[task.key] = job.attempt
            self.grid.queued(task, f"job {number}")

    def _is_refused(self, tasks: Sequence[GridTask], complaint: str) -> None:
        for task in tasks:
            self.files.forget(task.key)
            self.grid.ended(task, TaskResult("blocked", f"Slurm takes no job for it: {complaint}"))

    def _sbatch(self, tasks: Sequence[GridTask], job: Job) -> str:
        """The number that Slurm gives a job."""
        from submitit import SlurmExecutor

        python = f"{DEAF_AT_FIRST} {self.config.python or shlex.quote(sys.executable)}"
        executor = SlurmExecutor(folder=job.folder, python=python)
        executor.update_parameters(**self._parameters(tasks, job))
        return str(executor.submit(SlurmJob(tasks, self.files.results)).job_id)

    def _parameters(self, tasks: Sequence[GridTask], job: Job) -> dict[str, Any]:
        c, minutes = self.config, self._minutes(tasks)
        wanted = {
            "job_name": job.name,
            "partition": c.partition,
            "time": minutes,
            "cpus_per_task": c.cpus,
            "gpus_per_node": c.gpus or None,
            "mem": c.memory or self._memory(tasks),
            "account": c.account,
            "qos": c.qos,
            "constraint": c.constraint,
            "dependency": self._dependency(tasks[0]),  # tasks of one job need the same
            "setup": list(c.setup) or None,
            "signal_delay_s": min(WARNING_SECONDS, 20 * minutes),
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **c.sbatch},
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def _dependency(self, task: GridTask) -> str | None:
        """Slurm begins a job once those that make what it needs have ended well."""
        numbers = [self.jobs[key].id for key in task.needs if key in self.jobs]
        return f"afterok:{':'.join(numbers)}" if numbers else None

    def _memory(self, tasks: Sequence[GridTask]) -> str | None:
        """What a job asks for by the estimates of its tasks, which are of runs on this machine's CPUs."""
        most = 0 if self.config.gpus else max(task.memory_bytes for task in tasks)
        return f"{math.ceil(SPARE * most / memory.UNITS['M'])}M" if most else None

    def _minutes(self, tasks: Sequence[GridTask]) -> int:
        """The time limit of a job."""
        c = self.config
        if c.hours is not None:
            return max(1, round(60 * c.hours * len(tasks)))
        seconds = sum(task.seconds for task in tasks)
        hours = LONGEST_HOURS if c.gpus else min(LONGEST_HOURS, SPARE * seconds / 3600 + 0.5)
        limits = [limit for name in self._partitions() if (limit := self._longest().get(name))]
        return max(1, int(min([60 * hours, *limits])))

    def _partitions(self) -> list[str]:
        name = self.config.partition or slurm_queue.default_partition()
        return name.split(",") if name else []

    def _longest(self) -> Mapping[str, float | None]:
        if self._limits is None:
            self._limits = slurm_queue.partitions()
        return self._limits

    # ---------------------------------------------------------------------------------------------- what becomes

    def look(self, callback: GridCallback) -> None:
        """Take in where all jobs stand. While Slurm does not answer, nothing is known and nothing is done."""
        queue = slurm_queue.queue()
        if queue is None:
            return
        for key, job in list(self.jobs.items()):
            task, state = self.grid.tasks[key], _state_of(job, queue)
            if task.state == "blocked":  # what it needs has failed
                self._drop(task)
                if state and state.state in WAITING | UNDER_WAY and not self._has_tasks(job):
                    slurm_queue.cancel([job.id])
            elif (result := self.files.result(job)) and result.state != "interrupted":
                self._end(task, result, callback)
            elif state and state.waits_in_vain():
                self._refuse(task, job, state, callback)
            elif state and state.state in UNDER_WAY and self._is_next(key, job):
                self._goes_on(task, job, state, callback)
            elif state and state.state in WAITING | UNDER_WAY:
                self._wait(task, job, state, callback)
            elif self._has_settled(key):
                self._died(task, job, state.state if state else "", callback)

    def _is_next(self, key: str, job: Job) -> bool:
        """Whether a task is the first of its job that has not ended, the one that it is at."""
        return next(other for other, of_other in self.jobs.items() if of_other.id == job.id) == key

    def _has_tasks(self, job: Job) -> bool:
        return any(other.id == job.id for other in self.jobs.values())

    def _begin(self, task: GridTask, job: Job, state: QueueState) -> None:
        self.grid.began(task)
        task.reason = f"job {job.id} on {state.reason}"
        if progress := self.files.progress(task.key):
            self.grid.progressed(task, progress)

    def _goes_on(self, task: GridTask, job: Job, state: QueueState, callback: GridCallback) -> None:
        self._places.began(task, callback)
        self._begin(task, job, state)
        if progress := self.files.progress(task.key):
            self._places.progressed(task, progress, callback)

    def _wait(self, task: GridTask, job: Job, state: QueueState, callback: GridCallback) -> None:
        if task.key in self._places:
            said = f"job {job.id} was queued again; it goes on from its checkpoint"
            self._places.ended(task, TaskResult("interrupted", said), callback)
        self.grid.queued(task, _words(job, state))

    def _refuse(self, task: GridTask, job: Job, state: QueueState, callback: GridCallback) -> None:
        """Take back a job that would wait for ever; the first reason after it is submitted need not be the last."""
        self._wait(task, job, state, callback)
        if self._has_settled(task.key):
            slurm_queue.cancel([job.id])
            asked = "see `scontrol show partition`, and ask for less with --set executor.KEY=VALUE"
            self._end(
                task, TaskResult("blocked", f"Slurm never begins its job {job.id}: {state.reason}; {asked}"), callback
            )

    def _end(self, task: GridTask, result: TaskResult, callback: GridCallback) -> None:
        self._places.ended(task, result, callback)
        self._drop(task)
        self.grid.ended(task, result)

    def _drop(self, task: GridTask) -> None:
        del self.jobs[task.key]
        self._places.forget(task.key)
        self._ended.pop(task.key, None)

    def _has_settled(self, key: str) -> bool:
        """Whether a job's end was first seen so long ago that its result would be here."""
        first_seen = self._ended.setdefault(key, time.monotonic())
        return time.monotonic() - first_seen >= SETTLING_SECONDS

    def _died(self, task: GridTask, job: Job, state: str, callback: GridCallback) -> None:
        """A job has ended, and its task not."""
        waits = any(self.grid.tasks[key].state != "done" for key in task.needs)
        if waits:  # Slurm ended it with what it needs, which is handed out again
            self._drop(task)
            self.grid.ended(task, TaskResult("interrupted"))
            return
        reason = self._why(job, state)
        if not reason and (self.files.result(job) or self._went_on(task)):  # so it comes to its end, however often
            self._attempts[task.key] = 0
        again = not reason and self._attempts[task.key] <= self.config.retries
        reason = reason or f"its job {job.id} ended as {state or 'unknown'}, attempt {job.attempt}; {self._output(job)}"
        self._end(task, TaskResult("interrupted" if again else "failed", reason), callback)

    def _went_on(self, task: GridTask) -> bool:
        """Whether a task was further than in any turn before."""
        progress = self.files.progress(task.key)
        steps = progress.done if progress and progress.phase == "train" else 0
        before, self._steps[task.key] = self._steps.get(task.key, 0), max(steps, self._steps.get(task.key, 0))
        return steps > before

    def _why(self, job: Job, state: str) -> str:
        """Why a task is not handed out again; "" where the machine is to blame, and it is."""
        if state == "CANCELLED":
            return f"its job {job.id} was cancelled; the same command submits it again"
        if state == "OUT_OF_MEMORY":
            return f"its job {job.id} ran out of memory; ask for more with --set executor.memory=32G"
        folder = Path(job.folder)
        if state == "FAILED" and not _log(job).exists():
            return f"its job {job.id} left no output in {folder}: do the nodes see that folder, under the same path?"
        if (folder / f"{job.id}_0_result.pkl").exists():  # of submitit: an error before or after the task
            return f"its job {job.id} failed; {self._output(job)}"
        return ""

    def _output(self, job: Job) -> str:
        """Where a job's output is, and its last line."""
        try:
            lines = _log(job).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return f"it left no output at {_log(job)}"
        own = [line for line in lines if line.strip() and not line.startswith(("srun:", "slurmstepd:"))]
        return f"its output is {_log(job)}" + (f", and ends with: {own[-1]}" if own else "")


def together(tasks: Iterable[GridTask], most: int) -> Iterator[Sequence[GridTask]]:
    """The tasks that one job carries out, job by job: runs that need the same, `most` at most.

    What others need, first stages and initial weights, is a job of its own: they wait for no more than that.
    """
    groups: dict[tuple[str, ...], list[GridTask]] = {}
    for task in tasks:
        if task.kind != "run":
            yield [task]
            continue
        groups.setdefault(task.needs, []).append(task)
        if len(groups[task.needs]) == most:
            yield groups.pop(task.needs)
    yield from groups.values()


def _log(job: Job) -> Path:
    """The output of a job, as submitit names it."""
    return Path(job.folder, f"{job.id}_0_log.out")


def _state_of(job: Job | None, queue: Mapping[str, QueueState]) -> QueueState | None:
    """Where a job stands; None where the queue has none of its number, or another's."""
    state = queue.get(job.id) if job else None
    return state if job and state and state.name == job.name else None


def _words(job: Job, state: QueueState) -> str:
    """Why a task waits that a job has."""
    if state.state in UNDER_WAY:
        return f"job {job.id} on {state.reason} is at another of its cells"
    return f"job {job.id} waits" + (f": {state.reason}" if state.reason not in ("", "None") else "")


def _complaint(error: Exception) -> str:
    """What sbatch said, of what submitit makes of it."""
    lines = [line.strip() for line in str(error).splitlines() if "sbatch: error" in line]
    return "; ".join(line.partition("sbatch: error:")[2].strip() for line in lines) or " ".join(str(error).split())
