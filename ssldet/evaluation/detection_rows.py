"""Rows of a detections file in columns: what is checked of them, and how they become a video's detections.

Letters: n rows, k classes. Every reader brings its file into `Rows`; the checks are the same for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssldet.contracts import DatasetFacts, Video, VideoDetections
from ssldet.errors import DetectionsError, did_you_mean

NO_FRAME = np.iinfo(np.int64).min
"""Stands in `numbers_n` where the file has no whole number."""

SLACK = 1e-5
"""How far a probability may leave [0, 1] by rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of a file, either form.

    Attributes:
        names: video ids.
        codes_n: which name each row has.
        numbers_n: int64 frame as the file numbers it.
        boxes_n4: float32 xyxy in pixels.
        confidence_n: float32.
        scores: (n, k) in the wide form, (n,) in the long form.
        labels_n: int64 from 0 in the long form, None in the wide form.
        at_n: where each row stands in the file.
        place: the words for such a place ("row 17").
    """

    names: Sequence[str]
    codes_n: np.ndarray
    numbers_n: np.ndarray
    boxes_n4: np.ndarray
    confidence_n: np.ndarray
    scores: np.ndarray
    labels_n: np.ndarray | None
    at_n: np.ndarray
    place: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.codes_n)

    def take(self, index: np.ndarray | slice) -> Rows:
        labels_n = None if self.labels_n is None else self.labels_n[index]
        return replace(
            self,
            codes_n=self.codes_n[index],
            numbers_n=self.numbers_n[index],
            boxes_n4=self.boxes_n4[index],
            confidence_n=self.confidence_n[index],
            scores=self.scores[index],
            labels_n=labels_n,
            at_n=self.at_n[index],
        )


# ------------------------------------------------------------------------------------------ checks


def check(rows: Rows, facts: DatasetFacts, videos: Mapping[str, Video], dropped: Counter[str] | None) -> Rows:
    """The rows that are sound. With `dropped` None the first unsound row is an error, else such rows are counted.

    Raises:
        DetectionsError: names the row, the column and what was expected of it.
    """
    sound_n = np.ones(len(rows), bool)
    for reason, bad_n, explain in _faults(rows, facts, videos):
        fresh_n = bad_n & sound_n
        if not fresh_n.any():
            continue
        if dropped is None:
            row = int(np.flatnonzero(fresh_n)[0])
            raise DetectionsError(f"{rows.place(int(rows.at_n[row]))}: {explain(row)}")
        dropped[reason] += int(fresh_n.sum())
        sound_n &= ~bad_n
    return rows if sound_n.all() else rows.take(sound_n)


Fault = tuple[str, np.ndarray, Callable[[int], str]]


def _faults(rows: Rows, facts: DatasetFacts, videos: Mapping[str, Video]) -> list[Fault]:
    """(reason, which rows, what to say of a row), in the order in which they are looked for."""
    boxes_n4, scores = rows.boxes_n4, rows.scores
    missing_n4 = ~np.isfinite(boxes_n4)
    numbers = {"confidence": rows.confidence_n, "score" if scores.ndim == 1 else "scores": scores}
    faults = _video_faults(rows, facts, videos)
    faults.append(
        (
            "NaN",
            missing_n4.any(axis=1),
            lambda row: f"column {_SIDES[int(missing_n4[row].argmax())]!r} is NaN, infinite or empty",
        )
    )
    for column, values in numbers.items():
        faults += _probability_faults(column, values)
    crossed_n = (boxes_n4[:, 2] < boxes_n4[:, 0]) | (boxes_n4[:, 3] < boxes_n4[:, 1])
    faults.append(("x2 < x1", crossed_n, lambda row: _explain_crossed(boxes_n4[row])))
    if rows.labels_n is not None:
        labels_n, last = rows.labels_n, facts.num_classes - 1
        outside_n = (labels_n < 0) | (labels_n > last)
        faults.append(
            ("label out of range", outside_n, lambda row: f"column 'label' is {labels_n[row]}, expected 0 to {last}")
        )
    return faults


_SIDES = ("x1", "y1", "x2", "y2")


def _video_faults(rows: Rows, facts: DatasetFacts, videos: Mapping[str, Video]) -> list[Fault]:
    known_k = np.array([name in videos for name in rows.names], bool)
    lengths_k = np.array([videos[name].num_frames if name in videos else 0 for name in rows.names], np.int64)
    indices_n = frame_indices(rows, facts)
    outside_n = (rows.numbers_n == NO_FRAME) | (indices_n < 0) | (indices_n >= lengths_k[rows.codes_n])

    def explain_video(row: int) -> str:
        name = rows.names[rows.codes_n[row]]
        tail = did_you_mean(name, videos) if len(videos) <= 10 else _nearest(name, videos)
        return f"column 'video' is {name!r}, which is none of the {len(videos)} videos to score{tail}"

    def explain_frame(row: int) -> str:
        number = "empty or no whole number" if rows.numbers_n[row] == NO_FRAME else str(rows.numbers_n[row])
        name = rows.names[rows.codes_n[row]]
        first, last = (facts.numbering.to_file(index) for index in (0, videos[name].num_frames - 1))
        return f"column 'frame' is {number}, expected {first} to {last} in video {name!r}"

    return [
        ("unknown video", ~known_k[rows.codes_n], explain_video),
        ("frame out of range", outside_n, explain_frame),
    ]


def _nearest(name: str, known: Mapping[str, Video]) -> str:
    return did_you_mean(name, known).split(" (known:")[0]


def _probability_faults(column: str, values: np.ndarray) -> list[Fault]:
    missing = np.isnan(values)
    with np.errstate(invalid="ignore"):
        outside = (values < -SLACK) | (values > 1 + SLACK)

    def explain(row: int) -> str:
        value = values[row] if values.ndim == 1 else values[row][outside[row]][0]
        return f"column {column!r} holds {value:g}, expected a number in [0, 1]"

    return [
        ("NaN", _any_per_row(missing), lambda row: f"column {column!r} is NaN, empty, or not one number a class"),
        (f"{column} outside [0, 1]", _any_per_row(outside), explain),
    ]


def _any_per_row(mask: np.ndarray) -> np.ndarray:
    return mask if mask.ndim == 1 else np.logical_or.reduce(mask, axis=1)


def _explain_crossed(box: np.ndarray) -> str:
    axis = "x" if box[2] < box[0] else "y"
    low, high = (box[0], box[2]) if axis == "x" else (box[1], box[3])
    return f"column '{axis}2' is {high:g}, which is less than '{axis}1' = {low:g}; boxes are x1, y1, x2, y2"


def frame_indices(rows: Rows, facts: DatasetFacts) -> np.ndarray:
    """Frame indices from 0."""
    first, step = facts.numbering.first, facts.numbering.step
    return np.where(rows.numbers_n == NO_FRAME, -1, (rows.numbers_n - first) * step)


# ------------------------------------------------------------------------------------------ one video


def assemble(rows: Rows, facts: DatasetFacts, dropped: Counter[str] | None) -> VideoDetections:
    """The detections of one video from its sound rows, ordered by content; repeated rows are refused or dropped."""
    order = _content_order(rows)
    rows = rows if order is None else rows.take(order)
    repeats_n = _repeats(rows)
    if repeats_n.any():
        if dropped is None:
            row = int(np.flatnonzero(repeats_n)[0])
            earlier, later = sorted((int(rows.at_n[row - 1]), int(rows.at_n[row])))
            raise DetectionsError(f"{rows.place(later)} repeats {rows.place(earlier)}: every row stands once in a file")
        dropped["duplicate row"] += int(repeats_n.sum())
        rows = rows.take(~repeats_n)
    frames_n = frame_indices(rows, facts)
    if rows.labels_n is None:
        return VideoDetections(frames_n, rows.boxes_n4, rows.confidence_n, rows.scores)
    return _merge_labels(rows, frames_n, facts.num_classes)


def empty(facts: DatasetFacts) -> VideoDetections:
    """The detections of a video that has none."""
    return VideoDetections(
        np.empty(0, np.int64),
        np.empty((0, 4), np.float32),
        np.empty(0, np.float32),
        np.empty((0, facts.num_classes), np.float32),
    )


def in_content_order(detections: VideoDetections) -> VideoDetections:
    """The same detections ordered by frame, box, confidence and scores, so that the order of rows never matters."""
    keys = [detections.frames_n, *detections.boxes_n4.T, detections.confidence_n]
    order = _lexicographic(keys, list(detections.scores_nk.T))
    return detections if order is None else detections[order]


def _in_order(keys: Sequence[np.ndarray]) -> bool:
    """Whether rows rise strictly by the keys, the first one first."""
    undecided = np.ones(max(len(keys[0]) - 1, 0), bool)
    for key in keys:
        if (undecided & (key[1:] < key[:-1])).any():
            return False
        undecided &= key[1:] == key[:-1]
    return not undecided.any()


def _lexicographic(keys: Sequence[np.ndarray], ties: Sequence[np.ndarray]) -> np.ndarray | None:
    """The order of rows by the keys, further keys where the first ones tie; None where they are in order already."""
    if _in_order(keys):
        return None
    order = np.lexsort(tuple(reversed(keys)))
    equal_n = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    return np.lexsort((*reversed(ties), *reversed(keys))) if equal_n.any() else order


def _content_order(rows: Rows) -> np.ndarray | None:
    keys = [rows.numbers_n, *rows.boxes_n4.T, rows.confidence_n]
    if rows.labels_n is not None:
        return _lexicographic([*keys, rows.labels_n, rows.scores], [])
    return _lexicographic(keys, list(rows.scores.T))


def _repeats(rows: Rows) -> np.ndarray:
    """Whether a row, in content order, equals the one before in every column."""
    columns = [rows.numbers_n, rows.boxes_n4, rows.confidence_n, rows.scores]
    columns += [] if rows.labels_n is None else [rows.labels_n]
    return np.logical_and.reduce([_as_before(column) for column in columns])


def _as_before(column: np.ndarray) -> np.ndarray:
    equal = column[1:] == column[:-1]
    return np.concatenate(([False], equal if equal.ndim == 1 else equal.all(axis=1)))[: len(column)]


def _merge_labels(rows: Rows, frames_n: np.ndarray, num_classes: int) -> VideoDetections:
    """Bring the long form's labels of one box into one row; where a label comes twice, into as many rows."""
    assert rows.labels_n is not None
    same_box_n = _as_before(frames_n) & _as_before(rows.boxes_n4) & _as_before(rows.confidence_n)
    box_n = np.cumsum(~same_box_n) - 1
    same_label_n = same_box_n & _as_before(rows.labels_n)
    position_n = np.arange(len(rows))
    turn_n = position_n - np.maximum.accumulate(np.where(same_label_n, 0, position_n))  # how often it came before
    merged, first, target_n = np.unique(np.stack((box_n, turn_n), 1), axis=0, return_index=True, return_inverse=True)
    scores_nk = np.full((len(merged), num_classes), np.nan, np.float32)
    scores_nk[target_n.reshape(-1), rows.labels_n] = rows.scores
    return VideoDetections(frames_n[first], rows.boxes_n4[first], rows.confidence_n[first], scores_nk)
