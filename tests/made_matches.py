"""A small made-up test set with a detector's mistakes in it, scored by the real metrics, for tests of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ssldet.contracts import DatasetFacts, Truth, Video, VideoDetections
from ssldet.evaluation import scoring
from ssldet.evaluation.scoring import Scored

FACTS = DatasetFacts("made", ("run", "jump", "wave"), ((1.0, 1.0),))
MULTI = replace(FACTS, name="made_multi", multilabel=True, evaluated=(0, 2))
FRAMES = 18

Case = tuple[Video, VideoDetections, Truth]


def made_videos(
    seed: int, *, facts: DatasetFacts = FACTS, videos: int = 6, groups: int = 4, slip: float = 1.0
) -> list[Case]:
    """Videos of one class each, the last without a box; detections near the truth, and elsewhere, with distinct scores.

    `slip` scales how far boxes lie off; the same seed gives the same truth under every slip.
    """
    cases = []
    for place in range(videos):
        rng = np.random.default_rng([seed, place])
        label = place % 2 if place < videos - 1 else 2
        truth = _truth(rng, facts, label, boxes=place < videos - 1 or videos == 1)
        group = f"g{place % groups}" if place else ""
        cases.append(
            (Video(f"v{place}", FRAMES, 320, 240, (label,), group), _detections(rng, facts, truth, slip), truth)
        )
    return cases


def _truth(rng: np.random.Generator, facts: DatasetFacts, label: int, boxes: bool) -> Truth:
    frames_n = np.arange(1, FRAMES - 1) if boxes else np.zeros(0, np.int64)
    corner = rng.uniform(20, 120, 2)
    x_n, y_n = corner[0] + 4.0 * frames_n, corner[1] + 0.0 * frames_n
    labels_nk = np.zeros((len(frames_n), facts.num_classes), bool)
    labels_nk[:, label] = True
    if facts.multilabel:
        labels_nk[::3, (label + 1) % facts.num_classes] = True
    tubes_n = np.full(len(frames_n), -1 if facts.multilabel else 0)
    boxes_n4 = np.stack([x_n, y_n, x_n + 50, y_n + 60], axis=1).astype(np.float32)
    return Truth(frames_n, boxes_n4, labels_nk, tubes_n, np.arange(FRAMES))


def _detections(rng: np.random.Generator, facts: DatasetFacts, truth: Truth, slip: float) -> VideoDetections:
    n = 2 * FRAMES
    frames_n = np.repeat(np.arange(FRAMES), 2)
    boxes_n4 = np.tile(np.array([100.0, 80.0, 150.0, 140.0]), (n, 1)) + rng.uniform(-60, 60, (n, 1))
    slip *= rng.uniform(0.2, 2)
    for row, (frame, box) in enumerate(zip(truth.frames_n, truth.boxes_n4, strict=True)):
        at = 2 * frame + row % 2
        boxes_n4[at] = box + rng.uniform(-14, 14, 4) * slip
    confidence_n, scores_nk = rng.uniform(0.2, 1, n), rng.uniform(0.05, 0.6, (n, facts.num_classes))
    if len(truth.frames_n):
        scores_nk[:, truth.labels_nk[0]] += 0.15
    return VideoDetections(
        frames_n, boxes_n4.astype(np.float32), confidence_n.astype(np.float32), scores_nk.astype(np.float32)
    )


def scored(
    cases: Sequence[Case], facts: DatasetFacts = FACTS, metrics: Mapping[str, Sequence[str]] | None = None
) -> Scored:
    """What the suite's evaluator says of them, under all protocols unless told otherwise."""
    wanted = metrics or scoring.applicable(facts)[0]
    truths = {video.id: truth for video, _, truth in cases}
    detections = {video.id: found for video, found, _ in cases}
    return scoring.score_videos(facts, [video for video, _, _ in cases], truths.__getitem__, detections, wanted)
