"""Frame-mAP: average precision of boxes, frame by frame."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ssldet.contracts import DatasetFacts, Matches, Metric, MetricResult, Truth, Video, VideoDetections
from ssldet_metrics.frame_matching import match_frames
from ssldet_metrics.protocols import FRAME, REPORTED, THRESHOLDS, Ranking, counted, frame_rules, unjudged


class FrameMAP(Metric):
    """Boxes of all videos ranked per class by confidence x class probability; a hit has IoU >= t with a truth box.

    Detections on frames that do not count (see `protocols`) are left out. The mean runs over the evaluated classes.
    """

    protocols: ClassVar = tuple(FRAME)
    columns: ClassVar = {key: f"F@{key}" for key in REPORTED}

    def __init__(self, facts: DatasetFacts, protocol: str) -> None:
        self.protocol, self.rules = protocol, frame_rules(facts, protocol)
        self.ranking = Ranking(facts)

    def update(self, video: Video, detections: VideoDetections, truth: Truth) -> None:
        frames_n, boxes_n4, scores_nk = counted(detections, truth, self.rules)
        hits_nk = match_frames(
            frames_n,
            boxes_n4,
            scores_nk,
            truth,
            np.array(THRESHOLDS),
            plus_one=self.rules.plus_one,
            pascal=self.rules.pascal,
        )
        self.ranking.add(video.id, scores_nk, hits_nk, truth.labels_nk.sum(axis=0), unjudged(detections, truth))

    def compute(self) -> MetricResult:
        return self.ranking.result(self.protocol, self.rules)

    def matches(self) -> Matches:
        return self.ranking.matches(self.rules)
