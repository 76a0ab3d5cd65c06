"""`ssldet tune`: settings chosen on validation videos, the same number of trials for every approach."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.options import (
    FOLDER,
    data_root,
    json_flag,
    plugin_option,
    preset_option,
    run_settings,
    several_runs,
    split_number,
    videos_option,
)
from ssldet.cli.output import next_step, print_json, stdout_console

if TYPE_CHECKING:
    from ssldet.benchmark.tuned_settings import TunedSettings
    from ssldet.benchmark.tuning import TuneRequest, Tuning

RESULTS = Path("results/tune")


@click.command(
    "tune",
    epilog="Example: ssldet tune --strategy dual_guidance --dataset jhmdb --preset nano --data-root data "
    "--try strategy.o_th=0.2,0.4 --try supervised:train.lr=0.0005",
)
@plugin_option("strategy", "--strategy", "Approach to tune; several are allowed.", multiple=True, required=True)
@plugin_option("dataset", "--dataset", "Data set.", required=True)
@click.option(
    "--try",
    "tries",
    multiple=True,
    required=True,
    metavar="[STRATEGY:]KEY=VALUE,...",
    help="Values to try, for every approach that has the option, or for one.",
)
@click.option("--budget", type=int, help="Draw this many trials for each approach.  [default: all]")
@click.option("--metric", help="Column to choose by.  [default: V@0.5; F@0.5 on multi-label data]")
@click.option("--ratio", type=float, help="Share of training videos that keep their labels.  [default: the data set's]")
@split_number
@click.option("--seeds", default="0", show_default=True, help="Every trial is run with each of these seeds.")
@click.option(
    "--val-fraction", type=float, default=0.3333, show_default=True, help="Share of labelled videos that is held out."
)
@preset_option("Settings of all trials: paper, lite, nano or smoke.  [default: paper]")
@run_settings("One setting of all trials.")
@videos_option("Use these videos only")
@data_root
@click.option("--results", type=FOLDER, default=RESULTS, show_default=True, help="Folder that runs are written to.")
@several_runs
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file to write.  [default: DATASET-PRESET.yaml in --results]",
)
@click.option("--dry-run", is_flag=True, help="Show the trials and what they would take.")
@json_flag
def command(jobs: int, out: Path | None, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Choose settings on validation videos, with the same number of trials for every approach.

    The supervised control is always among the approaches, and the preset's own settings among the trials. A trial is a
    run on the labelled videos without the validation part, which shares no recording with them; test videos are never
    scored. `ssldet grid --settings` and `ssldet table --settings` take the file that is written. The same command again
    does what is left.

    A trial that fails is never chosen; the file says why it did.

    Exit codes: 0 all done, 1 something failed or is blocked, 2 a bad request, 128 + its number after a signal
    (130 after Ctrl-C).
    """
    from ssldet.benchmark.executors.local import run_grid
    from ssldet.benchmark.tuned_settings import write_tuned
    from ssldet.benchmark.tuning import plan_tuning
    from ssldet.cli.grid_view import GridView, show_plan
    from ssldet.util.interrupts import graceful_interrupts

    request = _request(jobs, **asked)
    tuning = plan_tuning(request)
    if dry_run:
        _show_plan(tuning, jobs, as_json=as_json)
        return
    with graceful_interrupts(_say_that_it_stops) as stopping, GridView(tuning.grid, jobs, stopping) as view:
        whole = run_grid(tuning.grid, jobs=jobs, callback=view)
    if not whole or not tuning.is_over():
        show_plan(tuning.grid, jobs, finished=True)
        click.echo("no settings were chosen: not every trial is done", err=True)
        sys.exit(1 if whole else stopping.exit_code)
    tuned = tuning.outcome()
    path = out or asked["results"] / f"{tuned.dataset}-{tuned.preset}.yaml"
    write_tuned(tuned, path)
    if as_json:
        print_json({"file": str(path), **tuned.model_dump(mode="json")})
    else:
        _show(tuned, path)
        next_step(f"`ssldet grid --settings {path}` runs every approach with what was chosen for it")
    if not tuning.grid.is_done():
        sys.exit(1)


def _request(jobs: int, **asked: Any) -> TuneRequest:
    from ssldet.benchmark.cells import Settings
    from ssldet.benchmark.tuning import TuneRequest
    from ssldet.cli.grid import machine_settings, read_numbers
    from ssldet.config import DEFAULT_PRESET

    return TuneRequest(
        strategies=asked["strategy"],
        dataset=asked["dataset"],
        tries=asked["tries"],
        settings=Settings(
            preset=asked["preset"] or DEFAULT_PRESET,
            assignments=asked["assignments"],
            videos=asked["videos"],
            **machine_settings(jobs, asked),
        ),
        ratio=asked["ratio"],
        split=asked["split"],
        seeds=read_numbers("--seeds", asked["seeds"], least=0),
        val_fraction=asked["val_fraction"],
        metric=asked["metric"],
        budget=asked["budget"],
    )


def _show_plan(tuning: Tuning, jobs: int, *, as_json: bool) -> None:
    from ssldet.cli.grid_view import show_plan

    counts = {strategy: len(trials) for strategy, trials in tuning.trials.items()}
    validation = [part.model_dump() for part in tuning.validation]
    if as_json:
        print_json({"trials": counts, "validation": validation, **tuning.grid.as_json(jobs)})
        return
    show_plan(tuning.grid, jobs)
    for part in tuning.validation:
        click.echo(f"seed {part.seed}: {part.videos} validation videos of {part.groups} groups")
    click.echo("trials: " + ", ".join(f"{strategy} {count}" for strategy, count in counts.items()))
    next_step("the same command without --dry-run")


def _show(tuned: TunedSettings, path: Path) -> None:
    from rich.table import Table

    console = stdout_console()
    table = Table("approach", "settings", title=f"{tuned.metric}, percent, on validation videos", title_justify="left")
    for seed in tuned.seeds:
        table.add_column(f"seed {seed}", justify="right")
    table.add_column("mean", justify="right")
    table.add_column("")
    for strategy, approach in tuned.approaches.items():
        for trial in approach.tried:
            words = ", ".join(f"{key}={value}" for key, value in trial.settings.items()) or "as the preset has them"
            words += " (preset)" if trial.preset and trial.settings else ""
            numbers = ["" if number is None else f"{100 * number:.1f}" for number in (*trial.by_seed, trial.score)]
            chosen = "chosen" if trial.settings == approach.chosen else ""
            table.add_row(strategy, words, *numbers, "failed" if trial.failed else chosen)
    console.print(table)
    for line in (*_remarks(tuned), f"settings: {path}"):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _remarks(tuned: TunedSettings) -> list[str]:
    """Why trials failed, what the scores are of, and what their differences may be."""
    from ssldet.benchmark.tuned_settings import as_assignments

    lines = [
        f"{' '.join([strategy, *as_assignments(trial.settings)])} failed: {trial.failed}"
        for strategy, approach in tuned.approaches.items()
        for trial in approach.failures()
    ]
    lines += [f"seed {part.seed}: {part.videos} validation videos of {part.groups} groups" for part in tuned.validation]
    deviation = tuned.deviation()
    if deviation is None:
        lines.append("1 seed: how much of a difference between trials is noise was not measured")
    else:
        lines.append(f"standard deviation of a trial's score over {len(tuned.seeds)} seeds: {100 * deviation:.1f}")
    return [
        *lines,
        "scores on validation videos say nothing of test videos; compare approaches there, at these settings",
    ]


def _say_that_it_stops() -> None:
    click.echo("stopping after the current steps; press again to stop at once", err=True)
