"""`ssldet grid`: plan and run all cells of the paper's tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.options import (
    data_root,
    dataset_map,
    fixed_settings,
    json_flag,
    network_and_videos,
    optional_rows,
    plugin_option,
    preset_option,
    read_ratios,
    results_folder,
    run_settings,
    settings_file,
    several_runs,
    tracker_option,
    videos_option,
)
from ssldet.cli.output import next_step, results_words

if TYPE_CHECKING:
    from ssldet.benchmark.grid import Grid, GridRequest
    from ssldet.benchmark.spec import TableSpec
    from ssldet.contracts import Executor

TABLES = "2,3,4,5,6"


@click.command(
    "grid",
    epilog="Example: ssldet grid --tables 3 --only pretrained=false --preset nano --data-root data --jobs 2",
)
@click.option(
    "--tables", help=f"Tables whose cells are wanted; 7 and 8 are ours.  [default: {TABLES}, without --dataset]"
)
@click.option("--figures", default="", help="Figures whose cells are wanted too: 3, 4.")
@plugin_option("dataset", "--dataset", "Instead of the paper's tables: Supervised and each --strategy on these data.")
@click.option(
    "--ratio", "ratios", callback=read_ratios, help="With --dataset: label ratios.  [default: the data set's]"
)
@click.option("--pretrained", is_flag=True, help="With --dataset: start from published weights.")
@click.option("--seeds", default="0", show_default=True, help="Every cell is run with each of these seeds.")
@click.option("--splits", default="1", show_default=True, help="Official splits.")
@preset_option(
    "Settings of all runs: paper, lite, nano or smoke; or two, for runs from scratch and pretrained.  [default: paper]"
)
@dataset_map
@optional_rows("Optional rows that are wanted too")
@plugin_option("strategy", "--strategy", "Further strategies, beside Supervised in every table.", multiple=True)
@click.option("--only", multiple=True, metavar="FIELD=VALUE[,VALUE]", help="Leave out cells that differ.")
@network_and_videos("all runs")
@run_settings("One setting of all runs.")
@videos_option("Use these videos only")
@settings_file("File of `ssldet tune`: run each strategy with what was chosen for it.")
@data_root
@results_folder
@several_runs
@plugin_option(
    "executor",
    "--executor",
    "Where runs are carried out; its options: --set executor.KEY=VALUE.",
    default="local",
    show_default=True,
)
@tracker_option
@click.option("--dry-run", is_flag=True, help="Show what is done, to run, failed and blocked, and what it would take.")
@click.option("--detach", is_flag=True, help="Hand runs out and return, where the executor has a queue of its own.")
@click.option("--status", is_flag=True, help="Show where the runs stand, from the results folder and the queue.")
@click.option("--cancel", is_flag=True, help="End what the executor's queue has of this grid; what is done stays.")
@json_flag
def command(jobs: int, as_json: bool, **asked: Any) -> None:
    """Plan the distinct cells of the paper's tables, or of --dataset, and run what is left of them.

    First stages are trained once for all runs that share them. Cells whose data, weights or plugin are missing are
    blocked, with the reason; what fails is noted and the rest goes on. The same command again does what is left.

    With --executor slurm or ray every run is a job of the cluster, and the command waits for them: Ctrl-C leaves them
    there, and the same command waits again, from any machine that sees the results folder.

    Exit codes: 0 all done, 1 something failed or is blocked, 2 a bad request, 128 + its number after a signal
    (130 after Ctrl-C).
    """
    from ssldet.benchmark.executors.choice import make_executor, split_assignments
    from ssldet.benchmark.grid import plan_grid

    mode = _mode(asked)
    for_executor, asked["assignments"] = split_assignments(asked["assignments"])
    executor = make_executor(asked["executor"], for_executor)
    if mode != "dry_run":
        executor.check()
    request = _request(jobs, executor.cores(), **asked)
    grid = plan_grid(request, _progress)
    if mode:
        _show(grid, jobs, as_json, _DO[mode](executor, grid))
        return
    _warn_of_long_grid(grid, jobs)
    whole, exit_code = _run(grid, jobs, executor)
    if as_json:
        click.echo(_as_json(grid, jobs))
    else:
        from ssldet.cli.grid_view import show_plan

        show_plan(grid, jobs, finished=True)
        next_step(_table_command(request, asked) if asked["dataset"] else _paper_tables(grid, asked))
    sys.exit(_exit_code(grid) if whole else exit_code)


def _mode(asked: Mapping[str, Any]) -> str:
    """What is done instead of running the grid; "" where nothing is asked for. Raises RequestError."""
    from ssldet.errors import RequestError

    modes = [name for name in _DO if asked[name]]
    if len(modes) > 1:
        words = " and ".join(f"--{name.replace('_', '-')}" for name in modes)
        raise RequestError(f"{words} ask for different things; give one of them")
    return modes[0] if modes else ""


def _dry_run(executor: Executor, grid: Grid) -> str:
    return "the same command without --dry-run"


def _detach(executor: Executor, grid: Grid) -> str:
    count = executor.submit(grid)
    click.echo(f"handed out {count} tasks", err=True)
    return "the same command with --status shows where they stand, without --detach waits for them"


def _status(executor: Executor, grid: Grid) -> str:
    executor.attach(grid)
    grid.mark_claimed()
    return "the same command without --status runs what is left, and waits"


def _cancel(executor: Executor, grid: Grid) -> str:
    click.echo(f"cancelled {executor.cancel(grid)} tasks", err=True)
    return "the same command without --cancel runs what is left"


_DO: Mapping[str, Callable[[Executor, Grid], str]] = {
    "dry_run": _dry_run,
    "detach": _detach,
    "status": _status,
    "cancel": _cancel,
}
"""Option -> what it does instead of running the grid; gives what comes next."""


def _show(grid: Grid, jobs: int, as_json: bool, following: str) -> None:
    """Where the tasks stand, and what comes next."""
    from ssldet.cli.grid_view import show_plan

    if as_json:
        click.echo(_as_json(grid, jobs))
    else:
        show_plan(grid, jobs)
        next_step(following)


def _run(grid: Grid, jobs: int, executor: Executor) -> tuple[bool, int]:
    """Carry a grid out. Gives whether it came to its end, and the exit code where it did not."""
    from ssldet.cli.grid_view import GridView
    from ssldet.util.interrupts import graceful_interrupts

    announce = _say_that_they_go_on if executor.outlives else _say_that_it_stops
    with graceful_interrupts(announce) as stopping, GridView(grid, jobs, stopping) as view:
        return executor.run(grid, jobs=jobs, callback=view), stopping.exit_code


def _table_command(request: GridRequest, asked: Mapping[str, Any]) -> str:
    """The command that shows what a grid of a data set ran."""
    import shlex

    flags = {"--dataset": asked["dataset"], "--preset": request.settings.preset}
    given = ("backbone", "eval_on", "results", "settings")
    flags |= {f"--{name.replace('_', '-')}": str(asked[name]) for name in given if asked[name]}
    flags |= {"--splits": asked["splits"]} if asked["splits"] != "1" else {}
    words = [word for pair in flags.items() for word in pair]
    words += [word for assignment in asked["assignments"] for word in ("--set", assignment)]
    words += ["--videos", ",".join([*asked["videos"], ""])] if asked["videos"] else []
    return shlex.join(["ssldet", "table", *words])


def _paper_tables(grid: Grid, asked: Mapping[str, Any]) -> str:
    """The same of a grid of the paper's tables."""
    names = {name for task in grid.cells() for name in task.tables if name.isdecimal()}
    given = {"--preset": asked["preset"], "--backbone": asked["backbone"], "--eval-on": asked["eval_on"]}
    options = "".join(f" {option} {value}" for option, value in given.items() if value)
    return f"`ssldet table {' '.join(sorted(names))}{options}{results_words(asked['results'])}` shows the numbers"


def _warn_of_long_grid(grid: Grid, jobs: int) -> None:
    from ssldet.cli.grid_view import time_left
    from ssldet.cli.run import LONG_RUN_SECONDS

    if grid.seconds_left() / jobs > LONG_RUN_SECONDS:
        click.echo(f"warning: this grid would take {time_left(grid, jobs)}; --dry-run shows why", err=True)


def _exit_code(grid: Grid) -> int:
    return 0 if grid.is_done() else 1


def _request(jobs: int, cores: int | None = None, **asked: Any) -> GridRequest:
    from ssldet.benchmark.cells import Settings, parse_dataset_map
    from ssldet.benchmark.grid import GridRequest
    from ssldet.benchmark.tuned_settings import read_tuned
    from ssldet.config import DEFAULT_PRESET

    tuned = read_tuned(asked["settings"]) if asked["settings"] else None
    strategies = tuple(dict.fromkeys(name for text in asked["strategy"] for name in _words(text)))
    return GridRequest(
        specs=_specs(asked, strategies),
        settings=Settings(
            preset=asked["preset"] or (tuned.preset if tuned else DEFAULT_PRESET),
            dataset_map=parse_dataset_map(asked["dataset_map"] or ""),
            assignments=fixed_settings(asked["assignments"], asked["backbone"], asked["eval_on"]),
            videos=asked["videos"],
            tuned=tuned,
            **machine_settings(jobs, asked, cores),
        ),
        seeds=read_numbers("--seeds", asked["seeds"], least=0),
        splits=read_numbers("--splits", asked["splits"], least=1),
        extra=asked["extra"],
        strategies=() if asked["dataset"] else strategies,
        only=_filters(asked["only"]),
    )


def machine_settings(jobs: int, asked: Mapping[str, Any], cores: int | None = None) -> dict[str, Any]:
    """`machine` and `threads` of the settings of a grid of `jobs` runs at a time, out of a verb's options.

    Args:
        cores: of a run; None means a share of this machine's.
    """
    import os

    names = ("data_root", "results", "weights_root", "download", "device", "skip_damaged", "threads", "loader_workers")
    cores = cores or max(1, (os.cpu_count() or 1) // jobs)
    machine = {
        **{name: asked[name] for name in names},
        "tracker": asked.get("tracker"),
        "workers": asked["threads"] or cores,
    }
    given = {name: value for name, value in machine.items() if value is not None}
    return {"machine": given, "threads": _threads_of_environment() or cores}


def _threads_of_environment() -> int | None:
    """What OMP_NUM_THREADS says, which a run takes by itself."""
    import os

    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else None


def _specs(asked: Mapping[str, Any], strategies: Sequence[str]) -> list[TableSpec]:
    """The paper's tables and figures that are asked for, or the one of a data set. Raises RequestError, UnknownName."""
    from ssldet.benchmark.dataset_spec import dataset_spec, row_of
    from ssldet.errors import RequestError

    dataset, papers = asked["dataset"], ("tables", "figures", "dataset_map", "extra")
    if not dataset:
        if asked["ratios"] or asked["pretrained"]:
            what = "--ratio" if asked["ratios"] else "--pretrained"
            raise RequestError(f"{what} goes with --dataset; of the paper's tables, choose cells with --only")
        names = [*_words(asked["tables"] or TABLES), *(f"figure{number}" for number in _words(asked["figures"]))]
        return [_spec(name) for name in dict.fromkeys(names)]
    if mixed := [name for name in papers if asked[name]]:
        flag = "--with" if mixed[0] == "extra" else f"--{mixed[0].replace('_', '-')}"
        raise RequestError(f"--dataset asks for cells on {dataset}, and {flag} for the paper's; give one of them")
    pretrained = asked["pretrained"]
    rows = [row_of(strategy, pretrained=pretrained) for strategy in ("supervised", *strategies)]
    spec = dataset_spec(dataset, rows, asked["ratios"])
    return [spec.model_copy(update={"rows": tuple(row for row in spec.rows if row.pretrained == pretrained)})]


def _spec(name: str) -> TableSpec:
    """A table by number, or a figure's sweep. Raises UnknownName, which knows the others of its kind."""
    from ssldet.benchmark import spec as benchmark
    from ssldet.errors import UnknownName

    figure = name.startswith("figure")
    known = [other for other in benchmark.specs() if other.startswith("figure") == figure]
    if name not in known:
        kind, names = ("figure", [other.removeprefix("figure") for other in known]) if figure else ("table", known)
        raise UnknownName(f"{kind} with cells to run", name.removeprefix("figure"), names)
    return benchmark.spec(name)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def read_numbers(option: str, text: str, *, least: int) -> tuple[int, ...]:
    """Distinct whole numbers of a list with commas. Raises ConfigError."""
    from ssldet.errors import ConfigError

    words = _words(text)
    if not words or not all(word.isdecimal() and int(word) >= least for word in words):
        raise ConfigError(f"{option} {text!r}: expected whole numbers from {least} on with commas, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, words)))


def _filters(texts: tuple[str, ...]) -> dict[str, frozenset[str]]:
    from ssldet.errors import ConfigError
    from ssldet.util.settings import split_assignment

    wanted: dict[str, frozenset[str]] = {}
    for text in texts:
        name, values = split_assignment(text, "--only", "pretrained=false", "FIELD=VALUE")
        if not _words(values):
            raise ConfigError(f"--only {text!r}: expected a value after {name}=, such as pretrained=false")
        wanted[name] = frozenset(_words(values))
    return wanted


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rplanning cell {done + 1} of {total} " + ("\n" if done + 1 == total else ""), nl=False, err=True)


def _as_json(grid: Grid, jobs: int) -> str:
    return json.dumps(grid.as_json(jobs), indent=2)


def _say_that_they_go_on() -> None:
    click.echo(
        "leaving: what was handed out goes on; the same command waits for it again, with --status shows it, with "
        "--cancel ends it",
        err=True,
    )


def _say_that_it_stops() -> None:
    click.echo("stopping after the current steps; press again to stop at once", err=True)
