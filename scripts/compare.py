"""Print finished runs beside each other: python scripts/compare.py RECORD.json ..."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ssldet.errors import SsldetError
from ssldet.runs.record import Record

COLUMNS = {
    "V@0.1": ("video_map", "yowo", "thresholds", "0.1", "mean"),
    "V@0.2": ("video_map", "yowo", "thresholds", "0.2", "mean"),
    "V@0.5": ("video_map", "yowo", "thresholds", "0.5", "mean"),
    "F@0.5": ("frame_map", "yowo", "thresholds", "0.5", "mean"),
    "loc.": ("recall", "localization"),
    "cls.": ("recall", "classification"),
}
"""Column -> where its number lies in a record's metrics."""


def percent(metrics: Any, keys: tuple[str, ...]) -> str:
    """The number below a path of keys as a percentage; a dash where the record has none."""
    for key in keys:
        metrics = metrics.get(key) if isinstance(metrics, dict) else None
    return f"{100 * metrics:.1f}" if isinstance(metrics, int | float) else "-"


def table(found: list[Record]) -> Table:
    """One row a run: mean average precision of tubes (V) and boxes (F), and both recalls, in percent."""
    printed = Table(
        title="percent; V: video-mAP, F: frame-mAP (protocol yowo); loc., cls.: localisation and classification recall",
        title_justify="left",
    )
    printed.add_column("strategy", no_wrap=True)
    printed.add_column("labelled", no_wrap=True)
    for column in COLUMNS:
        printed.add_column(column, justify="right")
    for record in found:
        labelled = f"{record.split.labelled} of {record.split.labelled + record.split.unlabelled}"
        strategy = str(record.config["experiment"]["strategy"])
        printed.add_row(strategy, labelled, *(percent(record.metrics, keys) for keys in COLUMNS.values()))
    return printed


def main(paths: list[str]) -> None:
    try:
        Console().print(table([Record.read(Path(path)) for path in paths]))
    except SsldetError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
