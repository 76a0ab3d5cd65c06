"""Scoring anyone's detections: `ssldet.evaluate`, what `ssldet evaluate` calls.

evaluate(detections, dataset)     open, check, score
choose_videos(dataset, split)     which videos are scored, and which a detections file may speak of
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Matches, MetricResult, Subset, Video, VideoDetections
from ssldet.data.datasets import load_dataset
from ssldet.errors import DataError, DetectionsError, nearest
from ssldet.evaluation import diagnosis, results, scoring
from ssldet.evaluation.detection_conventions import FileConventions
from ssldet.evaluation.detection_rows import Faults, Rows, check
from ssldet.evaluation.detections import read_detections
from ssldet.evaluation.results import Results

Metrics = str | Iterable[str] | Mapping[str, Iterable[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation(Mapping[str, Mapping[str, MetricResult]]):
    """What `evaluate` found: a mapping metric -> protocol -> `MetricResult`.

    Attributes:
        results: the same as plain dictionaries.
        dropped: how many rows a lenient reading left out, by reason.
        left_out: installed metrics that do not apply to the data set, with the reason; only where none was named.
        remarks: how a file was read: its labels, names and columns.
        warnings: what looks wrong with the detections; the likely cause wherever a score is exactly 0.
        videos: those that were scored.
        matches: metric -> protocol -> which detection of which video was a hit, where a metric gives it.
    """

    results: Results
    dropped: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    videos: tuple[Video, ...] = ()
    matches: Mapping[str, Mapping[str, Matches]] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> Mapping[str, MetricResult]:
        return self.results[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def value(self, metric: str, protocol: str, column: str) -> float | None:
        """One number by its key ("0.5") or its column's title ("V@0.5"), as `Record.value` gives it.

        Raises:
            UnknownName: there is no such metric, protocol or column; names those that there are.
        """
        return results.value(self.results, metric, protocol, column)


def evaluate(
    detections: str | Path | Mapping[str, VideoDetections],
    dataset: str | Dataset,
    metrics: Metrics | None = None,
    *,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    split: int = 1,
    videos: Iterable[str] | None = None,
    lenient: bool = False,
    conventions: FileConventions | None = None,
) -> Evaluation:
    """Score detections against a data set's truth, without a model.

    Nothing is filtered or suppressed: what is among the detections counts. A video without detections is one in which
    nothing was detected.

    Args:
        detections: a file in any form that `read_detections` knows (Parquet, CSV, AVA's csv, an ACT-style pickle, a
            folder of .txt files), or video id -> its detections.
        dataset: a data set's name, or an opened one; its annotation is enough.
        metrics: names (each under its default protocol), or name -> protocols; None means all metrics that apply to the
            data set, under all their protocols.
        root: the folder of a data set that is named; None means $SSLDET_DATA.
        options: options of a data set that is named.
        split: official split.
        videos: score these ids only, of test or training; None means all test videos.
        lenient: drop and count unsound rows instead of refusing the detections.
        conventions: what a file counts from and measures in, where it is not as docs/evaluation.md says.

    Returns:
        Metric -> protocol -> `MetricResult`, values as fractions 0-1.

    Raises:
        UnknownName: no such data set, metric or protocol.
        ConfigError: a metric does not apply to the data set.
        DataError: the data set is absent or damaged, or has no such video.
        DetectionsError: names every kind of fault, with its first row and what mends it.

    Example:
        ```python
        evaluation = ssldet.evaluate("detections.parquet", "jhmdb", {"video_map": ["yowo"]}, root="data")
        evaluation.value("video_map", "yowo", "V@0.5")
        evaluation["video_map"]["yowo"].thresholds["0.5"].per_class["catch"]
        ```
    """
    opened = load_dataset(dataset, root, **(options or {})) if isinstance(dataset, str) else dataset
    wanted, left_out = _wanted(opened.facts, metrics)
    scoring.build_meters(opened.facts, wanted)  # a name that is unknown should not cost the reading of a large file
    scored, known = choose_videos(opened, split, videos)
    sound, dropped, remarks = _sound(detections, opened.facts, known, lenient=lenient, conventions=conventions)
    found = scoring.score_videos(opened.facts, scored, opened.truth, sound, wanted)
    seen = diagnosis.sample(scored, opened.truth, sound)
    warnings = tuple(diagnosis.why_zero(found.results, opened.facts, seen) or diagnosis.doubts(seen))
    return Evaluation(found.results, dropped, left_out, tuple(remarks), warnings, tuple(scored), found.matches)


def _sound(
    detections: str | Path | Mapping[str, VideoDetections],
    facts: DatasetFacts,
    videos: Sequence[Video],
    *,
    lenient: bool,
    conventions: FileConventions | None,
) -> tuple[Mapping[str, VideoDetections], Counter[str], Sequence[str]]:
    """The checked detections, how many rows were dropped, by reason, and how a file was read."""
    if isinstance(detections, Mapping):
        return (*check_detections(detections, facts, videos, lenient=lenient), ())
    from_file = read_detections(Path(detections), facts, videos, lenient=lenient, conventions=conventions)
    return from_file, from_file.dropped, from_file.remarks


def _wanted(facts: DatasetFacts, metrics: Metrics | None) -> tuple[Mapping[str, Sequence[str]], dict[str, str]]:
    """Metric -> protocols (empty: the default one); and the metrics that do not apply, where none was named."""
    if metrics is None:
        return scoring.applicable(facts)
    if isinstance(metrics, Mapping):
        return {name: tuple(protocols) for name, protocols in metrics.items()}, {}
    return dict.fromkeys([metrics] if isinstance(metrics, str) else metrics, ()), {}


def choose_videos(
    dataset: Dataset, split: int = 1, ids: Iterable[str] | None = None
) -> tuple[Sequence[Video], Sequence[Video]]:
    """The videos to score, and those that detections may speak of: the test videos, unless ids are given.

    Raises:
        DataError: an id is none of the data set's.
    """
    known = {video.id: video for video in dataset.videos("test", split)}
    if ids is None:
        return list(known.values()), list(known.values())
    chosen = list(dict.fromkeys(ids))
    if not known.keys() >= set(chosen):
        subsets: tuple[Subset, ...] = get_args(Subset)
        known = {video.id: video for subset in subsets for video in dataset.videos(subset, split)}
    for video_id in chosen:
        if video_id not in known:
            near = nearest(video_id, known)
            raise DataError(f"{dataset.facts.name} has no video {video_id!r} in split {split}{near}")
    return [known[video_id] for video_id in chosen], list(known.values())


# ------------------------------------------------------------------------------------- detections in memory


def check_detections(
    detections: Mapping[str, VideoDetections], facts: DatasetFacts, videos: Sequence[Video], *, lenient: bool = False
) -> tuple[dict[str, VideoDetections], Counter[str]]:
    """Detections in memory as those of a file are checked; and how many rows were dropped, by reason.

    Raises:
        DetectionsError: names the video, the row and what was expected of it.
    """
    faults = Faults(strict=not lenient)
    known = {video.id: video for video in videos}
    sound = {}
    for name, detected in detections.items():
        _check_shapes(name, detected, facts)
        rows = check(_rows(name, detected, facts), facts, known, faults)
        sound[name] = detected[rows.at_n]
    if faults.strict and faults:
        raise DetectionsError(faults.text({}))
    return sound, faults.counts


def _check_shapes(name: str, detected: VideoDetections, facts: DatasetFacts) -> None:
    n = len(detected.frames_n)
    expected = {"frames_n": (n,), "boxes_n4": (n, 4), "confidence_n": (n,), "scores_nk": (n, facts.num_classes)}
    for field_name, shape in expected.items():
        if (given := np.shape(getattr(detected, field_name))) != shape:
            raise DetectionsError(f"detections of video {name!r}: {field_name} has shape {given}, expected {shape}")
    if not np.issubdtype(detected.frames_n.dtype, np.integer):
        raise DetectionsError(
            f"detections of video {name!r}: frames_n holds {detected.frames_n.dtype}, expected whole numbers from 0"
        )


def _rows(name: str, detected: VideoDetections, facts: DatasetFacts) -> Rows:
    """As rows of a file; a label that is not offered for a box (NaN) is no fault."""
    n = len(detected.frames_n)
    return Rows(
        names=[name],
        codes_n=np.zeros(n, np.int64),
        numbers_n=facts.numbering.to_file(detected.frames_n),
        boxes_n4=detected.boxes_n4,
        confidence_n=detected.confidence_n,
        scores=np.where(np.isnan(detected.scores_nk), 0, detected.scores_nk),
        labels_n=None,
        at_n=np.arange(n),
        place=lambda row: f"detections of video {name!r}, row {row}",
    )
