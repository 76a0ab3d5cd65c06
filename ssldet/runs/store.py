"""Finding runs in folders of results: finished, failed and interrupted ones, and records that cannot be read.

find_runs(folders)      every run below some folders, oldest first
find_run(name, found)   one of them, by the start of its id or by its folder
remove(entry)           its files, and nothing else
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from ssldet.errors import RequestError
from ssldet.runs import external, layout
from ssldet.runs.claims import ClaimHeld, claimed, owner_of
from ssldet.runs.record import LaterSchema, Record

Status = Literal["done", "failed", "interrupted", "damaged", "incompatible"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run's folder and what can be said of it.

    Attributes:
        id: from the record, else from the folder's name.
        status: as the record says; "interrupted" without a record, "damaged" when it cannot be read, "incompatible"
            when a later version wrote it.
        record: None unless it could be read.
        problem: why it cannot be counted among the finished runs; "" for those.
        config: the resolved configuration, from the record or config.yaml; empty when neither can be read.
        changed: when its newest file was written, in seconds since 1970.
    """

    id: str
    folder: Path
    status: Status
    record: Record | None = None
    problem: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    changed: float = 0.0

    @property
    def experiment(self) -> Mapping[str, Any]:
        """The fields of its Experiment, unchecked; empty when they cannot be read."""
        return _mapping(self.config.get("experiment"))

    @property
    def machine(self) -> Mapping[str, Any]:
        """The fields of its Machine (preset, results, device ...), unchecked."""
        return _mapping(self.config.get("machine"))

    @property
    def date(self) -> datetime:
        """When its record was written, else when its newest file was; in local time."""
        if self.record and self.record.finished:
            with suppress(ValueError):  # a record edited by hand
                return datetime.fromisoformat(self.record.finished).astimezone()
        return datetime.fromtimestamp(self.changed).astimezone()

    @property
    def dataset(self) -> str | None:
        """The name of its data set, with the flavour where it has one: "synthetic:jhmdb"."""
        name, options = self.experiment.get("dataset"), self.experiment.get("dataset_options") or {}
        return f"{name}:{options['flavour']}" if "flavour" in options else name

    @property
    def state(self) -> str:
        """Its status, or "running" while a process carries it out; asks the file system."""
        return "running" if self.status != "done" and is_held(self) else self.status


# -------------------------------------------------------------------------------------------------- finding


def find_runs(folders: Iterable[Path] = (layout.RESULTS,)) -> list[RunEntry]:
    """Every run in or below some folders, each once, the newest last. A folder that is absent holds none."""
    found = {path.resolve(): path for folder in folders for path in _walk(Path(folder))}
    entries = (_entry(path) for path in found.values())
    return sorted(entries, key=lambda entry: (entry.date, entry.id))


def find_run(name: str, found: Sequence[RunEntry], looked_in: Iterable[Path] = (layout.RESULTS,)) -> RunEntry:
    """The run that is meant by its folder, the folder's name, or the start of its id.

    Raises:
        RequestError: there is none, or several.
    """
    if any(separator and separator in name for separator in (os.sep, os.altsep)) or Path(name).is_dir():
        return _at(Path(name))
    chosen = [entry for entry in found if name and (entry.id.startswith(name) or entry.folder.name == name)]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        choices = "".join(f"\n  {entry.id}  {entry.folder}" for entry in chosen)
        raise RequestError(f"{len(chosen)} runs begin with {name!r}; give more of the id, or the folder:{choices}")
    if external.find_external(name, looked_in):
        raise RequestError(external.NO_RUN.format(name=name))
    places = ", ".join(map(str, looked_in))
    known = ", ".join(entry.id for entry in reversed(found[-10:])) or "none"
    raise RequestError(f"no run begins with {name!r} in {places} (newest runs: {known}); `ssldet runs list` lists all")


def _at(folder: Path) -> RunEntry:
    if external.is_external(folder):
        raise RequestError(external.NO_RUN.format(name=folder.name))
    if not is_run(folder):
        raise RequestError(f"{folder} is no folder of a run: expected {layout.RECORD} or {layout.CONFIG} of one in it")
    return _entry(folder)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: named as runs are and holding a file of one, or holding a record."""
    names = {name for name in layout.RUN_FILES if (folder / name).is_file()}
    if layout.RUN_FOLDER.fullmatch(folder.name):
        return bool(names - {layout.LOCK, layout.CLAIM})
    return layout.RECORD in names and _looks_like_a_record(folder / layout.RECORD)


def _looks_like_a_record(path: Path) -> bool:
    content = _json(path)
    return {"id", "schema_version", "config"} <= content.keys() and bool(layout.RUN_ID.fullmatch(str(content["id"])))


def _walk(folder: Path) -> Iterator[Path]:
    for path, below, _ in os.walk(folder):
        if is_run(Path(path)):
            below.clear()
            yield Path(path)
        below[:] = sorted(name for name in below if name not in layout.NO_RUNS and not name.startswith("."))


# -------------------------------------------------------------------------------------------------- reading


def _entry(folder: Path) -> RunEntry:
    common: dict[str, Any] = {"folder": folder, "changed": _changed(folder)}
    path = folder / layout.RECORD
    named = _id_in_name(folder)
    if not path.is_file():
        problem = "it has no record: the same `ssldet run` goes on with it"
        return RunEntry(named, status="interrupted", problem=problem, config=_config(folder), **common)
    try:
        record = Record.read(path)
    except RequestError as error:
        status: Status = "incompatible" if isinstance(error, LaterSchema) else "damaged"
        run_id = named or str(_json(path)["id"])
        return RunEntry(run_id, status=status, problem=str(error), config=_config(folder), **common)
    problem = "" if record.status == "done" else str(record.notes.get("error") or f"it is {record.status}")
    return RunEntry(record.id, status=record.status, record=record, problem=problem, config=record.config, **common)


def _id_in_name(folder: Path) -> str:
    match = layout.RUN_FOLDER.fullmatch(folder.name)
    return match[1] if match else ""


def _changed(folder: Path) -> float:
    return max((folder / name).stat().st_mtime for name in layout.RUN_FILES if (folder / name).is_file())


def _config(folder: Path) -> Mapping[str, Any]:
    """The configuration beside a record that is absent or unreadable; empty when it is, too."""
    try:
        return _mapping(yaml.safe_load((folder / layout.CONFIG).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# ------------------------------------------------------------------------------------------------- removing


def is_held(entry: RunEntry) -> bool:
    """Whether a process is carrying the run out."""
    return owner_of(entry.folder) is not None


def stopped(entries: Iterable[RunEntry]) -> tuple[list[RunEntry], list[RunEntry]]:
    """The runs that no process is carrying out, and the others."""
    found = [(entry, entry.state == "running") for entry in entries]
    return [entry for entry, running in found if not running], [entry for entry, running in found if running]


def stopped_only(entries: Iterable[RunEntry]) -> list[RunEntry]:
    """The same runs, each once. Raises RequestError when a process is carrying one of them out."""
    chosen, running = stopped({entry.folder: entry for entry in entries}.values())
    if running:
        raise RequestError(f"run {running[0].id} is being carried out; stop it first. Nothing was removed")
    return chosen


def remove(entry: RunEntry) -> list[str]:
    """Remove a run's files, the record first, and its folder; gives the names of files of others that were left.

    Raises:
        RequestError: it is no run, it is being carried out, or it cannot be removed.
    """
    if not is_run(entry.folder):
        raise RequestError(f"{entry.folder} is no folder of a run; nothing was removed")
    try:
        with claimed(entry.folder):
            return _remove_files(entry.folder)
    except ClaimHeld as error:
        raise RequestError(f"run {entry.id} is being carried out in {entry.folder}; stop that process first") from error
    except OSError as error:
        raise RequestError(f"cannot remove {entry.folder} ({error.strerror})") from error


def _remove_files(folder: Path) -> list[str]:
    unfinished = [path.name for path in folder.glob(".*.tmp")]  # what `files.replacing` leaves when it is killed
    for name in (*layout.RUN_FILES, *unfinished):
        (folder / name).unlink(missing_ok=True)
    left = sorted(path.name for path in folder.iterdir())
    if not left:
        folder.rmdir()
    return left
