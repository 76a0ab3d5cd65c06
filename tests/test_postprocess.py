"""Boxes of a batch as rows: indexing, concatenation, suppression and order."""

from __future__ import annotations

import pytest
import torch

from ssldet.contracts import Decoded
from ssldet.detector.postprocess import BoxRecords, detections

LEFT, NEAR, RIGHT = [0.0, 0, 10, 10], [1.0, 0, 11, 10], [50.0, 0, 60, 10]  # IoU of the first two: 9 / 11


def rows(*entries: tuple[int, list[float], float]) -> BoxRecords:
    """Rows (clip, box, confidence), each of the class that its clip's number names."""
    clip_n = torch.tensor([clip for clip, _, _ in entries])
    boxes, confidence = [box for _, box, _ in entries], [value for _, _, value in entries]
    return BoxRecords(clip_n, torch.tensor(boxes), torch.tensor(confidence), torch.eye(3)[clip_n])


BOXES = rows((1, LEFT, 0.5), (0, NEAR, 0.9), (1, NEAR, 0.6), (0, LEFT, 0.8), (0, RIGHT, 0.1))


def test_rows_are_taken_by_mask_index_and_slice() -> None:
    assert len(BOXES) == 5
    by_mask = BOXES[BOXES.confidence_n > 0.55]
    assert by_mask.clip_n.tolist() == [0, 1, 0] and by_mask.boxes_n4.tolist() == [NEAR, NEAR, LEFT]
    by_index = BOXES[torch.tensor([4, 0])]
    assert by_index.boxes_n4.tolist() == [RIGHT, LEFT] and by_index.scores_nk.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert BOXES[1:3].clip_n.tolist() == [0, 1]


def test_parts_are_put_together_in_order() -> None:
    whole = BoxRecords.concat([BOXES[:2], BOXES[2:]])
    for name in BoxRecords.__slots__:
        assert torch.equal(getattr(whole, name), getattr(BOXES, name))


def test_a_box_is_suppressed_by_a_better_one_of_its_own_clip() -> None:
    left = BOXES.nms(0.5)
    assert list(zip(left.clip_n.tolist(), left.boxes_n4.tolist(), strict=True)) == [(0, NEAR), (1, NEAR), (0, RIGHT)]
    assert len(BOXES.nms(0.9)) == 5
    ordered = left.by_clip()
    assert ordered.clip_n.tolist() == [0, 0, 1] and ordered.boxes_n4[:2].tolist() == [NEAR, RIGHT]


def test_decoded_boxes_become_rows_of_the_confidence_that_is_asked_for() -> None:
    decoded = Decoded(
        boxes_bn4=torch.tensor([[LEFT, NEAR], [RIGHT, LEFT]]),
        confidence_bn=torch.tensor([[0.9, 0.4], [0.2, 0.7]]),
        scores_bnk=torch.tensor([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.2, 0.8]]]),
    )
    assert detections(decoded, score_threshold=0.41).boxes_n4.tolist() == [LEFT, LEFT]  # 0.45, 0.4, 0.2, 0.56
    by_confidence = detections(decoded, score_threshold=0.41, filter_by="confidence")
    assert by_confidence.confidence_n.tolist() == pytest.approx([0.9, 0.7])
    kept = BoxRecords.of(decoded, decoded.confidence_bn > 0.3, decoded.confidence_bn * 0.5)
    torch.testing.assert_close(kept.confidence_n, torch.tensor([0.45, 0.2, 0.35]))
    assert kept.scores_nk[1].tolist() == [1.0, 0.0]
