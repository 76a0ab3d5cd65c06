"""Why detections meet no truth: boxes in another unit or form, frames or classes that are counted otherwise.

    sample(videos, truth, detections)   the pairs of truth and detection that are looked at
    doubts(seen)                        in which other unit or form the boxes fit far better
    why_zero(results, facts, seen)      the likely cause of scores that are exactly 0

A sample of the annotated frames is looked at; nothing is corrected, and no number changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ssldet.contracts import DatasetFacts, MetricResult, Truth, Video, VideoDetections
from ssldet.evaluation.detection_rows import corners_of
from ssldet.evaluation.results import Results
from ssldet.ops.iou import paired_iou, pairs_in_frames

MOST_VIDEOS = 40
"""Videos of a sample."""

POOR, GOOD = 0.3, 0.5
"""Mean IoU of truth boxes with the best detection of their frame: below POOR as read, above GOOD if read otherwise."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Pairs of a truth box and a detection of its frame, over some videos.

    Letters: m truth boxes, p pairs. `best` of an array over pairs is taken for each truth box.
    """

    truth_p: np.ndarray
    truths_p4: np.ndarray
    boxes_p4: np.ndarray
    sizes_p2: np.ndarray
    labels_p: np.ndarray
    offered_p: np.ndarray
    num_truths: int
    num_detections: int
    largest: float
    smallest_frame: float

    def overlap(self, boxes_p4: np.ndarray) -> float:
        """Mean over truth boxes of the IoU with the best box of their frame, if the pairs' boxes were these."""
        best_m = np.zeros(self.num_truths)
        np.maximum.at(best_m, self.truth_p, paired_iou(boxes_p4, self.truths_p4))
        return float(best_m.mean()) if self.num_truths else 0.0

    @cached_property
    def as_read(self) -> float:
        return self.overlap(self.boxes_p4)

    @property
    def in_fractions(self) -> bool:
        """Whether all boxes lie within 0-1, on frames that are much larger than that."""
        return self.num_detections > 0 and self.largest <= 1.01 and self.smallest_frame > 4

    @property
    def best_pairs(self) -> np.ndarray:
        """The pair of each truth box that overlaps most, for truth boxes whose frame has a detection."""
        ious_p = paired_iou(self.boxes_p4, self.truths_p4)
        order = np.lexsort((-ious_p, self.truth_p))
        return order[np.unique(self.truth_p[order], return_index=True)[1]]


def sample(videos: Sequence[Video], truth: Callable[[str], Truth], detections: Mapping[str, VideoDetections]) -> Sample:
    """What to look at: of some videos, spread over the list, all pairs of a truth and a detection of its frame."""
    chosen = videos[:: max(1, len(videos) // MOST_VIDEOS)]
    parts = [part for video in chosen if (part := _pairs(video, truth(video.id), detections.get(video.id)))]
    offset, columns = 0, []
    for pairs, count in parts:
        columns.append((pairs[0] + offset, *pairs[1:]))
        offset += count
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)] if columns else [np.empty(0)] * 6
    detected = [each for video in chosen if (each := detections.get(video.id)) is not None and len(each.frames_n)]
    return Sample(
        joined[0].astype(np.int64),
        joined[1].reshape(-1, 4),
        joined[2].reshape(-1, 4),
        joined[3].reshape(-1, 2),
        joined[4].astype(np.int64),
        joined[5].astype(np.int64),
        offset,
        sum(len(each.frames_n) for each in detected),
        max((float(np.abs(each.boxes_n4).max()) for each in detected), default=0.0),
        min((min(video.width, video.height) for video in chosen), default=0),
    )


def _pairs(video: Video, truth: Truth, detections: VideoDetections | None) -> tuple[tuple[np.ndarray, ...], int] | None:
    """Truth, both boxes, size, truth's label and detection's label of each pair; and how many truths there are."""
    count = len(truth.frames_n)
    if detections is None or not count:
        return None
    order = np.argsort(detections.frames_n, kind="stable")
    truth_p, sorted_p = pairs_in_frames(truth.frames_n, detections.frames_n[order])
    detection_p = order[sorted_p]
    labels_n = np.nan_to_num(detections.scores_nk, nan=-1.0).argmax(axis=1)
    pairs = (
        truth_p,
        truth.boxes_n4[truth_p].astype(np.float64),
        detections.boxes_n4[detection_p].astype(np.float64),
        np.tile([float(video.width), float(video.height)], (len(truth_p), 1)),
        truth.labels_nk.argmax(axis=1)[truth_p],
        labels_n[detection_p],
    )
    return pairs, count


# -------------------------------------------------------------------------------------------------- doubts


def doubts(seen: Sample) -> list[str]:
    """In which other unit or form the boxes fit the truth far better than as they were read; at most one reading."""
    if seen.in_fractions:
        return ["all boxes lie within 0-1, and boxes are read as pixels: --unit fractions if they are fractions"]
    if not len(seen.truth_p) or seen.as_read >= POOR:
        return []
    readings = [(seen.overlap(boxes_p4), words) for boxes_p4, words in _other_readings(seen)]
    overlap, words = max(readings)
    if overlap < GOOD:
        return []
    return [f"boxes overlap the truth by {seen.as_read:.2f} as they are read, and by {overlap:.2f} if {words}"]


def _other_readings(seen: Sample) -> Iterator[tuple[np.ndarray, str]]:
    boxes_p4 = seen.boxes_p4
    yield corners_of(boxes_p4), "they are x, y, width, height: --boxes xywh"
    yield boxes_p4[:, [1, 0, 3, 2]], "they are y1, x1, y2, x2: write x before y"
    ratio_2 = _fixed_ratio(seen)
    words = " and ".join(f"{side} by {ratio:.3g}" for side, ratio in zip(("x", "y"), ratio_2, strict=True))
    frame = " x ".join(f"{edge:.0f}" for edge in np.median(seen.sizes_p2, axis=0) / ratio_2)
    yield (
        boxes_p4 * np.tile(ratio_2, 2),
        f"{words} is multiplied, as if they were of a frame of {frame} pixels: bring them to the video's size",
    )


def _fixed_ratio(seen: Sample) -> np.ndarray:
    """(2,) median factor in x and in y between the far edges of boxes and those of the truth."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios_p2 = seen.truths_p4[:, 2:] / seen.boxes_p4[:, 2:]
    ratios_p2 = ratios_p2[np.isfinite(ratios_p2).all(axis=1) & (ratios_p2 > 0).all(axis=1)]
    return np.median(ratios_p2, axis=0) if len(ratios_p2) else np.ones(2)


# ---------------------------------------------------------------------------------------------------- zero


def why_zero(results: Results, facts: DatasetFacts, seen: Sample) -> list[str]:
    """The likely cause for the metrics whose every number is exactly 0 although there are detections."""
    zero = [name for name, of in results.items() if any(_is_zero(result) for result in of.values())]
    if not zero or not seen.num_detections:
        return []
    cause = next(iter(doubts(seen)), "") or _cause(facts, seen, frames_hit=len(zero) < len(results))
    return [f"{', '.join(zero)} of exactly 0: {cause}"]


def _is_zero(result: MetricResult) -> bool:
    """Whether every score is 0; kinds of error are no scores."""
    numbers = [*(value.mean for value in result.thresholds.values()), *result.scalars.values()]
    values = [number for number in numbers if number is not None]
    return bool(values) and not any(values)


def _cause(facts: DatasetFacts, seen: Sample, *, frames_hit: bool) -> str:
    if not len(seen.truth_p):
        return "no detection lies on a frame with truth; do its frames count from another number, or at another rate?"
    if seen.as_read < POOR:
        return f"the best box of a frame overlaps the truth by {seen.as_read:.2f} on the average: boxes are elsewhere"
    best = seen.best_pairs
    agree = seen.labels_p[best] == seen.offered_p[best]
    if agree.mean() < POOR:
        said = _classes(facts, seen, best)
        return f"boxes overlap the truth by {seen.as_read:.2f}, their classes do not agree with it: {said}"
    if frames_hit:
        return (
            f"boxes of frames meet the truth, tubes do not: {len(np.unique(seen.truth_p))} of {seen.num_truths} truth "
            "boxes have a detection in their frame (protocol act drops tubes shorter than 15 frames, yowo those of one)"
        )
    return f"boxes overlap the truth by {seen.as_read:.2f} on the average, and none by enough with its class"


def _classes(facts: DatasetFacts, seen: Sample, best: np.ndarray) -> str:
    """What the commonest wrong pair of classes is, and whether all labels are off by one."""
    true, said = seen.labels_p[best], seen.offered_p[best]
    shift = np.unique(said - true)
    if len(shift) == 1:
        direction = "--first-label 1 if the file counts labels from 1" if shift[0] == 1 else "order of classes"
        return f"all are off by {shift[0]:+d}: {direction}"
    pairs, counts = np.unique(np.stack((true, said), axis=1), axis=0, return_counts=True)
    first = pairs[counts.argmax()]
    return (
        f"{facts.classes[first[0]]} is most often detected as {facts.classes[first[1]]}; is the file's order of "
        "classes another one? Labels may be given by name"
    )
