"""Print finished runs beside each other: python scripts/compare.py RECORD.json ..."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ssldet.errors import RequestError, SsldetError
from ssldet.runs.record import Record

COLUMNS = {
    "V@0.1": ("video_map", "yowo", "0.1"),
    "V@0.2": ("video_map", "yowo", "0.2"),
    "V@0.5": ("video_map", "yowo", "0.5"),
    "F@0.5": ("frame_map", "yowo", "0.5"),
    "loc.": ("recall", "standard", "localization"),
    "cls.": ("recall", "standard", "classification"),
}
"""Column -> metric, protocol and key of its number in a record."""


def percent(record: Record, place: tuple[str, str, str]) -> str:
    """One number of a record as a percentage; a dash where the record has none."""
    try:
        value = record.value(*place)
    except RequestError:
        return "-"
    return "-" if value is None else f"{100 * value:.1f}"


def table(found: list[Record]) -> Table:
    """One row a run: mean average precision of tubes (V) and boxes (F), and both recalls, in percent."""
    printed = Table(
        title="percent; V: video-mAP, F: frame-mAP (protocol yowo); loc., cls.: localization and classification recall",
        title_justify="left",
    )
    printed.add_column("strategy", no_wrap=True)
    printed.add_column("labelled", no_wrap=True)
    for column in COLUMNS:
        printed.add_column(column, justify="right")
    for record in found:
        labelled = f"{record.split.labelled} of {record.split.labelled + record.split.unlabelled}"
        strategy = str(record.config["experiment"]["strategy"])
        printed.add_row(strategy, labelled, *(percent(record, place) for place in COLUMNS.values()))
    return printed


def main(paths: list[str]) -> None:
    try:
        Console().print(table([Record.read(Path(path)) for path in paths]))
    except SsldetError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
