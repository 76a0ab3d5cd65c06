from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_detections import random_boxes

from ssldet.ops.tubes import Tube, link_greedily, link_paths, tube_iou, tube_nms


def tube(start: int, stop: int, box=(0, 0, 10, 10), score: float = 1.0) -> Tube:
    frames_t = np.arange(start, stop)
    return Tube(0, score, frames_t, np.tile(np.array(box, np.float32), (len(frames_t), 1)))


def plain_iou(a, b, one: float = 0.0) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + one)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + one)
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


def test_tube_iou_is_temporal_times_mean_spatial():
    half = tube(2, 6, (0, 0, 10, 5))
    assert tube_iou(tube(0, 4), half) == pytest.approx(2 / 6 * 0.5)
    assert tube_iou(tube(0, 2), half) == 0.0
    assert tube_iou(half, half) == 1.0


def test_tube_iou_counts_frames_and_not_extents():
    gap = Tube(0, 1.0, np.array([0, 3]), np.tile(np.float32([0, 0, 10, 10]), (2, 1)))
    assert tube_iou(tube(0, 4), gap) == pytest.approx(2 / 4)


def test_single_shared_frame_counts_unless_the_protocol_says_no():
    single = tube(0, 1)
    assert tube_iou(single, single) == 1.0
    assert tube_iou(single, single, least_shared=2) == 0.0


def test_plus_one_counts_pixels_inclusively():
    touching = tube_iou(tube(0, 2, (0, 0, 9, 9)), tube(0, 2, (9, 0, 19, 9)), plus_one=True)
    assert touching == pytest.approx(10 / (100 + 110 - 10))
    assert tube_iou(tube(0, 2, (0, 0, 9, 9)), tube(0, 2, (9, 0, 19, 9))) == 0.0


def test_suppress_keeps_the_best_of_overlapping_tubes():
    best, near, far = tube(0, 4, score=0.9), tube(0, 3, score=0.5), tube(0, 4, (50, 50, 60, 60), 0.1)
    assert [kept.score for kept in tube_nms([far, near, best])] == [0.9, 0.1]


def path_total(path, boxes, scores, one) -> float:
    pairs = pairwise(path)
    return sum(
        plain_iou(boxes[i], boxes[j], one) + scores[i] + scores[j] + 0.5 * scores[i] * scores[j] for i, j in pairs
    )


def paths_by_brute_force(frames, boxes, scores, num_frames, one, most=3):
    """All that `link_paths` promises, by trying every path."""
    filled = sorted(set(frames.tolist()))
    nearest = [min(filled, key=lambda other: (abs(other - t), other)) for t in range(num_frames)]
    free = [np.flatnonzero(frames == frame).tolist() for frame in nearest]
    while len(free) and min(map(len, free)) and most:
        best = max(product(*free), key=lambda path: path_total(path, boxes, scores, one))
        yield best, path_total(best, boxes, scores, one)
        free = [[row for row in rows if row != taken] for rows, taken in zip(free, best, strict=True)]
        most -= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.booleans())
def test_paths_equal_brute_force(seed, num_frames, plus_one):
    rng = np.random.default_rng(seed)
    frames_n = np.sort(rng.integers(0, num_frames, rng.integers(1, 9)))
    boxes_n4 = random_boxes(rng, len(frames_n))
    scores_nk = rng.random((len(frames_n), 2)).astype(np.float32)
    tubes = link_paths(frames_n, boxes_n4, scores_nk, num_frames, plus_one=plus_one)
    for label in range(2):
        scores_n = scores_nk[:, label].astype(float)
        expected = list(paths_by_brute_force(frames_n, boxes_n4.astype(float), scores_n, num_frames, float(plus_one)))
        found = [one for one in tubes if one.label == label]
        assert len(found) == len(expected)
        for one, (path, _) in zip(found, expected, strict=True):
            assert one.score == pytest.approx(scores_n[list(path)].mean())
            np.testing.assert_array_equal(one.boxes_t4, boxes_n4[list(path)])


def test_frames_without_boxes_borrow_from_the_nearest_the_earlier_on_a_tie():
    boxes_n4 = np.float32([[0, 0, 10, 10], [50, 50, 60, 60]])
    tubes = link_paths(np.array([1, 5]), boxes_n4, np.float32([[0.2], [0.6]]), 7)
    assert [int(box[0]) for box in tubes[0].boxes_t4] == [0, 0, 0, 0, 50, 50, 50]
    assert tubes[0].score == pytest.approx((4 * 0.2 + 3 * 0.6) / 7)


def test_a_video_of_one_frame_links_its_best_box_first():
    boxes_n4 = random_boxes(np.random.default_rng(0), 2)
    tubes = link_paths(np.zeros(2, np.int64), boxes_n4, np.float32([[0.1], [0.9]]), 1)
    assert [one.score for one in tubes] == pytest.approx([0.9, 0.1])


def test_boxes_stand_only_for_the_classes_that_they_have_a_score_for():
    scores_nk = np.float32([[0.5, np.nan], [np.nan, 0.7], [0.5, 0.3]])
    tubes = link_paths(np.array([0, 0, 1]), random_boxes(np.random.default_rng(0), 3), scores_nk, 2)
    assert [(one.label, pytest.approx(one.score)) for one in tubes] == [(0, 0.5), (1, 0.5)]


def test_no_boxes_make_no_tubes():
    nothing = np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty((0, 3), np.float32)
    assert link_paths(*nothing, 5) == []
    assert link_greedily(*nothing) == []


def test_greedy_links_follow_a_box_fill_gaps_and_end_after_five_misses():
    frames_n = np.array([*range(10), 14, 15, 16, *range(22, 30)])  # 4 missed frames, then 5
    boxes_n4 = np.stack([np.float32([frame, 0, frame + 40, 40]) for frame in frames_n])
    tubes = link_greedily(frames_n, boxes_n4, np.full((len(frames_n), 1), 0.5, np.float32))
    assert [(one.frames_t[0], one.frames_t[-1]) for one in tubes] == [(0, 16)]
    np.testing.assert_allclose(tubes[0].boxes_t4[:, 0], np.arange(17))


def test_greedy_links_take_the_best_scored_box_that_overlaps_enough():
    frames_n = np.repeat(np.arange(15), 3)
    boxes_n4 = np.tile(np.float32([[0, 0, 40, 40], [2, 0, 42, 40], [200, 0, 240, 40]]), (15, 1))
    scores_nk = np.tile(np.float32([[0.3], [0.6], [0.9]]), (15, 1))
    tubes = link_greedily(frames_n, boxes_n4, scores_nk)
    assert {round(one.score, 1): float(one.boxes_t4[7, 0]) for one in tubes} == {0.3: 0, 0.6: 2, 0.9: 200}


def test_greedy_links_drop_short_and_weak_tubes():
    boxes_n4 = np.tile(np.float32([0, 0, 40, 40]), (14, 1))
    assert link_greedily(np.arange(14), boxes_n4, np.ones((14, 1), np.float32)) == []
    boxes_n4 = np.tile(np.float32([0, 0, 40, 40]), (15, 1))
    assert link_greedily(np.arange(15), boxes_n4, np.full((15, 1), 0.004, np.float32)) == []
    assert len(link_greedily(np.arange(15), boxes_n4, np.full((15, 1), 0.006, np.float32))) == 1


def test_greedy_links_use_ten_boxes_a_frame():
    frames_n = np.repeat(np.arange(15), 12)
    boxes_n4 = np.tile(np.stack([np.float32([60 * i, 0, 60 * i + 40, 40]) for i in range(12)]), (15, 1))
    scores_nk = np.tile(np.linspace(0.1, 0.9, 12, dtype=np.float32)[:, None], (15, 1))
    assert len(link_greedily(frames_n, boxes_n4, scores_nk)) == 10
