"""What the log says of pseudo-labels, counted by hand."""

from __future__ import annotations

import numpy as np
import torch
from helpers import FACTS, MULTILABEL

from ssldet.contracts import DatasetFacts, PseudoLabels, Targets, Truth, Video
from ssldet.data.sampling import ClipRefs
from ssldet.data.targets import TruthTable
from ssldet.training.diagnostics import WARNINGS, PseudoLabelMeter, Watch, teaches, unlabelled_ratio

TRUE_BOX = [10.0, 10, 40, 50]


def hidden(facts: DatasetFacts = FACTS) -> TruthTable:
    """Video "known": class 0 in frame 1, background in frame 0, nothing said of frame 2. "unknown": nothing said."""
    boxes, labels = np.array([TRUE_BOX], np.float32), np.array([[True, False, False]])
    truths = {
        "known": Truth(np.array([1]), boxes, labels, np.zeros(1, np.int64), np.array([0, 1])),
        "unknown": Truth(np.empty(0, np.int64), boxes[:0], labels[:0], np.empty(0, np.int64), np.empty(0, np.int64)),
    }
    return TruthTable(facts, {name: Video(name, 3, 64, 64, ()) for name in truths}, truths.__getitem__, size=64)


def pseudo(
    clips: list[int], boxes: list[list[float]], classes: list[int], frames: list[int], mask: list[bool]
) -> PseudoLabels:
    labels = torch.eye(3)[classes]
    found = torch.tensor(boxes).reshape(-1, 4)
    accepted = torch.tensor(mask)
    return PseudoLabels(
        Targets(torch.tensor(clips, dtype=torch.int64), found, labels, accepted, torch.tensor(frames), accepted), 7
    )


def test_coverage_precision_and_recall_by_hand() -> None:
    meter = PseudoLabelMeter(hidden())
    off = [40.0, 10, 60, 50]
    labels = pseudo([0, 0, 1], [TRUE_BOX, off, TRUE_BOX], [0, 0, 1], [0, 1, 3, 2], [True, True, True, False])
    meter.update(labels, ClipRefs(("known",) * 4, (1, 1, 0, 1)))
    assert meter.compute() == {
        "clips": 4,
        "frame_labels": 3,
        "frame_coverage": 3 / 4,
        "box_coverage": 3 / 4,
        "frame_precision": 2 / 3,  # class 0 and the background are right, class 1 is not
        "frame_recall": 2 / 4,
        "candidates": 7,
        "boxes": 3,
        "box_localized": 2 / 3,
        "box_precision": 1 / 3,
        "box_recall": 1 / 3,  # three of the clips show the actor
    }
    assert meter.compute()["clips"] == 0


def test_what_the_annotation_does_not_speak_of_is_neither_right_nor_wrong() -> None:
    meter = PseudoLabelMeter(hidden())
    labels = pseudo([0, 1, 2], [TRUE_BOX] * 3, [0, 0, 0], [0, 0, 0], [True, True, True])
    meter.update(labels, ClipRefs(("known", "known", "unknown"), (1, 2, 2)))
    found = meter.compute()
    assert (found["frame_labels"], found["frame_coverage"], found["boxes"]) == (3, 1, 3)
    assert (found["frame_precision"], found["box_localized"], found["box_precision"], found["box_recall"]) == (
        1,
        1,
        1,
        1,
    )
    meter.update(labels, ClipRefs(("unknown",) * 3, (0, 1, 2)))
    assert meter.compute()["frame_precision"] is None


def test_multilabel_frames_are_right_when_all_labels_given_are() -> None:
    meter = PseudoLabelMeter(hidden(MULTILABEL))
    labels = pseudo([], [], [], [0, 0], [True, True])
    labels.targets.frame_labels_b = torch.tensor([[1.0, 0, 0], [1, 1, 0]])
    meter.update(labels, ClipRefs(("known", "known"), (1, 1)))
    assert meter.compute()["frame_precision"] == 1 / 2


def test_the_ratio_sets_terms_of_unlabelled_clips_against_the_others() -> None:
    assert unlabelled_ratio({"box": 2.0, "frame": 1.0, "box_u": 4.0, "temporal_u": 2.0}) == 2
    assert unlabelled_ratio({"box": 2.0}) is None
    assert unlabelled_ratio({"box": 0.0, "box_u": 4.0}) is None


ACCEPTED = {"clips": 8, "boxes": 0, "frame_labels": 1}
NOTHING = {"clips": 8, "boxes": 0, "frame_labels": 0}


def test_a_high_ratio_is_warned_of_once_and_only_when_it_lasts_an_epoch() -> None:
    watch = Watch(epoch=10)
    assert [watch.look(5, ratio, ACCEPTED) for ratio in (11.0, 10.0, 11.0)] == [[], [], []]  # 10 is not above 10
    assert watch.look(5, 11.0, ACCEPTED) == [WARNINGS["unlabelled_ratio"]]
    assert watch.look(50, 11.0, ACCEPTED) == []


def test_an_epoch_without_a_pseudo_label_is_warned_of() -> None:
    watch = Watch(epoch=10)
    assert watch.look(20, None, None) == []  # a first stage has none, and needs none
    assert watch.look(9, 1.0, NOTHING) == []
    assert watch.look(9, 1.0, ACCEPTED) == []
    assert watch.look(9, 1.0, NOTHING) == []
    assert watch.look(1, 1.0, NOTHING) == [WARNINGS["pseudo_labels"]]


def test_cells_and_maps_teach_without_a_box() -> None:
    assert teaches({"box": 1.0, "map_u": 0.2}) and teaches({"box_u": 0.1})
    assert not teaches({"box": 1.0, "box_u": 0.0, "temporal_u": 0.3})
    assert Watch(epoch=10).look(20, 1.0, NOTHING, taught=True) == []


def test_a_watch_goes_on_from_its_state() -> None:
    first, second = Watch(epoch=10), Watch(epoch=10)
    first.look(5, 11.0, NOTHING)
    second.restore(first.state())
    assert len(second.look(5, 11.0, NOTHING)) == 2
    third = Watch(epoch=10)
    third.restore(second.state())
    assert third.look(10, 11.0, NOTHING) == []
