"""Video-mAP: boxes linked to tubes per class, and the average precision of the tubes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from ssldet.contracts import DatasetFacts, Matches, Metric, MetricResult, Truth, Video, VideoDetections
from ssldet.errors import ConfigError
from ssldet.evaluation.detection_rows import in_content_order
from ssldet.ops.tubes import Tube, link_greedily, link_paths, tube_iou, tube_nms
from ssldet_metrics.protocols import REPORTED, VIDEO, Ranking, match, rules_of, unjudged


class VideoMAP(Metric):
    """Tubes of all videos ranked per class by mean score; a hit has spatio-temporal IoU >= t with a truth tube.

    Boxes are linked, scored and suppressed over all frames. A tube is held against the truth on the frames about which
    the annotation speaks, background included; a tube that has none of them is neither a hit nor a miss.

    Raises:
        ConfigError: the data set's truth is not linked to tubes.
    """

    protocols: ClassVar = tuple(VIDEO)
    columns: ClassVar = {key: f"V@{key}" for key in REPORTED}

    def __init__(self, facts: DatasetFacts, protocol: str) -> None:
        if facts.multilabel:
            raise ConfigError(f"video_map needs truth tubes, and {facts.name!r} has boxes on key frames: use frame_map")
        self.protocol, self.rules = protocol, rules_of(VIDEO, protocol)
        self.ranking = Ranking(facts)

    def update(self, video: Video, detections: VideoDetections, truth: Truth) -> None:
        num_classes = len(self.ranking.truths_k)
        truths = truth_tubes(truth)
        tubes = list(_cut_to(truth.key_frames_m, self._link(video, in_content_order(detections))))
        scores_nk = np.full((len(tubes), num_classes), np.nan, np.float32)
        hits_nk = np.zeros((len(tubes), num_classes), np.uint16)
        for row, tube in enumerate(tubes):
            scores_nk[row, tube.label] = tube.score
        for label in {tube.label for tube in truths}:
            rows = [row for row, tube in enumerate(tubes) if tube.label == label]
            hits_nk[rows, label] = self._match([tubes[row] for row in rows], truths, label)
        counts_k = np.bincount([tube.label for tube in truths], minlength=num_classes)
        self.ranking.add(video.id, scores_nk, hits_nk, counts_k, unjudged(detections, truth))

    def compute(self) -> MetricResult:
        return self.ranking.result(self.protocol, self.rules)

    def matches(self) -> Matches:
        return self.ranking.matches(self.rules)

    def _link(self, video: Video, detections: VideoDetections) -> list[Tube]:
        """The tubes of one video after NMS, by class and falling score."""
        frames_n, boxes_n4, scores_nk = detections.frames_n, detections.boxes_n4, detections.scores_nk
        if self.protocol != "yowo":
            scores_nk = scores_nk * detections.confidence_n[:, None]
        if self.protocol == "act":
            tubes = link_greedily(frames_n, boxes_n4, scores_nk)
        else:
            tubes = link_paths(frames_n, boxes_n4, scores_nk, video.num_frames, plus_one=self.rules.plus_one)
        by_label: dict[int, list[Tube]] = {}
        for tube in tubes:
            by_label.setdefault(tube.label, []).append(tube)
        return [tube for group in by_label.values() for tube in self._nms(group)]

    def _nms(self, tubes: list[Tube]) -> list[Tube]:
        return tube_nms(tubes, plus_one=self.rules.plus_one, least_shared=self._least_shared)

    def _match(self, tubes: Iterable[Tube], truths: Iterable[Tube], label: int) -> np.ndarray:
        """Hits of one class's tubes, which come by falling score."""
        of_class = [truth for truth in truths if truth.label == label]
        ious = [
            [tube_iou(tube, truth, plus_one=self.rules.plus_one, least_shared=self._least_shared) for truth in of_class]
            for tube in tubes
        ]
        return match(np.array(ious, np.float64).reshape(-1, len(of_class)))

    @property
    def _least_shared(self) -> int:
        """YOWO's evaluator gives tubes that share a single frame an IoU of 0."""
        return 2 if self.protocol == "yowo" else 1


def _cut_to(key_frames_m: np.ndarray, tubes: Iterable[Tube]) -> Iterator[Tube]:
    """The tubes on the key frames alone, those that have none left out."""
    for tube in tubes:
        kept_t = np.isin(tube.frames_t, key_frames_m)
        if kept_t.any():
            yield tube._replace(frames_t=tube.frames_t[kept_t], boxes_t4=tube.boxes_t4[kept_t])


def truth_tubes(truth: Truth) -> list[Tube]:
    """The annotation's tubes, each with its class."""
    tubes = []
    for number in np.unique(truth.tubes_n[truth.tubes_n >= 0]):
        rows = np.flatnonzero(truth.tubes_n == number)
        label = int(truth.labels_nk[rows[0]].argmax())
        tubes.append(Tube(label, 1.0, truth.frames_n[rows], truth.boxes_n4[rows]))
    return tubes
