"""What can be said of one run in a line or on a page: its settings, headline numbers, date, files and log.

summary(entry)        one line of a list, as plain data;  external_summary: of others' numbers
check_files(entry)    whether the files are those that the record names
log_tail(entry)       the last lines of the log
log_curves(entry)     what the log has over its steps, as series
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ssldet.data.datasets import default_protocol
from ssldet.errors import RequestError, SsldetError
from ssldet.runs import layout
from ssldet.runs.curves import Curve, curves
from ssldet.runs.external import External, ExternalRecord
from ssldet.runs.log import read_log
from ssldet.runs.record import Record
from ssldet.runs.store import RunEntry
from ssldet.util.files import file_hash

Place = tuple[str, str, str]

HEADLINES = {"V@0.5": ("video_map", "0.5"), "F@0.5": ("frame_map", "0.5")}
"""Title -> metric and key of the numbers that stand for a run, each under the protocol of its data set."""


def headline_places(protocol: str) -> dict[str, Place]:
    """Title -> where the number stands in a record: metric, protocol, key."""
    return {title: (metric, protocol, key) for title, (metric, key) in HEADLINES.items()}


LOG_LINES = 5

FileState = Literal["whole", "absent", "changed"]


def summary(entry: RunEntry) -> dict[str, Any]:
    """What a list says of a run, as plain data; fractions and seconds.

    `date` is the record's where it has one, else that of the newest file; `date_from` says which: "record" or "files".
    """
    experiment, record, state = entry.experiment, entry.record, entry.state
    dated = record is not None and record.finished is not None
    protocol = protocol_of(entry)
    fields = ("ratio", "seed", "split", "backbone", "pretrained", "eval_on")
    return {
        "id": entry.id,
        "status": state,
        "strategy": experiment.get("strategy"),
        "options": options_beside_preset(entry),
        "dataset": entry.dataset,
        **{name: experiment.get(name) for name in fields},
        "preset": entry.machine.get("preset"),
        "protocol": protocol,
        "data_fingerprint": record.data_fingerprint if record else None,
        "data_root": entry.machine.get("data_root"),
        "metrics": {title: headline(record, *place) for title, place in headline_places(protocol).items()}
        if record
        else {},
        "train_seconds": record.training.seconds.get("train") if record else None,
        "date": entry.date.isoformat(timespec="seconds"),
        "date_from": "record" if dated else "files",
        "problem": "" if state == "running" else entry.problem,
        "folder": str(entry.folder),
    }


def external_summary(external: External) -> dict[str, Any]:
    """What a list says of others' numbers, as plain data; fractions. Its status is "external"."""
    record = external.record
    common = {"name": external.name, "status": "external", "folder": str(external.folder), "problem": external.problem}
    if record is None:
        return common
    fields = ("ratio", "seed", "split", "evaluated", "detections", "source", "data_fingerprint", "finished")
    protocol = default_protocol(record.dataset, record.dataset_options)
    return {
        **common,
        "dataset": record.dataset_name,
        **{name: getattr(record, name) for name in fields},
        "protocol": protocol,
        "metrics": {title: headline(record, *place) for title, place in headline_places(protocol).items()},
    }


def headline(record: Record | ExternalRecord, metric: str, protocol: str, key: str) -> float | None:
    """A number of a record; None where it has none there."""
    with suppress(RequestError):
        return record.value(metric, protocol, key)
    return None


def protocol_of(entry: RunEntry) -> str:
    """The protocol of a run's data set."""
    options = entry.experiment.get("dataset_options") or {}
    return default_protocol(str(entry.experiment.get("dataset")), options)


def options_beside_preset(entry: RunEntry) -> dict[str, Any]:
    """The strategy's options that are not as the run's preset has them; all of them where that cannot be told."""
    options = entry.experiment.get("strategy_options") or {}
    strategy, dataset = (str(entry.experiment.get(name)) for name in ("strategy", "dataset"))
    usual = _usual_options(strategy, dataset, str(entry.machine.get("preset") or ""))
    return {name: value for name, value in options.items() if name not in usual or usual[name] != value}


@cache
def _usual_options(strategy: str, dataset: str, preset: str) -> Mapping[str, Any]:
    """What the strategy's options are under a preset; none when it, or the plugin, is no longer there."""
    from ssldet.config import resolve  # imports torch, which a list of runs with usual options alone does without

    try:
        config = resolve({"strategy": strategy, "dataset": dataset, "ratio": 1.0}, preset=preset)
    except SsldetError:
        return {}
    return config.experiment.strategy_options


def check_files(entry: RunEntry) -> dict[str, FileState]:
    """File of the record -> whether it is as the record's hash says; none where there is no record."""
    return check_recorded(entry.folder, entry.record.files if entry.record else {})


def check_recorded(folder: Path, files: Mapping[str, str]) -> dict[str, FileState]:
    """File -> whether it is as its hash says."""
    found: dict[str, FileState] = {}
    for name, digest in files.items():
        path = folder / name
        found[name] = "absent" if not path.is_file() else "whole" if file_hash(path) == digest else "changed"
    return found


def log_tail(entry: RunEntry) -> list[dict[str, Any]]:
    """The last lines of the run's log; none where there is no log."""
    path = entry.folder / layout.LOG
    return read_log(path)[-LOG_LINES:] if path.is_file() else []


def log_curves(entry: RunEntry) -> list[Curve]:
    """What the run's log has over its steps; none where there is no log."""
    path = entry.folder / layout.LOG
    return curves(read_log(path)) if path.is_file() else []
