"""Results of several machines in one folder: `merge(sources, results)`.

A run that is in both with the same numbers is left as it is. With other numbers both are kept, the one that comes in
marked by its folder's name; tables take one of them and say so. Of a run that is finished in one place alone, that one
stays.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssldet.errors import RequestError
from ssldet.runs import layout
from ssldet.runs.claims import claimed
from ssldet.runs.store import RunEntry, find_runs, is_held, remove
from ssldet.util.files import content_hash

Outcome = Literal["copied", "there already", "both kept", "replaced an unfinished one", "left out"]


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of one run: `source` is where it lay, `folder` where it lies, `reason` why it was left out."""

    run: str
    outcome: Outcome
    source: Path
    folder: Path | None = None
    reason: str = ""


def merge(sources: Sequence[Path], results: Path) -> list[Merged]:
    """Copy the runs in or below some folders, and finished first stages, into one results folder.

    Each comes whole or not at all; the sources stay as they are. The same call again changes nothing.

    Raises:
        RequestError: a source does not exist or is the results folder, or that cannot be written.
    """
    for source in sources:
        if not source.is_dir():
            raise RequestError(
                f"{source}: no such folder; name folders of results, such as another machine's results/runs"
            )
        if source.resolve() == results.resolve():
            raise RequestError(f"{source} is the folder that is merged into; name the other ones")
    try:
        merged = [_merge_run(entry, results) for source in sources for entry in find_runs([source])]
        for source in sources:
            _copy_first_stages(source, results)
    except OSError as error:
        raise RequestError(
            f"cannot write to {results} ({error.strerror}); nothing that lay there was changed"
        ) from error
    return merged


def _merge_run(entry: RunEntry, results: Path) -> Merged:
    if entry.status in ("damaged", "incompatible"):
        return Merged(entry.id, "left out", entry.folder, None, entry.problem)
    if is_held(entry):
        return Merged(entry.id, "left out", entry.folder, None, "it is being carried out there")
    here = [other for other in find_runs([results]) if other.id == entry.id]
    if any(_same(entry, other) for other in here):
        return Merged(entry.id, "there already", entry.folder)
    unfinished = [other for other in here if other.status != "done"]
    if here and entry.status != "done":
        return Merged(entry.id, "left out", entry.folder, None, f"it is {entry.status}, and {here[0].status} here")
    for other in unfinished:
        remove(other)  # refuses one that is being carried out
    finished = len(here) > len(unfinished)
    name = f"{entry.folder.name}-other-{_numbers(entry)[:8]}" if finished else entry.folder.name
    folder = _copy(entry.folder, results / name)
    outcome: Outcome = "both kept" if finished else "replaced an unfinished one" if unfinished else "copied"
    return Merged(entry.id, outcome, entry.folder, folder)


def _same(entry: RunEntry, other: RunEntry) -> bool:
    """Whether two runs of one id have the same numbers, or are equally unfinished."""
    return entry.status == other.status and _numbers(entry) == _numbers(other)


def _numbers(entry: RunEntry) -> str:
    """Hash of a run's numbers, and of the data that they were made on."""
    if entry.record is None:
        return content_hash([])
    content = entry.record.model_dump(mode="json")
    return content_hash([content["metrics"], content["data_fingerprint"]])


def _copy(source: Path, target: Path, ignored: Iterable[str] = ()) -> Path:
    """Copy a folder whole or not at all, with the times of its files: tables take the newest of two runs."""
    unfinished = target.with_name(f".merging-{secrets.token_hex(6)}")
    try:
        shutil.copytree(
            source, unfinished, ignore=shutil.ignore_patterns(layout.CLAIM, layout.LOCK, ".*.tmp", *ignored)
        )
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _copy_first_stages(source: Path, results: Path) -> None:
    """Finished ones that are not here: runs that share them need not train them again."""
    for stage in sorted((source / layout.FIRST_STAGES).glob(f"*/{layout.STAGE}")):
        target = results / layout.FIRST_STAGES / stage.parent.name
        if not (target / layout.STAGE).exists():
            with claimed(target):
                pass  # nobody trains it
            shutil.rmtree(target, ignore_errors=True)
            _copy(stage.parent, target)
