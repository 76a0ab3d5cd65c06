"""The evaluation protocols, and the ranking that frame-mAP and video-mAP share.

| | standard | yowo | act |
|---|---|---|---|
| pixels of a box side | width | width + 1 | width + 1 |
| frames of frame-mAP | all that the annotation speaks of | with a truth box | all that the annotation speaks of |
| a box whose best truth is taken | takes the next best | is a miss (frames) | takes the next best |
| score of a tube's box | confidence x class | class | confidence x class |
| AP | every point | every point | trapezoid |
| class without truth | skipped | frames: skipped, videos: 0 | 0 |

AVA is matched as its own evaluation does (PASCAL: a box whose best truth is taken is a miss) under every protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssldet.contracts import (
    DatasetFacts,
    Matches,
    MetricResult,
    MetricValue,
    PrecisionRule,
    RankedDetections,
    Truth,
    VideoDetections,
)
from ssldet.errors import UnknownName
from ssldet.evaluation.detection_rows import in_content_order
from ssldet.ops.average_precision import FORMS

COCO = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
THRESHOLDS = tuple(sorted({0.1, 0.2, 0.3, *COCO}))
REPORTED = ("0.1", "0.2", "0.3", "0.5", "0.75", "0.5:0.95")

_ENVELOPE = PrecisionRule()
_ACT = PrecisionRule("trapezoid", skip_empty=False)


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one evaluator counts.

    Attributes:
        plus_one: a box from x1 to x2 is x2 - x1 + 1 wide.
        precision: how AP follows from hits in rank order, and what becomes of a class without truth.
        annotated_only: only frames with a truth box count.
        pascal: a detection whose best truth is taken is a miss, rather than taking the next best.
    """

    plus_one: bool
    precision: PrecisionRule = _ENVELOPE
    annotated_only: bool = False
    pascal: bool = False


FRAME = {
    "standard": Protocol(plus_one=False),
    "yowo": Protocol(plus_one=True, annotated_only=True, pascal=True),
    "act": Protocol(plus_one=True, precision=_ACT),
}
VIDEO = {
    "standard": Protocol(plus_one=False),
    "yowo": Protocol(plus_one=True, precision=PrecisionRule(epsilon=1e-5, skip_empty=False)),
    "act": Protocol(plus_one=True, precision=_ACT),
}


def rules_of(protocols: Mapping[str, Any], name: str) -> Any:
    """One protocol by name.

    Raises:
        UnknownName: the metric does not know it.
    """
    if name not in protocols:
        raise UnknownName("protocol", name, protocols)
    return protocols[name]


def frame_rules(facts: DatasetFacts, name: str) -> Protocol:
    """How a protocol counts boxes on frames of a data set.

    Raises:
        UnknownName: there is no such protocol.
    """
    rules: Protocol = rules_of(FRAME, name)
    return replace(rules, pascal=True) if facts.multilabel else rules


def counted(detections: VideoDetections, truth: Truth, rules: Protocol) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, boxes and scores (confidence x class) of the detections on frames that count, in order of content."""
    detections = in_content_order(detections)
    rows = np.isin(detections.frames_n, truth.frames_n if rules.annotated_only else truth.key_frames_m)
    scores_nk = detections.scores_nk * detections.confidence_n[:, None]
    return detections.frames_n[rows], detections.boxes_n4[rows], scores_nk[rows]


def unjudged(detections: VideoDetections, truth: Truth) -> int:
    """How many detections lie on frames about which the annotation says nothing."""
    return int(np.count_nonzero(~np.isin(detections.frames_n, truth.key_frames_m)))


def evaluated_labels(facts: DatasetFacts) -> tuple[int, ...]:
    """The labels that are scored."""
    return tuple(range(facts.num_classes)) if facts.evaluated is None else facts.evaluated


class Ranking:
    """Detections of every video, their scores and hits, and the AP that follows.

    Kept per detection and class: a score, and one bit per threshold. Equal scores rank by video id, then in the
    order given, so that neither the order of videos nor that of rows matters.
    """

    def __init__(self, facts: DatasetFacts) -> None:
        self.facts = facts
        self.truths_k = np.zeros(facts.num_classes, np.int64)
        self.without_truth: list[str] = []
        self.unjudged = 0
        self._videos: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._truths: dict[str, np.ndarray] = {}

    def add(
        self, video_id: str, scores_nk: np.ndarray, outcomes_nk: np.ndarray, truths_k: np.ndarray, unjudged: int = 0
    ) -> None:
        """Take in a video: scores (NaN: no detection), what came of each (`THRESHOLDS` bits), truths per class.

        `unjudged` counts its detections on frames that nobody annotated.
        """
        self.unjudged += unjudged
        self._videos[video_id] = (scores_nk.astype(np.float32), outcomes_nk)
        self._truths[video_id] = np.asarray(truths_k)
        self.truths_k += truths_k
        if not truths_k.any():
            self.without_truth.append(video_id)

    def result(self, protocol: str, rules: Protocol) -> MetricResult:
        """AP per class at every reported threshold, and the means."""
        labels = evaluated_labels(self.facts)
        table = {label: self._precisions(label, rules) for label in labels}
        thresholds = {key: self._value(table, _columns_of(key), rules) for key in REPORTED}
        return MetricResult(protocol, thresholds, notes=self.notes())

    def matches(self, rules: Protocol) -> Matches:
        """The same for comparisons: which detection of which video was a hit."""
        videos = tuple(sorted(self._videos))
        return Matches(
            videos,
            THRESHOLDS,
            {key: tuple(_columns_of(key)) for key in REPORTED},
            rules.precision,
            np.array([self._truths[video_id] for video_id in videos], np.int64).reshape(len(videos), -1),
            {label: self._ranked_with_videos(label) for label in evaluated_labels(self.facts)},
        )

    def ranked(self, label: int) -> np.ndarray:
        """What was added for each detection of a class, in order of falling score."""
        return self._ranked_with_videos(label).outcomes_n

    def _ranked_with_videos(self, label: int) -> RankedDetections:
        blocks = [self._videos[video_id] for video_id in sorted(self._videos)]
        scores_n = np.concatenate([np.zeros(0, np.float32), *(scores_nk[:, label] for scores_nk, _ in blocks)])
        outcomes_n = np.concatenate([np.zeros(0, np.uint16), *(outcomes_nk[:, label] for _, outcomes_nk in blocks)])
        videos_n = np.repeat(np.arange(len(blocks)), [len(scores_nk) for scores_nk, _ in blocks])
        order_n = np.argsort(-scores_n, kind="stable")[: np.count_nonzero(~np.isnan(scores_n))]
        return RankedDetections(videos_n[order_n], outcomes_n[order_n], np.ones(len(order_n), np.int64))

    def notes(self) -> dict[str, Any]:
        """What had no truth, where there is any: videos, scored classes, and how many detections lay on such frames."""
        labels = evaluated_labels(self.facts)
        empty = [self.facts.classes[label] for label in labels if not self.truths_k[label]]
        notes = {
            "videos_without_truth": sorted(self.without_truth),
            "classes_without_truth": empty,
            "detections_on_frames_not_annotated": self.unjudged,
        }
        return {key: value for key, value in notes.items() if value}

    def _precisions(self, label: int, rules: Protocol) -> np.ndarray:
        """AP of one class at each of `THRESHOLDS`."""
        truths = int(self.truths_k[label])
        if not truths:
            return np.zeros(len(THRESHOLDS))
        ranked_n, form = self.ranked(label), FORMS[rules.precision.form]
        return np.array(
            [
                form((ranked_n >> bit) & 1 == 1, truths, epsilon=rules.precision.epsilon)
                for bit in range(len(THRESHOLDS))
            ]
        )

    def _value(self, table: Mapping[int, np.ndarray], columns: Sequence[int], rules: Protocol) -> MetricValue:
        per_class = {
            self.facts.classes[label]: None
            if rules.precision.skip_empty and not self.truths_k[label]
            else float(precisions[list(columns)].mean())
            for label, precisions in table.items()
        }
        return MetricValue(mean_of(per_class.values()), per_class)


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of those that are numbers; None of none."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _columns_of(key: str) -> list[int]:
    wanted = COCO if ":" in key else (float(key),)
    return [THRESHOLDS.index(threshold) for threshold in wanted]


def match(ious_nm: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """(n,) uint16: bit b is set where a detection finds a truth at threshold b.

    Rows are detections in rank order, columns truths; each takes the best truth that is free, if it is good enough.
    """
    hits_n = np.zeros(len(ious_nm), np.uint16)
    for bit, threshold in enumerate(thresholds if ious_nm.size else ()):
        free_nm = ious_nm.copy()
        for row in range(len(ious_nm)):
            column = int(free_nm[row].argmax())
            if free_nm[row, column] >= threshold:
                hits_n[row] |= 1 << bit
                free_nm[:, column] = -1.0
    return hits_n
