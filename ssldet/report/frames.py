"""Records as a table of pandas: `ssldet.load_records`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

from ssldet.contracts import MetricResult
from ssldet.errors import RequestError
from ssldet.evaluation.results import column_titles
from ssldet.report.run_selection import Folders, result_folders
from ssldet.runs.store import RunEntry, find_runs
from ssldet.util.files import replacing

if TYPE_CHECKING:  # pandas takes a while to import, and the other modules here do without it
    import pandas as pd

SETTINGS: Mapping[str, type | UnionType] = {
    "strategy": str,
    "strategy_options": dict,
    "dataset": str,
    "ratio": int | float,
    "split": int,
    "seed": int,
    "backbone": str,
    "pretrained": bool,
    "eval_on": str,
}
"""Columns that are fields of a run's experiment, and what a field of it is; one that is anything else is missing."""

COLUMNS = {
    "id": "string",
    "status": "string",
    "strategy": "string",
    "strategy_options": "object",
    "dataset": "string",
    "ratio": "Float64",
    "split": "Int64",
    "seed": "Int64",
    "backbone": "string",
    "preset": "string",
    "pretrained": "boolean",
    "eval_on": "string",
    "metric": "string",
    "protocol": "string",
    "key": "string",
    "column": "string",
    "class": "string",
    "value": "float64",
    "folder": "string",
}
"""Column -> its type."""


def load_records(folders: Folders | None = None) -> pd.DataFrame:
    """The numbers of all runs in or below some folders, one row per run and metric value, runs from old to new.

    Args:
        folders: one or several; None means results/runs.

    Returns:
        A frame with the columns

            - id, status ("done", "failed", "interrupted", "damaged", "incompatible"), folder: of the run;
            - strategy, strategy_options (a dictionary), dataset, ratio, split, seed, backbone, preset, pretrained,
              eval_on: its settings, missing where they cannot be read;
            - metric, protocol, key ("0.5") and column (its title, "V@0.5"; the key where the metric is not installed);
            - class: the class that the value is of, missing for the mean over classes and for plain numbers;
            - value: a fraction 0-1, missing where the protocol gives none.

        A run without numbers has one row, whose metric and value are missing.

    Raises:
        RequestError: a folder that is given does not exist.

    Example:
        ```python
        records = ssldet.load_records("results/runs")
        means = records[(records["column"] == "V@0.5") & (records["protocol"] == "yowo") & records["class"].isna()]
        means.groupby(["dataset", "strategy", "ratio"])["value"].agg(["mean", "std", "count"])
        ```
    """
    import pandas as pd

    rows = [row for entry in find_runs(result_folders(folders)) for row in _rows(entry)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


EXPORTS = (".parquet", ".csv")
"""Ends of the names of files that records can be exported to."""


def export_records(path: Path, folders: Folders | None = None) -> int:
    """Write the rows of `load_records` to one Parquet or CSV file, options as JSON; gives their number.

    Raises:
        RequestError: the name ends otherwise, a folder does not exist, or the file cannot be written.
    """
    if path.suffix not in EXPORTS:
        raise RequestError(f"{path}: expected a name that ends with {' or '.join(EXPORTS)}")
    frame = load_records(folders)
    frame["strategy_options"] = frame["strategy_options"].map(json.dumps, na_action="ignore").astype("string")
    try:
        with replacing(path) as temporary:
            frame.to_csv(temporary, index=False) if path.suffix == ".csv" else frame.to_parquet(temporary, index=False)
    except OSError as error:
        raise RequestError(f"cannot write {path} ({error.strerror})") from error
    return len(frame)


def _rows(entry: RunEntry) -> Iterator[dict[str, Any]]:
    run = {
        "id": entry.id,
        "status": entry.status,
        "folder": str(entry.folder),
        "preset": _typed(entry.machine.get("preset"), str),
        **{name: _typed(entry.experiment.get(name), kind) for name, kind in SETTINGS.items()},
    }
    metrics = entry.record.metrics if entry.record else {}
    if not metrics:
        yield run
    for metric, by_protocol in metrics.items():
        for protocol, result in by_protocol.items():
            for number in _numbers(result, metric):
                yield {**run, "metric": metric, "protocol": protocol, **number}


def _typed(value: Any, kind: type | UnionType) -> Any:
    if isinstance(value, bool) and kind is not bool:  # Python counts it among the whole numbers
        return None
    return value if isinstance(value, kind) else None


def _numbers(result: MetricResult, metric: str) -> Iterator[dict[str, Any]]:
    """Key, column, class and value of every number of a result, the classes after their mean."""
    titles = column_titles(metric)
    for key, number in result.numbers.items():
        place = {"key": key, "column": titles.get(key, key)}
        yield {**place, "class": None, "value": number}
        if key in result.by_class:
            for name, value in result.by_class[key].per_class.items():
                yield {**place, "class": name, "value": value}
