"""Decoding every video of a data set once, to find those that are damaged or shorter than annotated."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from ssldet.contracts import Dataset, Video, VideoSource
from ssldet.data.video import read_frames
from ssldet.errors import DataError

SIZE = (16, 16)
"""Frames are scaled to this: decoding is what is tested, and pictures need not be kept."""


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
    report = DecodeReport()
    for done, (video, outcome) in enumerate(_outcomes(list(_jobs(dataset, videos)), workers), start=1):
        report.videos += 1
        if isinstance(outcome, str):
            report.damaged[video.id] = outcome
        elif outcome < video.num_frames:
            report.short[video.id] = (outcome, video.num_frames)
        if progress:
            progress(done)
    return report


def _jobs(dataset: Dataset, videos: Sequence[Video]) -> Iterator[tuple[Video, VideoSource]]:
    for video in videos:
        try:
            yield video, dataset.source(video.id)
        except DataError:
            continue


def _outcomes(jobs: Sequence[tuple[Video, VideoSource]], workers: int) -> Iterator[tuple[Video, int | str]]:
    if workers <= 1 or len(jobs) < 8:
        yield from ((video, _decode(source, video.num_frames)) for video, source in jobs)
        return
    videos, sources = zip(*jobs, strict=True)
    counts = [video.num_frames for video in videos]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from zip(videos, pool.map(_decode, sources, counts, chunksize=4), strict=True)


def _decode(source: VideoSource, num_frames: int) -> int | str:
    """How many frames a file gave, or what is wrong with it."""
    try:
        return read_frames(source, num_frames, SIZE).decoded
    except DataError as error:
        return str(error)
