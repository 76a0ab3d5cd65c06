"""What looks wrong with the files of a data set: turned frames, frames of uneven length. Only first frames are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ssldet.contracts import Dataset, Problem, Video, VideoSource
from ssldet.data.doubts import doubt, named
from ssldet.data.orientation import STORED
from ssldet.data.video import file_orientation, timing
from ssldet.errors import DataError


def file_doubts(dataset: Dataset, videos: Iterable[Video]) -> list[Problem]:
    """Doubts about files; one that cannot be opened is left to `verify`."""
    turned: list[str] = []
    uneven: list[str] = []
    sampled: list[str] = []
    for video, source in _sources(dataset, videos):
        try:
            if source.file is not None and file_orientation(source.file) != STORED:
                turned.append(video.id)
            times = timing(source)
        except DataError:
            continue
        if times is not None and not times.even:
            (uneven if source.rate is None else sampled).append(video.id)
    return list(_said(turned, uneven, sampled))


def _sources(dataset: Dataset, videos: Iterable[Video]) -> Iterator[tuple[Video, VideoSource]]:
    for video in videos:
        try:
            yield video, dataset.source(video.id)
        except DataError:
            continue


def _said(turned: Sequence[str], uneven: Sequence[str], sampled: Sequence[str]) -> Iterator[Problem]:
    if turned:
        what = f"{named(turned)} stored turned, as phones do, and decoded upright"
        yield doubt(what, "boxes must be in pixels of the upright frames, as a player shows them")
    if uneven:
        what = f"{named(uneven)} of variable frame rate, or with frames left out"
        yield doubt(what, "frames count in the order in which they are shown, each once, whatever its time")
    if sampled:
        yield doubt(f"{named(sampled)} of variable frame rate", "frames count by time, at the data set's rate")
