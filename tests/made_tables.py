"""Tables from records made by hand, and their entries by what they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_records import NANO

from ssldet.benchmark.cells import Settings
from ssldet.report.run_selection import collect_runs
from ssldet.report.table_data import Entry, Table, TableRequest
from ssldet.report.tables import build_table


def table(root: Path, name: str = "3", settings: Settings | None = NANO, **request: Any) -> Table:
    return build_table(name, collect_runs([root]), TableRequest(settings, **request))


def entry(
    found: Table,
    approach: str = "Supervised",
    *,
    column: str = "V@0.5",
    ratio: float | str = 0.2,
    pretrained: bool = False,
    splits: tuple[int, ...] = (1,),
) -> Entry:
    rows = [
        i for i, line in enumerate(found.lines) if (line.row.approach, line.row.pretrained) == (approach, pretrained)
    ]
    places = [(c.metric.title, c.ratio, c.splits) for c in found.columns]
    value = found.entries[rows[0]][places.index((column, ratio, splits))]
    assert len(rows) == 1 and value is not None
    return value
