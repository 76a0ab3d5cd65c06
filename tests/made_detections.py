"""Small made-up data for the tests of evaluation: facts, truth and detections of a few boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssldet.contracts import Dataset, DatasetFacts, Options, Problem, Subset, Truth, Video, VideoDetections, VideoSource

FACTS = DatasetFacts("made", ("run", "jump", "wave"), ((1.0, 1.0),))
BOX = (10, 10, 50, 50)


def video(name: str = "a", num_frames: int = 4) -> Video:
    return Video(name, num_frames, 320, 240, (0,))


def detections(
    rows: Sequence[tuple[int, Sequence[float], float, Sequence[float]]], num_classes: int = 3
) -> VideoDetections:
    """From rows of frame, box, confidence and scores."""
    return VideoDetections(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float32),
        np.array([row[3] for row in rows], np.float32).reshape(-1, num_classes),
    )


def truth(rows: Sequence[tuple[int, Sequence[float], int, int]], num_frames: int = 4, num_classes: int = 3) -> Truth:
    """From rows of frame, box, label and tube."""
    rows = sorted(rows, key=lambda row: (row[0], row[3]))
    return Truth(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        np.eye(num_classes, dtype=bool)[[row[2] for row in rows]].reshape(-1, num_classes),
        np.array([row[3] for row in rows], np.int64),
        np.arange(num_frames),
    )


def perfect(of: Truth) -> VideoDetections:
    """The truth as a detector would have it that makes no mistake."""
    return VideoDetections(
        of.frames_n, of.boxes_n4, np.ones(len(of.frames_n), np.float32), of.labels_nk.astype(np.float32)
    )


def shuffled(found: VideoDetections, seed: int = 0) -> VideoDetections:
    """The same rows in another order."""
    order = np.random.default_rng(seed).permutation(len(found.frames_n))
    return VideoDetections(*(getattr(found, name)[order] for name in VideoDetections.__slots__))


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) float32 boxes of about 20 pixels in a corner where they overlap; whole numbers, so that some tie."""
    low = rng.integers(0, 20, (count, 2))
    return np.concatenate([low, low + rng.integers(5, 25, (count, 2))], axis=1).astype(np.float32)


class Made(Dataset):
    """Two test videos and one of training, of a class each, with the same box on four frames; nothing is decoded."""

    facts = FACTS

    def __init__(self, root: Path | None = None, config: Options | None = None) -> None:
        super().__init__(root, config)
        self.root = root

    def videos(self, subset: Subset, split: int = 1) -> Sequence[Video]:
        return [video("a"), video("b")] if subset == "test" else [video("c")]

    def truth(self, video_id: str) -> Truth:
        return truth([(frame, BOX, "abc".index(video_id), 0) for frame in range(4)])

    def source(self, video_id: str) -> VideoSource:
        raise AssertionError("scoring needs no videos")

    def verify(self, split: int = 1) -> list[Problem]:
        raise AssertionError("scoring needs no videos")

    def fingerprint(self) -> str:
        return "made"
