"""What executors share that look at an engine of their own now and then: the time between looks, places of a view."""

from __future__ import annotations

import time

from ssldet.contracts import GridCallback, GridTask, TaskProgress, TaskResult

TICK_SECONDS = 0.5


def pause(seconds: float, callback: GridCallback) -> bool:
    """Pass the time until the next look. False: the callback asks to stop."""
    end = time.monotonic() + seconds
    while True:
        callback.tick()
        if callback.stop():
            return False
        left = end - time.monotonic()
        if left <= 0:
            return True
        time.sleep(min(TICK_SECONDS, left))


class Places:
    """Where a callback shows the tasks that are under way: each at the lowest place that is free."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._numbers

    def began(self, task: GridTask, callback: GridCallback) -> None:
        """Say, once, that a task is under way."""
        if task.key not in self._numbers:
            taken = set(self._numbers.values())
            self._numbers[task.key] = min(set(range(len(taken) + 1)) - taken)
            callback.began(self._numbers[task.key], task)

    def progressed(self, task: GridTask, progress: TaskProgress, callback: GridCallback) -> None:
        """Say how far a task is that is under way."""
        callback.progressed(self._numbers[task.key], task, progress)

    def ended(self, task: GridTask, result: TaskResult, callback: GridCallback) -> None:
        """Say how a task ended; one that ended between two looks was never seen to begin."""
        self.began(task, callback)
        callback.ended(self._numbers.pop(task.key), task, result)

    def forget(self, key: str) -> None:
        """Free the place of a task without a word."""
        self._numbers.pop(key, None)
