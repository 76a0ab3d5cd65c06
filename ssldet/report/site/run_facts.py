"""What a run was made with, in words: settings, provenance, files, and how to make it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ssldet.report.run_selection import Run
from ssldet.runs.listing import options_beside_preset
from ssldet.runs.record import Record

THRESHOLD = re.compile(r"(^|_)(th|tau|thresholds?)($|_)")
"""Options of a strategy whose names say that they are thresholds."""

OF_THE_MACHINE = ("results", "data_root", "weights_root", "workers", "device")
"""Settings that say where and on what a run was made: whoever makes it again has others."""

Fact = tuple[str, str]
"""A label and what is said under it."""


@dataclass(frozen=True, slots=True)
class FactGroup:
    """Facts under a heading."""

    title: str
    facts: tuple[Fact, ...]


def about(run: Run) -> tuple[Fact, ...]:
    """What is known of a run in a few lines."""
    record = run.record
    training, split = record.training, record.split
    options = options_beside_preset(run.entry)
    facts = [
        ("Run", record.id),
        ("Finished", record.finished or ""),
        ("Options beside the preset's", ", ".join(f"{name}={value}" for name, value in options.items())),
        ("Videos", f"{split.labelled} labelled, {split.unlabelled} unlabelled, {split.evaluated} evaluated"),
        ("Steps", f"{training.steps:,}"),
        ("Clips with gradients", f"{training.gradient_clips:,}"),
        ("Clips through a teacher", f"{training.teacher_clips:,}"),
        ("Seconds", ", ".join(f"{phase} {seconds:,.0f}" for phase, seconds in training.seconds.items())),
        ("Peak memory", f"{record.peak_memory_bytes / 1e9:.1f} GB"),
    ]
    return tuple((label, text) for label, text in facts if text)


def thresholds(options: Mapping[str, Any]) -> tuple[Fact, ...]:
    """The thresholds of a strategy, by the names of its options."""
    return tuple((name, str(value)) for name, value in options.items() if THRESHOLD.search(name))


def settings(run: Run) -> tuple[FactGroup, ...]:
    """Every setting, in the groups of the configuration; plain ones first."""
    content = run.entry.experiment
    plain = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
    groups = [FactGroup("Experiment", tuple(_flat(plain)))]
    groups += [
        FactGroup(name.replace("_", " ").capitalize(), tuple(_flat(value)))
        for name, value in content.items()
        if isinstance(value, Mapping) and value
    ]
    return (*groups, FactGroup("Machine", tuple(_flat(run.entry.machine))))


def provenance(record: Record) -> tuple[FactGroup, ...]:
    """Where a record comes from: hashes, versions, hardware, notes, files."""
    origin = [
        ("data fingerprint", record.data_fingerprint),
        ("split hash", record.split.hash),
        ("record schema", str(record.schema_version)),
        ("checksum", record.checksum or "none"),
    ]
    groups = (
        FactGroup("Data and split", tuple(origin)),
        FactGroup("Versions", tuple(_flat(record.provenance))),
        FactGroup("Hardware", tuple(_flat(record.hardware))),
        FactGroup("Notes", tuple(_flat(record.notes))),
        FactGroup("Files (SHA-256)", tuple(record.files.items())),
    )
    return tuple(group for group in groups if group.facts)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[Fact]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _words(item)


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return "; ".join(value) or "none"
    return json.dumps(value, ensure_ascii=False, default=str)


def config_yaml(run: Run) -> str:
    """The settings that make the run again, without those of the machine that it was made on."""
    machine = {name: value for name, value in run.entry.machine.items() if name not in OF_THE_MACHINE}
    content = json.loads(json.dumps({"experiment": run.entry.experiment, "machine": machine}))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
