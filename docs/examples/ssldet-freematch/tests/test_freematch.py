"""The contract of every strategy, and FreeMatch's equations against numbers worked out by hand."""

import pytest
import torch
from ssldet.contracts import Decoded, Detector
from ssldet.testing import SINGLE_LABEL, TINY_INFO, TINY_PROGRESS, StrategyContract, tiny_batch, tiny_detector

from ssldet_freematch import FreeMatch, class_thresholds, clip_scores


class TestFreeMatch(StrategyContract):
    plugin = FreeMatch


def started(state: str = "confident", **options: float) -> tuple[FreeMatch, Detector]:
    student = tiny_detector(SINGLE_LABEL, frame_head=False, state=state)
    strategy = FreeMatch(FreeMatch.Config(**options))
    strategy.start(student, TINY_INFO)
    return strategy, student


def pseudo_boxes(strategy: FreeMatch, student: Detector) -> int:
    found = strategy.losses(tiny_batch(SINGLE_LABEL, strategy.needs), student, TINY_PROGRESS)
    return len(found.pseudo_labels.targets.clip_n)


def step(strategy: FreeMatch, student: Detector, *parts: list[list[float]]) -> None:
    """A step whose clips have these scores, in these parts."""
    for part in parts:
        strategy._observe(torch.tensor(part))
    strategy.after_step(student, TINY_PROGRESS)


def test_a_clip_is_scored_by_its_best_box_of_each_class() -> None:
    confidence_bn = torch.tensor([[0.9, 0.5]])
    scores_bnk = torch.tensor([[[0.8, 0.2], [0.1, 0.9]]])
    found = clip_scores(Decoded(torch.zeros(1, 2, 4), confidence_bn, scores_bnk))
    torch.testing.assert_close(found, torch.tensor([[0.72, 0.45]]))  # 0.9 * 0.8 > 0.5 * 0.1, 0.9 * 0.2 < 0.5 * 0.9


def test_thresholds_follow_the_equations() -> None:
    """Three classes, lambda = 0.5, two clips with scores (0.9, 0.1, 0.1) and (0.2, 0.6, 0.1).

    tau = 0.5 * 1/3 + 0.5 * (0.9 + 0.6) / 2 = 13/24
    p   = 0.5 * 1/3 + 0.5 * (0.55, 0.35, 0.1) = (53, 41, 26) / 120
    tau(c) = 13/24 * (1, 41/53, 26/53)
    """
    strategy, student = started(threshold_decay=0.5)
    step(strategy, student, [[0.9, 0.1, 0.1], [0.2, 0.6, 0.1]])
    torch.testing.assert_close(strategy.threshold, torch.tensor(13 / 24))
    torch.testing.assert_close(strategy.class_mean_k, torch.tensor([53.0, 41.0, 26.0]) / 120)
    thresholds_k = class_thresholds(strategy.threshold, strategy.class_mean_k)
    torch.testing.assert_close(thresholds_k, torch.tensor([0.541667, 0.419025, 0.265723]), atol=1e-6, rtol=0)


def test_a_step_in_parts_is_one_step() -> None:
    whole, student = started(threshold_decay=0.5)
    parted, _ = started(threshold_decay=0.5)
    step(whole, student, [[0.9, 0.1, 0.1], [0.2, 0.6, 0.1]])
    step(parted, student, [[0.9, 0.1, 0.1]], [[0.2, 0.6, 0.1]])
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parted.state_dict()[name], tensor)


def test_estimates_begin_at_chance_and_rise_with_a_sure_network() -> None:
    strategy, student = started(threshold_decay=0.9)
    assert strategy.threshold.item() == pytest.approx(1 / 3)
    pseudo_boxes(strategy, student)
    strategy.after_step(student, TINY_PROGRESS)
    assert 1 / 3 < strategy.threshold.item() < 0.9 / 3 + 0.1
    assert strategy.class_mean_k.argmax() == 0  # the class that it is sure of


def test_only_boxes_above_the_threshold_of_their_class_are_taken() -> None:
    strategy, student = started()  # sure of class 0 with about 0.997
    assert pseudo_boxes(strategy, student) > 0
    strategy.threshold.fill_(0.9999)
    assert pseudo_boxes(strategy, student) == 0
    strategy.class_mean_k.copy_(torch.tensor([0.3, 0.6, 0.6]))  # class 0 is found half as often as the others
    assert pseudo_boxes(strategy, student) > 0


def test_the_lower_bound_holds_whatever_the_estimates_say() -> None:
    strategy, student = started(o_th=0.9999)
    strategy.threshold.zero_()
    assert pseudo_boxes(strategy, student) == 0


def test_no_class_seen_leaves_the_global_threshold() -> None:
    torch.testing.assert_close(class_thresholds(torch.tensor(0.2), torch.zeros(3)), torch.full((3,), 0.2))


def test_the_state_is_the_estimates() -> None:
    first, student = started(threshold_decay=0.5)
    step(first, student, [[0.9, 0.1, 0.1]])
    second, _ = started(threshold_decay=0.5)
    second.load_state_dict(first.state_dict())
    for strategy in (first, second):
        step(strategy, student, [[0.2, 0.6, 0.1]])
    assert torch.equal(first.threshold, second.threshold)
    assert torch.equal(first.class_mean_k, second.class_mean_k)
    assert first.threshold.item() == pytest.approx(0.25 / 3 + 0.25 * 0.9 + 0.5 * 0.6)
