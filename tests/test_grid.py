"""The plan of a grid, and running it: what is shared, blocked, left to do, and what a failure costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import QUICK

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.cells import DatasetChoice, Settings, parse_dataset_map, run_config
from ssldet.benchmark.executors.local import run_grid
from ssldet.benchmark.grid import Grid, GridRequest, plan_grid
from ssldet.benchmark.tasks import GridCallback, Task, TaskProgress, TaskResult
from ssldet.cli import main
from ssldet.cli.grid import _request, _table_command
from ssldet.cli.grid import command as command_of_grid
from ssldet.data.datasets import load_dataset
from ssldet.errors import UnknownName
from ssldet.runs.record import Record

MAP = "ucf24=synthetic:ucf24"
FEW = ("dataset.train_per_class=10", "dataset.test_per_class=1")
SETS = (*QUICK, *FEW, "train.steps=4", "train.checkpoint_every=2", "clip.size=32", "clip.frames=4")


def request(results: Path, tables: str = "6", **fields: Any) -> GridRequest:
    settings = Settings("smoke", parse_dataset_map(MAP), SETS, {"results": results, "threads": 1, "workers": 1})
    return GridRequest([benchmark.spec(name) for name in tables.split(",")], settings, **fields)


FEW_CELLS = {"ratio": frozenset({"0.1"}), "strategy": frozenset({"dual_guidance"})}
"""The two cells of Table 6 that are no controls."""


def small(results: Path, **fields: Any) -> Grid:
    """Two cells with a first stage each."""
    return plan_grid(request(results, only=FEW_CELLS, **fields))


def command(results: Path, *arguments: str) -> list[str]:
    asked = ["grid", "--preset", "smoke", "--dataset-map", MAP, "--results", str(results), "--threads", "1"]
    return [*asked, *(part for one in SETS for part in ("--set", one)), *arguments]


def invoke(results: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, command(results, *arguments))


# -------------------------------------------------------------------------------------------------- the plan


def test_the_papers_tables_have_44_cells_a_seed_and_32_controls(tmp_path: Path) -> None:
    settings = Settings("smoke", machine={"results": tmp_path, "data_root": tmp_path})
    grid = plan_grid(GridRequest([benchmark.spec(name) for name in "23456"], settings))
    cells = grid.cells()
    controls = [task for task in cells if task.cell["strategy"] == "supervised" and task.cell["options"]]
    assert (len(cells) - len(controls), len(controls)) == (44, 32)
    assert {task.state for task in cells} == {"blocked"}  # there is no data


def test_cells_share_first_stages_and_initial_weights(tmp_path: Path) -> None:
    grid = plan_grid(request(tmp_path, "2,5,6", only={"ratio": frozenset({"0.1"})}))
    # from scratch with boxes alone, with the frame head, with the temporal term; the others follow the weights
    kinds = Counter(task.kind for task in grid.tasks.values())
    assert kinds == {"first stage": 3, "pretraining": 1, "run": 17}
    guided = next(
        task for task in grid.cells() if task.cell["strategy"] == "dual_guidance" and not task.cell["options"]
    )
    assert guided.tables == ("2", "5", "6")
    assert all(task.state == "to run" and task.seconds > 0 for task in grid.tasks.values())


def test_seeds_optional_rows_and_further_strategies_add_cells(tmp_path: Path) -> None:
    assert len(small(tmp_path, seeds=(0, 1, 2)).cells()) == 6
    only = {"pretrained": frozenset({"false"}), "ratio": frozenset({"0.1", "1"})}
    assert len(plan_grid(request(tmp_path, "2", only=only)).cells()) == 7
    assert len(plan_grid(request(tmp_path, "2", only=only, extra=("readings",))).cells()) == 9
    more = plan_grid(request(tmp_path, "2", only=only, strategies=("fixmatch",)))
    assert Counter(task.state for task in more.cells()) == {"to run": 7}
    with pytest.raises(UnknownName, match="unknown strategy 'mean-teecher'; did you mean 'mean_teacher'"):
        plan_grid(request(tmp_path, "2", only=only, strategies=("fixmatch", "mean-teecher")))
    asked = request(tmp_path, "2", only=only)
    with pytest.raises(UnknownName, match="unknown backbone 'yowoo'; did you mean 'yowo'"):
        plan_grid(replace(asked, settings=replace(asked.settings, assignments=("backbone=yowoo",))))
    full = {"approach": frozenset({"Supervised, all labels"})}
    (cell,) = plan_grid(request(tmp_path, "2", only=full, extra=("fully_supervised",))).cells()
    assert cell.cell["ratio"] == 1


@pytest.mark.parametrize(
    ("preset", "asked", "environment", "threads"),
    [("smoke", [], {}, 1), ("smoke", ["--threads", "3"], {}, 3), ("paper", [], {"OMP_NUM_THREADS": "2"}, 2)],
)
def test_a_run_of_a_grid_has_the_threads_of_its_preset(
    preset: str, asked: list[str], environment: dict[str, str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a cell is the run that `ssldet run` makes."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    context = command_of_grid.make_context(
        "grid", ["--tables", "6", "--preset", preset, "--loader-workers", "2", *asked]
    )
    settings = _request(**{k: v for k, v in context.params.items() if k not in ("as_json", "dry_run")}).settings
    spec = benchmark.spec("6")
    config = run_config(benchmark.cell(spec, spec.rows[0], 0.1, split=1, seed=0), settings)
    assert config.machine.threads == threads
    assert config.machine.loader_workers == 2


def test_a_sweep_shares_the_cells_that_it_has_in_common_with_a_table(tmp_path: Path) -> None:
    settings = Settings("nano", parse_dataset_map("ucf24=synthetic:ucf24"), FEW, {"results": tmp_path})
    specs, only = [benchmark.spec("6"), benchmark.spec("figure4")], FEW_CELLS
    grid = plan_grid(GridRequest(specs, settings, only=only))
    shared = [task for task in grid.cells() if len(task.tables) > 1]
    assert [task.tables for task in shared] == [("6", "figure4")]  # F_th 0.8 and O_th 0.4 are what the paper uses
    assert len(grid.cells()) == 2 + 10 - 2


def test_what_is_missing_blocks_a_cell_and_no_other(tmp_path: Path) -> None:
    few = DatasetChoice("synthetic", {"flavour": "ucf24", "train_per_class": 10, "test_per_class": 1})
    settings = Settings("smoke", {"ucf24": few}, machine={"results": tmp_path, "data_root": tmp_path})
    only = {"ratio": frozenset({"0.1", "0.2", "0.3"})}
    grid = plan_grid(GridRequest([benchmark.spec("3"), benchmark.spec("6")], settings, only=only))
    states = Counter((task.cell["dataset"], task.cell["pretrained"], task.state) for task in grid.cells())
    assert states == {("jhmdb", False, "blocked"): 14, ("jhmdb", True, "blocked"): 14, ("ucf24", False, "to run"): 4}
    reasons = {task.cell["pretrained"]: task.reason for task in grid.cells() if task.state == "blocked"}
    assert "jhmdb" in reasons[False]
    assert "yowo_nano has no pretrained weights for jhmdb" in reasons[True]


def test_an_unreadable_record_is_never_written_over(tmp_path: Path) -> None:
    task = small(tmp_path).cells()[0]
    assert task.folder
    task.folder.mkdir(parents=True)
    for content in ("{", json.dumps({"schema_version": 99})):
        (task.folder / "record.json").write_text(content)
        again = small(tmp_path).tasks[task.key]
        assert again.state == "blocked" and "record" in again.reason


def test_the_grid_notes_how_its_tasks_go(tmp_path: Path) -> None:
    grid = small(tmp_path)
    stage, run = next(iter(grid.tasks.values())), grid.cells()[0]
    assert run.needs == (stage.key,) and run not in list(grid.ready())
    before, estimated = grid.count_open(), grid.seconds_left()
    grid.began(stage)
    grid.progressed(stage, TaskProgress("decode", 5, 10, "videos"))
    assert (stage.state, stage.progress, grid.count_open()) == ("running", 0.0, before)
    for done, share in ((2, 0.0), (3, 0.25), (6, 1.0)):  # 2 steps lay behind it when it began
        grid.progressed(stage, TaskProgress("train", done, 6, "steps"))
        assert stage.progress == share
    assert grid.seconds_left() == pytest.approx(estimated - stage.seconds)
    grid.ended(stage, TaskResult("interrupted"))
    assert stage.state == "to run" and stage in list(grid.ready())
    grid.ended(stage, TaskResult("done"))
    assert (stage.state, grid.count_open()) == ("done", before - 1) and run in list(grid.ready())
    grid.ended(run, TaskResult("failed", "no space left"))
    assert (run.state, run.reason, grid.is_done()) == ("failed", "no space left", False)


# ------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tables", "9"], "unknown table with cells to run '9'"),
        (["--figures", "5"], "unknown figure with cells to run '5' (known: 3, 4)"),
        (["--seeds", "0,x"], "whole numbers from 0"),
        (["--splits", "0"], "whole numbers from 1"),
        (["--dataset-map", "ucf24"], "NAME=NAME"),
        (["--dataset-map", "ucf24=synthetik"], "did you mean 'synthetic'"),
        (["--dataset-map", "ucf=synthetic"], "did you mean 'ucf24'"),
        (["--with", "everything"], "fully_supervised"),
        (["--only", "stratgy=supervised"], "did you mean 'strategy'"),
        (["--only", "ratio=0.77"], "no cell is asked for; ratio is one of 0.05, 0.1"),
        (["--preset", "smok"], "did you mean 'smoke'"),
        (["--preset", "smoke,nan"], "did you mean 'nano'"),
        (["--preset", "smoke,nano,lite"], "two: from scratch, and from weights"),
        (["--set", "train.stepz=1"], "did you mean 'train.steps'"),
    ],
)
def test_bad_requests_exit_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = invoke(tmp_path, "--tables", "6", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stdout == ""


def test_a_dry_run_shows_the_plan_and_does_nothing(tmp_path: Path) -> None:
    shown = invoke(tmp_path / "r", "--tables", "6", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "8 cells: 4 to run, 4 blocked" in shown.stdout and "estimated with --jobs 1: about" in shown.stdout
    assert "of processor time" in shown.stdout
    assert "the smallest ratio that works" in shown.stdout  # 5 % of so few videos
    listed = json.loads(invoke(tmp_path / "r", "--tables", "6", "--dry-run", "--json").stdout)
    assert listed["cells"] == {"to run": 4, "blocked": 4}
    assert Counter(task["kind"] for task in listed["tasks"]) == {"run": 8, "first stage": 2}
    assert not (tmp_path / "r").exists()


def test_a_grid_plans_runs_of_a_network_and_on_validation_videos(tmp_path: Path) -> None:
    options = ("--backbone", "yowo_lite", "--set", "backbone.width=4", "--eval-on", "val", "--set", "val_fraction=0.5")
    spec = benchmark.spec("6")
    cell = benchmark.cell(spec, spec.rows[0], 0.1, split=1, seed=0)
    chosen = run_config(cell, _request(1, **parsed("--tables", "6", *options)).settings).experiment
    assert (chosen.backbone, chosen.backbone_options["width"], chosen.eval_on) == ("yowo_lite", 4, "val")
    plain = run_config(cell, _request(1, **parsed("--tables", "6")).settings).experiment
    assert (plain.backbone, plain.eval_on) == ("yowo_nano", "test")


def parsed(*arguments: str) -> dict[str, Any]:
    """The options of `ssldet grid` as click reads them."""
    given = dict(command_of_grid.make_context("grid", [*arguments, "--preset", "smoke"]).params)
    return {name: value for name, value in given.items() if name not in ("jobs", "dry_run", "as_json")}


def test_the_table_that_a_grid_names_has_its_network_and_videos() -> None:
    options = ("--dataset", "synthetic", "--backbone", "yowo_lite", "--eval-on", "val")
    given = parsed(*options)
    said = _table_command(_request(1, **given), given)
    assert said == "ssldet table --dataset synthetic --preset smoke --backbone yowo_lite --eval-on val"


def test_a_grid_of_listed_videos_plans_runs_on_these(tmp_path: Path) -> None:
    dataset = load_dataset("synthetic", flavour="ucf24", train_per_class=10, test_per_class=1)
    listed = sorted(video.id for subset in ("train", "test") for video in dataset.videos(subset))[1:]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    asked = ("--tables", "6", "--only", "ratio=0.1", "--dry-run", "--json", "--videos")
    result = invoke(tmp_path / "r", *asked, str(tmp_path / "list.txt"))
    tasks = json.loads(result.stdout)["tasks"]
    assert {task["state"] for task in tasks} == {"to run"}, result.output
    whole = json.loads(invoke(tmp_path / "r", *asked[:-1]).stdout)["tasks"]
    assert not {task["run"] for task in tasks if task["run"]} & {task["run"] for task in whole}
    nobody = json.loads(invoke(tmp_path / "r", *asked, "nobody,").stdout)["tasks"]
    assert {task["state"] for task in nobody} == {"blocked"}
    assert "1 listed videos are not in synthetic, such as 'nobody'" in nobody[0]["reason"]


def test_a_grid_runs_in_two_workers_and_then_has_nothing_left_to_do(tmp_path: Path) -> None:
    """Pretrained rows: weights are made first, loaded for real, and shared."""
    asked = ["--tables", "2", "--only", "pretrained=true", "--only", "ratio=0.1", "--jobs", "2"]
    asked += ["--only", "approach=Supervised,FixMatch,Supervised + frame head"]
    done = invoke(tmp_path, *asked, "--json")
    assert done.exit_code == 0, done.output
    tasks = json.loads(done.stdout)["tasks"]
    assert Counter((task["kind"], task["state"]) for task in tasks) == {
        ("pretraining", "done"): 1,
        ("first stage", "done"): 2,
        ("run", "done"): 3,
    }
    records = [Record.read(path) for path in tmp_path.glob("*/record.json")]
    started = [r for r in records if r.config["experiment"]["pretrained"]]
    assert len(records) == 4 and len(started) == 3
    assert len({json.dumps(r.notes["weights"]) for r in started}) == 1
    assert started[0].notes["initial_weights"]["features"]["missing"] == []
    assert len({r.notes["first_stage"] for r in started}) == 2  # with the frame head, and without
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/record.json")}
    again = invoke(tmp_path, *asked)
    assert again.exit_code == 0
    assert "3 cells: 3 done" in again.stdout
    assert f"next: `ssldet table 2 --preset smoke --results {tmp_path}` shows the numbers" in again.stderr
    assert "next: " not in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/record.json")}


# ------------------------------------------------------------------------------------- failures and interruptions


class Listener(GridCallback):
    """Notes how tasks end; kills the worker that begins the `kill`-th task."""

    def __init__(self, kill: int = 0) -> None:
        self.kill, self.begun = kill, 0
        self.results: dict[str, TaskResult] = {}

    def began(self, worker: int, task: Task) -> None:
        self.begun += 1
        if self.begun == self.kill:
            from multiprocessing import active_children

            (victim,) = [p for p in active_children() if p.name == f"ssldet-worker-{worker}"]
            victim.kill()

    def ended(self, worker: int, task: Task, result: TaskResult) -> None:
        self.results[task.title] = result


def test_a_worker_that_dies_costs_its_task_and_what_needs_it(tmp_path: Path) -> None:
    grid, listener = small(tmp_path), Listener(kill=1)
    assert run_grid(grid, jobs=1, callback=listener)
    states = Counter((task.kind, task.state) for task in grid.tasks.values())
    assert states == {
        ("first stage", "failed"): 1,
        ("run", "blocked"): 1,
        ("first stage", "done"): 1,
        ("run", "done"): 1,
    }
    (failed,) = [task for task in grid.tasks.values() if task.state == "failed"]
    assert "SIGKILL" in failed.reason
    again = small(tmp_path)
    assert run_grid(again, jobs=1, callback=Listener())
    assert {task.state for task in again.tasks.values()} == {"done"}


def test_a_run_that_fails_leaves_the_rest_alone_and_is_tried_again(tmp_path: Path) -> None:
    """A folder in the way of one run's files."""
    grid = small(tmp_path)
    first, second = grid.cells()
    assert first.folder
    (first.folder / "weights.safetensors" / "in the way").mkdir(parents=True)
    assert run_grid(grid, jobs=1, callback=Listener())
    assert (first.state, second.state) == ("failed", "done")
    assert Record.read(first.folder / "record.json").status == "failed"
    shown = small(tmp_path).tasks[first.key]
    assert shown.state == "to run" and "failed before" in shown.reason
    (first.folder / "weights.safetensors" / "in the way").rmdir()
    (first.folder / "weights.safetensors").rmdir()
    again = small(tmp_path)
    run_grid(again, jobs=1, callback=Listener())
    assert {task.state for task in again.tasks.values()} == {"done"}


def numbers(results: Path) -> dict[str, Any]:
    """Run id -> metrics of every record."""
    found = [Record.read(path) for path in results.glob("*/record.json")]
    return {record.id: record.metrics for record in found if record.status == "done"}


def start(results: Path, *arguments: str) -> subprocess.Popen[str]:
    # a program that a shell starts in the background ignores Ctrl-C
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{hear}; from ssldet.cli import main; main()"
    program = [sys.executable, "-c", code, *command(results, *arguments)]
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for(results: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(results.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.05)


ASKED = ("--tables", "6", "--only", "ratio=0.1", "--only", "strategy=dual_guidance", "--jobs", "2")


def ends_as_a_whole_one(tmp_path: Path) -> None:
    """A grid in `killed` that was killed, and is now left alone, ends as one that never was."""
    for results in ("killed", "whole"):
        done = invoke(tmp_path / results, *ASKED)
        assert done.exit_code == 0, done.output
    assert len(numbers(tmp_path / "whole")) == 2
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    tables = [
        CliRunner().invoke(main, ["table", "6", "--format", "csv", "--results", str(tmp_path / results)]).stdout
        for results in ("killed", "whole")
    ]
    assert tables[0] == tables[1] and tables[0].count("\n") > 4


@pytest.mark.slow
def test_a_killed_grid_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Its workers outlive it by a step and must end by themselves: what they hold is waited for."""
    process = start(tmp_path / "killed", *ASKED)
    wait_for(tmp_path / "killed", "first_stages/*/checkpoint.safetensors")
    process.kill()
    process.communicate()
    ends_as_a_whole_one(tmp_path)


@pytest.mark.acceptance
def test_a_grid_killed_ten_times_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Every other time its workers are killed with it."""
    import random

    for turn in range(10):
        process = start(tmp_path / "killed", *ASKED)
        time.sleep(random.uniform(1, 20))
        (os.killpg if turn % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()
    ends_as_a_whole_one(tmp_path)


@pytest.mark.slow
def test_a_signal_to_a_run_leaves_a_checkpoint_and_its_own_exit_code(tmp_path: Path) -> None:
    """As a batch system sends it before it ends a job."""
    sets = [part for one in (*SETS, "train.steps=4000", "train.burn_in=0") for part in ("--set", one)]
    asked = ["--strategy", "supervised", "--dataset", "synthetic", "--preset", "smoke", "--threads", "1", *sets]
    process = subprocess.Popen(
        [sys.executable, "-m", "ssldet", "run", *asked, "--results", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path, "*/checkpoint.safetensors")
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1, errors
    assert "the same command resumes it" in errors


@pytest.mark.slow
def test_ctrl_c_leaves_what_can_be_gone_on_with(tmp_path: Path) -> None:
    """The signal reaches all processes of the group, as from a terminal."""
    process = start(tmp_path, *ASKED, "--set", "train.steps=4000")
    wait_for(tmp_path, "first_stages/*/checkpoint.safetensors")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopping" in output and "the same command goes on from here" in output
    assert list(tmp_path.glob("first_stages/*/checkpoint.safetensors"))


def test_a_worker_has_the_environment_of_its_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of an earlier grid in the same process, with which the server began that workers are forked from."""
    grid = small(tmp_path / "results")
    monkeypatch.setenv("SSLDET_CACHE", str(tmp_path / "cache"))
    task = next(iter(grid.tasks.values()))
    grid.tasks = {task.key: task}
    run_grid(grid, jobs=1, callback=Listener())
    assert task.state == "done", task.reason
    assert list((tmp_path / "cache").glob("frames/*"))
