"""`ssldet run`: train a detector, score it, leave a record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.options import (
    data_root,
    download,
    json_flag,
    loader_workers,
    plugin_option,
    preset_option,
    results_folder,
    run_settings,
    tracker_option,
    videos_option,
    weights_root,
)
from ssldet.cli.output import next_step, print_json, results_words, stdout_console

if TYPE_CHECKING:
    from torch import device

    from ssldet.data.batches import ClipOptions
    from ssldet.runs.estimate import Estimate
    from ssldet.runs.record import Record
    from ssldet.runs.runner import Plan

LONG_RUN_SECONDS = 6 * 3600


@click.command(
    "run",
    epilog="Example: ssldet run --strategy dual_guidance --dataset jhmdb --ratio 0.2 --preset nano --data-root data",
)
@plugin_option("strategy", "--strategy", "Training strategy.")
@plugin_option("dataset", "--dataset", "Data set.")
@click.option(
    "--ratio",
    type=float,
    help="Share of training videos that keep their labels, in (0, 1].  [default: the data set's own]",
)
@click.option("--split", type=int, help="Official split.  [default: 1]")
@videos_option("Use these videos only")
@plugin_option("backbone", "--backbone", "Network.  [default: the preset's]")
@click.option("--pretrained/--scratch", default=None, help="Start from published weights or from none.")
@weights_root
@download
@click.option("--seed", type=int, help="Seed of split, initial weights and all that is drawn.  [default: 0]")
@preset_option("Settings to start from: paper, lite, nano or smoke.  [default: paper]")
@click.option("--config", "file", type=click.Path(path_type=Path), help="YAML file of settings.")
@run_settings("One setting, such as train.lr=0.001 or strategy.o_th=0.5.")
@data_root
@results_folder
@click.option("--device", help="auto, cpu, cuda or cuda:N.  [default: auto]")
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    help="GPUs, or with --device cpu processes, that train together.  [default: 1, or what torchrun started]",
)
@click.option(
    "--threads",
    type=int,
    help="CPU threads of the network.  [default: the preset's, or OMP_NUM_THREADS, or all cores]",
)
@loader_workers
@click.option("--eval-on", type=click.Choice(["test", "val"]), help="Which videos are scored.  [default: test]")
@click.option("--val-fraction", type=float, help="Share of labelled videos kept for validation.")
@click.option("--skip-damaged", is_flag=True, default=None, help="Leave out videos that do not decode.")
@click.option("--keep-checkpoints", is_flag=True, default=None, help="Keep the training state of a finished run.")
@tracker_option
@click.option("--dry-run", is_flag=True, help="Show what would be done and what it would take.")
@click.option(
    "--profile",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show what N training steps spend their time on and write a torch trace of N; nothing else is left.",
)
@click.option("--verbose", is_flag=True, help="With --dry-run: every setting too, as YAML.")
@json_flag
def command(
    preset: str | None,
    file: Path | None,
    assignments: tuple[str, ...],
    dry_run: bool,
    profile: int | None,
    verbose: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train a detector semi-supervised, score it on the test videos, and leave a record.

    The same command again resumes an interrupted run; of a finished one it prints the record. With --json that is
    the whole record.
    """
    from ssldet.config import resolve
    from ssldet.runs.runner import plan

    planned = plan(resolve(flags, preset=preset, file=file, assignments=assignments))
    if dry_run:
        _show_plan(planned, as_json, verbose)
        return
    if profile:
        _show_profile(planned, profile, as_json)
        return
    if planned.record_path.exists() and _speaks():
        _say_that_it_is_done(planned)
    record = _execute(planned)
    if not _speaks():
        return
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        show_record(record, planned.record_path)
        _say_what_is_next(planned)


def _speaks() -> bool:
    """Whether this is not one of several processes of torchrun, or the first of them."""
    from ssldet.util.ranks import of_environment

    place = of_environment()
    return place is None or place.rank == 0


def _say_what_is_next(planned: Plan) -> None:
    place = results_words(planned.config.machine.results)
    next_step(
        f"`ssldet runs show {planned.id}{place} --videos` shows the worst videos, "
        "`ssldet compare` holds it against another run"
    )


def _say_that_it_is_done(planned: Plan) -> None:
    """A run's id does not hash code: say where its numbers are from, and how to have them made again."""
    from ssldet.runs.plugin_code import changed_plugins
    from ssldet.runs.provenance import changed_distributions
    from ssldet.runs.record import Record
    from ssldet.runs.rescoring import what_is_lost

    record = Record.read(planned.record_path)
    if record.status != "done":
        click.echo(f"run {planned.id} failed before and is tried again: {record.notes.get('error', '')}", err=True)
        return
    if lost := what_is_lost(record, planned.folder, f"{planned.id} --results {planned.config.machine.results}"):
        click.echo(f"run {planned.id} is done: {lost}", err=True)
        return
    changed = changed_distributions(record.provenance)
    made = f", by other versions of {', '.join(changed)}" if changed else ""
    if plugins := changed_plugins(record.provenance):
        made += f", by other code of {', '.join(plugins)}"
    again = (
        f"`ssldet runs rm {planned.id} --results {planned.config.machine.results}` and the same command make it again"
    )
    click.echo(f"run {planned.id} is done{made}; {again}, after a change of code say", err=True)


def _execute(planned: Plan) -> Record:
    from ssldet.cli.progress import ProgressReporter
    from ssldet.runs.runner import Interrupted, execute
    from ssldet.util.allocator import keep_freed_memory
    from ssldet.util.interrupts import graceful_interrupts

    keep_freed_memory()
    if not planned.record_path.exists() and _speaks():
        _warn_of_long_run(planned)
    with graceful_interrupts(_say_that_it_stops) as stopping, ProgressReporter(stopping) as reporter:
        try:
            return execute(planned, reporter)
        except Interrupted as stopped:
            click.echo(str(stopped), err=True)
            sys.exit(stopping.exit_code)


def _show_profile(planned: Plan, steps: int, as_json: bool) -> None:
    """Shares of a training step, and where the trace is."""
    from ssldet.cli.progress import ProgressReporter
    from ssldet.runs.runner import profile
    from ssldet.util.allocator import keep_freed_memory

    keep_freed_memory()
    with ProgressReporter(lambda: False) as reporter:
        profiled = profile(planned, steps, reporter)
    if as_json:
        print_json(profiled.as_dict())
        return
    per_step = profiled.total_seconds / steps
    click.echo(f"{'section':<18}{'ms a step':>10}{'share':>9}")
    for name, seconds in profiled.seconds.items():
        click.echo(f"{name:<18}{seconds / steps * 1e3:>10.1f}{profiled.share(name):>9.1%}")
    click.echo(f"{'all':<18}{per_step * 1e3:>10.1f}{1:>9.1%}   {profiled.clips / per_step:.0f} clips/s with gradients")
    click.echo(f"trace: {profiled.trace}")
    next_step("open the trace with https://ui.perfetto.dev or chrome://tracing; the same command without --profile")


def _say_that_it_stops() -> None:
    click.echo("stopping after this step; Ctrl-C, or another signal, stops at once", err=True)


def _warn_of_long_run(planned: Plan) -> None:
    """Say so before it starts, when this device would take many hours."""
    from ssldet.runs.estimate import estimate

    found = estimate(planned, quick=True)  # every run waits for it
    if found.total_seconds > LONG_RUN_SECONDS:
        click.echo(
            f"warning: this run would take {time_needed(found.total_seconds, planned.device)} on {planned.device}; "
            "--dry-run shows why, --preset nano takes minutes",
            err=True,
        )


def _show_plan(planned: Plan, as_json: bool, verbose: bool) -> None:
    from ssldet.runs.estimate import estimate

    found = estimate(planned)
    content = _plan_content(planned, found)
    if as_json:
        print_json(content)
        return
    for name, value in _plan_lines(planned, found, content).items():
        click.echo(f"{name}: {value}")
    if verbose:
        click.echo(f"\n{planned.config.to_yaml()}", nl=False)
    next_step("the same command without --dry-run" + ("" if verbose else "; --verbose adds every setting"))


def _plan_lines(planned: Plan, found: Estimate, content: dict[str, Any]) -> dict[str, str]:
    """What a reader of a plan looks for first."""
    experiment, machine = planned.config.experiment, planned.config.machine
    phases = ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in found.seconds.items())
    parameters = f"{found.parameters:,} parameters"
    if found.trained < found.parameters:
        parameters += f" ({found.trained:,} are trained)"
    return {
        "run": planned.id,
        "folder": content["folder"],
        "strategy": f"{experiment.strategy}, preset {machine.preset}, seed {experiment.seed}",
        "data": f"{experiment.dataset}, split {experiment.split}, {experiment.ratio:.0%} labelled",
        "videos": _line(content["videos"]),
        "network": f"{experiment.backbone}, {parameters}, weights {_line(content['weights'])}",
        "steps": f"{planned.steps} of {experiment.train.batch} labelled clips, {experiment.train.precision}",
        "device": f"{_devices(planned)}, threads {machine.threads or 'all'}",
        "estimate": f"{content['estimate']['time']}: {phases}",
        "space": f"{found.disk_bytes / 1e6:,.0f} MB of disk for {_stored_as(experiment.clip)}, "
        f"{found.memory_bytes / 1e6:,.0f} MB of memory for weights and their state",
    }


def _devices(planned: Plan) -> str:
    count = planned.config.machine.devices
    return str(planned.device) if count == 1 else f"{count} processes on {planned.device.type}"


def _stored_as(clip: ClipOptions) -> str:
    return "frames" if clip.jpeg_quality is None else f"frames (about, JPEG of quality {clip.jpeg_quality})"


def _plan_content(planned: Plan, found: Estimate) -> dict[str, Any]:
    return {
        "id": planned.id,
        "run": planned.id,  # the name of `id` before schema 2
        "folder": str(planned.folder),
        "config": planned.config.model_dump(mode="json"),
        "steps": planned.steps,
        "videos": {
            "labelled": len(planned.split.labelled),
            "unlabelled": len(planned.split.unlabelled),
            "validation": len(planned.split.validation),
            "set_aside": len(planned.split.set_aside),
            "evaluated": len(planned.evaluated),
        },
        "weights": {part: str(path) for part, path in planned.weights.items()} or "random",
        "estimate": {
            "time": time_needed(found.total_seconds, planned.device),
            "seconds": {phase: round(seconds, 1) for phase, seconds in found.seconds.items()},
            "disk_bytes": found.disk_bytes,
            "state_bytes": found.memory_bytes,
            "parameters": found.parameters,
            "trained": found.trained,
        },
    }


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_line(inner)}" for key, inner in value.items())
    return str(value)


def show_record(record: Record, path: Path) -> None:
    """A record's numbers in percent and seconds by phase, for people."""
    from rich.table import Table

    from ssldet.data.datasets import default_protocol

    title = "{strategy} on {dataset}, {ratio:.0%} labelled, seed {seed}".format(**record.config["experiment"])
    table = Table("percent", title=title, title_justify="left")
    rows = _rows(record)
    usual = default_protocol(str(record.config["experiment"]["dataset"]), _dataset_options(record))
    present = dict.fromkeys(protocol for values in rows.values() for protocol in values)
    protocols = sorted(present, key=lambda protocol: protocol != usual)  # that of the data set first
    for protocol in protocols:
        table.add_column(protocol, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(_percent(values.get(protocol)) for protocol in protocols))
    console = stdout_console()
    console.print(table)
    seconds = ", ".join(f"{phase} {duration(value)}" for phase, value in record.training.seconds.items())
    console.print(f"{seconds}; record: {path}", highlight=False, soft_wrap=True)


def _dataset_options(record: Record) -> dict[str, Any]:
    return record.config["experiment"].get("dataset_options") or {}


def _rows(record: Record) -> dict[str, dict[str, float | None]]:
    """ "V@0.5", else "metric name" -> protocol -> mean or number."""
    from ssldet.evaluation.results import column_titles

    rows: dict[str, dict[str, float | None]] = {}
    for metric, by_protocol in record.metrics.items():
        titles = column_titles(metric)
        for protocol, result in by_protocol.items():
            for key, value in result.numbers.items():
                name = titles.get(key, f"{metric}@{key}") if key in result.thresholds else f"{metric} {key}"
                rows.setdefault(name, {})[protocol] = value
    return rows


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def time_needed(seconds: float, device: device) -> str:
    """An estimate for people: "about 7 min of processor time; longer on a busy machine"."""
    clock = " of processor time; longer on a busy machine" if device.type == "cpu" else ""
    return f"about {duration(seconds)}{clock}"


def duration(seconds: float) -> str:
    """Seconds for people: "42 s", "7 min", "3.2 h", "12 days"."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if name != "h" else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.0f} days"
