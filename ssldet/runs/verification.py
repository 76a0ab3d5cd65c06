"""What is wrong, or left over, in folders of results: `verify(folders)`.

damaged       a record that cannot be read, or files that are not those that the record names
edited        a record whose content does not match its checksum
unfinished    a run that was interrupted or failed, and that nobody carries out
orphaned      what no run needs: halves of files, damaged checkpoints, unfinished first stages, claims of the dead
mixed         runs that other versions of ssldet or torch made than most here
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ssldet.runs import layout
from ssldet.runs.claims import owner_of
from ssldet.runs.listing import check_files
from ssldet.runs.provenance import COMPARED
from ssldet.runs.record import is_as_written
from ssldet.runs.store import RunEntry, find_runs, is_held

FindingKind = Literal["damaged", "edited", "unfinished", "orphaned", "mixed"]
KINDS: tuple[FindingKind, ...] = get_args(FindingKind)

WRONG: tuple[FindingKind, ...] = ("damaged", "edited")
"""Kinds that numbers should not be taken from."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a folder of results: what kind, where, and what to do."""

    kind: FindingKind
    place: Path
    reason: str


def verify(folders: Sequence[Path]) -> list[Finding]:
    """All that is wrong or left over in or below some folders of results. Reads every file that a record names."""
    entries = find_runs(folders)
    found = [finding for entry in entries for finding in _of_run(entry)]
    found += [finding for folder in folders for finding in _orphans(Path(folder), entries)]
    return [*found, *_mixed(entries)]


def _of_run(entry: RunEntry) -> Iterator[Finding]:
    record = entry.folder / layout.RECORD
    if entry.status in ("damaged", "incompatible"):
        yield Finding("damaged", record, entry.problem)
        return
    if entry.record and not is_as_written(json.loads(record.read_text(encoding="utf-8"))):
        yield Finding("edited", record, "its content does not match its checksum: somebody changed it by hand")
    for name, state in check_files(entry).items() if entry.status == "done" else ():
        if state != "whole":
            yield Finding(
                "damaged", entry.folder / name, f"it is {state}; `ssldet runs rm` and the same request make it"
            )
    if entry.status in ("interrupted", "failed") and not is_held(entry):
        yield Finding("unfinished", entry.folder, f"{entry.status}: {entry.problem}")


def _orphans(results: Path, entries: Iterable[RunEntry]) -> Iterator[Finding]:
    for path in sorted(results.rglob(".*.tmp")):
        yield Finding("orphaned", path, "half of a file, whose process was killed; it can be deleted")
    for path in sorted(results.glob(".merging-*")):
        yield Finding("orphaned", path, "half of a merge, which was killed; it can be deleted")
    for path in sorted(path for name in layout.DAMAGED for path in results.rglob(name)):
        yield Finding("orphaned", path, "a damaged checkpoint, kept to be looked at; it can be deleted")
    for path in sorted(results.rglob(layout.CLAIM)):
        if owner_of(path.parent) is None:
            yield Finding("orphaned", path, "the claim of a process that is dead; the next one takes it over")
    used = {entry.record.notes.get("first_stage") for entry in entries if entry.record}
    for folder in sorted(path for path in (results / layout.FIRST_STAGES).glob("*") if path.is_dir()):
        if owner_of(folder) is None and not (folder / layout.STAGE).is_file():
            yield Finding("orphaned", folder, "a first stage that is not finished; a run that needs it goes on with it")
        elif owner_of(folder) is None and folder.name not in used:
            yield Finding("orphaned", folder, "a first stage that no finished run here began with")


def _mixed(entries: Iterable[RunEntry]) -> Iterator[Finding]:
    """Finished runs of other versions than most."""
    versions = {entry.folder: _versions(entry.record.provenance) for entry in entries if entry.record}
    counted = Counter(versions.values()).most_common()
    for folder, version in versions.items():
        if version != counted[0][0]:
            yield Finding("mixed", folder, f"made by {version}, and {counted[0][1]} runs here by {counted[0][0]}")


def _versions(provenance: Mapping[str, Any]) -> str:
    distributions = provenance.get("distributions", {})
    return ", ".join(f"{name} {_version(distributions.get(name))}" for name in COMPARED)


def _version(origin: Any) -> str:
    """A version, and the commit where it was installed from a source tree."""
    if not isinstance(origin, Mapping):
        return "unknown"
    commit = f" ({origin['commit'][:10]})" if origin.get("commit") else ""
    return f"{origin.get('version')}{commit}"
