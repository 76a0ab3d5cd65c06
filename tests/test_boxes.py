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
from ssldet.ops.iou import paired_iou


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


def greedy(boxes: Tensor, ranking: Tensor, candidates: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -ranking[index].item()):
        overlaps = pairwise_iou(boxes[index : index + 1].double(), boxes[kept].double())
        if candidates[index] and not (overlaps > threshold).any():
            kept.append(index)
    return sorted(kept)


@pytest.mark.parametrize("form", [nms, _nms_on_device])
@pytest.mark.parametrize(("clips", "boxes"), [(1, 12), (5, 60), (40, 50)])
def test_suppression_equals_the_greedy_loop(form: Callable[..., Tensor], clips: int, boxes: int) -> None:
    boxes_bn4 = random_boxes(clips, boxes, seed=clips)
    generator = torch.Generator().manual_seed(1)
    ranking = (torch.rand(clips, boxes, generator=generator) * 20).round() / 20  # with ties
    candidates = torch.rand(clips, boxes, generator=generator) > 0.3
    kept_bn = form(boxes_bn4, ranking, candidates, 0.4)
    for clip in range(clips):
        expected = greedy(boxes_bn4[clip], ranking[clip], candidates[clip], 0.4)
        assert kept_bn[clip].nonzero()[:, 0].tolist() == expected


def test_an_overlap_equal_to_the_threshold_stays() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 5]]])  # IoU exactly 0.5
    ranking, candidates = torch.tensor([[0.9, 0.8]]), torch.ones(1, 2, dtype=torch.bool)
    assert nms(boxes, ranking, candidates, 0.5).tolist() == [[True, True]]
    assert nms(boxes, ranking, candidates, 0.49).tolist() == [[True, False]]


def test_boxes_that_are_no_candidates_suppress_nothing() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9]]])
    candidates = torch.tensor([[False, True]])
    assert nms(boxes, torch.tensor([[0.9, 0.1]]), candidates, 0.4).tolist() == [[False, True]]
    assert not nms(boxes, torch.tensor([[0.9, 0.1]]), torch.zeros_like(candidates), 0.4).any()


def test_boxes_without_area_neither_go_nor_suppress() -> None:
    boxes = torch.tensor([[[3.0, 3, 3, 3], [3, 3, 3, 3], [0, 0, 10, 10]]])
    kept = nms(boxes, torch.tensor([[0.9, 0.8, 0.7]]), torch.ones(1, 3, dtype=torch.bool), 0.0)
    assert kept.tolist() == [[True, True, True]]


def test_suppression_reads_any_layout_and_leaves_gradients_alone() -> None:
    boxes = random_boxes(3, 20).transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    ranking = torch.rand(20, 3, generator=torch.Generator().manual_seed(2)).T.requires_grad_()
    everything = torch.ones(3, 20, dtype=torch.bool)
    kept_bn = nms(boxes, ranking, everything, 0.3)
    assert torch.equal(kept_bn, _nms_on_device(boxes, ranking, everything, 0.3))
    assert nms(boxes[:0], ranking[:0], everything[:0], 0.3).shape == (0, 20)
