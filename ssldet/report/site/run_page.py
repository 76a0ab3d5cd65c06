"""The page of a run: all that its record, its log and its per-video matches say, and the name of what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssldet.evaluation.per_video import read_per_video
from ssldet.report.run_selection import Run
from ssldet.report.site.leaderboard import Link
from ssldet.report.site.log_charts import LogCharts, log_charts
from ssldet.report.site.log_tail import LogTable, log_table
from ssldet.report.site.precision_recall import ClassCurve, precision_recall
from ssldet.report.site.remarks import Remarks
from ssldet.report.site.run_facts import (
    Fact,
    FactGroup,
    about,
    config_yaml,
    provenance,
    settings,
    thresholds,
)
from ssldet.report.site.run_numbers import ClassTable, Mean, class_table, means
from ssldet.report.worst_videos import WorstVideos, worst_videos
from ssldet.runs import layout
from ssldet.runs.listing import headline, headline_places
from ssldet.runs.log import read_log


@dataclass(frozen=True, slots=True)
class RunPage:
    """What the page of a run shows. A part is None or empty where it cannot be made: `missing` says why.

    Attributes:
        page: its place in the site; `title`: the approach.
        headlines: title -> fraction.
        config: YAML that makes the run again.
    """

    page: str
    run: Run
    title: str
    headlines: Mapping[str, float | None]
    facts: tuple[Fact, ...]
    thresholds: tuple[Fact, ...]
    settings: tuple[FactGroup, ...]
    provenance: tuple[FactGroup, ...]
    config: str
    means: tuple[Mean, ...] = ()
    classes: ClassTable | None = None
    charts: LogCharts | None = None
    log: LogTable | None = None
    curves: tuple[ClassCurve, ...] = ()
    videos: WorstVideos | None = None
    comparisons: tuple[Link, ...] = ()
    missing: tuple[str, ...] = ()
    failure: str = ""


def run_page(run: Run, page: str, title: str, data_root: Path | None = None) -> RunPage:
    """Read what a run left.

    Args:
        run: one with a record, finished or failed.
        page: the page's place in the site.
        title: what the run is called.
        data_root: the folder of the data, for what only they tell; None: the run's own.
    """
    record, protocol, remarks = run.record, run.protocol, Remarks()
    lines = remarks.attempt("Log", _log, run.folder) or []
    scored = bool(record.metrics)
    return RunPage(
        page=page,
        run=run,
        title=title,
        headlines={name: headline(record, *place) for name, place in headline_places(protocol).items()},
        facts=remarks.attempt("Facts", about, run) or (),
        thresholds=thresholds(run.experiment.strategy_options),
        settings=settings(run),
        provenance=remarks.attempt("Provenance", provenance, record) or (),
        config=remarks.attempt("Configuration", config_yaml, run) or "",
        means=means(record),
        classes=class_table(record, protocol) if scored else None,
        charts=remarks.attempt("Curves", log_charts, lines),
        log=remarks.attempt("End of the log", log_table, lines) if lines else None,
        curves=(remarks.attempt("Precision over recall", _curves, run) or ()) if scored else (),
        videos=remarks.attempt("Videos", _videos, run, data_root, remarks) if scored else None,
        missing=tuple(remarks.sentences),
        failure="" if run.done else run.entry.problem,
    )


def _log(folder: Path) -> Sequence[Mapping[str, Any]]:
    return read_log(folder / layout.LOG)


def _curves(run: Run) -> tuple[ClassCurve, ...]:
    return precision_recall(read_per_video(run.folder / layout.PER_VIDEO), run.protocol)


def _videos(run: Run, data_root: Path | None, remarks: Remarks) -> WorstVideos:
    scored = worst_videos(run.entry, data_root)
    for remark in scored.remarks:
        remarks.add(remark[:1].upper() + remark[1:])
    return scored
