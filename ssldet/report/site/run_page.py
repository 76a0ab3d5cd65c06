"""The page of a run: all that its record, its log and its per-video matches say, and the name of what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ssldet.evaluation.confusion import Confusion, confusion
from ssldet.evaluation.per_video import read_per_video
from ssldet.report.run_selection import Run
from ssldet.report.site.leaderboard import Link
from ssldet.report.site.log_charts import LogCharts, log_charts
from ssldet.report.site.log_tail import LogTable, kept_log, log_table
from ssldet.report.site.precision_recall import ClassCurve, precision_recall
from ssldet.report.site.reliability import Reliability, reliability
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
from ssldet.report.site.scored_run import DataSets, ScoredRun, scored_run
from ssldet.report.site.worst_frames import VideoPictures, show_videos
from ssldet.report.worst_videos import WorstVideos, worst_videos
from ssldet.runs import layout
from ssldet.runs.listing import headline, headline_places


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
    confusion: Confusion | None = None
    reliability: Reliability | None = None
    pictures: tuple[VideoPictures, ...] = ()
    comparisons: tuple[Link, ...] = ()
    missing: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """How many of the worst videos of a run are shown, and the top of the site, where their files go."""

    site: Path
    videos: int


def run_page(run: Run, page: str, title: str, datasets: DataSets, pictures: Pictures) -> RunPage:
    """Read what a run left.

    Args:
        run: one with a record, finished or failed.
        page: the page's place in the site.
        title: what the run is called.
        datasets: the data, for what only they tell beside the run's detections.
        pictures: what is drawn of them.
    """
    remarks = Remarks()
    shown = _from_record(run, page, title, remarks)
    if run.record.metrics:
        shown = _from_matches(shown, datasets.root, remarks)
        shown = _from_detections(shown, datasets, pictures, remarks)
    return replace(shown, missing=tuple(remarks.sentences))


def _from_record(run: Run, page: str, title: str, remarks: Remarks) -> RunPage:
    """What record and log say."""
    record, protocol = run.record, run.protocol
    lines = remarks.attempt("Log", kept_log, run.folder) or []
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
        classes=class_table(record, protocol),
        charts=remarks.attempt("Curves", log_charts, lines),
        log=remarks.attempt("End of the log", log_table, lines) if lines else None,
        failure="" if run.done else run.entry.problem,
    )


def _from_matches(shown: RunPage, data_root: Path | None, remarks: Remarks) -> RunPage:
    """The same with what per-video matches say."""
    return replace(
        shown,
        curves=remarks.attempt("Precision over recall", _curves, shown.run) or (),
        videos=remarks.attempt("Videos", _videos, shown.run, data_root, remarks),
    )


def _from_detections(shown: RunPage, datasets: DataSets, pictures: Pictures, remarks: Remarks) -> RunPage:
    """The same with what detections and data say."""
    scored = remarks.attempt("Confusion, reliability and pictures", scored_run, shown.run, datasets)
    if scored is None:
        return shown
    worst = [video.id for video in shown.videos.videos[: pictures.videos]] if shown.videos else []
    folder = pictures.site / shown.page.removesuffix(".html")
    return replace(
        shown,
        confusion=remarks.attempt("Confusion", _confusion, scored),
        reliability=remarks.attempt("Reliability", reliability, scored),
        pictures=show_videos(scored, worst, folder, remarks),
    )


def _confusion(scored: ScoredRun) -> Confusion:
    return confusion(scored.dataset.facts, scored.videos, scored.dataset.truth, scored.detections)


def _curves(run: Run) -> tuple[ClassCurve, ...]:
    return precision_recall(read_per_video(run.folder / layout.PER_VIDEO), run.protocol)


def _videos(run: Run, data_root: Path | None, remarks: Remarks) -> WorstVideos:
    scored = worst_videos(run.entry, data_root)
    for remark in scored.remarks:
        remarks.add(remark[:1].upper() + remark[1:])
    return scored
