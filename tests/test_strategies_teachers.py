"""Strategies of detectors' teachers: their equations by hand, their contract, and traps of published code."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from started_strategies import started
from torch import Tensor, nn

from ssldet.contracts import Cells, Decoded, Progress, PseudoLabels, StepLosses, Targets
from ssldet.data.sampling import ClipRefs
from ssldet.data.views import WindowGeometry
from ssldet.detector.postprocess import BoxRecords
from ssldet.testing import SINGLE_LABEL, TINY_INFO, TINY_PROGRESS, StrategyContract, tiny_batch
from ssldet.testing import tiny_detector as tiny_student
from ssldet.training.diagnostics import PseudoLabelMeter
from ssldet.training.teachers import AverageOptions, StrongView, TeacherStudent
from ssldet_strategies.cell_maps import cells_under
from ssldet_strategies.consistent_teacher import ConsistentTeacher, positive_mode
from ssldet_strategies.dense_teacher import DenseTeacher, dense_losses, surest_of_each
from ssldet_strategies.efficient_teacher import EfficientTeacher, best_cells, objectness
from ssldet_strategies.mean_teacher import MeanTeacher
from ssldet_strategies.pseudo_label import PseudoLabel
from ssldet_strategies.soft_teacher import SoftTeacher, background_weights, merged_spread
from ssldet_strategies.unbiased_teacher import UnbiasedTeacher, focal_reduction

TEACHERS: tuple[type[TeacherStudent], ...] = (
    PseudoLabel,
    UnbiasedTeacher,
    SoftTeacher,
    DenseTeacher,
    EfficientTeacher,
    ConsistentTeacher,
)


class TestPseudoLabel(StrategyContract):
    plugin = PseudoLabel


class TestUnbiasedTeacher(StrategyContract):
    plugin = UnbiasedTeacher


class TestSoftTeacher(StrategyContract):
    plugin = SoftTeacher


class TestDenseTeacher(StrategyContract):
    plugin = DenseTeacher


class TestEfficientTeacher(StrategyContract):
    plugin = EfficientTeacher


class TestConsistentTeacher(StrategyContract):
    plugin = ConsistentTeacher


class TestGuidedEfficientTeacher(StrategyContract):
    """Guidance as a component keeps the contract, with weights on boxes too."""

    plugin = EfficientTeacher
    config: ClassVar[dict[str, Any]] = {"guidance": True}


class TestMeanTeacherWithFrameHead(StrategyContract):
    plugin = MeanTeacher
    config: ClassVar[dict[str, Any]] = {"frame_head": True}


def step(strategy: Any, student: Any, progress: Progress = TINY_PROGRESS, seed: int = 0) -> StepLosses:
    found: StepLosses = strategy.losses(tiny_batch(student.facts, strategy.needs, seed=seed), student, progress)
    return found


def shaken(student: nn.Module) -> None:
    """A student that has gone on since: its weights and its running statistics are others."""
    with torch.no_grad():
        for tensor in student.state_dict().values():
            tensor.add_(0.1 if tensor.is_floating_point() else 1)


def records(scores: list[float], classes: list[list[float]], boxes: list[list[float]] | None = None) -> BoxRecords:
    """Boxes of clip 0."""
    boxes_n4 = torch.tensor(boxes or [[4.0, 4, 20, 20]] * len(scores))
    return BoxRecords(
        torch.zeros(len(scores), dtype=torch.int64), boxes_n4, torch.tensor(scores), torch.tensor(classes)
    )


def pseudo_targets(clips: int, rows: int) -> Targets:
    """One box of class 0 in each of the first clips."""
    labels_nk = torch.tensor([[1.0, 0, 0]]).repeat(rows, 1)
    boxes_n4, clip_n = torch.tensor([[4.0, 6, 20, 28]]).repeat(rows, 1), torch.arange(rows)
    every = torch.ones(clips, dtype=torch.bool)
    return Targets(clip_n, boxes_n4, labels_nk, every, torch.zeros(clips, dtype=torch.int64), ~every)


# ------------------------------------------------------------------------------------------------ of all of them


@pytest.mark.parametrize("kind", TEACHERS)
def test_pseudo_labels_pull_the_student_and_not_the_teacher(kind: type[TeacherStudent]) -> None:
    strategy, student = started(kind)
    found = step(strategy, student, replace(TINY_PROGRESS, step=8))
    assert found.pseudo_labels and len(found.pseudo_labels.targets.clip_n) > 0
    found.terms["box_u"].backward()
    assert all(bool(p.grad.any()) for p in student.box_head.parameters())
    assert all(p.grad is None and not p.requires_grad for p in strategy.teacher.network.parameters())


@pytest.mark.parametrize("kind", [kind for kind in TEACHERS if issubclass(kind.Config, AverageOptions)])
def test_an_average_takes_the_statistics_along_and_is_warmed_up(kind: type[TeacherStudent]) -> None:
    """The trap of averages without BatchNorm's buffers; update 0 has the decay 1/10, whatever the option says."""
    strategy, student = started(kind)
    before = student.features.layers[1].running_mean.clone()
    step(strategy, student)
    shaken(student)
    strategy.after_step(student, TINY_PROGRESS)
    after, average = student.features.layers[1].running_mean, strategy.teacher.network.features.layers[1].running_mean
    assert not torch.equal(after, before)
    torch.testing.assert_close(average, 0.1 * before + 0.9 * after)


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_teacher_that_labels_is_the_one_that_is_scored(kind: type[TeacherStudent]) -> None:
    """The trap of two averages, one of which labels while the other is scored and saved."""
    strategy, student = started(kind, evaluate="teacher")
    shaken(student)
    teacher = strategy.evaluated(student)
    assert teacher is strategy.teacher.network is strategy.networks(student)["teacher"]
    with torch.no_grad():
        teacher.box_head.weight.zero_()
        teacher.box_head.bias.fill_(-10)  # it finds nothing any more
    found = step(strategy, student).pseudo_labels
    assert found is not None and (kind is DenseTeacher or len(found.targets.clip_n) == 0)
    saved = strategy.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_weight_of_unlabelled_clips_is_applied_once(kind: type[TeacherStudent]) -> None:
    """Half way of the rise of the linear ramp, or of exp(-5 (1 - t)^2): twice applied it would be a square."""
    progress = Progress(step=3, steps=10, burn_in=2, epoch=0.0)
    ramped = {"linear_ramp": 1.0} if kind is DenseTeacher else {"unlabelled_ramp": 0.25}
    plain = {"linear_ramp": 0.0} if kind is DenseTeacher else {}
    expected = 0.5 if kind is DenseTeacher else math.exp(-5 * 0.25)
    found = [step(*started(kind, **options), progress) for options in (ramped, plain)]
    whole, part = found[1], found[0]
    torch.testing.assert_close(part.terms["box_u"], expected * whole.terms["box_u"])
    for name in (name for name in whole.details if name.startswith("box_u/")):
        torch.testing.assert_close(part.details[name], expected * whole.details[name])
    torch.testing.assert_close(part.terms["box"], whole.terms["box"])


@pytest.mark.parametrize("kind", TEACHERS)
def test_parts_of_the_unlabelled_term_add_up_to_it(kind: type[TeacherStudent]) -> None:
    found = step(*started(kind), replace(TINY_PROGRESS, step=8))
    parts = [part for name, part in found.details.items() if name.startswith("box_u/")]
    torch.testing.assert_close(torch.stack(parts).sum(), found.terms["box_u"].detach())


@pytest.mark.parametrize("kind", TEACHERS)
def test_several_groups_at_once_give_what_each_gives_alone(kind: type[TeacherStudent]) -> None:
    progress = replace(TINY_PROGRESS, step=8)
    strategy, student = started(kind, "random" if kind is DenseTeacher else "confident")
    together = strategy.group_losses(
        [tiny_batch(student.facts, strategy.needs, seed=seed) for seed in (1, 2)], student, progress
    )
    for seed, of_group in zip((1, 2), together, strict=True):
        alone, again = started(kind, "random" if kind is DenseTeacher else "confident")
        found = step(alone, again, progress, seed)
        assert found.terms.keys() == of_group.terms.keys()
        for name, term in found.terms.items():
            torch.testing.assert_close(of_group.terms[name], term, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", TEACHERS)
def test_labelled_clips_and_strong_views_may_go_through_the_student_at_once(kind: type[TeacherStudent]) -> None:
    """The student is called once, on all that it learns from: both views of labelled clips too."""
    strategy = kind(kind.Config())
    student: Any = tiny_student(SINGLE_LABEL, frame_head=False, state="confident")
    assert strategy.takes_one_forward
    strategy.start(student, replace(TINY_INFO, fused_forward=True))
    shown = []
    student.register_forward_hook(lambda module, inputs, output: shown.append(len(inputs[0])))
    terms = step(strategy, student, replace(TINY_PROGRESS, step=8)).terms
    assert shown == [12 if kind is UnbiasedTeacher else 8]
    assert terms.keys() == {"box", "box_u"} and terms["box_u"].item() > 0


PUBLISHED: dict[type[TeacherStudent], dict[str, float]] = {
    PseudoLabel: {"o_th": 0.9, "unlabelled_weight": 2},
    UnbiasedTeacher: {"o_th": 0.7, "unlabelled_weight": 4, "ema_decay": 0.9996},
    SoftTeacher: {"class_th": 0.9, "o_th": 0.5, "unlabelled_weight": 4, "ema_decay": 0.999, "spread_th": 0.02},
    DenseTeacher: {"top": 0.01, "class_weight": 4, "box_weight": 1, "quality_weight": 1, "ema_decay": 0.9996},
    EfficientTeacher: {"o_th": 0.1, "tau2": 0.6, "unlabelled_weight": 3, "ema_decay": 0.999, "last_decay": 0.9999},
    ConsistentTeacher: {"queue": 100, "ema_decay": 0.9995, "unlabelled_weight": 2},
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_published_values_are_the_defaults(kind: type[TeacherStudent]) -> None:
    config = kind.Config()
    assert {name: getattr(config, name) for name in PUBLISHED[kind]} == PUBLISHED[kind]
    assert getattr(config, "ema_warmup", True)


@pytest.mark.parametrize("kind", [kind for kind in TEACHERS if kind is not DenseTeacher])
def test_guidance_can_be_switched_on(kind: type[TeacherStudent]) -> None:
    """F is confident of class 0, which all boxes have; a head that says another class leaves none of them."""
    strategy, student = started(kind, guidance=True)
    assert strategy.needs.frame_head and not strategy.needs.temporal
    found = step(strategy, student)
    assert found.terms.keys() == {"box", "frame", "box_u", "frame_u"}
    assert found.pseudo_labels and len(found.pseudo_labels.targets.clip_n) > 0
    with torch.no_grad():
        weight = strategy.teacher.network.frame_head.classifier.weight
        weight.copy_(weight.roll(1, dims=0))
    none = step(strategy, student)
    assert none.pseudo_labels and len(none.pseudo_labels.targets.clip_n) == 0 == none.terms["box_u"].item()
    assert none.terms["frame_u"].item() > 0 and none.pseudo_labels.candidates > 0


# ---------------------------------------------------------------------------------------------- pseudo_label


def test_the_teacher_of_stac_stays_and_its_threshold_is_of_the_score() -> None:
    strategy, student = started(PseudoLabel, "random", o_th=0.0)
    before = {name: tensor.clone() for name, tensor in strategy.state_dict().items()}
    weak = tiny_batch(SINGLE_LABEL, strategy.needs).unlabelled.weak_bcthw  # type: ignore[union-attr]
    predictions = strategy.teacher.predict(weak)
    decoded = strategy.teacher.network.decode(predictions)
    highest = (decoded.confidence_bn * decoded.scores_bnk.amax(dim=2)).max().item()
    for threshold, boxes in ((highest, 0), (0.999 * highest, 1)):
        bounded, _ = started(PseudoLabel, "random", o_th=threshold)
        assert len(bounded.pseudo_labels(predictions).targets.clip_n) == boxes
    shaken(student)
    strategy.after_step(student, TINY_PROGRESS)
    assert all(torch.equal(before[name], tensor) for name, tensor in strategy.state_dict().items())


def test_stacs_strong_view_has_other_colours_and_a_hole() -> None:
    """The hole is of up to half of each side and of one grey; without both options the view is as it came."""
    shown = {}
    for name, options in {"plain": {"colour": 0, "cutout": 0}, "hole": {"colour": 0}, "both": {}}.items():
        strategy, student = started(PseudoLabel, **options)
        batch = tiny_batch(student.facts, strategy.needs)
        predictions = strategy.teacher.predict(batch.unlabelled.weak_bcthw)  # type: ignore[union-attr]
        shown[name] = strategy.strong_view(strategy.pseudo_labels(predictions), predictions, batch).clips_bcthw
        given = batch.unlabelled.strong_bcthw  # type: ignore[union-attr]
    assert torch.equal(shown["plain"], given)
    cut = shown["hole"] == 0.5
    assert torch.equal(shown["hole"][~cut], given[~cut]) and 0 < cut.float().mean() <= 0.25
    assert not torch.allclose(shown["both"][~cut], given[~cut])


# ------------------------------------------------------------------------------------------ unbiased_teacher


@pytest.mark.parametrize("form", ["giou", "paper"])
def test_the_class_loss_of_unbiased_teacher_is_focal(form: str) -> None:
    """Two boxes of two clips: with losses L1, L2 a clip, the reduction is the sum of (1 - (1 - exp(-2 L))^1.5) L."""
    student: Any = tiny_student(SINGLE_LABEL, frame_head=False)
    student.region = student.region.model_copy(update={"form": form})
    predictions = student(torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)))
    losses = []
    for box in range(2):
        alone = torch.zeros(2, 3)
        alone[box, 2] = 1
        targets = replace(pseudo_targets(2, 2), weights_n3=alone, background_weights_bn=torch.zeros(2, 12))
        losses.append(student.losses(predictions, targets)["box"].item())
    weights_n3 = torch.tensor([[0.0, 1, 1]]).repeat(2, 1).requires_grad_()
    whole = student.losses(predictions, replace(pseudo_targets(2, 2), weights_n3=weights_n3))["box"]
    expected = sum((1 - (1 - math.exp(-2 * loss)) ** 1.5) * loss for loss in losses)
    less = focal_reduction(whole, weights_n3, 1.5, clips=2)
    assert less.item() == pytest.approx(expected, rel=1e-5) and min(losses) > 0
    (gradient,) = torch.autograd.grad(less, student.box_head.weight)
    assert gradient.any()


def test_a_class_loss_that_is_focal_is_not_made_so_twice() -> None:
    strategy, student = started(UnbiasedTeacher)
    assert student.region.form == "giou" and strategy.gamma(student) == 1.5
    for form in ("paper", "yowo"):
        student.region = student.region.model_copy(update={"form": form})
        assert strategy.gamma(student) == 0
        assert started(UnbiasedTeacher, focal_gamma=0.5)[0].gamma(student) == 0.5
    student.region = student.region.model_copy(update={"gamma": 0.0})
    assert strategy.gamma(student) == 1.5


def test_unbiased_teacher_regresses_no_pseudo_box() -> None:
    """Coordinates of pseudo-boxes have no gradient; the factor makes their class loss less."""
    strategy, student = started(UnbiasedTeacher, focal_gamma=0)
    found = step(strategy, student)
    assert found.pseudo_labels and found.pseudo_labels.targets.weights_n3 is not None
    assert found.pseudo_labels.targets.weights_n3.unique(dim=0).tolist() == [[0, 1, 1]]
    assert found.details["box_u/box"].item() == 0 < found.details["box_u/conf"].item()
    found.terms["box_u"].backward()
    gradient_ad = student.box_head.bias.grad.view(3, -1)
    assert not gradient_ad[:, :4].any() and gradient_ad[:, 4:].any()
    focal = step(*started(UnbiasedTeacher))
    assert 0 < focal.details["box_u/cls"].item() < found.details["box_u/cls"].item()


def test_unbiased_teacher_sees_labelled_clips_in_both_views() -> None:
    """The term is that of both views in one batch: each box counts half, and batch statistics are of all."""
    strategy, student = started(UnbiasedTeacher, "random")
    batch = tiny_batch(student.facts, strategy.needs)
    assert batch.labelled.weak_targets is not None and strategy.needs.labelled_weak
    batch.labelled.weak_targets.boxes_n4 = batch.labelled.weak_targets.boxes_n4 + 4
    both = student(torch.cat((batch.labelled.clips_bcthw, batch.labelled.weak_bcthw)))  # type: ignore[list-item]
    halves = both.split([4, 4])
    apart = [
        student.losses(half, targets)["box"]
        for half, targets in zip(halves, (batch.labelled.targets, batch.labelled.weak_targets), strict=True)
    ]
    found = strategy.losses(batch, student, TINY_PROGRESS).terms["box"]
    torch.testing.assert_close(found, sum(apart) / 2)
    alone, _ = started(UnbiasedTeacher, "random", both_views=False)
    assert not alone.needs.labelled_weak


# ---------------------------------------------------------------------------------------------- soft_teacher


def test_negatives_weigh_what_the_teacher_says_of_the_background() -> None:
    """r = (1, 0.5, 0.5, 0) over 4 cells: 4 r / 2; a clip that is nowhere background has weights 0."""
    weights_bn = background_weights(torch.tensor([[0.0, 0.5, 0.5, 1], [1.0, 1, 1, 1]]))
    assert weights_bn.tolist() == [[2, 1, 1, 0], [0, 0, 0, 0]]


def test_the_spread_of_merged_boxes_by_hand() -> None:
    """Boxes of objectness 0.75 and 0.25, the second 8 pixels wider: x2 has a std of 8 sqrt(3/16), over a side of 16."""
    kept = records([0.9, 0.8], [[1.0, 0, 0]] * 2, [[0.0, 0, 16, 16], [40, 40, 56, 56]])
    boxes = [[0.0, 0, 16, 16], [0, 0, 24, 16], [40, 40, 56, 56], [0, 0, 16, 17]]
    decoded = Decoded(torch.tensor([boxes]), torch.tensor([[0.75, 0.25, 0.9, 0.005]]), torch.ones(1, 4, 3))
    spread_n = merged_spread(kept, decoded, nms_iou=0.4, merge_th=0.01)
    assert spread_n.tolist() == pytest.approx([8 * math.sqrt(3 / 16) / 4 / 16, 0])
    assert merged_spread(kept, decoded, nms_iou=0.7, merge_th=0.01).tolist() == [0, 0]


def test_soft_teacher_sorts_candidates_by_class_and_by_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sure of both, of the class, of the box, of neither, which is left out and leaves clip 1 without a loss."""
    strategy, _ = started(SoftTeacher)
    found = records([0.95, 0.95, 0.6, 0.6], [[1.0, 0, 0]] * 4)
    found.clip_n = torch.tensor([0, 0, 2, 1])
    monkeypatch.setattr(strategy, "candidates", lambda predictions: found)
    spread_n = torch.tensor([0.01, 0.03, 0.01, 0.02])
    monkeypatch.setattr("ssldet_strategies.soft_teacher.merged_spread", lambda *arguments: spread_n)
    labels = strategy.pseudo_labels(strategy.teacher.predict(torch.rand(3, 3, 4, 32, 32)))
    assert labels.targets.weights_n3.tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 0]]
    assert labels.targets.clip_n.tolist() == [0, 0, 2] and labels.targets.box_mask_b.tolist() == [True, False, True]
    assert labels.candidates == 4


def test_background_weights_are_those_of_the_strong_views_cells() -> None:
    """The strong view mirrors the weak one: so do the weights; what it shows of the outside is background."""
    strategy, student = started(SoftTeacher, "random")
    batch = tiny_batch(student.facts, strategy.needs)
    assert batch.unlabelled is not None
    window = torch.tensor([[0, 0, 32, 32], [0, 0, 32, 32], [0, 0, 64, 32], [0, 0, 32, 32]])
    batch.unlabelled.geometry = WindowGeometry(window, torch.tensor([False, True, False, False]), 32)
    predictions = strategy.teacher.predict(batch.unlabelled.weak_bcthw)
    view = strategy.strong_view(strategy.pseudo_labels(predictions), predictions, batch)
    r_bahw = 1 - strategy.teacher.network.cells(predictions).confidence_bn.sigmoid().view(4, 3, 2, 2)
    found = view.targets.background_weights_bn
    expected = r_bahw / r_bahw.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(found[0], expected[0].flatten())
    torch.testing.assert_close(found[1], expected[1].flip(2).flatten())
    outside = found[2].view(3, 2, 2)[:, :, 1]  # the right half of the view lies outside
    torch.testing.assert_close(outside, outside[:1, :1].expand(3, 2))
    assert outside[0, 0] > found[2].view(3, 2, 2)[:, :, 0].max()
    unweighted, _ = started(SoftTeacher, "random", soft_negatives=False)
    plain = unweighted.strong_view(unweighted.pseudo_labels(predictions), predictions, batch)
    assert plain.targets.background_weights_bn is None


# --------------------------------------------------------------------------------------------- dense_teacher


def one_positive() -> tuple[Cells, dict[str, torch.Tensor]]:
    """Two cells of the student, of one class, and a positive in the first."""
    boxes = torch.tensor([[[0.0, 0, 16, 32], [16, 0, 32, 32]]])
    cells = Cells(torch.zeros(1, 2), torch.zeros(1, 2, 1), boxes, ((1, 1, 2),))
    given = {
        "clip_m": torch.tensor([0]),
        "cell_m": torch.tensor([0]),
        "boxes_m4": torch.tensor([[0.0, 0, 16, 16]]),
        "objectness_m": torch.tensor([0.9]),
        "scores_mk": torch.tensor([[0.8]]),
    }
    return cells, given


def test_the_parts_of_dense_teacher_by_hand() -> None:
    """One class; cells of objectness 0.5 and 0.5, class probability 1; the first answers 0.8 with an overlap of 1/2.

    (0.8 - 0.5)^2 BCE(0.5, 0.8) + 0.5^2 BCE(0.5, 0), both cross-entropies log 2; the denominator is 1 and not 0.8.
    """
    cells, given = one_positive()
    parts = dense_losses(cells, given, torch.ones(1, 2, 1))
    assert parts["cls"].item() == pytest.approx((0.3**2 + 0.5**2) * math.log(2), rel=1e-5)
    assert parts["box"].item() == pytest.approx(0.8 * (1 - 0.5), rel=1e-5)
    assert parts["quality"].item() == pytest.approx(math.log(2), rel=1e-5)
    twice = {name: torch.cat((tensor, tensor)) for name, tensor in given.items()}
    twice["cell_m"] = torch.tensor([0, 1])  # 1.6 in all divide
    assert dense_losses(cells, twice, torch.ones(1, 2, 1))["cls"].item() == pytest.approx(
        2 * 0.3**2 * math.log(2) / 1.6, rel=1e-5
    )


def test_dense_teacher_computes_under_autocast_of_a_gpu() -> None:
    """There torch refuses its own cross-entropy of probabilities."""
    cells, given = one_positive()
    try:
        torch.set_autocast_enabled("cuda", True)
        with torch._C._IncludeDispatchKeyGuard(torch._C.DispatchKey.AutocastCUDA):
            with pytest.raises(RuntimeError, match="unsafe to autocast"):
                torch.nn.functional.binary_cross_entropy(torch.rand(2), torch.rand(2))
            parts = dense_losses(cells, given, torch.ones(1, 2, 1))
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert parts["cls"].item() == pytest.approx((0.3**2 + 0.5**2) * math.log(2), rel=1e-5)


def test_the_term_of_dense_teacher_is_the_weighted_sum_of_its_parts() -> None:
    strategy, student = started(DenseTeacher, "random", linear_ramp=0)
    batch = tiny_batch(SINGLE_LABEL, strategy.needs)
    assert batch.unlabelled is not None
    predictions = strategy.teacher.predict(batch.unlabelled.weak_bcthw)
    view = strategy.strong_view(strategy.pseudo_labels(predictions), predictions, batch)
    made = student(view.clips_bcthw)
    found = strategy.unlabelled_terms(student, (made, None), view, {})["box_u"]
    of_student = student.cells(made)
    parts = dense_losses(of_student, view.extras, of_student.classes_bnk.softmax(-1))
    assert found.item() == pytest.approx((4 * parts["cls"] + parts["box"] + parts["quality"]).item(), rel=1e-5)


def test_positives_are_the_top_of_a_groups_cells() -> None:
    strategy, _ = started(DenseTeacher, top=0.2)
    decoded = Decoded(torch.zeros(2, 5, 4), torch.arange(10.0).view(2, 5) / 10, torch.ones(2, 5, 3))
    kept_bn, score_bn = strategy._positives(decoded)
    assert kept_bn.nonzero().tolist() == [[1, 3], [1, 4]] and torch.equal(score_bn, decoded.confidence_bn)
    bounded, _ = started(DenseTeacher, top=0.2, o_th=0.85)
    assert bounded._positives(decoded)[0].nonzero().tolist() == [[1, 4]]


def test_a_cell_of_the_teacher_answers_below_its_carried_box() -> None:
    """Two anchors on 2 x 3 cells, then a level of one cell: level and anchor stay."""
    boxes = torch.tensor([[0.0, 0, 8, 8], [20, 20, 30, 30], [40, 0, 50, 8], [-9, -9, -1, -1]])
    found = cells_under(boxes, torch.tensor([11, 0, 6, 12]), ((2, 2, 3), (1, 1, 1)), 30)
    assert found.tolist() == [6, 5, 8, 12]
    keys, scores = torch.tensor([4, 2, 4, 4]), torch.tensor([0.3, 0.1, 0.9, 0.95])
    assert surest_of_each(keys, scores, torch.tensor([True, True, True, False])).tolist() == [1, 2]


def test_dense_teacher_has_one_ramp() -> None:
    strategy, _ = started(DenseTeacher)
    weights = [strategy.weight_at(Progress(step, 10, 2, 0.0)) for step in (2, 3, 4, 9)]
    assert weights == [0, 0.5, 1, 1]
    with pytest.raises(ValueError, match="unlabelled_ramp and linear_ramp would both apply"):
        DenseTeacher.Config(unlabelled_ramp=0.5)


# ----------------------------------------------------------------------------------------- efficient_teacher


def test_efficient_teacher_sorts_boxes_by_two_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 0.7 and 0.5 = 0.995 x 0.5025..., 0.4 = 0.8 x 0.5: sure; coordinates and objectness; objectness alone."""
    strategy, student = started(EfficientTeacher)
    found = records([0.7, 0.4975, 0.4], [[0.9, 0.1, 0], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    torch.testing.assert_close(objectness(found, "objectness_class"), torch.tensor([0.7 / 0.9, 0.995, 0.8]))
    monkeypatch.setattr(strategy, "candidates", lambda predictions: found)
    batch = tiny_batch(student.facts, strategy.needs)
    assert batch.unlabelled is not None
    batch.unlabelled.geometry = WindowGeometry(torch.tensor([[0, 0, 32, 32]] * 4), torch.zeros(4, dtype=torch.bool), 32)
    predictions = strategy.teacher.predict(batch.unlabelled.weak_bcthw)
    labels = strategy.pseudo_labels(predictions)
    assert labels.targets.weights_n3 is not None
    torch.testing.assert_close(labels.targets.weights_n3, torch.tensor([[1, 1, 1], [1, 0.995, 0], [0, 0.8, 0]]))
    view = strategy.strong_view(labels, predictions, batch)
    assert view.targets.weights_n3.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(view.extras["objectness_m"], torch.tensor([0.995, 0.8]))


def test_unsure_boxes_pull_objectness_towards_the_teachers() -> None:
    """BCE(o_s, 0.8) at the cell that overlaps most, of two clips, beside a no-object part that leaves this cell out."""
    strategy, student = started(EfficientTeacher, "random")
    pair = student(torch.rand(2, 3, 4, 32, 32)), None
    cells = student.cells(pair[0])
    box = cells.boxes_bn4[1, 7].detach()
    targets = replace(pseudo_targets(2, 1), weights_n3=torch.zeros(1, 3), boxes_n4=box[None], clip_n=torch.tensor([1]))
    extras = {"clip_m": torch.tensor([1]), "boxes_m4": box[None], "objectness_m": torch.tensor([0.8])}
    at, rows = best_cells(cells, extras["clip_m"], extras["boxes_m4"])
    assert (at[0].tolist(), at[1].tolist(), rows.tolist()) == ([1], [7], [0])
    details: dict[str, Tensor] = {}
    view = StrongView(torch.empty(0), targets, extras)
    term = strategy.unlabelled_terms(student, pair, view, details)["box_u"]
    logit = cells.confidence_bn[1, 7]
    soft = nn.functional.binary_cross_entropy_with_logits(logit, torch.tensor(0.8)) / 2
    torch.testing.assert_close(details["box_u/unsure"], soft.detach())
    (gradient_bn,) = torch.autograd.grad(term, cells.confidence_bn, retain_graph=True, allow_unused=True)
    (of_grid,) = torch.autograd.grad(term, pair[0].grid)
    pulled = of_grid.view(2, 3, 8, 2, 2)[1, :, 4].flatten()[7]
    torch.testing.assert_close(pulled, (logit.sigmoid().detach() - 0.8) / 2)
    assert gradient_bn is None


def test_boxes_that_overlap_no_cell_are_left_out() -> None:
    _, student = started(EfficientTeacher, "random")
    cells = student.cells(student(torch.rand(2, 3, 4, 32, 32)))
    (clips, found), rows = best_cells(cells, torch.tensor([0]), torch.tensor([[900.0, 900, 910, 910]]))
    assert len(clips) == len(found) == len(rows) == 0


def test_unsure_boxes_are_no_labels_in_the_log() -> None:
    """The meter counts boxes whose class counts."""
    table = SimpleNamespace(
        targets=lambda videos, frames: pseudo_targets(2, 2), annotated=lambda videos, frames: torch.ones(2).bool()
    )
    meter = PseudoLabelMeter(table)  # type: ignore[arg-type]
    weights_n3 = torch.tensor([[1.0, 1, 1], [0, 0.8, 0]])
    refs = ClipRefs(("a", "b"), (0, 0))
    meter.update(PseudoLabels(replace(pseudo_targets(2, 2), weights_n3=weights_n3), 2), refs)
    found = meter.compute()
    assert (found["boxes"], found["candidates"], found["box_precision"], found["box_recall"]) == (1, 2, 1, 0.5)


def test_the_decay_rises_along_a_cosine_and_the_warm_up_bounds_it() -> None:
    strategy, student = started(EfficientTeacher)
    decays = [strategy.decay_at(Progress(step, 12, 2, 0.0)) for step in (2, 7, 12)]
    assert decays == pytest.approx([0.999, (0.999 + 0.9999) / 2, 0.9999])
    assert EfficientTeacher(EfficientTeacher.Config(last_decay=0.5)).decay_at(TINY_PROGRESS) == 0.999
    before = student.box_head.bias.detach().clone()
    shaken(student)
    strategy.after_step(student, TINY_PROGRESS)
    torch.testing.assert_close(strategy.teacher.network.box_head.bias, before + 0.09)


# ---------------------------------------------------------------------------------------- consistent_teacher


def test_the_threshold_is_the_mode_of_the_positive_component() -> None:
    """Two heaps apart have their own means; equal scores have theirs; -1 is no score."""
    scores = torch.tensor([[0.1, 0.2, 0.1, 0.2, 0.8, 0.9, -1], [0.6, 0.6, 0.6, 0.6, -1, -1, -1]])
    assert positive_mode(scores).tolist() == pytest.approx([0.85, 0.6], abs=1e-3)


def test_the_mode_of_heaps_that_overlap_is_that_of_expectation_and_maximisation() -> None:
    """Fifty rounds in plain numbers, from the least and the greatest score with the variance of all."""
    scores = [0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.72, 0.75, 0.8]
    centre = sum(scores) / len(scores)
    variance = [sum((score - centre) ** 2 for score in scores) / len(scores)] * 2
    mean, weight = [min(scores), max(scores)], [0.5, 0.5]
    for _ in range(50):
        density = [
            [weight[i] / math.sqrt(variance[i]) * math.exp(-((x - mean[i]) ** 2) / (2 * variance[i])) for i in (0, 1)]
            for x in scores
        ]
        share = [[part / sum(both) for part in both] for both in density]
        total = [sum(row[i] for row in share) for i in (0, 1)]
        mean = [sum(row[i] * x for row, x in zip(share, scores, strict=True)) / total[i] for i in (0, 1)]
        variance = [
            sum(row[i] * (x - mean[i]) ** 2 for row, x in zip(share, scores, strict=True)) / total[i] for i in (0, 1)
        ]
        weight = [total[i] / len(scores) for i in (0, 1)]
    assert positive_mode(torch.tensor([scores])).item() == pytest.approx(max(mean), abs=1e-4)


def test_a_full_queue_holds_the_last_clips_and_not_the_least_sure_boxes() -> None:
    strategy, student = started(ConsistentTeacher, queue=4)
    found = records([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [[1.0, 0, 0]] * 6)
    found.clip_n = torch.tensor([2, 0, 2, 1, 0, 2])
    strategy.candidates = lambda predictions: found
    strategy.pseudo_labels(strategy.teacher.predict(torch.rand(3, 3, 4, 32, 32)))
    strategy.after_step(student, TINY_PROGRESS)
    torch.testing.assert_close(strategy.queue_kq[0], torch.tensor([0.6, 0.9, 0.7, 0.4]))


def test_queues_hold_the_last_scores_of_each_class_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, student = started(ConsistentTeacher, queue=6, min_scores=4, first_tau=0.55)
    assert strategy.tau_k.tolist() == pytest.approx([0.55] * 3)
    classes = [[0.9, 0.1, 0]] * 3 + [[0.2, 0.7, 0.1]]
    batches = [records(scores, classes) for scores in ([0.1, 0.2, 0.9, 0.6], [0.15, 0.88, 0.92, 0.5])]
    found = iter(batches)
    monkeypatch.setattr(strategy, "candidates", lambda predictions: next(found))
    predictions = strategy.teacher.predict(torch.rand(1, 3, 4, 32, 32))
    first, second = strategy.pseudo_labels(predictions), strategy.pseudo_labels(predictions)
    assert len(first.targets.clip_n) == 2 and len(second.targets.clip_n) == 2  # above 0.55, of either class
    strategy.after_step(student, TINY_PROGRESS)
    torch.testing.assert_close(strategy.queue_kq[0], torch.tensor([0.1, 0.2, 0.9, 0.15, 0.88, 0.92]))
    torch.testing.assert_close(strategy.queue_kq[1], torch.tensor([-1, -1, -1, -1, 0.6, 0.5]))
    assert strategy.tau_k.tolist() == pytest.approx([0.9, 0.55, 0.55], abs=1e-3)
    found = iter([records([0.91, 0.89], [[1.0, 0, 0]] * 2)])
    assert strategy.pseudo_labels(predictions).targets.boxes_n4.shape == (1, 4)
    strategy.forget_step()  # of a step that is taken again in smaller parts
    assert not strategy._seen and strategy.queue_kq[0, 0] == pytest.approx(0.1)
