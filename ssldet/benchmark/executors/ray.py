"""Tasks on a Ray cluster, each a task of Ray.

Ray does what it can do: it finds a node for each task, begins first stages before what needs them, and begins a task
anew whose worker died. A keeper on the cluster owns the tasks, so that they go on without the command; what they came
to is in the results folder.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from ssldet.benchmark.executors import memory, ray_cluster
from ssldet.benchmark.executors.looking import Places, pause
from ssldet.benchmark.executors.ray_cluster import KeeperLink
from ssldet.benchmark.executors.ray_keeper import Errand, Standing
from ssldet.contracts import Executor, GridCallback, GridTask, Options, TaskGrid, TaskResult
from ssldet.errors import RequestError


class Ray(Executor):
    """Tasks on a running Ray cluster. They go on without the command: Ctrl-C or --detach leaves them alone."""

    outlives: ClassVar[bool] = True

    class Config(Options):
        """Where the cluster is, and what each task asks it for."""

        address: str | None = None
        """HOST:PORT of the cluster's head; None means RAY_ADDRESS, or the cluster that runs on this machine."""
        cpus: int = Field(1, ge=1)
        """CPU cores of a task; as many threads has a run whose preset leaves them open."""
        gpus: float = Field(0, ge=0)
        """GPUs of a task, or a share of one: 0.5 lets two tasks have one together."""
        memory: str | None = Field(None, pattern=memory.PATTERN)
        """Memory that a node must have free for a task, such as 16G; None means the estimate, with GPUs none."""
        resources: dict[str, float] = Field(default_factory=dict)
        """What else a node must have, as it was named when the node was started, such as {big: 1}."""
        retries: int = Field(3, ge=0)
        """How often Ray begins a task anew whose worker or node died."""
        poll_seconds: float = Field(2.0, gt=0)
        """Seconds between two looks."""

        @field_validator("gpus")
        @classmethod
        def _whole_or_a_share(cls, gpus: float) -> float:
            if gpus > 1 and gpus != int(gpus):
                raise ValueError("should be a whole number, or a share of one GPU")
            return gpus

    config: Config

    def check(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise RequestError('the ray executor needs Ray; pip install "ssldet[ray]"')
        ray_cluster.connect(self.config.address)

    def cores(self) -> int | None:
        return self.config.cpus

    def run(self, grid: TaskGrid, *, jobs: int, callback: GridCallback) -> bool:
        tasks = TasksOnRay(grid, self.config)
        with redirect_stdout(sys.stderr):  # Ray prints what becomes of workers; the output is for results
            while True:
                tasks.submit_open()
                tasks.look(callback)
                if tasks.are_over():
                    return True
                if not pause(self.config.poll_seconds, callback):
                    return False

    def submit(self, grid: TaskGrid) -> int:
        with redirect_stdout(sys.stderr):
            return TasksOnRay(grid, self.config).submit_open()

    def attach(self, grid: TaskGrid) -> None:
        TasksOnRay(grid, self.config).attach()

    def cancel(self, grid: TaskGrid) -> int:
        return TasksOnRay(grid, self.config).cancel()


class TasksOnRay:
    """The tasks of one grid on a cluster: which of them Ray has, and what becomes of them."""

    def __init__(self, grid: TaskGrid, config: Ray.Config) -> None:
        self.grid, self.config = grid, config
        self.results = Path(grid.results).absolute()
        self.keeper: KeeperLink | None = ray_cluster.keeper_of(self.results)
        self._handed_out: set[str] = set()
        self._places = Places()
        self._nodes: Sequence[Mapping[str, float]] | None = None

    def are_over(self) -> bool:
        """Whether Ray has nothing of the grid, and nothing is to be handed out."""
        return not self._handed_out and all(task.state != "to run" for task in self.grid.tasks.values())

    # ------------------------------------------------------------------------------------------------ submission

    def submit_open(self) -> int:
        """Hand out every task that is to run, what it needs before it; gives how many Ray did not have yet.

        Raises:
            RequestError: a node does not see the results folder, or Ray does not answer. Nothing is handed out then.
        """
        if all(task.state != "to run" for task in self.grid.tasks.values()):
            return 0
        if self._nodes is None:
            ray_cluster.check_nodes(self.results)
            self._nodes = ray_cluster.node_resources()
        self.keeper = self.keeper or ray_cluster.start_keeper(self.results)
        tasks = list(self.grid.tasks.values())
        return sum(self._submit(self.keeper, self._nodes, task) for task in tasks if task.state == "to run")

    def _submit(self, keeper: KeeperLink, nodes: Sequence[Mapping[str, float]], task: GridTask) -> bool:
        wanted = self._wanted(task)
        if refusal := refusal_of(wanted, nodes):
            self.grid.ended(task, TaskResult("blocked", refusal))
            return False
        options = {"name": task.title, "max_retries": self.config.retries, **_as_options(wanted)}
        new = keeper.submit(Errand(task.key, tuple(task.needs), pickle.dumps(task), options))
        self._handed_out.add(task.key)
        self.grid.queued(task, "Ray has it, and waits for what it needs or a free node")
        return new

    def _wanted(self, task: GridTask) -> dict[str, float]:
        """What a node must have for a task, by Ray's names."""
        c = self.config
        amount = memory.read_memory(c.memory) if c.memory else 0 if c.gpus else task.memory_bytes
        wanted = {"CPU": c.cpus, "GPU": c.gpus, "memory": amount, **c.resources}
        return {name: value for name, value in wanted.items() if value}

    # ---------------------------------------------------------------------------------------------- what becomes

    def attach(self) -> None:
        """Find the tasks that earlier commands handed out, and tell the grid of them. Raises RequestError."""
        standings = self.keeper.look() if self.keeper else {}
        for task in list(self.grid.tasks.values()):
            standing = standings.get(task.key)
            if standing is None or standing.result or task.state != "to run":
                continue
            self.grid.queued(task, "Ray has it, and waits for what it needs or a free node")
            if standing.where:
                self._begin(task, standing)

    def cancel(self) -> int:
        """Cancel what Ray has of the grid; gives how many tasks that were. Raises RequestError."""
        return self.keeper.cancel(list(self.grid.tasks)) if self.keeper else 0

    def look(self, callback: GridCallback) -> None:
        """Take in where all tasks stand. Raises RequestError."""
        standings = self.keeper.look() if self.keeper and self._handed_out else {}
        for task in [task for key, task in self.grid.tasks.items() if key in self._handed_out]:
            standing = standings.get(task.key)
            if task.state == "blocked":  # what it needs has failed
                self._handed_out.remove(task.key)
                self._places.forget(task.key)
            elif standing is None:  # its keeper died, and Ray started another one
                self._end(task, TaskResult("interrupted", "Ray lost it; it goes on from its checkpoint"), callback)
            elif standing.result:
                self._end(task, standing.result, callback)
            elif standing.where:
                self._goes_on(task, standing, callback)

    def _goes_on(self, task: GridTask, standing: Standing, callback: GridCallback) -> None:
        self._places.began(task, callback)
        self._begin(task, standing)
        if standing.progress:
            self._places.progressed(task, standing.progress, callback)

    def _begin(self, task: GridTask, standing: Standing) -> None:
        self.grid.began(task)
        task.reason = f"on {standing.where}" + (f", turn {standing.turns}" if standing.turns > 1 else "")
        if standing.progress:
            self.grid.progressed(task, standing.progress)

    def _end(self, task: GridTask, result: TaskResult, callback: GridCallback) -> None:
        self._places.ended(task, result, callback)
        self._handed_out.remove(task.key)
        self.grid.ended(task, result)


def refusal_of(wanted: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """Why a task would wait for ever; "" where some node has what it wants."""
    if any(all(node.get(name, 0) >= value for name, value in wanted.items()) for node in nodes):
        return ""
    largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
    return (
        f"no node of the Ray cluster has {_in_words(wanted)} together; the most that any has is {_in_words(largest)}; "
        "ask for less with --set executor.KEY=VALUE"
    )


def _in_words(resources: Mapping[str, float]) -> str:
    said = {name: memory.in_words(value) if name == "memory" else f"{value:g}" for name, value in resources.items()}
    return ", ".join(f"{name} {amount}" for name, amount in said.items())


def _as_options(wanted: Mapping[str, float]) -> dict[str, Any]:
    """The options of a remote function that ask for some resources."""
    named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    ours = {named[name]: value for name, value in wanted.items() if name in named}
    return {**ours, "resources": {name: value for name, value in wanted.items() if name not in named}}
