"""Box maths against hand-made numbers and a plain greedy loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ssldet.ops.boxes import (
    _nms_on_device,
    aligned_giou,
    aligned_iou,
    box_areas,
    cxcywh_from_xyxy,
    nms,
    pairwise_iou,
    xyxy_from_cxcywh,
)
from ssldet.ops.iou import paired_iou, pairs_in_frames


def random_boxes(*shape: int, seed: int = 0) -> Tensor:
    low_size = torch.rand(*shape, 4, generator=torch.Generator().manual_seed(seed)) * 100
    return torch.cat((low_size[..., :2], low_size[..., :2] + low_size[..., 2:]), dim=-1)


def test_corners_and_centres_round_trip() -> None:
    assert cxcywh_from_xyxy(torch.tensor([10.0, 20.0, 30.0, 60.0])).tolist() == [20, 40, 20, 40]
    boxes = random_boxes(50)
    torch.testing.assert_close(xyxy_from_cxcywh(cxcywh_from_xyxy(boxes)), boxes)


def test_iou_of_arrays_is_that_of_tensors() -> None:
    one, other = random_boxes(200).numpy(), random_boxes(200).roll(1, 0).numpy()
    for plus_one in (False, True):
        ious_n = paired_iou(one, other, plus_one=plus_one)
        expected = aligned_iou(torch.from_numpy(one).double(), torch.from_numpy(other).double(), plus_one=plus_one)
        assert ious_n.dtype == np.float64 and ious_n.tolist() == expected.tolist()  # bit for bit
    assert paired_iou(one[:0], other[:0]).shape == (0,)
    assert paired_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [0.0]
    assert paired_iou(np.array([[0, 0, 9, 4]]), np.array([[0, 0, 9, 9]]), plus_one=True).tolist() == [0.5]


def test_pairs_share_a_frame() -> None:
    pairs = pairs_in_frames(np.array([5, 2, 5, 7]), np.array([2, 5, 5, 6]))
    assert [rows.tolist() for rows in pairs] == [[0, 0, 1, 2, 2], [1, 2, 0, 1, 2]]


def test_iou_of_known_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 0, 0]])
    others = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10], [0, 0, 0, 0]])
    expected = torch.tensor([[50 / 150, 0, 1, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(pairwise_iou(boxes, others), expected)
    assert pairwise_iou(boxes[:1], others[:1], plus_one=True).item() == pytest.approx(66 / 176)
    assert pairwise_iou(boxes, others[:0]).shape == (2, 0)


def test_inverted_boxes_have_no_area() -> None:
    assert box_areas(torch.tensor([[10.0, 10, 5, 20], [3, 3, 3, 3]])).tolist() == [0, 0]
    assert box_areas(torch.tensor([[3.0, 3, 3, 3]]), plus_one=True).tolist() == [1]


def test_giou_sees_the_distance_of_boxes_apart() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    assert aligned_giou(box, box).item() == pytest.approx(1)
    assert aligned_giou(box, torch.tensor([[10.0, 0, 20, 10]])).item() == pytest.approx(0)
    assert aligned_giou(box, torch.tensor([[30.0, 0, 40, 10]])).item() == pytest.approx(-0.5)


def greedy(boxes: Tensor, ranking: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -ranking[index].item()):
        overlaps = pairwise_iou(boxes[index : index + 1].double(), boxes[kept].double())
        if not (overlaps > threshold).any():
            kept.append(index)
    return sorted(kept)


@pytest.mark.parametrize("form", [nms, _nms_on_device])
@pytest.mark.parametrize(("clips", "boxes"), [(1, 12), (5, 60), (40, 50)])
def test_suppression_equals_the_greedy_loop(form: Callable[..., Tensor], clips: int, boxes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    boxes_n4 = random_boxes(clips * boxes, seed=clips)
    ranking = (torch.rand(clips * boxes, generator=generator) * 20).round() / 20  # with ties
    clip_n = torch.randint(clips, (clips * boxes,), generator=generator)
    kept = form(boxes_n4, ranking, clip_n, 0.4)
    assert (ranking[kept].diff() <= 0).all()
    for clip in range(clips):
        of_clip = (clip_n == clip).nonzero()[:, 0]
        expected = of_clip[greedy(boxes_n4[of_clip], ranking[of_clip], 0.4)]
        assert sorted(kept[clip_n[kept] == clip].tolist()) == expected.tolist()


def test_equal_ranks_keep_their_order() -> None:
    boxes_n4, clip_n = random_boxes(4), torch.tensor([1, 0, 1, 0])
    assert nms(boxes_n4, torch.ones(4), clip_n, 1.0).tolist() == [0, 1, 2, 3]


def test_an_overlap_equal_to_the_threshold_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU exactly 0.5
    ranking, clip_n = torch.tensor([0.8, 0.9]), torch.zeros(2, dtype=torch.int64)
    assert nms(boxes, ranking, clip_n, 0.5).tolist() == [1, 0]
    assert nms(boxes, ranking, clip_n, 0.49).tolist() == [1]
    assert nms(boxes, ranking, torch.tensor([0, 1]), 0.49).tolist() == [1, 0]  # of another clip


def test_boxes_without_area_neither_go_nor_suppress() -> None:
    boxes = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3], [0, 0, 10, 10]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64), 0.0).tolist() == [0, 1, 2]


def test_suppression_reads_any_layout_and_leaves_gradients_alone() -> None:
    boxes = random_boxes(20).T.contiguous().T.requires_grad_()
    ranking = torch.rand(20, 2, generator=torch.Generator().manual_seed(2))[:, 0].requires_grad_()
    clip_n = torch.zeros(20, 2, dtype=torch.int64)[:, 0]
    kept = nms(boxes, ranking, clip_n, 0.3)
    assert torch.equal(kept, _nms_on_device(boxes, ranking, clip_n, 0.3))
    assert nms(boxes[:0], ranking[:0], clip_n[:0], 0.3).shape == (0,)
