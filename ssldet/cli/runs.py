"""`ssldet runs`: list, show and remove runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.options import json_flag, results_folders, yes_flag
from ssldet.cli.output import aligned, confirm_removal, print_json
from ssldet.cli.run_choice import (
    Filters,
    chosen_run,
    complete_runs,
    dataset_name,
    filter_options,
    is_running,
    places_of,
    runs_in,
    state,
)

if TYPE_CHECKING:
    from ssldet.runs.record import Record
    from ssldet.runs.store import RunEntry

HEADLINES = (
    ("V@0.5", (("video_map", "yowo", "0.5"),)),
    ("F@0.5", (("frame_map", "yowo", "0.5"), ("frame_map", "standard", "0.5"))),
)
"""Column of the list -> where its number stands in a record: metric, protocol, threshold; the first that is there."""

LOG_LINES = 5


@click.group(epilog="Example: ssldet runs list")
def command() -> None:
    """List, show and remove runs. RUN is the start of a run's id, or its folder."""


# ----------------------------------------------------------------------------------------------------- list


@command.command("list", epilog="Example: ssldet runs list --strategy dual_guidance --status done")
@filter_options
@results_folders
@json_flag
def list_runs(results: tuple[Path, ...], as_json: bool, **filters: Any) -> None:
    """List runs, the newest last; metrics in percent. V: video-mAP, F: frame-mAP."""
    found = runs_in(results)
    chosen = [entry for entry in found if Filters(**filters).accept(entry)]
    if as_json:
        print_json([summary(entry) for entry in chosen])
    elif chosen:
        click.echo(aligned([_HEADER, *(_row(summary(entry)) for entry in chosen)]))
    if not chosen:
        places = ", ".join(map(str, places_of(results)))
        hint = "" if found else "; `ssldet run` and `ssldet grid` make some, --results names another folder"
        click.echo(f"no such run in {places} ({len(found)} runs there){hint}", err=True)


_HEADER = (
    *("id", "status", "strategy", "dataset", "ratio", "seed", "split", "preset"),
    *(title for title, _ in HEADLINES),
    *("train", "date", "note"),
)


def summary(entry: RunEntry) -> dict[str, Any]:
    """What a list says of a run, as plain data; fractions and seconds."""
    experiment, record, status = entry.experiment, entry.record, state(entry)
    return {
        "id": entry.id,
        "status": status,
        "strategy": experiment.get("strategy"),
        "options": options_beside_preset(entry),
        "dataset": dataset_name(entry),
        **{name: experiment.get(name) for name in ("ratio", "seed", "split", "backbone", "pretrained")},
        "preset": entry.machine.get("preset"),
        "metrics": {title: headline(record, places) for title, places in HEADLINES} if record else {},
        "train_seconds": record.training.seconds.get("train") if record else None,
        "date": datetime.fromtimestamp(entry.changed).astimezone().isoformat(timespec="seconds"),
        "problem": "" if status == "running" else entry.problem,
        "folder": str(entry.folder),
    }


def _row(run: Mapping[str, Any]) -> tuple[str, ...]:
    from ssldet.cli.run import duration

    options = " ".join(f"{name}={value}" for name, value in run["options"].items())
    numbers = (run["metrics"].get(title) for title, _ in HEADLINES)
    seconds = run["train_seconds"]
    return (
        run["id"],
        run["status"],
        f"{run['strategy'] or '?'} {options}".rstrip(),
        run["dataset"] or "?",
        *("?" if run[name] is None else f"{run[name]}" for name in ("ratio", "seed", "split", "preset")),
        *("-" if number is None else f"{100 * number:.1f}" for number in numbers),
        "-" if seconds is None else duration(seconds),
        run["date"][:16].replace("T", " "),
        (run["problem"].splitlines() or [""])[0][:80],
    )


def headline(record: Record, places: Iterable[tuple[str, str, str]]) -> float | None:
    """The first of these numbers that a record has."""
    from ssldet.errors import RequestError

    for place in places:
        with suppress(RequestError):
            return record.value(*place)
    return None


def options_beside_preset(entry: RunEntry) -> dict[str, Any]:
    """The strategy's options that are not as the run's preset has them; all of them where that cannot be told."""
    options = entry.experiment.get("strategy_options") or {}
    strategy, dataset = (str(entry.experiment.get(name)) for name in ("strategy", "dataset"))
    usual = _usual_options(strategy, dataset, str(entry.machine.get("preset") or ""))
    return {name: value for name, value in options.items() if name not in usual or usual[name] != value}


@cache
def _usual_options(strategy: str, dataset: str, preset: str) -> Mapping[str, Any]:
    """What the strategy's options are under a preset; none when it, or the plugin, is no longer there."""
    from ssldet.config import resolve
    from ssldet.errors import SsldetError

    try:
        config = resolve({"strategy": strategy, "dataset": dataset, "ratio": 1.0}, preset=preset)
    except SsldetError:
        return {}
    return config.experiment.strategy_options


# ----------------------------------------------------------------------------------------------------- show


@command.command("show", epilog="Example: ssldet runs show 3f2a --verify")
@click.argument("name", metavar="RUN", shell_complete=complete_runs)
@click.option("--verify", is_flag=True, help="Compare the files with the hashes in the record; exit 1 if any differs.")
@results_folders
@json_flag
def show_run(name: str, verify: bool, results: tuple[Path, ...], as_json: bool) -> None:
    """Show the numbers of RUN, what it was made with, its files, and the end of its log."""
    entry = chosen_run(name, results)
    checked = check_files(entry) if verify and entry.record else {}
    if as_json:
        content: dict[str, Any] = summary(entry) | {"record": None, "log": read_tail(entry)}
        content |= {"record": entry.record.model_dump(mode="json")} if entry.record else {}
        print_json(content | ({"files": checked} if verify else {}))
    else:
        _show(entry, checked)
    if verify and (not entry.record or set(checked.values()) - {"whole"}):
        sys.exit(1)


def _show(entry: RunEntry, checked: Mapping[str, str]) -> None:
    from ssldet.cli.run import show_record
    from ssldet.runs import layout

    if entry.record and entry.record.metrics:
        show_record(entry.record, entry.folder / layout.RECORD)
    click.echo(aligned([("", ""), *((key, text) for key, text in _about(entry) if text)]).strip("\n"))
    if entry.record:
        files = [(name, digest[:16], checked.get(name, "")) for name, digest in entry.record.files.items()]
        click.echo("\n" + aligned([("file", "sha-256", "content"), *files]))
    if lines := read_tail(entry):
        click.echo("\n" + aligned(_log_table(lines)))


def _about(entry: RunEntry) -> list[tuple[str, str]]:
    run, record = summary(entry), entry.record
    rows = [
        ("run", f"{run['id']}, {run['status']}"),
        ("problem", run["problem"]),
        ("folder", run["folder"]),
        ("preset", str(run["preset"] or "")),
        ("options", ", ".join(f"{name}={value}" for name, value in run["options"].items())),
    ]
    if record is None:
        return rows
    training, split = record.training, record.split
    return [
        *rows,
        ("videos", f"{split.labelled} labelled, {split.unlabelled} unlabelled, {split.evaluated} evaluated"),
        (
            "steps",
            f"{training.steps}, gradient clips {training.gradient_clips}, teacher clips {training.teacher_clips}",
        ),
        ("device", f"{record.hardware.get('device')}: {record.hardware.get('device_name')}"),
        ("memory", f"{record.peak_memory_bytes / 1e9:.1f} GB"),
        ("versions", ", ".join(_versions(record.provenance))),
        *((f"note: {topic.replace('_', ' ')}", str(note)) for topic, note in record.notes.items() if topic != "error"),
    ]


def _versions(provenance: Mapping[str, Any]) -> list[str]:
    found = [f"python {provenance.get('python')}"]
    for name, origin in provenance.get("distributions", {}).items():
        commit = (
            f" ({origin['commit'][:10]}{', changed' if origin.get('dirty') else ''})" if origin.get("commit") else ""
        )
        found.append(f"{name} {origin.get('version')}{commit}")
    return found


def check_files(entry: RunEntry) -> dict[str, str]:
    """File of the record -> "whole", "absent" or "changed"."""
    from ssldet.util.files import file_hash

    assert entry.record is not None
    found = {}
    for name, digest in entry.record.files.items():
        path = entry.folder / name
        found[name] = "absent" if not path.is_file() else "whole" if file_hash(path) == digest else "changed"
    return found


def read_tail(entry: RunEntry) -> list[dict[str, Any]]:
    """The last lines of the run's log; none where there is no log."""
    from ssldet.runs import layout
    from ssldet.runs.log import read_log

    path = entry.folder / layout.LOG
    return read_log(path)[-LOG_LINES:] if path.is_file() else []


PSEUDO_LABELS = ("frame_coverage", "frame_precision", "boxes", "box_precision")


def _log_table(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The steps, each loss, and how good pseudo-labels were where there were any."""
    losses = list(dict.fromkeys(name for line in lines for name in line.get("losses", {})))
    rows = [("step", *losses, *(name.replace("_", " ") for name in PSEUDO_LABELS))]
    for line in lines:
        values = [line.get("losses", {}).get(name) for name in losses]
        values += [(line.get("pseudo_labels") or {}).get(name) for name in PSEUDO_LABELS]
        rows.append((str(line["step"]), *("" if value is None else f"{value:.3g}" for value in values)))
    return rows


# --------------------------------------------------------------------------------------------------- remove


@command.command("rm", epilog="Example: ssldet runs rm --status failed --dry-run")
@click.argument("names", metavar="[RUN]...", nargs=-1, shell_complete=complete_runs)
@filter_options
@results_folders
@yes_flag
@click.option("--dry-run", is_flag=True, help="Say what would be removed.")
@json_flag
def remove_runs(
    names: tuple[str, ...], results: tuple[Path, ...], yes: bool, dry_run: bool, as_json: bool, **filters: Any
) -> None:
    """Remove runs: those named, or all that the filters choose; never one that is being carried out."""
    from ssldet.runs.store import remove

    chosen = _to_remove(names, Filters(**filters), results)
    say = partial(click.echo, err=as_json or not dry_run)
    for entry in chosen:
        say(f"{'would remove' if dry_run else 'remove'} {entry.id} {entry.folder}")
    if chosen and not dry_run:
        confirm_removal(f"{len(chosen)} runs", yes)
    left = {entry.id: [] if dry_run else remove(entry) for entry in chosen}
    if as_json:
        runs = [{"id": entry.id, "folder": str(entry.folder), "left": left[entry.id]} for entry in chosen]
        print_json({"dry_run": dry_run, "removed": [] if dry_run else runs, "would_remove": runs if dry_run else []})
        return
    for entry in () if dry_run else chosen:
        rest = f"; {entry.folder} keeps {', '.join(left[entry.id])}, which no run wrote" if left[entry.id] else ""
        click.echo(f"removed {entry.id}{rest}")


def _to_remove(names: Sequence[str], filters: Filters, results: Sequence[Path]) -> list[RunEntry]:
    from ssldet.errors import RequestError

    if bool(names) == bool(filters):
        raise RequestError("name the runs to remove, or choose them by --status and the other filters: one of both")
    if names:
        named = {entry.folder: entry for entry in (chosen_run(name, results) for name in names)}
        if running := [entry.id for entry in named.values() if is_running(entry)]:
            raise RequestError(f"run {running[0]} is being carried out; stop it first. Nothing was removed")
        return list(named.values())
    found = [entry for entry in runs_in(results) if filters.accept(entry)]
    kept = [entry for entry in found if is_running(entry)]
    for entry in kept:
        click.echo(f"kept {entry.id}: it is being carried out", err=True)
    if not found:
        click.echo(f"no such run in {', '.join(map(str, places_of(results)))}", err=True)
    return [entry for entry in found if entry not in kept]
