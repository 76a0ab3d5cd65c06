"""The closer look at a data set: tubes with gaps or jumps, two labels in one place, class balance, videos held twice.

Files are read whole, to compare them; nothing is decoded.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Problem, Subset, Video
from ssldet.data.doubts import AnnotatedVideo, Check, count, doubt, named
from ssldet.errors import DataError
from ssldet.ops.iou import paired_iou
from ssldet.util.files import file_hash

SAME = 0.9
"""Boxes of one frame that overlap by more are of one actor."""

RARE = 0.05
"""A class with fewer boxes than this share of the most frequent one's is rare."""


def _gaps(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Tubes whose steps between boxes are not of one length: frames were forgotten, or two tubes have one number."""
    uneven: Counter[str] = Counter()
    for v in videos if facts.numbering.step == 1 else ():
        for rows_n in _tubes(v):
            steps = np.diff(np.unique(v.truth.frames_n[rows_n]))
            uneven[v.video.id] += len(steps) > 1 and bool((steps > steps.min()).any())
    if ids := _present(uneven):
        what = (
            f"{count(sum(uneven.values()), 'tube')} with gaps: longer steps between some boxes than between others, in"
        )
        yield doubt(f"{what} {named(ids)}", "where an actor leaves and comes back, begin a new tube")


def _jumps(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Consecutive boxes of a tube, in neighbouring frames, that do not overlap."""
    jumps: dict[str, str] = {}
    for v in videos if facts.numbering.step == 1 else ():
        for rows_n in _tubes(v):
            near_m = np.diff(v.truth.frames_n[rows_n]) == 1
            apart_m = paired_iou(v.boxes_n4[rows_n[:-1]], v.boxes_n4[rows_n[1:]]) == 0
            if (near_m & apart_m).any():
                after = rows_n[1:][near_m & apart_m][0]
                jumps.setdefault(v.video.id, f"frame {v.truth.frames_n[after] + 1}")
    if jumps:
        first, where = next(iter(jumps.items()))
        what = f"tubes that jump: boxes of neighbouring frames do not overlap, in {named(list(jumps))}"
        yield doubt(f"{what}, first in {where} of {first}", "two actors may have changed numbers")


def _conflicts(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """On single-label data, tubes of several labels, and boxes of one place with different labels."""
    if facts.multilabel:
        return
    mixed = [v.video.id for v in videos if any(v.truth.labels_nk[rows_n].any(0).sum() > 1 for rows_n in _tubes(v))]
    if mixed:
        yield doubt(f"tubes whose label changes, in {named(mixed)}", "a tube is one action: end it and begin another")
    torn = {v.video.id: number for v in videos if (number := _contradictions(v))}
    if torn:
        what = f"{count(sum(torn.values()), 'pair')} of boxes in one place of a frame with different labels"
        yield doubt(f"{what}, in {named(list(torn))}", "one of the labels is wrong, where the data have one a box")


def _contradictions(v: AnnotatedVideo) -> int:
    labels_n, pairs = v.truth.labels_nk.argmax(1), 0
    for rows_n in _by(v.truth.frames_n):
        first, second = (rows_n[side] for side in np.triu_indices(len(rows_n), 1))
        together = paired_iou(v.boxes_n4[first], v.boxes_n4[second]) > SAME
        pairs += int((together & (labels_n[first] != labels_n[second])).sum())
    return pairs


def _balance(facts: DatasetFacts, videos: Sequence[AnnotatedVideo]) -> Iterator[Problem]:
    """Classes with very few training boxes beside the most frequent one."""
    boxes_k = np.sum([v.truth.labels_nk.sum(0) for v in videos if v.subset == "train"] or [[0]], 0)
    rare = [facts.classes[k] for k in np.flatnonzero((boxes_k > 0) & (boxes_k < RARE * boxes_k.max()))]
    if rare:
        most = facts.classes[int(boxes_k.argmax())]
        yield doubt(f"{named(rare, 'class')} with less than {RARE:.0%} of the training boxes of {most!r}")


def _tubes(v: AnnotatedVideo) -> Iterator[np.ndarray]:
    """The rows of each tube, in order of frames."""
    return (rows_n for rows_n in _by(v.truth.tubes_n) if v.truth.tubes_n[rows_n[0]] >= 0)


def _by(values_n: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each value, in their order."""
    order = np.argsort(values_n, kind="stable")
    return (rows for rows in np.split(order, np.flatnonzero(np.diff(values_n[order])) + 1) if len(rows))


def _present(counts: Counter[str]) -> list[str]:
    return [video_id for video_id, number in counts.items() if number]


DEEP_CHECKS: dict[str, Check] = {
    "gaps in tubes": _gaps,
    "jumps in tubes": _jumps,
    "label conflicts": _conflicts,
    "class balance": _balance,
}
"""What is looked at closely, by name."""


# ---------------------------------------------------------------------------------------------------------- files


def duplicated_videos(dataset: Dataset, videos: Iterable[tuple[Video, Subset]]) -> list[Problem]:
    """Videos, given with their subset, whose frames are the same files; between training and test that is a leak."""
    held: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for video, subset in videos:
        if (digest := _content(dataset, video)) is not None:
            held[digest].append((video.id, subset))
    return [_twin(copies) for copies in held.values() if len(copies) > 1]


def _twin(copies: Sequence[tuple[str, str]]) -> Problem:
    ids = ", ".join(video_id for video_id, _ in copies)
    leak = len({subset for _, subset in copies}) > 1
    where = ", in training and in test: what is scored was trained on" if leak else ""
    return doubt(f"{count(len(copies), 'video')} hold the same frames ({ids}){where}", "keep one of them")


def _content(dataset: Dataset, video: Video) -> str | None:
    """A hash of what the frames are read from; None where it is absent."""
    try:
        source = dataset.source(video.id)
        files = source.images if source.file is None else (source.file,)
        return hashlib.sha256("".join(file_hash(path) for path in files).encode()).hexdigest()
    except (DataError, OSError):
        return None
