"""Which test video is worst, and why: the scores of a run video by video, and what its detections got wrong in each.

Scores follow from the per-video matches that a run leaves, kinds of error from its detections and the truth. A video's
numbers are means over the classes that have truth in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssldet.contracts import Dataset
from ssldet.data.datasets import load_dataset
from ssldet.errors import PluginError, RequestError
from ssldet.evaluation import scoring
from ssldet.evaluation.detections import read_detections
from ssldet.evaluation.per_video import PerVideo, read_per_video
from ssldet.report.resampling import mean_scores
from ssldet.report.run_selection import Run, collect_runs
from ssldet.runs import layout
from ssldet.runs.listing import headline_places, protocol_of
from ssldet.runs.rescoring import scored_videos
from ssldet.runs.store import RunEntry


@dataclass(frozen=True, slots=True)
class VideoResult:
    """One video of a run, as fractions.

    Attributes:
        id: of the video; `classes`: the names of its classes.
        scores: title ("F@0.5") -> average precision in this video alone; None where it has no truth.
        errors: kind -> its share, which add up to 1 (see docs/evaluation.md); empty where they cannot be told.
    """

    id: str
    classes: tuple[str, ...]
    scores: Mapping[str, float | None]
    errors: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class WorstVideos:
    """The videos of a run, the worst first, under one protocol; `remarks` say what could not be told, and why."""

    protocol: str
    videos: tuple[VideoResult, ...]
    remarks: tuple[str, ...] = ()


def worst_videos(entry: RunEntry, data_root: str | Path | None = None) -> WorstVideos:
    """Score a run's videos one by one, the worst first: by frame-mAP, then by video-mAP.

    Args:
        entry: a finished run.
        data_root: the folder of the data; None: the run's own.

    Raises:
        RequestError: the run is not done, or left no per-video matches.
    """
    run = next((run for run in collect_runs([entry.folder]).runs if run.done), None)
    if run is None:
        raise RequestError(f"run {entry.id} is {entry.status} and has no scored videos: {entry.problem}")
    kept = read_per_video(entry.folder / layout.PER_VIDEO)
    protocol = protocol_of(entry)
    scores = _scores(kept, protocol)
    errors, remarks = _errors_or_why_not(run, protocol, data_root)
    videos = [
        VideoResult(
            video.id,
            tuple(kept.classes[label] for label in video.classes),
            {title: _number(values[place]) for title, values in scores.items()},
            errors.get(video.id, {}),
        )
        for place, video in enumerate(kept.videos)
    ]
    return WorstVideos(protocol, tuple(sorted(videos, key=_badness)), tuple(remarks))


def _badness(result: VideoResult) -> tuple[float, ...]:
    """Falling: videos without truth come last."""
    order = sorted(result.scores)  # F before V
    return tuple(2.0 if (score := result.scores[title]) is None else score for title in order)


def _scores(kept: PerVideo, protocol: str) -> dict[str, np.ndarray]:
    """Title -> the score of each video, NaN where it has no truth: every video is drawn alone."""
    alone_vv = np.eye(len(kept.videos))
    return {
        title: mean_scores(kept.matches[metric][protocol], key, alone_vv)
        for title, (metric, protocol, key) in headline_places(protocol).items()
        if key in getattr(kept.matches.get(metric, {}).get(protocol), "columns", ())
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _errors_or_why_not(
    run: Run, protocol: str, data_root: str | Path | None
) -> tuple[dict[str, Mapping[str, float]], list[str]]:
    experiment = run.experiment
    try:
        root = data_root or run.entry.machine.get("data_root")
        dataset = load_dataset(experiment.dataset, root, **experiment.dataset_options)
        return _errors(run, dataset, protocol), []
    except (RequestError, PluginError) as error:
        return {}, [f"kinds of error of each video cannot be told: {str(error).splitlines()[0]}"]


def _errors(run: Run, dataset: Dataset, protocol: str) -> dict[str, Mapping[str, float]]:
    """Video id -> kind of error -> its share; raises RequestError, PluginError."""
    videos = scored_videos(run.entry.folder, run.record, run.experiment, dataset)
    path = run.entry.folder / layout.DETECTIONS
    detections = read_detections(path, dataset.facts, videos)
    found: dict[str, Mapping[str, float]] = {}
    for video in videos:
        alone = {video.id: detections[video.id]}
        result = scoring.score(dataset.facts, [video], dataset.truth, alone, {"errors": [protocol]})["errors"][protocol]
        found[video.id] = {kind: value.mean for kind, value in result.kinds.items() if value.mean is not None}
    return found


def kinds_in(videos: Sequence[VideoResult]) -> list[str]:
    """The kinds of error of some videos, in their order."""
    return list(dict.fromkeys(kind for video in videos for kind in video.errors))
