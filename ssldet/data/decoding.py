"""Decoding every video of a data set once, to find those that are damaged or shorter than annotated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ssldet.contracts import Dataset, Video, VideoSource
from ssldet.data.decode_pool import Job, run_jobs
from ssldet.data.video import read_frames
from ssldet.errors import DataError

SIZE = (16, 16)
"""Frames are scaled to this: decoding is what is tested, and pictures need not be kept."""

FEWEST = 8
"""Fewer videos are decoded sooner here than processes have started."""


@dataclass(slots=True)
class DecodeReport:
    """What decoding found.

    Attributes:
        videos: how many were opened.
        short: id -> (decoded, annotated) frames of files that have fewer; their last frames are repeated.
        damaged: id -> what is wrong.
    """

    videos: int = 0
    short: dict[str, tuple[int, int]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def decode_all(
    dataset: Dataset, videos: Sequence[Video], workers: int = 1, progress: Callable[[int], None] | None = None
) -> DecodeReport:
    """Decode all videos in `workers` processes, keeping none; videos without a file are left to `verify`."""
    report, by_id = DecodeReport(), {video.id: video for video in videos}
    jobs = list(_jobs(dataset, videos))
    processes = workers if len(jobs) >= FEWEST else 1
    for done, (video_id, outcome) in enumerate(run_jobs(_decode, jobs, processes), start=1):
        report.videos += 1
        annotated = by_id[video_id].num_frames
        if isinstance(outcome, str):
            report.damaged[video_id] = outcome
        elif outcome < annotated:
            report.short[video_id] = (outcome, annotated)
        if progress:
            progress(done)
    return DecodeReport(report.videos, dict(sorted(report.short.items())), dict(sorted(report.damaged.items())))


def _jobs(dataset: Dataset, videos: Sequence[Video]) -> Iterator[Job]:
    for video in videos:
        try:
            yield video.id, (dataset.source(video.id), video.num_frames)
        except DataError:
            continue


def _decode(source: VideoSource, num_frames: int) -> int | str:
    """How many frames a file gave, or what is wrong with it."""
    try:
        return read_frames(source, num_frames, SIZE).decoded
    except DataError as error:
        return str(error)
