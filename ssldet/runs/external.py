"""Others' numbers beside our runs, marked as what they are: "external". `external_scoring` makes them.

find_externals(folders)     all that are kept;  find_external: one of them
remove_external(external)   its files, and nothing else

Nothing of it is a run of ours: it has no settings, log, weights or id, and is never averaged with runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssldet._version import __version__
from ssldet.errors import RequestError
from ssldet.evaluation import results
from ssldet.runs import layout
from ssldet.runs.record import RecordedResults

SHOWN_DIGITS = 12
"""Of a hash, where people read it."""

NO_RUN = (
    "{name} is external: others' detections that `ssldet evaluate --record` scored, and no run of ours. It has no "
    "settings, log or weights; `ssldet runs show {name}`, `compare` and `table` show its numbers"
)


class ExternalRecord(BaseModel):
    """The numbers of somebody's detections. Tables show it in a row of its own, as external.

    Attributes:
        name: what it is called; source: the name of the file of detections; detections: its SHA-256, of a folder that
            of the names and hashes of its files.
        dataset, dataset_options: the data set by plugin name, and all its options.
        data_fingerprint: `Dataset.fingerprint()` of the data whose truth counted.
        split: the official split.
        videos: the ids that were scored; None: all test videos. `evaluated`: how many they are.
        ratio, seed: as its author states them; None: not stated.
        metrics: metric -> protocol -> `MetricResult`, fractions 0-1.
        reading: what the file counts and measures in, as it was read; `dropped`: rows left out, by reason.
        files: name inside its folder -> SHA-256.
        ssldet: the version that scored it; finished: when, ISO 8601 in UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")

    schema_version: Literal[1] = 1
    kind: Literal["external"] = "external"
    name: str
    source: str
    detections: str
    dataset: str
    dataset_options: dict[str, Any]
    data_fingerprint: str
    split: int
    videos: tuple[str, ...] | None = None
    evaluated: int
    ratio: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    metrics: RecordedResults
    reading: dict[str, Any] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    ssldet: str = __version__
    finished: str = ""

    @property
    def dataset_name(self) -> str:
        """The data set's name, with the flavour where it has one: "synthetic:jhmdb"."""
        flavour = self.dataset_options.get("flavour")
        return f"{self.dataset}:{flavour}" if flavour else self.dataset

    @property
    def short_hash(self) -> str:
        """The first digits of its detections' hash."""
        return self.detections[:SHOWN_DIGITS]

    @property
    def stated(self) -> list[str]:
        """What its author states: "ratio 0.2", "seed 1"."""
        values = {"ratio": self.ratio, "seed": self.seed}
        return [f"{name} {value:g}" for name, value in values.items() if value is not None]

    def value(self, metric: str, protocol: str, column: str) -> float | None:
        """One number, as `Record.value` gives it. Raises UnknownName."""
        return results.value(self.metrics, metric, protocol, column)


@dataclass(frozen=True, slots=True)
class External:
    """A folder with others' numbers: its record, or the problem with it."""

    name: str
    folder: Path
    record: ExternalRecord | None = None
    problem: str = ""

    @property
    def id(self) -> str:
        """What it is called where runs have their ids."""
        return self.name


# -------------------------------------------------------------------------------------------------- finding


def is_external(folder: Path) -> bool:
    """Whether a folder holds others' numbers."""
    return (folder / layout.EXTERNAL_RECORD).is_file()


def find_externals(folders: Iterable[Path] = (layout.RESULTS,)) -> list[External]:
    """All in or below some folders, each once, by name. A folder that is absent holds none."""
    found = {path.resolve(): path for folder in folders for path in _walk(Path(folder))}
    return sorted(map(read_external, found.values()), key=lambda each: (each.name, str(each.folder)))


def find_external(name: str, folders: Iterable[Path] = (layout.RESULTS,)) -> External | None:
    """The one of a name, or in a folder; None where there is none. Raises RequestError where there are several."""
    if is_external(Path(name)):
        return read_external(Path(name))
    chosen = [each for each in find_externals(folders) if each.name == name]
    if len(chosen) > 1:
        raise RequestError(f"{name} is in {' and in '.join(str(each.folder) for each in chosen)}; give the folder")
    return chosen[0] if chosen else None


def remove_external(found: External) -> list[str]:
    """Remove its files, the record first, and its folder; gives the names of others' files that were left.

    Raises:
        RequestError: it cannot be removed.
    """
    try:
        for name in layout.EXTERNAL_FILES:
            (found.folder / name).unlink(missing_ok=True)
        left = sorted(path.name for path in found.folder.iterdir())
        if not left:
            found.folder.rmdir()
    except OSError as error:
        raise RequestError(f"cannot remove {found.folder} ({error.strerror})") from error
    return left


def _walk(folder: Path) -> Iterator[Path]:
    for path, below, names in os.walk(folder):
        if layout.EXTERNAL_RECORD in names:
            below.clear()
            yield Path(path)
        below[:] = sorted(name for name in below if not name.startswith("."))


def read_external(folder: Path) -> External:
    """What a folder with an external record holds."""
    path = folder / layout.EXTERNAL_RECORD
    try:
        record = ExternalRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        return External(folder.name, folder, problem=f"{path} is not a whole record of others' numbers: {error}")
    return External(record.name, folder, record)
