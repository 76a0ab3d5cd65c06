"""What `ssldet grid` shows: the plan as a table on stdout, and one live view of all workers on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from ssldet.benchmark.grid import Grid
from ssldet.benchmark.tasks import STATES, Task, start
from ssldet.cli.run import duration, time_needed
from ssldet.contracts import GridCallback, GridTask, TaskProgress, TaskResult, TaskState
from ssldet.runs.planning import choose_device

SECONDS_BETWEEN_LINES = 60.0


class GridView(GridCallback):
    """Draws all workers and the whole on a terminal; elsewhere a line when a task ends, and now and then.

    `stopping` tells whether the grid should begin nothing more.
    """

    def __init__(self, grid: Grid, jobs: int, stopping: Callable[[], bool]) -> None:
        self.grid, self.jobs, self.stopping = grid, jobs, stopping
        self.console = Console(stderr=True)
        self._began = self._last = time.monotonic()
        self._estimated = grid.seconds_left()
        self._whole = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
        )
        self._workers = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = self._whole.add_task("tasks", total=grid.count_open(), note="")
        self._rows: dict[int, TaskID] = {}
        self._held: set[str] = set()
        self._live = Live(Group(self._workers, self._whole), console=self.console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def began(self, worker: int, task: GridTask) -> None:
        if worker not in self._rows:
            self._rows[worker] = self._workers.add_task("", total=1, note="")
        self._workers.reset(self._rows[worker], description=task.title, total=1, note="begins")

    def progressed(self, worker: int, task: GridTask, progress: TaskProgress) -> None:
        note = f"{progress.unit} ({progress.phase}) {progress.note}"
        self._workers.update(self._rows[worker], completed=progress.done, total=max(1, progress.total), note=note)
        if not self.console.is_terminal and time.monotonic() - self._last > SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self._line(f"{task.title}: {progress.phase} {progress.done}/{progress.total}; {self._left()}")

    def ended(self, worker: int, task: GridTask, result: TaskResult) -> None:
        self._workers.update(self._rows[worker], description="idle", completed=0, total=1, note="")
        if result.state == "held" and task.key in self._held:  # it is asked for again and again
            return
        self._held |= {task.key} if result.state == "held" else set()
        self._line(f"{result.state}: {task.title}" + (f": {result.reason}" if result.reason else ""))
        if result.details:
            self.console.print(Text(result.details.rstrip(), style="dim"))
        self._last = time.monotonic()

    def tick(self) -> None:
        total = len(self.grid.tasks)
        self._whole.update(self._bar, completed=total - self.grid.count_open(), total=total, note=self._left())

    def stop(self) -> bool:
        return self.stopping()

    def _left(self) -> str:
        """Time left: the estimate, corrected by how the time so far compares with what was estimated for it."""
        left, passed = self.grid.seconds_left(), time.monotonic() - self._began
        estimated = (self._estimated - left) / self.jobs
        pace = passed / estimated if estimated > 60 else 1.0
        return f"about {duration(left / self.jobs * pace)} left"

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def show_plan(grid: Grid, jobs: int, *, finished: bool = False) -> None:
    """Print every cell and what it needs with its state, and the sums, to stdout.

    Args:
        finished: whether the grid was run; it then says what is left, and how to see the tables.
    """
    console = Console()
    if not console.is_terminal:
        console.width = 120
    table = Table(box=None, pad_edge=False)
    for column in ("task", "data", "labels", "start", "split", "seed", "tables", "state", "run"):
        table.add_column(column, no_wrap=True)
    for task in grid.tasks.values():
        tables = ",".join(name.replace("figure", "Fig.") for name in task.tables)
        table.add_row(task.name, *_place(task), tables, _styled(task.state), task.run_id)
    console.print(table)
    for reason, titles in _by_reason(grid).items():
        console.print(f"{titles[0]}{_and_more(titles)}: {reason}", highlight=False, soft_wrap=True, markup=False)
    for line in _tuned(grid):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(_sums(grid), highlight=False, soft_wrap=True, markup=False)
    if grid.seconds_left():
        console.print(f"estimated with --jobs {jobs}: {time_left(grid, jobs)}", highlight=False)
    if finished and grid.seconds_left():
        console.print("the same command goes on from here", highlight=False)


def time_left(grid: Grid, jobs: int) -> str:
    """What is left of a grid with `jobs` runs at a time, on the device that its runs are asked to take."""
    device = choose_device(grid.request.settings.machine.get("device", "auto"))
    return time_needed(grid.seconds_left() / jobs, device)


def _place(task: Task) -> tuple[str, ...]:
    c = task.cell
    if not c:
        return ("",) * 5
    return c["dataset"], f"{c['ratio']:.0%}", start(c), str(c["split"]), str(c["seed"])


def _styled(state: TaskState) -> Text:
    styles = {"done": "green", "failed": "bold red", "blocked": "yellow"}
    return Text(state, style=styles.get(state, ""))


def _tuned(grid: Grid) -> Iterator[str]:
    """What a settings file gives each strategy of the plan."""
    if not (tuned := grid.request.settings.tuned):
        return
    yield f"settings tuned by {tuned.summary()}"
    for strategy in sorted({task.cell["strategy"] for task in grid.cells()}):
        yield f"  {strategy}: {', '.join(tuned.assignments_for(strategy)) or 'not tuned, as the preset has it'}"


def _by_reason(grid: Grid) -> dict[str, list[str]]:
    """Why tasks are blocked or have failed, and which."""
    found: dict[str, list[str]] = {}
    for task in grid.tasks.values():
        if task.reason:
            found.setdefault(f"{task.state}: {task.reason}", []).append(task.title)
    return found


def _and_more(titles: list[str]) -> str:
    return f" and {len(titles) - 1} more" if len(titles) > 1 else ""


def _sums(grid: Grid) -> str:
    parts = []
    for name, tasks in (
        ("cells", grid.cells()),
        ("first stages and initial weights", [t for t in grid.tasks.values() if t.kind != "run"]),
    ):
        counts = {state: sum(task.state == state for task in tasks) for state in STATES}
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        parts.append(f"{len(tasks)} {name}" + (f": {said}" if said else ""))
    return "; ".join(parts)
