"""A table as csv and json have it: one flat object a number, a contrast, a rank and a cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ssldet.benchmark.spec import ratio_key
from ssldet.report.contrasts import Difference
from ssldet.report.run_selection import LeftOut
from ssldet.report.table_data import Column, Entry, Line, Table
from ssldet.report.wording import flags, printed, view


def facts(table: Table) -> dict[str, Any]:
    settings = table.settings
    return {
        "dataset": str(settings.dataset(table.spec.dataset)),
        "preset": settings.preset,
        "assignments": list(settings.assignments),
        "tuned": settings.tuned.summary() if settings.tuned else None,
        "videos": None if settings.videos is None else list(settings.videos),
        "seeds": list(table.seeds),
        "chosen_because_it_fills": table.best.filled if table.best else None,
        "external": [
            {"name": record.name, "detections": record.detections, "ratio": record.ratio, "seed": record.seed}
            for record in (line.external.record for line in table.lines if line.external)
        ],
        "others": [{"flags": flags(option.settings), "cells": option.filled} for option in table.others],
    }


def of_entries(table: Table) -> Iterator[dict[str, Any]]:
    for line, row in zip(table.lines, table.entries, strict=True):
        for column, entry in zip(table.columns, row, strict=True):
            if entry:
                yield {"table": table.spec.name, **_of_line(line), **_of_column(column), **_of_entry(entry)}


def of_contrasts(table: Table) -> Iterator[dict[str, Any]]:
    for contrast in table.contrasts:
        for column, difference in zip(table.columns, contrast.differences, strict=True):
            if difference:
                about = {"approach": contrast.approach, "other": contrast.other, "pretrained": contrast.pretrained}
                yield {"table": table.spec.name, **about, **_of_column(column), **asdict(difference)}


def of_costs(table: Table) -> Iterator[dict[str, Any]]:
    for (index, ratio), cost in table.costs.items():
        about = {"table": table.spec.name, **_of_line(table.lines[index]), "ratio": ratio_key(ratio)}
        yield {**about, **asdict(cost)}


def _of_line(line: Line) -> dict[str, Any]:
    row = line.row
    options = json.dumps(row.options, sort_keys=True) if row.options else ""
    return {
        "approach": row.approach,
        "pretrained": row.pretrained,
        "row": line.kind,
        "strategy": row.strategy,
        "options": options,
    }


def _of_column(column: Column) -> dict[str, Any]:
    metric = column.metric
    return {
        "column": metric.title,
        "metric": metric.metric,
        "protocol": metric.protocol,
        "threshold": metric.key,
        "ratio": ratio_key(column.ratio),
        "split": view(column),
    }


def _of_entry(entry: Entry) -> dict[str, Any]:
    difference = entry.difference or Difference()
    elsewhere = entry.paper.elsewhere if entry.paper else ()
    return {
        "mean": entry.mean,
        "std": entry.std,
        "n": entry.n,
        "expected": entry.expected,
        "seeds": list(entry.seeds),
        "runs": list(entry.runs),
        "paper": entry.paper.value if entry.paper else None,
        "paper_elsewhere": [f"{printed(value)} in {where}" for value, where in elsewhere],
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "difference_n": difference.n,
        "difference_video_low": difference.video_low,
        "difference_video_high": difference.video_high,
        "difference_note": difference.why,
        "marks": list(entry.marks),
    }


def of_ranks(table: Table) -> Iterator[dict[str, Any]]:
    for rank in table.ranks:
        yield {"table": table.spec.name, **_of_line(table.lines[rank.line]), **asdict(rank)}


def as_dict(left_out: LeftOut) -> dict[str, Any]:
    """A run left out, as csv and json have it."""
    return asdict(left_out)
