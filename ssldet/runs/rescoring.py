"""What an earlier version, or a clean-up, has not left of a finished run, and its detections, scored again.

rescore(entry)                  its per-video matches, made again
lost_files(record, folder)      which files are gone;  what_is_lost: and what makes them again
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ssldet import plugins
from ssldet.config import Experiment
from ssldet.contracts import Dataset, Metric, Video
from ssldet.data import splits
from ssldet.data.datasets import load_dataset
from ssldet.errors import RequestError
from ssldet.evaluation import scoring
from ssldet.evaluation.detections import read_detections
from ssldet.evaluation.per_video import per_video, write_per_video
from ssldet.evaluation.results import Results
from ssldet.runs import layout
from ssldet.runs.record import Record
from ssldet.runs.store import RunEntry

_SLACK = 1e-6


def rescore(entry: RunEntry, data_root: Path | None = None) -> Path:
    """Match the detections of a finished run again and write its per-video matches beside its record.

    The record stays as it is: the numbers that come out must be its own.

    Args:
        entry: the run.
        data_root: the folder of its data set; None means $SSLDET_DATA.

    Returns:
        The file that was written.

    Raises:
        RequestError: it is not finished, keeps no detections, or its detections and data do not give its numbers.
    """
    record = entry.record
    if record is None or entry.status != "done":
        raise RequestError(f"run {entry.id} is {entry.status} and has no scores: {entry.problem}")
    detections = entry.folder / layout.DETECTIONS
    if not detections.is_file():
        raise RequestError(
            f"run {entry.id} keeps no {layout.DETECTIONS} in {entry.folder}; copy its {layout.CONFIG}, remove the run, "
            "and make it again with `ssldet run --config COPY`"
        )
    experiment = Experiment.model_validate(entry.experiment)
    dataset = load_dataset(experiment.dataset, data_root, **experiment.dataset_options)
    if (fingerprint := dataset.fingerprint()) != record.data_fingerprint:
        raise RequestError(
            f"run {entry.id} was scored on data {record.data_fingerprint[:12]}, and these are {fingerprint[:12]}; give "
            "the folder of its data with --data-root"
        )
    videos = scored_videos(entry.folder, record, experiment, dataset)
    found = read_detections(detections, dataset.facts, videos)
    scored = scoring.score_videos(dataset.facts, videos, dataset.truth, found, _with_matches(record))
    _check(entry, record, scored.results)
    path = entry.folder / layout.PER_VIDEO
    write_per_video(path, per_video(dataset.facts, experiment.split, videos, scored.matches))
    return path


def lost_files(record: Record, folder: Path) -> list[str]:
    """The files that a finished run left by its record, and that are no longer in its folder."""
    return [name for name in record.files if not (folder / name).is_file()]


def what_is_lost(record: Record, folder: Path, run: str = "RUN") -> str:
    """Which files of a finished run are gone and what makes them again, in words; "" where all are there.

    Args:
        run: how the commands name the run.
    """
    lost = lost_files(record, folder)
    if not lost:
        return ""
    rescored = layout.PER_VIDEO in lost and layout.DETECTIONS not in lost
    again = [f"`ssldet runs rescore {run}` makes {layout.PER_VIDEO} again"] if rescored else []
    others = [name for name in lost if not rescored or name != layout.PER_VIDEO]
    again += [f"`ssldet runs rm {run}` and the same command make the run, and all its files, again"] if others else []
    gone = f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'} gone"
    return f"its numbers are there, and {gone}; {'; '.join(again)}"


def scored_videos(folder: Path, record: Record, experiment: Experiment, dataset: Dataset) -> list[Video]:
    """The videos that a run was scored on, as its settings say. Raises DataError, SplitError."""
    if experiment.eval_on == "val":
        kept = set(splits.read(folder / layout.SPLIT).validation)
        videos: Iterable[Video] = (v for v in dataset.videos("train", experiment.split) if v.id in kept)
    else:
        videos = dataset.videos("test", experiment.split)
    skipped = set(record.notes.get("skipped_videos", ()))
    listed = experiment.videos
    return [video for video in videos if (listed is None or video.id in listed) and video.id not in skipped]


def _with_matches(record: Record) -> dict[str, list[str]]:
    """The protocols of each metric of a record that gives matches. Raises PluginError, UnknownName."""
    kinds: dict[str, type[Metric]] = {name: plugins.load("metric", name) for name in record.metrics}
    return {name: list(record.metrics[name]) for name, kind in kinds.items() if kind.matches is not Metric.matches}


def _check(entry: RunEntry, record: Record, results: Results) -> None:
    """Raises RequestError where the numbers are not the record's."""
    for metric, by_protocol in results.items():
        for protocol, result in by_protocol.items():
            for key, value in result.numbers.items():
                recorded = record.value(metric, protocol, key)
                if value != recorded and not abs((value or 0.0) - (recorded or 0.0)) <= _SLACK:
                    raise RequestError(
                        f"run {entry.id}: its detections give {value} by {metric}, protocol {protocol}, {key}, and its "
                        f"record has {recorded}; they are not the ones that were scored, or another version scored them"
                    )
