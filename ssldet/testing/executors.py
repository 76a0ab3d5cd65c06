"""What every executor keeps. Nothing is trained: whether tasks come to their end is for tests of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from ssldet.contracts import Executor, GridCallback, GridTask, TaskProgress, TaskResult
from ssldet.errors import RequestError
from ssldet.testing.base import ConfiguredContract, skip


class ExecutorContract(ConfiguredContract):
    """What every executor keeps. Subclass it as `class TestMine(ExecutorContract): plugin = Mine`."""

    plugin: ClassVar[type[Executor]]

    def test_it_is_ready_or_says_what_is_missing(self) -> None:
        """`check` raises nothing but RequestError, with words for a user."""
        try:
            self.executor().check()
        except RequestError as error:
            assert len(str(error).split()) > 3, f"{str(error)!r} does not say what is missing and what to do"

    def test_it_knows_its_cores(self) -> None:
        cores = self.executor().cores()
        assert cores is None or cores >= 1, f"cores() is {cores!r}, expected a number from 1 on or None"

    def test_a_grid_without_tasks_is_at_its_end(self) -> None:
        assert self.ready().run(EmptyGrid(), jobs=1, callback=GridCallback()) is True, (
            "run() did not say that a grid without tasks came to its end"
        )

    def test_looking_at_a_grid_without_tasks_changes_nothing(self) -> None:
        self.ready().attach(EmptyGrid())

    def test_what_outlives_the_command_can_be_handed_out_and_cancelled(self) -> None:
        """Where `outlives` is set, `submit` and `cancel` work; elsewhere they are refused."""
        executor = self.ready()
        if executor.outlives:
            assert executor.submit(EmptyGrid()) == 0, "submit() handed out tasks of a grid that has none"
            assert executor.cancel(EmptyGrid()) == 0, "cancel() ended tasks of a grid that has none"
            return
        for name in ("submit", "cancel"):
            try:
                getattr(executor, name)(EmptyGrid())
            except RequestError:
                continue
            raise AssertionError(f"{name}() is not refused; set outlives where tasks go on without the command")

    def executor(self) -> Executor:
        """The executor with the options of the tests."""
        return self.plugin(self.options())

    def ready(self) -> Executor:
        """The same; skips where it cannot carry out anything here."""
        executor = self.executor()
        try:
            executor.check()
        except RequestError as error:
            skip(str(error))
        return executor


class EmptyGrid:
    """A grid without tasks, in a results folder that is not there."""

    results = Path("no-results")
    tasks: ClassVar[Mapping[str, GridTask]] = {}

    def ready(self) -> Iterable[GridTask]:
        return ()

    def waits_for_others(self) -> bool:
        return False

    def queued(self, task: GridTask, reason: str = "") -> None:
        raise AssertionError("a task was queued that the grid does not have")

    def began(self, task: GridTask) -> None:
        raise AssertionError("a task began that the grid does not have")

    def progressed(self, task: GridTask, progress: TaskProgress) -> None:
        raise AssertionError("a task went on that the grid does not have")

    def ended(self, task: GridTask, result: TaskResult) -> None:
        raise AssertionError("a task ended that the grid does not have")
