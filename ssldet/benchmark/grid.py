"""The plan of a grid: the distinct cells of the tables asked for, what they share, and what is left to do.

plan_grid(request)    opens data, finds what is done, blocked and to run
Grid.ready()          tasks that can begin now
Grid.queued(task), Grid.began(task), Grid.progressed(task, ...), Grid.ended(task, ...)
                      what an executor tells: nobody else changes the state of a task

A cell that starts from weights which another task of the grid makes has no run id before they are made; it is planned
when they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from ssldet import plugins
from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import Settings, run_config
from ssldet.benchmark.spec import Cell, Row, TableSpec
from ssldet.benchmark.tasks import Task
from ssldet.config import RunConfig, presets, resolve
from ssldet.contracts import GridTask, TaskProgress, TaskResult, TaskState
from ssldet.errors import ConfigError, PluginError, RequestError, SsldetError, UnknownName
from ssldet.runs import layout
from ssldet.runs.claims import owner_of
from ssldet.runs.estimate import Pace, memory_needed, pace, seconds_by_phase
from ssldet.runs.first_stage import first_stage
from ssldet.runs.planning import DatasetCache, Plan, plan
from ssldet.runs.record import Record
from ssldet.runs.rescoring import what_is_lost
from ssldet.util.files import content_hash
from ssldet.util.settings import read_assignment

OPEN: tuple[TaskState, ...] = ("to run", "queued", "running")
"""States of what is not at its end."""

SECONDS_BETWEEN_QUESTIONS = 5.0
"""How long a task that another command is at is left alone."""

_IN_WORDS = {"failed": "failed", "blocked": "is blocked"}

FILTERS = ("approach", "strategy", "dataset", "ratio", "pretrained", "split", "seed")


@dataclass(frozen=True)
class GridRequest:
    """What is asked for.

    Attributes:
        specs: the tables and sweeps.
        settings: preset, data sets, folders.
        seeds, splits: every cell is run with each.
        extra: names of optional rows that are wanted too ("fully_supervised").
        strategies: further strategies that get a row wherever Supervised has one.
        only: field -> values; cells that differ are left out.
    """

    specs: Sequence[TableSpec]
    settings: Settings
    seeds: Sequence[int] = (0,)
    splits: Sequence[int] = (1,)
    extra: Sequence[str] = ()
    strategies: Sequence[str] = ()
    only: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wanted:
    """A distinct cell: how a listing calls it, and who asks for it."""

    cell: Cell
    approach: str
    tables: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        c = self.cell
        return {
            "approach": self.approach,
            "strategy": c.strategy,
            "options": dict(c.options),
            "dataset": c.dataset,
            "ratio": c.ratio,
            "pretrained": c.pretrained,
            "split": c.split,
            "seed": c.seed,
        }


@dataclass
class Grid:
    """All tasks of a grid by key, in the order in which they are best done; where each stands is changed here alone."""

    request: GridRequest
    tasks: dict[str, Task] = field(default_factory=dict)
    datasets: DatasetCache = field(default_factory=DatasetCache)
    _paces: dict[str, Pace] = field(default_factory=dict)
    _decoded: set[str] = field(default_factory=set)
    _first_steps: dict[str, int] = field(default_factory=dict)
    _held: dict[str, float] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """The folder that its runs are written to."""
        return Path(self.request.settings.machine.get("results") or layout.RESULTS)

    def ready(self) -> Iterator[Task]:
        """Tasks that can begin: to run, and all that they need is done; those that others are at come now and then."""
        for task in self.tasks.values():
            begins = task.state == "to run" and self._held.get(task.key, 0.0) <= monotonic()
            if begins and all(self.tasks[key].state == "done" for key in task.needs):
                yield task

    def waits_for_others(self) -> bool:
        """Whether tasks that other commands are at will be ready again in a while."""
        return any(self.tasks[key].state == "to run" for key in self._held)

    def cells(self) -> list[Task]:
        """The runs of the tables' cells, without what is done on their behalf."""
        return [task for task in self.tasks.values() if task.kind == "run"]

    def seconds_left(self) -> float:
        """Estimated seconds of all that is to run, one after another."""
        open_tasks = (task for task in self.tasks.values() if task.state in OPEN)
        return sum(task.seconds * (1 - task.progress) for task in open_tasks)

    def count_open(self) -> int:
        """The number of tasks that are to run, queued or running."""
        return sum(task.state in OPEN for task in self.tasks.values())

    def is_done(self) -> bool:
        """Whether every task is done."""
        return all(task.state == "done" for task in self.tasks.values())

    def as_json(self, jobs: int) -> dict[str, Any]:
        """Every task, the number of cells by state, and the estimated seconds of what is left with `jobs` workers."""
        return {
            "cells": dict(Counter(task.state for task in self.cells())),
            "estimated_seconds": self.seconds_left() / jobs,
            "tasks": [task.as_json() for task in self.tasks.values()],
        }

    def mark_claimed(self) -> None:
        """Mark as running what other processes are at, by the claims that they hold in the results folder."""
        for task in self.tasks.values():
            if task.state == "to run" and task.folder and (owner := owner_of(task.folder)):
                self.began(task)
                task.reason = str(owner)

    def queued(self, task: GridTask, reason: str = "") -> None:
        """Mark a task as handed to a batch system, which waits for what `reason` says."""
        task.state, task.reason = "queued", reason

    def began(self, task: GridTask) -> None:
        """Mark a task as running."""
        task.state = "running"

    def progressed(self, task: GridTask, progress: TaskProgress) -> None:
        """Note how far a task is by its training, which takes nearly all of the time."""
        if progress.phase == "train":
            first = self._first_steps.setdefault(task.key, progress.done)  # a shared first stage lies behind it
            task.progress = (progress.done - first) / max(1, progress.total - first)

    def ended(self, task: GridTask, result: TaskResult) -> None:
        """Take in how a task ended: one that was interrupted is to run again."""
        if result.state == "done":
            self.finished(task)
        elif result.state == "interrupted":
            self.requeue(task)
        elif result.state == "held":
            self._held[task.key] = monotonic() + SECONDS_BETWEEN_QUESTIONS
            self.requeue(task)
            task.reason = result.reason
        else:
            self.failed(task, result.reason, result.state)

    def requeue(self, task: GridTask) -> None:
        """Mark a task as to run, which goes on from what it left."""
        task.state = "to run"

    def finished(self, task: GridTask) -> None:
        """Mark a task as done; plan further what waited for weights that it made."""
        task.state, task.reason = "done", ""
        self._held.pop(task.key, None)
        if task.kind == "pretraining":
            for waiting in [other for other in self.cells() if task.key in other.needs and not other.run_id]:
                self._plan(waiting)

    def failed(self, task: GridTask, reason: str, state: Literal["failed", "blocked"] = "failed") -> None:
        """Mark a task as failed, or as blocked before it began, and what needs it as blocked."""
        task.state, task.reason = state, reason
        self._held.pop(task.key, None)
        for other in self.tasks.values():
            if task.key in other.needs and other.state in ("to run", "queued"):
                other.state, other.reason = "blocked", f"{task.title} {_IN_WORDS[state]}: {reason}"

    def add(self, wanted: _Wanted) -> None:
        """Take in one cell, with the tasks that it needs."""
        fields = wanted.fields()
        if self.request.settings.tuned:
            fields["tuned"] = list(self.request.settings.tuned_for(wanted.cell.strategy))
        try:
            config = run_config(wanted.cell, self.request.settings)
        except (PluginError, UnknownName) as error:  # a plugin that is not installed, or broken
            key = content_hash(fields)
            task = Task("run", key, wanted.approach, None, (), wanted.tables, fields, "blocked", str(error))
            self.tasks[key] = task
            return
        self.add_run(config, wanted.approach, wanted.tables, fields)

    def add_run(self, config: RunConfig, name: str, tables: tuple[str, ...], fields: Mapping[str, Any]) -> Task:
        """Take in one run, with the tasks that it needs.

        Args:
            config: the whole of it.
            name, tables, fields: `name`, `tables` and `cell` of its task.
        """
        key = content_hash(config.experiment.identity())
        if known := self.tasks.get(key):  # two tables ask for it in different words
            known.tables = tuple(dict.fromkeys((*known.tables, *tables)))
            return known
        task = Task("run", key, name, config, (), tables, fields)
        self._plan(task)
        self.tasks[key] = task  # after what it needs: the order of the tasks is that in which they are best done
        return task

    def _plan(self, task: Task) -> None:
        """Find out where a run stands, and add the tasks that it needs."""
        assert task.config is not None
        try:
            if not self._weights_are_made(task):
                return
            planned = plan(task.config, self.datasets)
            task.run_id, task.folder = planned.id, planned.folder
            if planned.record_path.exists():
                self._read_record(task, Record.read(planned.record_path))
            if task.state == "to run":
                self._estimate(task, planned)
                self._add_first_stage(task, planned)
        except SsldetError as error:
            task.state, task.reason = "blocked", str(error)

    @staticmethod
    def _read_record(task: Task, record: Record) -> None:
        if record.status == "done":
            task.state = "done"
            task.reason = what_is_lost(record, task.folder) if task.folder else ""
        else:  # it is tried again; until then this is what there is to say
            task.reason = f"failed before: {record.notes.get('error', '')}"

    def _weights_are_made(self, task: Task) -> bool:
        """Point a run at the weights that the grid makes for it. False while they are still to be made."""
        assert task.config is not None
        experiment = task.config.experiment
        fields = task.config.build_backbone().pretraining(experiment.dataset) if experiment.pretrained else None
        if fields is None or task.config.machine.weights_root is not None:
            return True
        maker = self._add_pretraining(task.config, fields)
        root = maker.files[0].parent
        task.config = _with_machine(task.config, weights_root=root)
        if maker.state == "done":
            return True
        task.needs = (maker.key,)
        if maker.state in ("blocked", "failed"):
            task.state, task.reason = "blocked", f"{maker.title}: {maker.reason}"
        elif not task.config.build_backbone().frozen_parts():  # which no plan is made of before their weights are there
            scratch = task.config.experiment.model_copy(update={"pretrained": False})
            self._estimate(task, plan(task.config.model_copy(update={"experiment": scratch}), self.datasets))
        return False

    def _add_pretraining(self, config: RunConfig, fields: Mapping[str, Any]) -> Task:
        """The task that makes the initial weights of some runs; runs of one backbone under one preset share it."""
        wanted = {
            **{name: getattr(config.experiment, name) for name in ("backbone", "backbone_options")},
            **config.machine.model_dump(exclude={"preset", "weights_root"}),
            **fields,
        }
        made = resolve(wanted, preset=config.machine.preset, assignments=self.request.settings.all_assignments())
        key = content_hash(made.experiment.identity())
        if key in self.tasks:
            return self.tasks[key]
        names = config.build_backbone().pretrained_files(config.experiment.dataset).values()
        title = f"pretraining of {config.experiment.backbone} on {made.experiment.dataset}"
        task = Task("pretraining", key, title, made)
        try:
            planned = plan(made, self.datasets)
            task.run_id, task.folder = planned.id, planned.folder
            task.files = tuple(made.machine.results / layout.PRETRAINED / planned.id / name for name in names)
            self._estimate(task, planned)
            if planned.record_path.exists():
                self._read_record(task, Record.read(planned.record_path))
            if task.state == "done" and not all(file.is_file() for file in task.files):
                task.state = "to run"  # the run is there, the weights are to be put in their place
        except SsldetError as error:
            task.state, task.reason = "blocked", str(error)
            task.files = tuple(made.machine.results / layout.PRETRAINED / "unknown" / name for name in names)
        self.tasks[key] = task
        return task

    def _add_first_stage(self, task: Task, planned: Plan) -> None:
        stage = first_stage(planned)
        if stage is None or stage.is_done():
            return
        if stage.key not in self.tasks:
            parts = ["boxes", *(["frames"] if planned.needs.frame_head else [])]
            parts += ["temporal"] if planned.needs.temporal else []
            name = f"first stage: {', '.join(parts)}"
            shared = Task("first stage", stage.key, name, task.config, (), task.tables, folder=stage.folder)
            shared.cell = {name: task.cell[name] for name in ("dataset", "ratio", "pretrained", "split", "seed")}
            shared.seconds = seconds_by_phase(planned, self._pace(planned))["first_stage"]
            shared.memory_bytes = task.memory_bytes
            self.tasks[stage.key] = shared
        task.needs = (*task.needs, stage.key)

    def _estimate(self, task: Task, planned: Plan) -> None:
        """Note what a run takes: seconds, without its first stage, and memory."""
        task.memory_bytes = memory_needed(planned, self._pace(planned))
        phases = seconds_by_phase(planned, self._pace(planned))
        del phases["first_stage"]
        if (data := planned.dataset.fingerprint()) in self._decoded:  # by the first run on these data
            del phases["decode"]
        self._decoded.add(data)
        task.seconds = sum(phases.values())

    def _pace(self, planned: Plan) -> Pace:
        e = planned.config.experiment
        network = [e.backbone, e.backbone_options, e.pretrained, e.clip, e.views]
        key = content_hash([*network, e.train.precision, e.train.bn_batch, str(planned.device)])
        if key not in self._paces:
            self._paces[key] = pace(planned)
        return self._paces[key]


def plan_grid(request: GridRequest, progress: Callable[[int, int], None] = lambda done, total: None) -> Grid:
    """The tasks of a request and where each stands.

    Args:
        progress: called with (cells planned, cells in all).

    Raises:
        RequestError: nothing is asked for, or by names or settings that do not exist.
    """
    check_presets(request.settings)
    _check_dataset_map(request.settings)
    _check_plugins(request)
    wanted = list(_distinct(_cells(request)))
    if not wanted:
        raise RequestError(f"no cell is asked for; {_what_there_is(request)}")
    grid = Grid(request)
    for done, item in enumerate(wanted):
        progress(done, len(wanted))
        grid.add(item)
    return grid


def _cells(request: GridRequest) -> Iterator[tuple[Cell, str, str]]:
    """Every cell of every table with its approach and table, those that several ask for several times."""
    _check_extra(request)
    for table in request.specs:
        for row in (*table.rows, *_rows_of(table, request.strategies)):
            if row.strategy is None or row.planned not in ("always", *request.extra):
                continue
            for ratio in table.ratios_of(row):
                for split in request.splits:
                    for seed in request.seeds:
                        cell = benchmark.cell(table, row, ratio, split=split, seed=seed)
                        if _is_asked_for(_Wanted(cell, row.approach, ()).fields(), request.only):
                            yield cell, row.approach, table.name


def _what_there_is(request: GridRequest) -> str:
    """What each filter of a request could have been."""
    every = [_Wanted(*part[:2], ()).fields() for part in _cells(replace(request, only={}))]
    known = {name: sorted({_as_text(fields[name]) for fields in every}) for name in request.only}
    return "; ".join(f"{name} is one of {', '.join(values)}" for name, values in known.items()) or "no row is planned"


def _rows_of(table: TableSpec, strategies: Sequence[str]) -> list[Row]:
    """A row for each further strategy beside every row of Supervised."""
    places = dict.fromkeys(row.pretrained for row in table.rows if row.strategy == "supervised" and not row.options)
    return [Row(approach=name, pretrained=place, strategy=name) for name in strategies for place in places]


def _check_extra(request: GridRequest) -> None:
    for name in request.extra:
        if name not in benchmark.optional_rows():
            raise UnknownName("optional row", name, benchmark.optional_rows())
    for name in request.only:
        if name not in FILTERS:
            raise UnknownName("filter", name, FILTERS)


def check_presets(settings: Settings) -> None:
    """Raises UnknownName of a preset that there is not, and ConfigError of a third one."""
    names = settings.preset.split(",")
    if len(names) > 2:
        raise ConfigError(f"presets {settings.preset!r}: one for all runs, or two: from scratch, and from weights")
    for name in names:
        if name not in presets():
            raise UnknownName("preset", name, presets())


def _check_dataset_map(settings: Settings) -> None:
    papers = {spec.dataset for spec in benchmark.specs().values()}
    for paper, chosen in settings.dataset_map.items():
        if paper not in papers:
            raise UnknownName("data set of the paper", paper, papers)
        if chosen.name not in plugins.names("dataset"):
            raise UnknownName("dataset", chosen.name, plugins.names("dataset"))


def _check_plugins(request: GridRequest) -> None:
    """What the request itself names must be installed. (Rows of a table that are not are blocked, and only they.)"""
    assigned = (read_assignment(text, "backbone=yowo") for text in request.settings.assignments)
    named = {"strategy": request.strategies, "backbone": [value for key, value in assigned if key == "backbone"]}
    for kind, names in named.items():
        for name in names:
            if name not in plugins.names(kind):
                raise UnknownName(kind, str(name), plugins.names(kind))


def _is_asked_for(fields: Mapping[str, Any], only: Mapping[str, frozenset[str]]) -> bool:
    return all(_as_text(fields[name]) in values for name, values in only.items())


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _distinct(cells: Iterable[tuple[Cell, str, str]]) -> Iterator[_Wanted]:
    """Each cell once, with all the tables that ask for it."""
    found: dict[str, _Wanted] = {}
    for cell, approach, table in cells:
        key = content_hash(cell)
        before = found.get(key)
        if before is None:
            found[key] = _Wanted(cell, approach, (table,))
        elif table not in before.tables:
            found[key] = _Wanted(cell, before.approach, (*before.tables, table))
    yield from found.values()


def _with_machine(config: RunConfig, **fields: Path) -> RunConfig:
    return config.model_copy(update={"machine": config.machine.model_copy(update=fields)})
