"""Strategies with a memory, a mirror or a module of their own: their equations by hand, and their contract."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from anchor_free import centre_detector
from started_strategies import started
from test_clips import source
from torch import Tensor

from ssldet.contracts import Cells, Decoded, Progress, Strategy, Targets
from ssldet.errors import TrainingError
from ssldet.testing import MULTI_LABEL, SINGLE_LABEL, TINY_INFO, TINY_PROGRESS, StrategyContract, tiny_batch
from ssldet.testing import tiny_detector as tiny_student
from ssldet.training.loop import takes_one_forward
from ssldet.training.pseudo_labels import carry_to_strong
from ssldet.training.teachers import TeacherStudent
from ssldet_strategies.cell_maps import cells_of, centre_maps, mirrored, objectness_maps
from ssldet_strategies.consistency import Consistency, consistency_loss, foreground, js_divergence
from ssldet_strategies.error_recovery import ErrorRecovery, recovery_loss
from ssldet_strategies.flexmatch import FlexMatch, class_thresholds, clip_classes
from ssldet_strategies.mixing import GREY, Shown, erased, mixed_up, mosaic, shuffled
from ssldet_strategies.mixpl import MixPL
from ssldet_strategies.softmatch import SoftMatch, align, soft_weights
from ssldet_strategies.stable_mean_teacher import StableMeanTeacher


class TestConsistency(StrategyContract):
    plugin = Consistency


class TestFlexMatch(StrategyContract):
    plugin = FlexMatch


class TestSoftMatch(StrategyContract):
    plugin = SoftMatch


class TestMixPL(StrategyContract):
    plugin = MixPL


class TestStableMeanTeacher(StrategyContract):
    plugin = StableMeanTeacher


def terms_of(strategy: Strategy, student: Any, progress: Progress = TINY_PROGRESS, seed: int = 0) -> dict[str, Tensor]:
    batch = tiny_batch(student.facts, strategy.needs, seed=seed)
    return strategy.losses(batch, student, progress).terms


def gradient_of(term: Tensor, student: Any) -> float:
    student.zero_grad()
    term.backward(retain_graph=True)
    return sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None)


# --------------------------------------------------------------------------------------------- consistency


def cells(confidence: list[float], classes: list[list[float]], boxes: list[list[float]]) -> Cells:
    """Two cells side by side of one clip, 32 pixels wide: probabilities of objectness and of classes, boxes."""
    logits = torch.logit(torch.tensor([confidence]))
    return Cells(logits, torch.tensor([classes]).log(), torch.tensor([boxes]), ((1, 1, 2),))


HALVES = [[0.0, 8, 16, 24], [16.0, 8, 32, 24]]


def test_a_mirrored_clips_cells_stand_where_the_clips_do() -> None:
    """Two anchors on 1 x 3 cells: the order along x turns, anchors stay apart, and boxes turn about the middle."""
    boxes = torch.arange(24.0).view(1, 6, 4)
    some = Cells(torch.arange(6.0)[None], torch.arange(12.0).view(1, 6, 2), boxes, ((2, 1, 3),))
    turned = mirrored(some, 100)
    assert turned.confidence_bn.tolist() == [[2, 1, 0, 5, 4, 3]]
    assert turned.classes_bnk[0, 0].tolist() == [4, 5]
    assert turned.boxes_bn4[0, 0].tolist() == [100 - 10, 9, 100 - 8, 11]
    again = mirrored(turned, 100)
    assert torch.equal(again.boxes_bn4, boxes) and torch.equal(again.confidence_bn, some.confidence_bn)


def test_mirroring_keeps_levels_apart() -> None:
    some = Cells(torch.arange(6.0)[None], torch.zeros(1, 6, 1), torch.zeros(1, 6, 4), ((1, 2, 2), (1, 1, 2)))
    assert mirrored(some, 8).confidence_bn.tolist() == [[1, 0, 3, 2, 5, 4]]


def test_the_js_divergence_by_hand() -> None:
    """p = (1, 0), q = (1/2, 1/2), middle (3/4, 1/4)."""
    p, q = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]])
    expected = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert js_divergence(p, q).item() == pytest.approx(expected, abs=1e-6)
    assert js_divergence(q, p).item() == pytest.approx(expected, abs=1e-6)
    assert js_divergence(p, p).item() == 0


def test_the_consistency_loss_by_hand() -> None:
    """Cell 0 is compared: objectness 0.8 and 0.4, one class; centres 2 of 16 pixels apart, twice the width.

    p = (0.8, 0, 0.2), p' = (0.4, 0, 0.6), and 1/4 ((2/16)^2 + 0 + (log 2)^2 + 0). Cell 1 is background.
    """
    clip = cells([0.8, 0.1], [[1, 1e-9], [1, 1e-9]], HALVES)
    mirror = cells([0.4, 0.9], [[1, 1e-9], [1, 1e-9]], [[-6.0, 8, 26, 24], HALVES[1]])
    middle = (0.6, 0.4)
    js = sum(0.5 * p * math.log(p / m) for pair in ((0.8, 0.2), (0.4, 0.6)) for p, m in zip(pair, middle, strict=True))
    boxes = ((2 / 16) ** 2 + math.log(2) ** 2) / 4
    loss = consistency_loss(clip, mirror, SINGLE_LABEL, 32, None)
    assert loss.item() == pytest.approx(js + boxes, rel=1e-5)
    assert consistency_loss(clip, mirror, SINGLE_LABEL, 32, 0.85).item() == 0


def test_classes_of_multilabel_data_are_compared_one_by_one() -> None:
    """Objectness 1 and 1; class probabilities (1/2, 1/2) and (1/2, 1/4) by sigmoids, each against its absence."""
    facts = replace(MULTI_LABEL, classes=("left", "right"), poses=0, class_ratios=())
    one, other = (cells([1 - 1e-6] * 2, [[1.0, 1.0]] * 2, HALVES) for _ in range(2))
    one.classes_bnk = torch.zeros(1, 2, 2)
    other.classes_bnk = torch.logit(torch.tensor([[[0.5, 0.25]] * 2]))
    middle = (0.375, 0.625)
    js = sum(
        0.5 * p * math.log(p / m) for pair in ((0.5, 0.5), (0.25, 0.75)) for p, m in zip(pair, middle, strict=True)
    )
    assert consistency_loss(one, other, facts, 32, 0.5).item() == pytest.approx(js, rel=1e-3)


def test_background_cells_of_the_clip_are_left_out() -> None:
    """0.6 x 0.5 = 0.3 < 0.4 is background as published, and above a threshold of 0.5; 0.6 x 0.7 = 0.42 is not."""
    some = cells([0.6, 0.6], [[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]], HALVES)
    assert foreground(some, SINGLE_LABEL, None).tolist() == [[False, True]]
    assert foreground(some, SINGLE_LABEL, 0.5).tolist() == [[True, True]]
    assert foreground(some, SINGLE_LABEL, 0.7).tolist() == [[False, False]]


@pytest.mark.parametrize(("step", "expected"), [(7, math.exp(-5 * 0.5**2)), (9, 1), (14, math.exp(-12.5 * 0.5**2))])
def test_consistency_ramps_up_and_down_once(step: int, expected: float) -> None:
    """Ten steps from 5 to 15: up over four of them, whose middle is 7, down over two."""
    progress = Progress(step, steps=15, burn_in=5, epoch=0.0)
    strategy, student = started(Consistency, ramp_up=0.4, ramp_down=0.2)
    assert strategy.ramp(progress) == pytest.approx(expected)
    flat, _ = started(Consistency, ramp_up=0.0, ramp_down=0.0, consistency_weight=3.0)
    ramped, full = terms_of(strategy, student, progress), terms_of(flat, student, progress)
    for name in ("consistency", "consistency_u"):
        assert ramped[name].item() == pytest.approx(full[name].item() * expected / 3, rel=1e-4), name
    assert ramped["box"].item() == pytest.approx(full["box"].item(), rel=1e-5)


def test_consistency_compares_a_clip_with_its_mirror_image() -> None:
    """A network whose filters are symmetric, and whose centres are those of their cells, agrees with its mirror."""
    strategy, student = started(Consistency, "random", o_th=0.0)
    assert terms_of(strategy, student)["consistency_u"].item() > 0
    with torch.no_grad():
        for conv in [m for m in student.features.modules() if isinstance(m, torch.nn.Conv2d)]:
            conv.weight.copy_((conv.weight + conv.weight.flip(3)) / 2)
        student.box_head.weight.view(3, 8, 12)[:, 0] = 0
        student.box_head.bias.view(3, 8)[:, 0] = 0
    assert terms_of(strategy, student)["consistency_u"].item() == pytest.approx(0, abs=1e-6)


def test_consistency_says_why_it_needs_cells() -> None:
    _, student = started(Consistency)
    student.cells = lambda predictions: None
    with pytest.raises(TrainingError, match=r"consistency compares cells .* GridDetector has none"):
        cells_of(student, student(torch.rand(1, 3, 4, 32, 32)), "consistency")


# ----------------------------------------------------------------------------------------------- flexmatch


def test_thresholds_of_classes_by_hand() -> None:
    """Ten clips: four were last predicted class 0, two class 1, four never. sigma = (4, 2, 0), unused 4.

    beta = (1, 1/2, 0), tau_c = 0.9 (1, (1/2) / (3/2), 0).
    """
    last = torch.tensor([0, 0, 0, 0, 1, 1, -1, -1, -1, -1])
    torch.testing.assert_close(class_thresholds(0.9, last, 3), torch.tensor([0.9, 0.3, 0.0]))
    more = torch.cat([last, torch.full((4,), -1)])  # eight unused: beta = (1/2, 1/4, 0)
    torch.testing.assert_close(class_thresholds(0.9, more, 3), 0.9 * torch.tensor([1 / 3, 1 / 7, 0.0]))
    torch.testing.assert_close(class_thresholds(0.9, more, 3, warmup=False), torch.tensor([0.9, 0.3, 0.0]))
    assert class_thresholds(0.9, torch.full((5,), -1), 3, warmup=False).tolist() == [0, 0, 0]


def test_a_clip_is_predicted_what_its_best_box_is() -> None:
    scores = torch.tensor([[[0.8, 0.2], [0.1, 0.9]], [[0.6, 0.4], [0.3, 0.7]]])
    found = clip_classes(Decoded(torch.zeros(2, 2, 4), torch.tensor([[0.9, 0.5], [0.5, 0.9]]), scores))
    torch.testing.assert_close(found[0], torch.tensor([0.72, 0.63]))
    assert found[1].tolist() == [0, 1]


def test_the_memory_holds_the_last_sure_class_of_each_clip() -> None:
    strategy, student = started(FlexMatch, tau=0.5)
    strategy._seen = [
        (torch.tensor([3, 7]), torch.tensor([0.6, 0.4]), torch.tensor([2, 1])),
        (torch.tensor([5]), torch.tensor([0.9]), torch.tensor([1])),
    ]
    strategy.after_step(student, TINY_PROGRESS)
    assert {i: int(c) for i, c in enumerate(strategy.last_class_n) if c >= 0} == {3: 2, 5: 1}
    strategy._seen = [(torch.tensor([3, 5]), torch.tensor([0.7, 0.2]), torch.tensor([0, 0]))]
    strategy.after_step(student, TINY_PROGRESS)
    assert (int(strategy.last_class_n[3]), int(strategy.last_class_n[5])) == (0, 1)  # an unsure one leaves it
    assert strategy._seen == []


def test_a_step_fills_the_memory_by_the_index_of_its_clips() -> None:
    """The tiny network is sure of class 0 in every clip; its clips have indices 0 to 3 of sixteen."""
    strategy, student = started(FlexMatch)
    terms_of(strategy, student)
    assert (strategy.last_class_n < 0).all()  # what a step saw counts from the next one on
    strategy.after_step(student, TINY_PROGRESS)
    assert strategy.last_class_n.tolist() == [0] * 4 + [-1] * 12
    torch.testing.assert_close(strategy.tau(), torch.tensor([0.95 * (4 / 12) / (2 - 4 / 12), 0, 0]))
    assert list(strategy.thresholds().items()) == list(zip(SINGLE_LABEL.classes, strategy.tau().tolist(), strict=True))


def test_a_step_that_was_forgotten_left_nothing_in_the_memory() -> None:
    strategy, student = started(FlexMatch)
    terms_of(strategy, student)
    strategy.forget_step()
    strategy.after_step(student, TINY_PROGRESS)
    assert (strategy.last_class_n < 0).all()


def test_boxes_need_the_threshold_of_their_class() -> None:
    strategy, student = started(FlexMatch, tau=1.0, o_th=0.5)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)

    def boxes() -> int:
        labels = strategy.losses(batch, student, TINY_PROGRESS).pseudo_labels
        return len(labels.targets.clip_n)

    assert boxes() > 0
    strategy.last_class_n.fill_(0)  # class 0 is the best learnt: its threshold is tau
    assert boxes() == 0
    strategy.last_class_n[:8] = 1  # as many clips of class 1, and no fewer of class 0
    assert boxes() == 0
    strategy.last_class_n[:12] = 1  # 4 against 12: beta 1/3, threshold 1/5
    assert boxes() > 0


def test_no_box_below_the_bound_is_taken_however_low_the_thresholds() -> None:
    strategy, student = started(FlexMatch, o_th=0.9999)
    labels = strategy.losses(tiny_batch(SINGLE_LABEL, strategy.needs), student, TINY_PROGRESS).pseudo_labels
    assert len(labels.targets.clip_n) == 0


# ----------------------------------------------------------------------------------------------- softmatch


def test_weights_fall_as_a_gaussian_below_the_mean() -> None:
    """mu 0.6, sigma^2 0.04, n 2: exp(-0.2^2 * 4 / 0.08) at 0.4."""
    weights = soft_weights(torch.tensor([0.9, 0.6, 0.4]), torch.tensor(0.6), torch.tensor(0.04), 2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 1.0, math.exp(-2)]))
    certain = soft_weights(torch.tensor([0.6, 0.4]), torch.tensor(0.6), torch.tensor(0.0), 2.0)
    assert certain.tolist() == [1, 0]


def test_alignment_divides_by_how_often_a_class_is_predicted() -> None:
    """(0.6, 0.4) against means (0.75, 0.25): (0.8, 1.6) / 2.4."""
    aligned = align(torch.tensor([[0.6, 0.4]]), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(aligned, torch.tensor([[1 / 3, 2 / 3]]))


def test_the_averages_of_a_step_by_hand() -> None:
    """Two parts of a step, confidences 0.2 and 0.4, 0.9; decay 0.5, no warm-up; they begin at 1/3 and 1."""
    strategy, student = started(SoftMatch, statistics_decay=0.5, statistics_warmup=False)
    first, second = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.2, 0.8, 0.0], [0.5, 0.0, 0.5]])
    strategy._seen = [(torch.tensor([0.2]), first), (torch.tensor([0.4, 0.9]), second)]
    strategy.after_step(student, TINY_PROGRESS)
    assert strategy.mean.item() == pytest.approx(0.5 / 3 + 0.5 * 0.5)
    assert strategy.variance.item() == pytest.approx(0.5 + 0.5 * (0.09 + 0.01 + 0.16) / 2)
    torch.testing.assert_close(strategy.class_mean_k, torch.tensor([0.5 / 3 + 0.2, 0.5 / 3 + 0.175, 0.5 / 3 + 0.125]))


def test_young_averages_follow_quickly() -> None:
    strategy, student = started(SoftMatch)
    strategy._seen = [(torch.tensor([0.9, 0.9]), torch.tensor([[1.0, 0, 0]] * 2))]
    strategy.after_step(student, TINY_PROGRESS)
    assert strategy.mean.item() == pytest.approx(0.1 / 3 + 0.9 * 0.9)  # the decay of the first update is 1/10
    assert (strategy.updates, strategy._seen) == (1, [])


def test_a_doubtful_box_teaches_less() -> None:
    """Every box of the tiny network has about the same confidence: a mean that lies s above it, sigma^2 = 4 s^2."""
    strategy, student = started(SoftMatch, alignment=False)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)
    full = strategy.losses(batch, student, TINY_PROGRESS)
    assert full.pseudo_labels.targets.weights_n3.min() > 0.99
    strategy.mean.fill_(1.2)
    strategy.variance.fill_(0.16)
    less = strategy.losses(batch, student, TINY_PROGRESS).pseudo_labels.targets
    confidence = 0.9975 * 1.0  # sigmoid(6) x about 1
    expected = math.exp(-((1.2 - confidence) ** 2) * 4 / 0.32)
    assert less.weights_n3.shape == (len(less.clip_n), 3)
    assert less.weights_n3.mean().item() == pytest.approx(expected, abs=0.03)
    strategy.variance.fill_(1e-6)
    gone = strategy.losses(batch, student, TINY_PROGRESS).terms
    assert gone["box_u"].item() < full.terms["box_u"].item()


def test_multilabel_data_have_no_alignment() -> None:
    strategy = SoftMatch(SoftMatch.Config())
    strategy.start(tiny_student(MULTI_LABEL, frame_head=False), TINY_INFO)
    strategy.class_mean_k.copy_(torch.tensor([0.9, 0.05, 0.05]))
    scores = torch.tensor([[0.5, 0.9, 0.1]])
    assert torch.equal(strategy.aligned(scores), scores)


# --------------------------------------------------------------------------------------------------- mixpl


def shown(values: list[float], boxes: list[tuple[int, list[float], int]], size: int = 4) -> Shown:
    """Clips of one value each, of one frame of `size` pixels; boxes as (clip, box, class) of three classes."""
    clips = torch.tensor(values).view(-1, 1, 1, 1, 1).expand(-1, 3, 1, size, size).clone()
    rows = torch.tensor([clip for clip, _, _ in boxes], dtype=torch.int64)
    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[rows] = True
    labels = torch.nn.functional.one_hot(torch.tensor([label for _, _, label in boxes]), 3).float()
    frames, sure = torch.zeros(len(values), dtype=torch.int64), torch.ones(len(values), dtype=torch.bool)
    return Shown(clips, Targets(rows, torch.tensor([box for _, box, _ in boxes]), labels, mask, frames, sure))


def test_mixup_is_the_mean_of_two_clips_with_the_boxes_of_both() -> None:
    clips = shown([0.2, 0.6], [(0, [0.0, 0, 2, 2], 0)])
    others = clips.take(torch.tensor([1, 0])).mirrored()
    mixed = mixed_up(clips, others)
    torch.testing.assert_close(mixed.clips_bcthw, torch.full((2, 3, 1, 4, 4), 0.4))
    assert mixed.targets.clip_n.tolist() == [0, 1]
    assert mixed.targets.boxes_n4.tolist() == [[0, 0, 2, 2], [2, 0, 4, 2]]
    assert mixed.targets.box_mask_b.tolist() == [True, True]


@pytest.mark.parametrize("count", [2, 3, 16])
def test_no_clip_is_mixed_with_itself(count: int) -> None:
    for seed in range(10):
        order_b = shuffled(count, torch.Generator().manual_seed(seed))
        assert sorted(order_b.tolist()) == list(range(count))
        assert (order_b != torch.arange(count)).all()
    assert shuffled(1, torch.Generator()).tolist() == [0]


def test_a_mosaic_shows_four_clips_at_half_size() -> None:
    boxes = [(clip, [0.0, 0, 4, 2], clip % 3) for clip in range(4)]
    made = mosaic(shown([0.1, 0.2, 0.3, 0.4], boxes), torch.tensor([3, 1, 0, 2]))
    torch.testing.assert_close(
        made.clips_bcthw[0, 0, 0],
        torch.tensor([[0.4, 0.4, 0.2, 0.2]] * 2 + [[0.1, 0.1, 0.3, 0.3]] * 2),
    )
    assert made.targets.boxes_n4.tolist() == [[0, 0, 2, 1], [2, 0, 4, 1], [0, 2, 2, 3], [2, 2, 4, 3]]
    assert made.targets.labels_nk.argmax(dim=1).tolist() == [0, 1, 0, 2]
    assert made.targets.clip_n.tolist() == [0] * 4 and made.targets.box_mask_b.tolist() == [True]


@pytest.mark.parametrize(("clips", "mosaics"), [(2, 1), (4, 1), (7, 1), (8, 2)])
def test_a_group_has_a_quarter_as_many_mosaics(clips: int, mosaics: int) -> None:
    made = mosaic(shown([0.5] * clips, [(clips - 1, [0.0, 0, 4, 4], 1)]), torch.arange(clips))
    assert len(made.clips_bcthw) == len(made.targets.box_mask_b) == mosaics
    if clips == 2:  # the order begins anew: the second clip comes twice
        assert made.targets.boxes_n4.tolist() == [[2, 0, 4, 2], [2, 2, 4, 4]]


def test_a_mixture_has_a_frame_label_where_its_clips_agree() -> None:
    clips = shown([0.1, 0.2, 0.3], [(0, [0.0, 0, 2, 2], 0)])
    clips.targets.frame_labels_b = torch.tensor([1, 1, 2])
    clips.targets.frame_mask_b = torch.tensor([True, True, True])
    assert mixed_up(clips, clips.take(torch.tensor([1, 2, 2]))).targets.frame_mask_b.tolist() == [True, False, True]
    clips.targets.frame_mask_b = torch.tensor([True, False, True])
    assert mixed_up(clips, clips.take(torch.tensor([1, 2, 2]))).targets.frame_mask_b.tolist() == [False, False, True]


def test_erased_patches_are_grey_in_all_frames_and_take_hidden_boxes_along() -> None:
    """Patches as large as the view hide everything; none hides nothing; a share at the bound is dropped."""
    generator = torch.Generator().manual_seed(0)
    clips = shown([0.1, 0.2], [(0, [0.0, 0, 2, 2], 0), (1, [1.0, 1, 3, 3], 1)])
    gone = erased(clips, generator, patches=(1, 1), ratio=(1.0, 1.0), dropped=0.7)
    assert (gone.clips_bcthw == GREY).all() and len(gone.targets.clip_n) == 0
    assert not gone.targets.box_mask_b.any()
    whole = erased(clips, generator, patches=(0, 0), ratio=(0.0, 0.1), dropped=0.7)
    assert torch.equal(whole.clips_bcthw, clips.clips_bcthw) and len(whole.targets.clip_n) == 2
    big = shown([0.1] * 50, [(clip, [0.0, 0, 4, 4], 0) for clip in range(50)])
    half = erased(big, generator, patches=(1, 1), ratio=(0.5, 0.5), dropped=0.25)  # 2 x 2 of 4 x 4 pixels
    assert ((half.clips_bcthw == GREY).flatten(2).sum(dim=2) == 4).all() and len(half.targets.clip_n) == 0
    assert len(erased(big, generator, patches=(1, 1), ratio=(0.5, 0.5), dropped=0.26).targets.clip_n) == 50
    assert len({str(clip.tolist()) for clip in half.clips_bcthw}) > 1  # drawn for each clip


def test_the_student_sees_mixtures_and_never_the_strong_views() -> None:
    """Three patches draws and an order from the batch's generator; the terms are those of the mixtures by hand."""
    strategy, student = started(MixPL)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)
    seen: list[Tensor] = []
    student.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    state = batch.generator.get_state()
    result = strategy.losses(batch, student, TINY_PROGRESS)
    assert [len(clips) for clips in seen] == [4, 4 + 1]
    batch.generator.set_state(state)
    assert batch.unlabelled is not None and result.pseudo_labels is not None
    pseudo = carry_to_strong(result.pseudo_labels.targets, batch.unlabelled.geometry, 0.25)
    mixup, made = strategy.mixtures(Shown(batch.unlabelled.strong_bcthw, pseudo), batch.generator)
    assert torch.equal(seen[1], torch.cat((mixup.clips_bcthw, made.clips_bcthw)))
    plain = tiny_student(SINGLE_LABEL, frame_head=False, state="confident")
    first, second = plain(seen[1]).split([4, 1])
    expected = 2 * plain.losses(first, mixup.targets)["box"], plain.losses(second, made.targets)["box"]
    assert result.terms["box_u"].item() == pytest.approx(expected[0].item(), rel=1e-4)
    assert result.terms["mosaic_u"].item() == pytest.approx(expected[1].item(), rel=1e-4)  # 2 x 1/2
    assert gradient_of(result.terms["mosaic_u"], student) > 0


# -------------------------------------------------------------------------------------- stable mean teacher


def test_error_recovery_begins_as_the_identity_and_the_same_for_every_seed() -> None:
    torch.manual_seed(1)
    first, maps = ErrorRecovery(), torch.rand(2, 1, 5, 5)
    torch.manual_seed(2)
    second = ErrorRecovery()
    torch.testing.assert_close(first(maps).sigmoid(), maps.clamp(1e-4, 1 - 1e-4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_recovery_loss_by_hand() -> None:
    """p = (0.5, 0.75, known nothing), y = (1, 0): -(log 0.5 + log 0.25) / 2 + 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)."""
    logits = torch.logit(torch.tensor([0.5, 0.75, 0.9])).view(1, 1, 1, 3)
    truth = torch.tensor([1.0, 0, 0]).view(1, 1, 1, 3)
    loss = recovery_loss(logits, truth, torch.tensor([True, True, False]).view(1, 1, 1, 3))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2 + 1 - 2 / 3.25, rel=1e-5)
    assert recovery_loss(logits, truth, torch.zeros(1, 1, 1, 3, dtype=torch.bool)).item() == 0


def test_a_map_should_show_the_centres_of_boxes_and_is_unknown_in_the_rest_of_them() -> None:
    """A box over columns 0 to 2 of 4 and rows 1 to 2: its centre (12, 16) of 32 lies in cell (1, 2)."""
    rows, boxes = torch.tensor([0, 1]), torch.tensor([[2.0, 9, 22, 23], [0, 0, 8, 8]])
    mask, none = torch.tensor([True, False]), torch.zeros(2, dtype=torch.int64)
    targets = Targets(rows, boxes, torch.ones(2, 3), mask, none, mask)
    truth, known = centre_maps(targets, torch.zeros(2, 1, 4, 4), 32)
    assert truth[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert known[0, 0].int().tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 0, 1], [1, 1, 1, 1]]
    assert not known[1].any()  # its box loss does not count


def constant_objectness(student: Any, *values: float) -> list[Tensor]:
    """What a tiny detector's maps are for each of some logits of objectness, set in turn on its bias."""
    maps = []
    for value in values:
        with torch.no_grad():
            student.box_head.weight.zero_()
            student.box_head.bias.view(3, -1)[:, 4] = value
        cells = student.cells(student(torch.zeros(2, 3, 4, 32, 32)))
        maps.append(objectness_maps(cells)[0].detach())
    return maps


def test_map_and_difference_terms_by_hand() -> None:
    """Student 1/2 everywhere, teacher sigmoid(1) inside the frame; recovery is the identity at first, so that each
    counts twice. Both key frames look alike to either: nothing differs over time.
    """
    strategy, student = started(StableMeanTeacher, unlabelled_ramp=0.0, unlabelled_weight=1.0)
    for network, logit in ((student, 0.0), (strategy.teacher.network, 1.0)):
        constant_objectness(network, logit)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)
    assert batch.unlabelled is not None
    terms = strategy.losses(batch, student, TINY_PROGRESS).terms
    teacher = batch.unlabelled.geometry.warp(torch.full((4, 1, 2, 2), 1 / (1 + math.exp(-1))))
    assert terms["map_u"].item() == pytest.approx(2 * (0.5 - teacher).square().mean().item(), rel=1e-5)
    assert terms["difference_u"].item() == pytest.approx(0, abs=1e-10)


def test_the_student_agrees_with_the_map_and_with_what_the_teachers_recovery_makes_of_it() -> None:
    """As above, where R' adds 2 to each logit of the teacher's map, and R is something else."""
    strategy, student = started(StableMeanTeacher, unlabelled_ramp=0.0, unlabelled_weight=1.0)
    for network, logit in ((student, 0.0), (strategy.teacher.network, 1.0)):
        constant_objectness(network, logit)
    with torch.no_grad():
        strategy.teacher_recovery.layers[4].bias.fill_(2.0)
        strategy.recovery.layers[4].bias.fill_(-7.0)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)
    assert batch.unlabelled is not None
    terms = strategy.losses(batch, student, TINY_PROGRESS).terms
    plain, mended = (
        batch.unlabelled.geometry.warp(torch.full((4, 1, 2, 2), 1 / (1 + math.exp(-logit)))) for logit in (1.0, 3.0)
    )
    expected = (0.5 - plain).square().mean() + (0.5 - mended).square().mean()
    assert terms["map_u"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_difference_term_compares_changes_over_time() -> None:
    """Each network's second map less its first, the teacher's in the strong view; recovery is the identity at first."""
    strategy, student = started(StableMeanTeacher, "random", unlabelled_ramp=0.0, unlabelled_weight=1.0)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)
    group = batch.unlabelled
    assert group is not None and group.following is not None and group.weak_following is not None
    result = strategy.losses(batch, student, TINY_PROGRESS)
    with torch.no_grad():
        plain = tiny_student(SINGLE_LABEL, frame_head=False, state="random")
        plain(batch.labelled.clips_bcthw)
        both = plain(torch.cat((group.strong_bcthw, group.following))).split([4, 4])
        mine = [objectness_maps(plain.cells(part))[0] for part in both]
        teacher = strategy.teacher.network.eval()
        theirs = [
            group.geometry.warp(objectness_maps(teacher.cells(teacher(clips)))[0])
            for clips in (group.weak_bcthw, group.weak_following)
        ]
    expected = 2 * ((mine[1] - mine[0]) - (theirs[1] - theirs[0])).square().mean()
    assert result.terms["difference_u"].item() == pytest.approx(expected.item(), rel=1e-3)
    assert expected > 0 and gradient_of(result.terms["difference_u"], student) > 0


def test_recovery_learns_from_labelled_clips_and_leaves_the_student_alone() -> None:
    strategy, student = started(StableMeanTeacher, "random")
    term = terms_of(strategy, student)["recovery"]
    assert gradient_of(term, student) == 0
    last = strategy.recovery.layers[4]
    assert last.weight.grad is not None and last.weight.grad.any()
    assert all(p.grad is None for p in strategy.teacher_recovery.parameters())


def test_pseudo_boxes_have_the_objectness_that_recovery_gives_their_cell() -> None:
    """Recovery that says no everywhere leaves no candidate, whatever the teacher says."""
    strategy, student = started(StableMeanTeacher)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)
    assert len(strategy.losses(batch, student, TINY_PROGRESS).pseudo_labels.targets.clip_n) > 0
    strategy.teacher_recovery.layers[4].bias.fill_(-20)
    assert len(strategy.losses(batch, student, TINY_PROGRESS).pseudo_labels.targets.clip_n) == 0


def test_the_teachers_recovery_is_the_average_of_the_students() -> None:
    """With the warm-up the first decay is 1/10, the second 2/11."""
    strategy, student = started(StableMeanTeacher)
    bias, average = strategy.recovery.layers[4].bias, 0.0
    for step, decay in enumerate((1 / 10, 2 / 11)):
        with torch.no_grad():
            bias.fill_(step + 1.0)
        strategy.after_step(student, TINY_PROGRESS)
        average = decay * average + (1 - decay) * (step + 1)
        assert strategy.teacher_recovery.layers[4].bias.item() == pytest.approx(average)


def test_the_average_takes_the_buffers_of_batch_normalisation_along() -> None:
    strategy, student = started(StableMeanTeacher, ema_warmup=False, ema_decay=0.5)
    before = strategy.teacher.network.features.layers[1].running_mean.clone()
    student.features.layers[1].running_mean.add_(2)
    strategy.after_step(student, TINY_PROGRESS)
    torch.testing.assert_close(strategy.teacher.network.features.layers[1].running_mean, before + 1)


def test_partners_come_without_the_temporal_term() -> None:
    """Unlabelled clips have partners in both views, labelled ones have none."""
    needs = StableMeanTeacher(StableMeanTeacher.Config()).needs
    assert needs.has_partners and not needs.temporal and not needs.frame_head
    clips = source()
    clips.needs = needs
    batch = clips.batch(0, unlabelled=True)[0]
    assert batch.labelled.following is None and batch.unlabelled is not None
    assert batch.unlabelled.following is not None and batch.unlabelled.weak_following is not None


# ------------------------------------------------------------------------------------------------- all of them

MEMORIES: dict[str, tuple[type[TeacherStudent], str]] = {
    "flexmatch": (FlexMatch, "last_class_n"),
    "softmatch": (SoftMatch, "class_mean_k"),
}
"""Strategies that remember, and an entry of what they remember."""

WITH_PSEUDO_BOXES: dict[str, type[TeacherStudent]] = {
    "flexmatch": FlexMatch,
    "softmatch": SoftMatch,
    "mixpl": MixPL,
    "stable_mean_teacher": StableMeanTeacher,
}


@pytest.mark.parametrize("name", MEMORIES)
def test_what_is_remembered_is_state(name: str) -> None:
    kind, entry = MEMORIES[name]
    strategy, student = started(kind)
    before = strategy.state_dict()[entry].clone()
    terms_of(strategy, student)
    strategy.after_step(student, TINY_PROGRESS)
    state = {key: tensor.clone() for key, tensor in strategy.state_dict().items()}
    assert not torch.equal(state[entry], before)
    other, _ = started(kind)
    other.load_state_dict(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.state_dict().items())


@pytest.mark.parametrize("name", WITH_PSEUDO_BOXES)
def test_pseudo_labels_teach_the_student_and_no_teacher(name: str) -> None:
    strategy, student = started(WITH_PSEUDO_BOXES[name])
    terms = terms_of(strategy, student)
    assert terms["box_u"].item() > 0 and gradient_of(terms["box_u"], student) > 0
    if strategy.teacher.network is not student:
        assert all(p.grad is None and not p.requires_grad for p in strategy.teacher.network.parameters())


@pytest.mark.parametrize("name", WITH_PSEUDO_BOXES)
def test_guidance_drops_boxes_of_another_class_than_the_frames(name: str) -> None:
    """The tiny network is sure of class 0, of frames and of boxes; with another frame label no box is left."""
    strategy, student = started(WITH_PSEUDO_BOXES[name], guidance=True, f_th=0.5)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)
    result = strategy.losses(batch, student, TINY_PROGRESS)
    assert len(result.pseudo_labels.targets.clip_n) > 0 and result.terms["frame_u"].item() > 0
    with torch.no_grad():
        classifier = strategy.teacher.network.frame_head.classifier
        classifier.weight.copy_(classifier.weight.roll(1, 0))
    other = strategy.losses(batch, student, TINY_PROGRESS)
    assert len(other.pseudo_labels.targets.clip_n) == 0 and other.pseudo_labels.targets.frame_mask_b.all()


def test_consistency_teaches_by_both_kinds_of_clips() -> None:
    strategy, student = started(Consistency, "random", o_th=0.0)
    terms = terms_of(strategy, student)
    for name in ("consistency", "consistency_u"):
        assert terms[name].item() > 0 and gradient_of(terms[name], student) > 0, name


@pytest.mark.parametrize("name", WITH_PSEUDO_BOXES)
def test_the_ramp_is_applied_once(name: str) -> None:
    """Half way up: exp(-5 / 4), not its square, and never to labelled clips."""
    kind = WITH_PSEUDO_BOXES[name]
    progress = Progress(step=4, steps=6, burn_in=2, epoch=0.0)
    strategy, student = started(kind, unlabelled_weight=3.0, unlabelled_ramp=1.0)
    plain, _ = started(kind, unlabelled_weight=1.0, unlabelled_ramp=0.0)
    ramped, full = terms_of(strategy, student, progress), terms_of(plain, student, progress)
    for term in full:
        share = 3 * math.exp(-5 / 4) if term.endswith("_u") else 1
        assert ramped[term].item() == pytest.approx(share * full[term].item(), rel=1e-3, abs=1e-7), term


EVERY: dict[str, type[Strategy]] = {"consistency": Consistency, **WITH_PSEUDO_BOXES}


@pytest.mark.parametrize("name", EVERY)
def test_groups_at_once_are_groups_one_after_the_other(name: str) -> None:
    """Each group has its own statistics, pseudo-labels, mixtures and draws, whichever way they are taken."""
    once, student = started(EVERY[name], "random", o_th=0.3)
    apart, other = started(EVERY[name], "random", o_th=0.3)
    batches = [tiny_batch(SINGLE_LABEL, once.needs, seed=seed) for seed in (1, 2)]
    again = [tiny_batch(SINGLE_LABEL, once.needs, seed=seed) for seed in (1, 2)]
    found = once.group_losses(batches, student, TINY_PROGRESS)
    for one, batch in zip(found, again, strict=True):
        expected = apart.losses(batch, other, TINY_PROGRESS)
        assert one.terms.keys() == expected.terms.keys()
        for term, value in one.terms.items():
            assert value.item() == pytest.approx(expected.terms[term].item(), rel=1e-4, abs=1e-7), term


@pytest.mark.parametrize("name", EVERY)
def test_a_detector_without_anchors_is_as_good(name: str) -> None:
    strategy = EVERY[name](EVERY[name].Config())
    student = centre_detector(SINGLE_LABEL, frame_head=False, state="confident")
    strategy.start(student, TINY_INFO)
    for term, value in terms_of(strategy, student).items():
        assert torch.isfinite(value), term
        assert not term.endswith("_u") or value.item() > 0, term


@pytest.mark.parametrize(("name", "clips"), [("flexmatch", 8), ("softmatch", 8), ("mixpl", 9)])
def test_labelled_clips_and_what_is_shown_of_the_others_may_go_through_at_once(name: str, clips: int) -> None:
    kind = WITH_PSEUDO_BOXES[name]
    strategy, student = kind(kind.Config()), tiny_student(SINGLE_LABEL, frame_head=False, state="confident")
    strategy.start(student, replace(TINY_INFO, fused_forward=True))
    trained: list[int] = []
    module: Any = student
    module.register_forward_hook(lambda own, arguments, _: trained.append(len(arguments[0])) if own.training else None)
    assert takes_one_forward(kind) and terms_of(strategy, student)["box_u"].item() > 0
    assert trained == [clips]


@pytest.mark.parametrize("kind", [Consistency, StableMeanTeacher])
def test_those_with_terms_of_their_own_do_not_promise_that(kind: type[Strategy]) -> None:
    assert not takes_one_forward(kind)
