"""The record of a run: what was asked, on what, with what, and what came out.

record.json is written last, so that its presence with status "done" is the only sign of a finished run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssldet.errors import RequestError
from ssldet.util.files import write_json

SCHEMA_VERSION = 1


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


class Record(_Part):
    """One run. Numbers in tables come from here and nowhere else.

    Attributes:
        id: hash of what defines the experiment; the same for every run of it on any machine.
        config: the resolved configuration.
        data_fingerprint: `Dataset.fingerprint()`.
        metrics: metric -> protocol -> result, fractions 0-1, as `MetricResult` has them; None when unscored.
        hardware: see `hardware`; provenance: see `provenance`.
        files: name inside the run's folder -> SHA-256.
        notes: what a reader must know, by topic (the use of hidden truth for diagnostics, say; the error of a run
            that failed).
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    status: Literal["done", "failed"]
    config: dict[str, Any]
    split: SplitSummary
    data_fingerprint: str
    metrics: dict[str, Any] = Field(default_factory=dict)
    training: TrainingSummary
    hardware: dict[str, Any]
    provenance: dict[str, Any]
    peak_memory_bytes: int
    files: dict[str, str] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record. Raises RequestError when it is absent, damaged or of another schema version."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(
                f"no readable record at {path}: {error}; `ssldet runs rm` removes the run, and the same request "
                "makes it again"
            ) from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise RequestError(
                f"{path} has record schema {version!r}, and this ssldet reads {SCHEMA_VERSION}; "
                "read it with the ssldet that its provenance names, or run again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RequestError(f"{path} is not a whole record: {error}") from error
