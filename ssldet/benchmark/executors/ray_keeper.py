"""What lives in a Ray cluster of a grid: the keeper of its tasks, which outlives the command, and the tasks themselves.

The keeper is a detached actor, one a results folder. It hands tasks to Ray and owns them, so that they go on when the
command that asked for them is gone. Ray does the rest: it begins a task when what it needs is there and a node is free,
and begins it again when its worker dies. Tasks tell the keeper how far they are, and any command asks it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssldet.contracts import TaskProgress, TaskResult

OURS = "SSLDET_"
"""How the names of the environment variables begin that go with a task."""


IDLE_SECONDS = 600.0
"""How long the keeper stays when nothing is under way and no command asks it."""


@dataclass(slots=True)
class Standing:
    """Where a task stands.

    Attributes:
        where: node and process that it began on last; "" while it waits.
        turns: how often it began.
        progress, result: how far it is, and how it ended; None before that.
    """

    where: str = ""
    turns: int = 0
    progress: TaskProgress | None = None
    result: TaskResult | None = None


@dataclass(frozen=True, slots=True)
class Errand:
    """A task on its way to a worker, and what it is to find there.

    Attributes:
        key: of the task; needs: of those that must be done before it.
        task: pickled, as the keeper does not read it, and need not import what reading it takes.
        folder: where the command was called: relative paths are meant from there.
        resources: options of the remote function (`num_cpus` and so on).
        variables: environment variables.
    """

    key: str
    needs: tuple[str, ...]
    task: bytes
    resources: Mapping[str, Any]
    folder: str = field(default_factory=os.getcwd)
    variables: Mapping[str, str] = field(
        default_factory=lambda: {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    )


class Keeper:
    """Hands tasks to Ray, hears how far they are, and remembers how they ended, until nobody asks any more."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}
        self._standings: dict[str, Standing] = {}
        self._cancelled: set[str] = set()
        self._lock = threading.Lock()
        self._asked = time.monotonic()
        threading.Thread(target=self._leave_when_idle, daemon=True).start()

    def submit(self, errand: Errand) -> bool:
        """Hand a task to Ray. False: Ray has it already, by an earlier command."""
        import ray

        self._is_asked()
        if errand.key in self._open:
            return False
        needed = [self._open[key] for key in errand.needs if key in self._open]
        self._cancelled.discard(errand.key)
        self._standings[errand.key] = Standing()
        task = ray.remote(begin).options(**errand.resources)
        self._open[errand.key] = task.remote(_myself(), errand, *needed)
        return True

    def look(self) -> dict[str, Standing]:
        """Where each task stands, by key."""
        self._is_asked()
        return self._standings

    def cancel(self, keys: Sequence[str]) -> int:
        """End tasks that have not ended, those under way with a checkpoint; gives how many were."""
        import ray

        self._is_asked()
        ended = [key for key in keys if key in self._open]
        self._cancelled.update(ended)
        for key in ended:
            ray.cancel(self._open[key], recursive=False)
        return len(ended)

    def began(self, key: str, where: str) -> None:
        """A worker has taken up a task."""
        self._standings[key].where = where
        self._standings[key].turns += 1

    def progressed(self, key: str, progress: TaskProgress) -> None:
        """A task is so far."""
        self._standings[key].progress = progress

    def _is_asked(self) -> None:
        self._asked = time.monotonic()
        self._take_results()

    def _take_results(self) -> None:
        import ray

        with self._lock:
            for key, reference in list(self._open.items()):
                if ray.wait([reference], timeout=0)[0]:
                    self._standings[key].result = self._result(key, reference)
                    del self._open[key]

    def _result(self, key: str, reference: Any) -> TaskResult:
        """How a task ended; one that was cancelled is not to be handed out again by who still waits for it."""
        result = result_of(reference)
        if key in self._cancelled and result.state == "interrupted":
            return TaskResult("failed", "it was cancelled; the same command hands it out again")
        return result

    def _leave_when_idle(self) -> None:
        import ray

        while self._open or time.monotonic() - self._asked < IDLE_SECONDS:
            time.sleep(IDLE_SECONDS / 10)
            self._take_results()
        ray.kill(_myself())


def _myself() -> Any:
    import ray

    return ray.get_runtime_context().current_actor


def result_of(reference: Any) -> TaskResult:
    """How a task ended that Ray has no more."""
    import ray
    from ray import exceptions

    try:
        return ray.get(reference)
    except exceptions.TaskCancelledError:
        return TaskResult("interrupted")
    except exceptions.OutOfMemoryError:
        return TaskResult("failed", "Ray ended it to free memory; ask for more with --set executor.memory=32G")
    except exceptions.WorkerCrashedError:
        reason = "its worker died, and did again whenever Ray began it anew: by a kill, or for want of memory"
        return TaskResult("failed", f"{reason}; --set executor.memory=32G asks for more")
    except exceptions.RayError as error:
        return TaskResult("failed", " ".join(str(error).split("\n\n")[0].split())[:500], str(error))


def begin(keeper: Any, errand: Errand, *needed: TaskResult) -> TaskResult:
    """What Ray calls in a worker, once all that the task needs has ended."""
    from ssldet.benchmark.executors.ray_task import carry_out  # brings torch along, which the keeper does without

    return carry_out(keeper, errand, needed)
