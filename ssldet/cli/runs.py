"""`ssldet runs`: list, show, watch, merge, verify, export, pack and remove runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssldet.cli.curve_view import curve_rows
from ssldet.cli.external_view import list_of, show_external
from ssldet.cli.options import data_root, json_flag, results_folder, results_folders, yes_flag
from ssldet.cli.output import aligned, confirm_removal, next_step, print_json
from ssldet.cli.run_choice import (
    chosen_external,
    chosen_run,
    complete_runs,
    externals_in,
    filter_options,
    places_of,
    runs_in,
)
from ssldet.cli.runs_watch import watch_run
from ssldet.runs.filters import RunFilter

if TYPE_CHECKING:
    from ssldet.runs.external import External
    from ssldet.runs.merging import Merged
    from ssldet.runs.store import RunEntry


@click.group(epilog="Example: ssldet runs list")
def command() -> None:
    """List, show, watch, merge, verify, export, pack and remove runs.

    RUN is the start of a run's id, or its folder; or the name of others' numbers.
    """


command.add_command(watch_run)


# ----------------------------------------------------------------------------------------------------- list


@command.command("list", epilog="Example: ssldet runs list --strategy dual_guidance --status done")
@filter_options
@results_folders
@json_flag
def list_runs(results: tuple[Path, ...], as_json: bool, **filters: Any) -> None:
    """List runs, the newest last; metrics in percent. V: video-mAP, F: frame-mAP. What all runs have is said above.

    The date is the record's; with ~ that of the newest file, where the record has none. Below stand others' numbers
    (`ssldet evaluate --record`), as external; --json has them with the status "external".
    """
    from ssldet.runs.listing import external_summary, summary

    found, asked = runs_in(results), RunFilter(**filters)
    chosen = [entry for entry in found if asked.accept(entry)]
    externals = [external_summary(each) for each in externals_in(results) if asked.accept_external(each)]
    if as_json:
        print_json([*(summary(entry) for entry in chosen), *externals])
    elif chosen or externals:
        if chosen:
            _list([summary(entry) for entry in chosen])
        if externals:
            click.echo(("\n" if chosen else "") + list_of(externals))
        next_step("`ssldet runs show RUN` shows one, `ssldet compare A B` two, `ssldet table` all")
    if not chosen and not externals:
        places = ", ".join(map(str, places_of(results)))
        hint = "" if found else "; `ssldet run` and `ssldet grid` make some, --results names another folder"
        click.echo(f"no such run in {places} ({len(found)} runs there){hint}", err=True)


def _list(runs: Sequence[Mapping[str, Any]]) -> None:
    """A line for each run; of several, the settings that all of them have stand above them, once."""
    rows = [_header(), *map(_row, runs)]
    columns = list(zip(*rows, strict=True))
    shared = [column for column in columns[2:_SETTINGS] if len(runs) > 1 and len(set(column[1:])) == 1]
    if shared:
        click.echo("all: " + ", ".join(f"{title} {value}" for title, value, *_ in shared))
    click.echo(aligned(list(zip(*(column for column in columns if column not in shared), strict=True))))


_FIELDS = ("ratio", "seed", "split", "preset", "backbone", "eval_on", "protocol")
_SETTINGS = 5 + len(_FIELDS)
"""Columns from the start of a line that say what was run, id and status among them."""


def _header() -> tuple[str, ...]:
    from ssldet.runs.listing import HEADLINES

    titles = (name.replace("_", " ") for name in _FIELDS)
    return ("id", "status", "strategy", "dataset", "data", *titles, *HEADLINES, "train", "date", "note")


def _row(run: Mapping[str, Any]) -> tuple[str, ...]:
    from ssldet.cli.run import duration
    from ssldet.runs.listing import HEADLINES

    options = " ".join(f"{name}={value}" for name, value in run["options"].items())
    numbers = (run["metrics"].get(title) for title in HEADLINES)
    seconds = run["train_seconds"]
    return (
        run["id"],
        run["status"],
        f"{run['strategy'] or '?'} {options}".rstrip(),
        run["dataset"] or "?",
        (run["data_fingerprint"] or "-")[:8],
        *("?" if run[name] is None else f"{run[name]}" for name in _FIELDS),
        *("-" if number is None else f"{100 * number:.1f}" for number in numbers),
        "-" if seconds is None else duration(seconds),
        ("" if run["date_from"] == "record" else "~") + run["date"][:16].replace("T", " "),
        (run["problem"].splitlines() or [""])[0][:80],
    )


# ----------------------------------------------------------------------------------------------------- show


@command.command("show", epilog="Example: ssldet runs show 3f2a --verify")
@click.argument("name", metavar="RUN", shell_complete=complete_runs)
@click.option("--verify", is_flag=True, help="Compare the files with the hashes in the record; exit 1 if any differs.")
@click.option("--videos", "by_video", is_flag=True, help="Score video by video, the worst first, with kinds of error.")
@data_root
@results_folders
@json_flag
def show_run(
    name: str, verify: bool, by_video: bool, data_root: Path | None, results: tuple[Path, ...], as_json: bool
) -> None:
    """Show the numbers of RUN, what it was made with, its files, and its log: curves over all of it, and its end.

    Curves: loss terms, pseudo-labels, and with train.eval_every scores on the validation part; --json has the series.
    """
    from ssldet.runs.curves import as_json as curves_as_json
    from ssldet.runs.listing import check_files, log_curves, log_tail, summary

    if external := chosen_external(name, results):
        show_external(external, verify=verify, by_video=by_video, as_json=as_json)
        return
    entry = chosen_run(name, results)
    if by_video:
        _show_videos(entry, data_root, as_json)
        return
    checked = check_files(entry) if verify and entry.record else {}
    if as_json:
        content: dict[str, Any] = summary(entry) | {"record": None, "log": log_tail(entry)}
        content["curves"] = curves_as_json(log_curves(entry))
        content |= {"record": entry.record.model_dump(mode="json")} if entry.record else {}
        print_json(content | ({"files": checked} if verify else {}))
    else:
        _show(entry, checked)
        next_step("the same with --videos shows the worst videos, `ssldet compare` holds it against another run")
    if verify and (not entry.record or set(checked.values()) - {"whole"}):
        sys.exit(1)


def _show_videos(entry: RunEntry, data_root: Path | None, as_json: bool) -> None:
    """The scores of each video; --json has fractions, the table percent."""
    from ssldet.report.worst_videos import kinds_in, worst_videos
    from ssldet.util.files import plain

    found = worst_videos(entry, data_root)
    for remark in found.remarks:
        click.echo(remark, err=True)
    if as_json:
        print_json({"run": entry.id, **plain(found)})
        return
    titles, kinds = list(found.videos[0].scores) if found.videos else [], kinds_in(found.videos)
    rows = [("video", "classes", *titles, *kinds)]
    for video in found.videos:
        numbers = [*(video.scores[title] for title in titles), *(video.errors.get(kind) for kind in kinds)]
        shown = ("-" if number is None else f"{100 * number:.1f}" for number in numbers)
        rows.append((video.id, ", ".join(video.classes), *shown))
    click.echo(f"run {entry.id}, protocol {found.protocol}, percent, the worst video first")
    click.echo(aligned(rows))
    if found.videos:
        next_step(
            f"`ssldet figure 5 --run {entry.id} --videos {shlex.quote(found.videos[0].id)}` draws frames of the worst"
        )


def _show(entry: RunEntry, checked: Mapping[str, str]) -> None:
    from ssldet.cli.run import show_record
    from ssldet.runs import layout
    from ssldet.runs.listing import log_curves, log_tail

    if entry.record and entry.record.metrics:
        show_record(entry.record, entry.folder / layout.RECORD)
    click.echo(aligned([("", ""), *((key, text) for key, text in _about(entry) if text)]).strip("\n"))
    if entry.record:
        files = [(name, digest[:16], checked.get(name, "")) for name, digest in entry.record.files.items()]
        click.echo("\n" + aligned([("file", "sha-256", "content"), *files]))
    if rows := curve_rows(log_curves(entry)):
        click.echo("\n" + aligned(rows))
    if lines := log_tail(entry):
        click.echo("\n" + aligned(_log_table(lines)))


def _about(entry: RunEntry) -> list[tuple[str, str]]:
    from ssldet.runs.listing import summary

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
        ("code of plugins", ", ".join(_plugin_code(record.provenance))),
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


def _plugin_code(provenance: Mapping[str, Any]) -> list[str]:
    """The first digits of each fingerprint."""
    return [f"{name} {(about.get('code') or '?')[:8]}" for name, about in provenance.get("plugins", {}).items()]


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


# -------------------------------------------------------------------------------------------------- rescore


@command.command("rescore", epilog="Example: ssldet runs rescore 3f2a --data-root data")
@click.argument("name", metavar="RUN", shell_complete=complete_runs)
@data_root
@results_folders
@json_flag
def rescore_run(name: str, data_root: Path | None, results: tuple[Path, ...], as_json: bool) -> None:
    """Make the per-video matches of RUN again, which `ssldet compare` reads, from its detections and the data.

    The record stays as it is; detections or data that do not give its numbers are refused.
    """
    from ssldet.runs.rescoring import rescore

    path = rescore(chosen_run(name, results), data_root)
    if as_json:
        print_json({"file": str(path)})
    else:
        click.echo(str(path))
        next_step(f"`ssldet compare {name} RUN` holds it against another run")


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
    """Remove runs: those named, or all that the filters choose; never one that is being carried out.

    Others' numbers are removed by name alone.
    """
    chosen = _to_remove(names, RunFilter(**filters), results)
    say = partial(click.echo, err=as_json or not dry_run)
    for entry in chosen:
        say(f"{'would remove' if dry_run else 'remove'} {entry.id} {entry.folder}")
    if chosen and not dry_run:
        confirm_removal(f"{len(chosen)} runs", yes)
    left = {entry.id: [] if dry_run else _remove(entry) for entry in chosen}
    if as_json:
        runs = [{"id": entry.id, "folder": str(entry.folder), "left": left[entry.id]} for entry in chosen]
        print_json({"dry_run": dry_run, "removed": [] if dry_run else runs, "would_remove": runs if dry_run else []})
        return
    for entry in () if dry_run else chosen:
        others = left[entry.id]
        rest = f"; {entry.folder} keeps {', '.join(others)}, which no run wrote" if others else ""
        click.echo(f"removed {entry.id}{rest}")
    next_step("the same command without --dry-run" if dry_run else "`ssldet runs list` shows what is left")


def _remove(entry: RunEntry | External) -> list[str]:
    """Gives the names of files of others that were left. Raises RequestError."""
    from ssldet.runs.external import External, remove_external
    from ssldet.runs.store import remove

    return remove_external(entry) if isinstance(entry, External) else remove(entry)


def _to_remove(names: Sequence[str], filters: RunFilter, results: Sequence[Path]) -> Sequence[RunEntry | External]:
    """The runs, or others' numbers, to remove; says which of those that the filters choose are kept."""
    from ssldet.errors import RequestError
    from ssldet.runs.store import stopped, stopped_only

    if bool(names) == bool(filters):
        raise RequestError("name the runs to remove, or choose them by --status and the other filters: one of both")
    if names:
        externals = {name: found for name in names if (found := chosen_external(name, results))}
        runs = stopped_only([chosen_run(name, results) for name in names if name not in externals])
        return [*runs, *{found.folder: found for found in externals.values()}.values()]
    asked_for = [entry for entry in runs_in(results) if filters.accept(entry)]
    chosen, kept = stopped(asked_for)
    for entry in kept:
        click.echo(f"kept {entry.id}: it is being carried out", err=True)
    if not asked_for:
        click.echo(f"no such run in {', '.join(map(str, places_of(results)))}", err=True)
    return chosen


# ------------------------------------------------------------------------------------- merge, verify, export


@command.command("merge", epilog="Example: ssldet runs merge results --results results/runs")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@results_folder
@json_flag
def merge_runs(folders: tuple[Path, ...], results: Path | None, as_json: bool) -> None:
    """Copy the runs of other results folders, DIR..., and their first stages, into --results.

    A run that is there with the same numbers is left; with other numbers both are kept, and the one that comes in has
    "-other-" in its folder's name. Runs that are damaged or being carried out are left out. Exit code 1 where any was.
    """
    from ssldet.runs import layout
    from ssldet.runs.merging import merge

    into = results or layout.RESULTS
    merged = merge(folders, into)
    if as_json:
        print_json([plain_merge(each) for each in merged])
    else:
        rows = [(each.run, each.outcome, str(each.source), each.reason.partition("\n")[0]) for each in merged]
        click.echo(aligned([("run", "outcome", "from", "reason"), *rows]))
        next_step(f"`ssldet runs list --results {into}` lists them, `ssldet runs verify --results {into}` checks them")
    if any(each.outcome == "left out" for each in merged):
        sys.exit(1)


def plain_merge(merged: Merged) -> dict[str, Any]:
    """What became of a run, as plain data."""
    from ssldet.util.files import plain

    content: dict[str, Any] = plain(merged)
    return content


@command.command("verify", epilog="Example: ssldet runs verify")
@results_folders
@json_flag
def verify_runs(results: tuple[Path, ...], as_json: bool) -> None:
    """Find what is damaged, edited, unfinished, orphaned, or made by other versions among the runs.

    Every file that a record names is read. Exit code 1 where something is damaged or edited.
    """
    from ssldet.runs.verification import KINDS, WRONG, verify
    from ssldet.util.files import plain

    found = verify([Path(place) for place in places_of(results)])
    counts = {kind: sum(finding.kind == kind for finding in found) for kind in KINDS}
    if as_json:
        print_json({"counts": counts, "findings": plain(found)})
    else:
        rows = [(finding.kind, str(finding.place), finding.reason.partition("\n")[0]) for finding in found]
        if rows:
            click.echo(aligned([("finding", "place", "reason"), *rows]))
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "all whole"
        click.echo(f"{len(runs_in(results))} runs: {said}")
        next_step("`ssldet runs rm RUN` removes a run, and the same request makes it again")
    if any(counts[kind] for kind in WRONG):
        sys.exit(1)


@command.command("export", epilog="Example: ssldet runs export numbers.parquet")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@results_folders
@json_flag
def export_runs(file: Path, results: tuple[Path, ...], as_json: bool) -> None:
    """Write the numbers of all runs to one FILE, .parquet or .csv: a row for each run and number, fractions.

    The columns are those of `ssldet.load_records`; options of strategies are JSON.
    """
    from ssldet.report.frames import export_records

    rows = export_records(file, places_of(results))
    if as_json:
        print_json({"file": str(file), "rows": rows})
    else:
        click.echo(f"{file}: {rows} rows")
        next_step(f"pandas.read_{'csv' if file.suffix == '.csv' else 'parquet'}({str(file)!r}) reads it")


# --------------------------------------------------------------------------------------------------- pack, unpack


@command.command("pack", epilog="Example: ssldet runs pack 3f2a --out ours.zip")
@click.argument("name", metavar="RUN", shell_complete=complete_runs)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: FOLDER.zip]")
@results_folders
@data_root
@json_flag
def pack_run(name: str, out: Path | None, results: tuple[Path, ...], data_root: Path | None, as_json: bool) -> None:
    """Write RUN into one file for others: record, settings, split, log, weights and detections, with their hashes.

    `ssldet predict --run FILE` works on it as it is, `ssldet runs unpack FILE` puts it among other runs.
    """
    from ssldet.runs.packing import pack

    entry = chosen_run(name, results)
    file = pack(entry, out or Path(f"{entry.folder.name}.zip"), data_root)
    if as_json:
        print_json({"run": entry.id, "file": str(file), "bytes": file.stat().st_size})
    else:
        click.echo(f"{file}: run {entry.id}, {file.stat().st_size / 1e6:.1f} MB")
        next_step(f"`ssldet runs unpack {file}` elsewhere, or `ssldet predict VIDEO --run {file}`")


@command.command("unpack", epilog="Example: ssldet runs unpack ours.zip")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@results_folder
@json_flag
def unpack_run(file: Path, results: Path | None, as_json: bool) -> None:
    """Put the run of a packed FILE among others. Nothing in it is executed, and what is not whole is refused."""
    from ssldet.runs import layout
    from ssldet.runs.packing import unpack

    unpacked = unpack(file, results or layout.RESULTS)
    if as_json:
        print_json({"run": unpacked.run, "folder": str(unpacked.folder), "outcome": unpacked.outcome})
    else:
        click.echo(f"{unpacked.folder}: run {unpacked.run}, {unpacked.outcome}")
        next_step(f"`ssldet runs show {unpacked.folder}` shows it")
