"""The confusion matrix: each truth box has the class of the surest detection on it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import FACTS, MULTILABEL

from ssldet.contracts import Truth, Video, VideoDetections
from ssldet.errors import RequestError
from ssldet.evaluation.confusion import Confusion, confusion

HERE, NEARLY_HERE, ELSEWHERE = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)
Box = tuple[int, tuple[int, int, int, int], int]
Found = tuple[int, tuple[int, int, int, int], float, tuple[float, float, float]]


def truth_of(*boxes: Box) -> Truth:
    """Boxes (frame, xyxy, label)."""
    frames_n = np.array([frame for frame, _, _ in boxes], np.int64)
    labels_nk = np.eye(3, dtype=bool)[[label for *_, label in boxes]].reshape(-1, 3)
    boxes_n4 = np.array([box for _, box, _ in boxes], np.float32).reshape(-1, 4)
    return Truth(frames_n, boxes_n4, labels_nk, np.zeros(len(boxes), np.int64), np.unique(frames_n))


def found(*boxes: Found) -> VideoDetections:
    """Detections (frame, xyxy, confidence, class scores)."""
    return VideoDetections(
        np.array([frame for frame, *_ in boxes], np.int64),
        np.array([box for _, box, _, _ in boxes], np.float32).reshape(-1, 4),
        np.array([confidence for *_, confidence, _ in boxes], np.float32),
        np.array([scores for *_, scores in boxes], np.float32).reshape(-1, 3),
    )


def of(truth: Truth, detections: VideoDetections) -> Confusion:
    video = Video("a", num_frames=9, width=100, height=100, classes=(0,))
    return confusion(FACTS, [video], {"a": truth}.__getitem__, {"a": detections})


def test_the_surest_detection_on_a_box_says_what_it_was_taken_for() -> None:
    sure, surer = (0, HERE, 0.9, (0.6, 0.3, 0.1)), (0, NEARLY_HERE, 0.8, (0.1, 0.9, 0.0))
    matrix = of(truth_of((0, HERE, 0)), found(surer, sure))
    assert matrix.classes == ("left",) and matrix.predicted == ("left", "right")
    assert matrix.counts_kp.tolist() == [[0, 1, 0]]  # 0.8 x 0.9 before 0.9 x 0.6


def test_boxes_that_no_detection_lies_on_are_missed() -> None:
    elsewhere, other_frame = (0, ELSEWHERE, 1.0, (1.0, 0.0, 0.0)), (1, HERE, 1.0, (1.0, 0.0, 0.0))
    matrix = of(truth_of((0, HERE, 0), (2, HERE, 2)), found(elsewhere, other_frame))
    assert matrix.classes == matrix.predicted == ("left", "still")
    assert matrix.counts_kp.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert of(truth_of((0, HERE, 0)), found()).counts_kp.tolist() == [[0, 1]]


def test_rows_are_shares_of_the_truth_boxes_of_a_class() -> None:
    right, wrong = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    detections = found(*((frame, HERE, 1.0, right if frame else wrong) for frame in range(4)))
    matrix = of(truth_of(*((frame, HERE, 0) for frame in range(4)), (8, HERE, 1)), detections)
    assert matrix.shares_kp.tolist() == [[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]


def test_data_without_single_labels_or_without_boxes_have_none() -> None:
    with pytest.raises(RequestError, match="several labels"):
        confusion(MULTILABEL, [], {}.__getitem__, {})
    with pytest.raises(RequestError, match="no box is annotated in the 1 videos"):
        of(truth_of(), found())
