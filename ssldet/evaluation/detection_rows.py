"""Rows of a detections file in columns: what is checked of them, and how they become a video's detections.

Letters: n rows, k classes. Every reader brings its file into `Rows`; the checks are the same for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssldet.contracts import DatasetFacts, Video, VideoDetections
from ssldet.errors import did_you_mean, nearest

SIDES = ("x1", "y1", "x2", "y2")
"""Columns of a box."""

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
        has_confidence: whether the file has a column of it; else it is 1.
        named: whether labels are names in the file; `unknown_labels` are the words that are no class, which have the
            numbers -1, -2 ... in `labels_n`.
        frame_shift, label_shift: what was added to the file's frames, and taken from its labels.
        column_faults: what is wrong with its columns; remarks: what a reader should know of how it was read.
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
    has_confidence: bool = False
    named: bool = False
    unknown_labels: Sequence[str] = ()
    frame_shift: int = 0
    label_shift: int = 0
    column_faults: Sequence[str] = ()
    remarks: Sequence[str] = ()

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

    def sizes_n4(self, videos: Mapping[str, Video]) -> np.ndarray:
        """Width, height, width, height of each row's video; NaN for a video that is not known."""
        known = [videos.get(name) for name in self.names]
        sizes = [(video.width, video.height) * 2 if video else (np.nan,) * 4 for video in known]
        return np.array([*sizes, (np.nan,) * 4], np.float64)[self.codes_n]


def corners_of(boxes_n4: np.ndarray) -> np.ndarray:
    """Boxes x, y, width, height as xyxy."""
    return np.concatenate((boxes_n4[:, :2], boxes_n4[:, :2] + boxes_n4[:, 2:]), axis=1)


# ------------------------------------------------------------------------------------------ checks


class Faults:
    """What is unsound in a file: how many rows for each reason, and what is to be said of the first of them.

    Args:
        strict: whether unsound rows are an error: then a row counts for each reason, else it is dropped for the first.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.counts: Counter[str] = Counter()
        self.columns: list[str] = []
        self.range = ValueRange()
        self._first: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, count: int, at: int, text: str) -> None:
        """Take in rows of one reason; `at` is the place in the file of the first of them."""
        self.counts[reason] += count
        if reason not in self._first or at < self._first[reason][0]:
            self._first[reason] = at, text

    def __bool__(self) -> bool:
        return bool(self.counts or self.columns)

    def text(self, hints: Mapping[str, str]) -> str:
        """All faults in the order in which they stand in the file; `hints`: reason -> what mends it."""
        lines = list(self.columns)
        for reason, (_, text) in sorted(self._first.items(), key=lambda item: item[1][0]):
            more = f" ({self.counts[reason]} such rows)" if self.counts[reason] > 1 else ""
            lines.append(f"{text}{more}" + (f"; {hints[reason]}" if reason in hints else ""))
        return lines[0] if len(lines) == 1 else f"{len(lines)} faults\n" + "\n".join(f"- {line}" for line in lines)


@dataclass(slots=True)
class ValueRange:
    """Between which values the numbers of a file lie, as it has them: what hints at what they mean follows from it."""

    first_frame: int = np.iinfo(np.int64).max
    labels: tuple[int, int] = (np.iinfo(np.int64).max, -1)
    lowest_score: float = np.inf
    highest_score: float = -np.inf
    fits_as_xywh: bool = True

    def take_in(self, rows: Rows, videos: Mapping[str, Video]) -> None:
        """Widen by some rows."""
        numbers_n = rows.numbers_n[rows.numbers_n != NO_FRAME] - rows.frame_shift
        self.first_frame = min(self.first_frame, int(numbers_n.min(initial=self.first_frame)))
        for values in (rows.confidence_n, rows.scores):
            values = values[np.isfinite(values)]
            self.lowest_score = min(self.lowest_score, float(values.min(initial=self.lowest_score)))
            self.highest_score = max(self.highest_score, float(values.max(initial=self.highest_score)))
        if rows.labels_n is not None and not rows.named:
            low, high = self.labels
            labels_n = rows.labels_n[rows.labels_n != NO_FRAME] + rows.label_shift
            self.labels = int(labels_n.min(initial=low)), int(labels_n.max(initial=high))
        with np.errstate(invalid="ignore"):  # infinite numbers are found unsound
            ends_n2 = rows.boxes_n4[:, :2] + rows.boxes_n4[:, 2:]
        outside_n2 = (rows.boxes_n4[:, 2:] < 0) | (ends_n2 > 1.02 * rows.sizes_n4(videos)[:, 2:] + 1)
        self.fits_as_xywh &= not outside_n2.any()

    def hints(self, facts: DatasetFacts) -> dict[str, str]:
        """Reason -> the option that mends it, where the numbers allow only one reading."""
        found = {}
        if self.first_frame == 0 and facts.numbering.first == 1:
            found["frame out of range"] = "a frame 0 means that the file counts from 0: --first-frame 0"
        if self.lowest_score >= 0 and 2 < self.highest_score <= 100:
            percent = f"scores go up to {self.highest_score:g}: --scores percent if they are percent"
            found |= {f"{column} outside [0, 1]": percent for column in ("score", "scores", "confidence")}
        if self.fits_as_xywh:
            found["x2 < x1"] = "if they are x, y, width, height (all rows fit their video so): --boxes xywh"
        if self.labels[0] == 1 and self.labels[1] == facts.num_classes:
            found["label out of range"] = f"labels go from 1 to {facts.num_classes}: --first-label 1"
        return found


def check(rows: Rows, facts: DatasetFacts, videos: Mapping[str, Video], faults: Faults) -> Rows:
    """The rows that are sound; what is wrong with the others is added to `faults`."""
    sound_n = np.ones(len(rows), bool)
    faults.range.take_in(rows, videos)
    for reason, bad_n, explain in _faults(rows, facts, videos):
        fresh_n = bad_n if faults.strict else bad_n & sound_n
        if fresh_n.any():
            row = int(np.flatnonzero(fresh_n)[0])
            at = int(rows.at_n[row])
            faults.add(reason, int(fresh_n.sum()), at, f"{rows.place(at)}: {explain(row)}")
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
            lambda row: f"column {SIDES[int(missing_n4[row].argmax())]!r} is NaN, infinite or empty",
        )
    )
    for column, values in numbers.items():
        faults += _probability_faults(column, values)
    crossed_n = (boxes_n4[:, 2] < boxes_n4[:, 0]) | (boxes_n4[:, 3] < boxes_n4[:, 1])
    faults.append(("x2 < x1", crossed_n, lambda row: _explain_crossed(boxes_n4[row])))
    if rows.labels_n is not None:
        labels_n, last = rows.labels_n, facts.num_classes - 1
        outside_n = (labels_n < 0) | (labels_n > last)
        faults.append(("label out of range", outside_n, lambda row: _explain_label(rows, row, facts)))
    return faults


def _explain_label(rows: Rows, row: int, facts: DatasetFacts) -> str:
    assert rows.labels_n is not None
    label = int(rows.labels_n[row])
    if label < 0 and rows.unknown_labels:
        word = rows.unknown_labels[-1 - label]
        return f"column 'label' is {word!r}, which is no class{did_you_mean(word, facts.classes)}"
    given = "empty or no whole number" if label == NO_FRAME else str(label + rows.label_shift)
    last = facts.num_classes - 1 + rows.label_shift
    return f"column 'label' is {given}, expected {rows.label_shift} to {last}"


def _video_faults(rows: Rows, facts: DatasetFacts, videos: Mapping[str, Video]) -> list[Fault]:
    known_k = np.array([name in videos for name in rows.names], bool)
    lengths_k = np.array([videos[name].num_frames if name in videos else 0 for name in rows.names], np.int64)
    indices_n = frame_indices(rows, facts)
    outside_n = (rows.numbers_n == NO_FRAME) | (indices_n < 0) | (indices_n >= lengths_k[rows.codes_n])
    outside_n &= known_k[rows.codes_n]

    def explain_video(row: int) -> str:
        name = rows.names[rows.codes_n[row]]
        tail = did_you_mean(name, videos) if len(videos) <= 10 else nearest(name, videos)
        return f"column 'video' is {name!r}, which is none of the {len(videos)} videos to score{tail}"

    def explain_frame(row: int) -> str:
        number = rows.numbers_n[row]
        given = "empty or no whole number" if number == NO_FRAME else str(number - rows.frame_shift)
        name = rows.names[rows.codes_n[row]]
        ends = (0, videos[name].num_frames - 1)
        first, last = (facts.numbering.to_file(index) - rows.frame_shift for index in ends)
        return f"column 'frame' is {given}, expected {first} to {last} in video {name!r}"

    return [
        ("unknown video", ~known_k[rows.codes_n], explain_video),
        ("frame out of range", outside_n, explain_frame),
    ]


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
    return np.where(rows.numbers_n == NO_FRAME, -1, facts.numbering.to_index(rows.numbers_n))


# ------------------------------------------------------------------------------------------ one video


def assemble(rows: Rows, facts: DatasetFacts, faults: Faults) -> VideoDetections:
    """The detections of one video from its sound rows, ordered by content; repeated rows are faults, and left out."""
    order = _content_order(rows)
    rows = rows if order is None else rows.take(order)
    repeats_n = _repeats(rows)
    if repeats_n.any():
        row = int(np.flatnonzero(repeats_n)[0])
        earlier, later = sorted((int(rows.at_n[row - 1]), int(rows.at_n[row])))
        text = f"{rows.place(later)} repeats {rows.place(earlier)}: every row stands once in a file"
        faults.add("duplicate row", int(repeats_n.sum()), later, text)
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
