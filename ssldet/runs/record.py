"""The record of a run: what was asked, on what, with what, and what came out.

record.json is written last, so that its presence with status "done" is the only sign of a finished run. Records of
earlier schemas are read (see `migrations`), those of later ones are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from ssldet._version import __version__
from ssldet.contracts import MetricResult
from ssldet.errors import RequestError
from ssldet.evaluation import results
from ssldet.evaluation.results import Results
from ssldet.runs.migrations import FIRST_WITH_CHECKSUM, SCHEMA_VERSION, known_schemas, migrate
from ssldet.util.files import content_hash, plain, write_json


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class SplitSummary(_Part):
    """The labelled / unlabelled split by its hash, and how many videos each part has."""

    hash: str
    labelled: int
    unlabelled: int
    evaluated: int


class TrainingSummary(_Part):
    """What training did.

    Attributes:
        steps: optimiser steps, all stages.
        gradient_clips: clips that went through the student with gradients.
        teacher_clips: clips that went through a teacher without.
        seconds: phase name -> wall-clock seconds; of "train" over all sessions, of the others in the last one.
    """

    steps: int
    gradient_clips: int
    teacher_clips: int = 0
    seconds: dict[str, float] = Field(default_factory=dict)


def _typed(metrics: Any) -> Results:
    """Results as they are in memory, from such results or from their JSON form; numbers as JSON has them."""
    if not isinstance(metrics, Mapping):
        raise ValueError("expected metric -> protocol -> result")
    in_memory = {name for name, found in metrics.items() if _is_typed(found)}
    content = {name: found for name, found in metrics.items() if name not in in_memory}
    content |= results.as_json({name: metrics[name] for name in in_memory})
    return results.from_json(plain({name: content[name] for name in metrics}))


def _is_typed(found: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(result, MetricResult) for result in found.values())


RecordedResults = Annotated[Results, BeforeValidator(_typed), PlainSerializer(results.as_json)]
"""Metric -> protocol -> `MetricResult`, as a field of a record; in JSON see `results.as_json`."""


class Record(_Part):
    """One run. Numbers in tables come from here and nowhere else.

    Attributes:
        id: hash of what defines the experiment; the same for every run of it on any machine.
        config: the resolved configuration.
        data_fingerprint: `Dataset.fingerprint()`.
        metrics: metric -> protocol -> `MetricResult`, fractions 0-1; empty when unscored. In JSON see `as_json`.
        hardware: see `hardware`; provenance: see `provenance`.
        files: name inside the run's folder -> SHA-256.
        finished: when it was written, ISO 8601 in UTC; None in records of earlier versions.
        checksum: of all else, as it was written; None in records of earlier schemas.
        notes: what a reader must know, by topic (the use of hidden truth for diagnostics, say; the error of a run
            that failed).
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    status: Literal["done", "failed"]
    config: dict[str, Any]
    split: SplitSummary
    data_fingerprint: str
    metrics: RecordedResults = Field(default_factory=dict)
    training: TrainingSummary
    hardware: dict[str, Any]
    provenance: dict[str, Any]
    peak_memory_bytes: int
    files: dict[str, str] = Field(default_factory=dict)
    finished: str | None = None
    notes: dict[str, Any] = Field(default_factory=dict)
    checksum: str | None = None

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all, with its checksum."""
        write_json(path, self.sealed())

    def sealed(self) -> Record:
        """The same with the checksum of its content, by which an edit is noticed."""
        return self.model_copy(update={"checksum": _checksum(plain(self))})

    def value(self, metric: str, protocol: str, column: str) -> float | None:
        """One number of the record: `record.value("video_map", "yowo", "V@0.5")`.

        Args:
            metric: the metric's plugin name; it need not be installed.
            protocol: "standard", "yowo", "act", or another of the metric's.
            column: the number's key ("0.5", "localization"), or the title of its column ("V@0.5", "Loc").

        Returns:
            The mean or scalar as a fraction; None where the protocol gives none.

        Raises:
            UnknownName: the record has no such metric, protocol or column; names those that it has.
            RequestError: the run was not scored.
        """
        if not self.metrics:
            raise RequestError(f"run {self.id} is {self.status} and has no metrics")
        return results.value(self.metrics, metric, protocol, column)

    def class_numbers(self, metric: str, protocol: str, key: str) -> dict[str, float | None]:
        """Class -> its number, None for a class without truth; empty where there are no numbers by class."""
        return results.class_numbers(self.metrics, metric, protocol, key)

    def mean_where_truth(self, metric: str, protocol: str, key: str) -> float | None:
        """The mean over the classes that have truth, whatever the protocol; `value` of what is no mean over classes.

        Raises as `value`.
        """
        return results.mean_where_truth(self.metrics, metric, protocol, key)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record of this or an earlier schema.

        Raises:
            LaterSchema: a later version wrote it. RequestError: it is absent or damaged.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(
                f"no readable record at {path}: {error}; `ssldet runs rm` removes the run, and the same request "
                "makes it again"
            ) from error
        _check_schema(path, content)
        try:
            return cls.model_validate(migrate(content))
        except ValidationError as error:
            raise RequestError(f"{path} is not a whole record: {error}") from error


def _checksum(content: Mapping[str, Any]) -> str:
    return content_hash({name: value for name, value in content.items() if name != "checksum"})


def is_as_written(content: Mapping[str, Any]) -> bool:
    """Whether the content of a record's file matches its checksum; those of earlier schemas have none, and match."""
    written = content.get("checksum")
    return written == _checksum(content) if content.get("schema_version", 0) >= FIRST_WITH_CHECKSUM else True


class LaterSchema(RequestError):
    """A record that a later version of ssldet wrote: it is neither read nor overwritten."""


def _check_schema(path: Path, content: Any) -> None:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise LaterSchema(
            f"{path} has record schema {version}, written by ssldet {_writer(content)}, and this ssldet "
            f"({__version__}) reads schemas up to {SCHEMA_VERSION}; it is left as it is: use that version, or write "
            "to another folder with --results"
        )
    if type(version) is not int or version not in known_schemas():
        raise RequestError(
            f"{path} is not a whole record: schema_version is {version!r}, expected one of "
            f"{', '.join(map(str, known_schemas()))}"
        )


def _writer(content: Mapping[str, Any]) -> str:
    """The version of ssldet that a record of whatever schema says it was written by."""
    found: Any = content
    for key in ("provenance", "distributions", "ssldet", "version"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else "of a later version"
