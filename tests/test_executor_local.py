"""The local executor's budget: what runs may take together on this machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_executors import invoke, states
from test_grid import small

from ssldet.benchmark.executors import local, memory
from ssldet.benchmark.executors.local import Budget
from ssldet.benchmark.grid import Grid
from ssldet.contracts import GridCallback
from ssldet.errors import ConfigError

G = 1 << 30


@pytest.fixture
def idle_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that take up tasks and do nothing."""
    process: Any = SimpleNamespace(is_alive=lambda: True)
    pipe: Any = SimpleNamespace(send=lambda task: None)
    monkeypatch.setattr(local, "_start", lambda number: local._Worker(number, process, pipe))


def two_stages(results: Path, **fields: int) -> Grid:
    """A grid of which two tasks can begin at once."""
    grid = small(results)
    for task in grid.tasks.values():
        for name, value in fields.items():
            setattr(task, name, value)
    return grid


@pytest.mark.usefixtures("idle_workers")
@pytest.mark.parametrize(("budget", "running"), [(Budget(6 * G), 2), (Budget(5 * G), 1), (Budget(6 * G, cores=1), 1)])
def test_tasks_wait_for_what_others_hold(tmp_path: Path, budget: Budget, running: int) -> None:
    grid, workers = two_stages(tmp_path, memory_bytes=3 * G), []
    local._hand_out(grid, workers, 2, GridCallback(), budget)
    assert states(grid).count("running") == running and "blocked" not in states(grid)
    workers.clear()  # they have ended
    local._hand_out(grid, workers, 2, GridCallback(), budget)
    assert states(grid).count("running") == 2


@pytest.mark.usefixtures("idle_workers")
def test_a_small_task_goes_before_one_that_waits(tmp_path: Path) -> None:
    grid = two_stages(tmp_path, memory_bytes=3 * G)
    stage, _, small_stage, _ = grid.tasks.values()
    small_stage.memory_bytes = G
    workers: list[Any] = [SimpleNamespace(number=9, task=SimpleNamespace(memory_bytes=2 * G, cores=1))]
    local._hand_out(grid, workers, 2, GridCallback(), Budget(4 * G))
    assert (stage.state, small_stage.state) == ("to run", "running")


def test_what_can_never_fit_is_blocked_with_the_figures(tmp_path: Path) -> None:
    refused = invoke(tmp_path, "--only", "strategy=dual_guidance", "--set", "executor.memory=100M")
    assert refused.exit_code == 1 and "2 cells: 2 blocked" in refused.stdout
    assert "of memory, and runs may take 0.1G here" in refused.stdout and "--set executor.memory=32G" in refused.stdout
    wide = invoke(tmp_path, "--only", "strategy=dual_guidance", "--set", "executor.cores=1", "--threads", "2")
    assert wide.exit_code == 1 and "it takes 2 cores, and executor.cores allows 1" in wide.stdout


def test_amounts_of_memory_are_read_and_said() -> None:
    assert [memory.read_memory(text) for text in ("16G", "16GB", "512M", "1T")] == [16 * G, 16 * G, G // 2, 1024 * G]
    assert memory.in_words(1.5 * G) == "1.5G"
    assert memory.of_this_machine() > G // 2
    with pytest.raises(ConfigError, match=r"executor\.memory"):
        local_with("much")


def local_with(amount: str) -> Any:
    from ssldet.benchmark.executors import make_executor

    return make_executor("local", [f"executor.memory={amount}"])
