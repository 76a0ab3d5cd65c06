"""Table 1: what the annotation of each data set holds, beside what the paper says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssldet.benchmark import spec as benchmark
from ssldet.benchmark.spec import ReportedDataset
from ssldet.data import statistics
from ssldet.data.datasets import load_dataset
from ssldet.errors import SsldetError

TABLE_1 = "1"


@dataclass(frozen=True, slots=True)
class DataRow:
    """A data set of Table 1: what its annotation says, column by column as `statistics.table_1` has it; or why not."""

    name: str
    title: str
    columns: tuple[dict[str, Any], ...]
    absent: str = ""


def data_table(data_root: Path | None) -> tuple[DataRow, ...]:
    """Table 1. A data set that is not below `data_root` has the paper's words alone."""
    return tuple(_data_row(name, reported, data_root) for name, reported in benchmark.paper().datasets.items())


def _data_row(name: str, reported: ReportedDataset, data_root: Path | None) -> DataRow:
    try:
        counted = statistics.count(load_dataset(name, data_root))
    except SsldetError as error:
        columns = tuple({"column": column, "printed": words} for column, words in reported.columns.items())
        return DataRow(name, reported.title, columns, absent=str(error).splitlines()[0])
    absent = "; ".join(f"{subset}: {why}" for subset, why in counted.absent.items())
    return DataRow(name, reported.title, tuple(statistics.table_1(counted, reported.columns)), absent)
