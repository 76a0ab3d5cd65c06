"""The last lines of a log as a table: a row a line, a column a number that any of them has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssldet.errors import RequestError
from ssldet.report.site.charts import number
from ssldet.runs import layout
from ssldet.runs.log import read_log

LINES = 12
FIELDS = ("step", "epoch", "stage", "lr", "seconds")
PSEUDO_LABELS = ("frame_coverage", "frame_precision", "box_coverage", "box_precision")


@dataclass(frozen=True, slots=True)
class LogTable:
    """Heads and rows in words; `warnings` are those of the whole log, with their steps."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]


def log_table(lines: Sequence[Mapping[str, Any]]) -> LogTable:
    """The end of a log."""
    last = lines[-LINES:]
    losses = list(dict.fromkeys(name for line in last for name in line.get("losses") or {}))
    labels = [name for name in PSEUDO_LABELS if any((line.get("pseudo_labels") or {}).get(name) for line in last)]
    rows = tuple(
        (
            *(_cell(line.get(name)) for name in FIELDS),
            *(_cell((line.get("losses") or {}).get(name)) for name in losses),
            *(_cell((line.get("pseudo_labels") or {}).get(name)) for name in labels),
        )
        for line in last
    )
    return LogTable((*FIELDS, *losses, *(name.replace("_", " ") for name in labels)), rows, warnings_of(lines))


def kept_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log. Raises RequestError where it keeps none."""
    path = folder / layout.LOG
    if not path.is_file():
        raise RequestError(f"the run keeps no {layout.LOG}: nothing is known of its training")
    return read_log(path)


def warnings_of(lines: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """All warnings of a log, with their steps."""
    return tuple(f"step {line['step']}: {text}" for line in lines for text in line.get("warnings") or ())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) or not isinstance(value, float):
        return str(value)
    return number(value)
