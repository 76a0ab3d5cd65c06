"""What each strategy's terms do to the student, and what pseudo-labels are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import FACTS, MULTILABEL, tiny_detector
from test_clips import source
from torch import Tensor

from ssldet.contracts import Batch, DatasetFacts, Decoded, Progress, StepLosses, Targets, TemporalReduction
from ssldet.data.views import WindowGeometry
from ssldet.detector.detector import GridDetector, GridPredictions
from ssldet.detector.heads import FrameHead
from ssldet.detector.postprocess import BoxRecords
from ssldet.errors import TrainingError
from ssldet.testing.tiny import TINY_INFO
from ssldet.training.guidance import FrameLabelOptions, GuidanceOptions, agreeing_boxes, frames_above
from ssldet.training.objectives import temporal_term
from ssldet.training.pseudo_labels import candidate_boxes, carry_to_strong, confident_boxes
from ssldet.training.teachers import Teacher, TeacherStudent
from ssldet_strategies.dual_guidance import DualGuidance
from ssldet_strategies.fixmatch import FixMatch
from ssldet_strategies.mean_teacher import MeanTeacher
from ssldet_strategies.supervised import Supervised

PROGRESS = Progress(step=5, steps=10, burn_in=5, epoch=5.0)
EASY = {"f_th": 0.0, "o_th": 0.0}


def batch(step: int = 0) -> Batch:
    return source().batch(step, unlabelled=True)[0]


def losses(student: GridDetector, clips: Batch | None = None, **options: Any) -> StepLosses:
    strategy = DualGuidance(DualGuidance.Config(**{**EASY, **options}))
    strategy.start(student, TINY_INFO)
    return strategy.losses(clips or batch(), student, PROGRESS)


def gradients(student: GridDetector, term: Tensor) -> float:
    student.zero_grad()
    term.backward(retain_graph=True)
    return sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None)


ALL_TERMS = {"box", "frame", "temporal", "box_u", "frame_u", "temporal_u"}
FRAME_TERMS = {"box", "frame", "box_u", "frame_u"}

SEMI_SUPERVISED: dict[str, tuple[type[TeacherStudent], dict[str, Any], set[str]]] = {
    "mean_teacher": (MeanTeacher, {"o_th": 0.0}, {"box", "box_u"}),
    "fixmatch": (FixMatch, {"o_th": 0.0}, {"box", "box_u"}),
    "mean_teacher_with_frame_head": (MeanTeacher, {"o_th": 0.0, "frame_head": True, "f_th": 0.0}, FRAME_TERMS),
    "mean_teacher_with_guidance": (MeanTeacher, {"o_th": 0.0, "guidance": True, "f_th": 0.0}, FRAME_TERMS),
    "fixmatch_with_guidance": (FixMatch, {"o_th": 0.0, "guidance": True, "f_th": 0.0}, FRAME_TERMS),
    "ema": (DualGuidance, {**EASY, "teacher": "ema"}, ALL_TERMS),
    "shared": (DualGuidance, {**EASY, "teacher": "shared"}, ALL_TERMS),
    "frozen": (DualGuidance, {**EASY, "teacher": "frozen"}, ALL_TERMS),
    "without_temporal": (DualGuidance, {**EASY, "temporal": False}, {"box", "frame", "box_u", "frame_u"}),
    "without_negative_sampling": (DualGuidance, {**EASY, "negative_sampling": False}, ALL_TERMS),
}
"""Every semi-supervised strategy with options under which nearly all is accepted, and the terms that it has."""


def step(
    name: str, *, student: GridDetector | None = None, clips: Batch | None = None, **options: Any
) -> tuple[TeacherStudent, GridDetector, StepLosses]:
    """A strategy of SEMI_SUPERVISED, its student, and the losses of its first step."""
    kind, easy, _ = SEMI_SUPERVISED[name]
    strategy = kind(kind.Config(**{**easy, **options}))
    student = student or tiny_detector(frame_head=strategy.needs.frame_head).train()
    strategy.start(student, TINY_INFO)
    return strategy, student, strategy.losses(clips or batch(), student, PROGRESS)


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_every_term_reaches_the_student_when_there_are_pseudo_labels(name: str) -> None:
    _, student, result = step(name)
    assert result.pseudo_labels and len(result.pseudo_labels.targets.clip_n) > 0
    assert set(result.terms) == SEMI_SUPERVISED[name][2]
    for term_name, term in result.terms.items():
        assert term.item() > 0, term_name
        assert gradients(student, term) > 0, term_name


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_no_pseudo_labels_means_exactly_zero_but_for_the_temporal_term(name: str) -> None:
    blind = {"o_th": 1.0} | ({"f_th": 1.0} if "frame_u" in SEMI_SUPERVISED[name][2] else {})
    _, student, result = step(name, **blind)
    assert result.pseudo_labels and len(result.pseudo_labels.targets.clip_n) == 0
    for term_name in {"box_u", "frame_u"} & set(result.terms):
        assert result.terms[term_name].item() == 0
        assert gradients(student, result.terms[term_name]) == 0
    if "temporal_u" in result.terms:
        assert gradients(student, result.terms["temporal_u"]) > 0


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_no_gradient_through_the_weak_view_or_into_the_teacher(name: str) -> None:
    clips = batch()
    assert clips.unlabelled is not None
    clips.unlabelled.weak_bcthw.requires_grad_()
    strategy, student, result = step(name, clips=clips)
    torch.stack(list(result.terms.values())).sum().backward()
    assert clips.unlabelled.weak_bcthw.grad is None
    teacher = strategy.teacher.network
    if teacher is not student:
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_frozen_parts_stay_bit_identical(name: str) -> None:
    student = tiny_detector(frame_head="frame_u" in SEMI_SUPERVISED[name][2]).train()
    student.features.requires_grad_(False).eval()
    before = {key: tensor.clone() for key, tensor in student.features.state_dict().items()}
    head = student.box_head.weight.detach().clone()
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    trained, student, result = step(name, student=student)
    torch.stack(list(result.terms.values())).sum().backward()
    optimizer.step()
    trained.after_step(student, PROGRESS)
    assert all(torch.equal(tensor, before[key]) for key, tensor in student.features.state_dict().items())
    assert not torch.equal(student.box_head.weight, head)


def test_a_box_above_the_threshold_is_enough_without_a_frame_head() -> None:
    """Mean Teacher and FixMatch: every candidate becomes a pseudo-box of its best class."""
    pseudo = confident_boxes(candidates([(0, 1), (0, 0), (2, 2)]), 4, FACTS)
    targets = pseudo.targets
    assert pseudo.candidates == 3
    assert targets.labels_nk.argmax(dim=1).tolist() == [1, 0, 2]
    assert targets.box_mask_b.tolist() == [True, False, True, False]
    assert not targets.frame_mask_b.any()


def test_a_confident_box_of_multilabel_data_has_its_best_class_and_those_above_a_half() -> None:
    found = candidates([(0, 1), (1, 2)])
    found.scores_nk[0] = torch.tensor([0.6, 0.9, 0.2])
    found.scores_nk[1] = torch.tensor([0.1, 0.2, 0.3])
    targets = confident_boxes(found, 2, MULTILABEL).targets
    assert targets.labels_nk.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert targets.frame_labels_b.shape == (2, 3)


def test_guidance_keeps_a_subset_of_what_confidence_keeps() -> None:
    _, _, confident = step("mean_teacher", student=tiny_detector().train())
    _, _, guided = step("ema", student=tiny_detector().train(), f_th=0.3)
    assert confident.pseudo_labels and guided.pseudo_labels
    assert guided.pseudo_labels.candidates == confident.pseudo_labels.candidates
    kept = {tuple(box) for box in confident.pseudo_labels.targets.boxes_n4.tolist()}
    assert {tuple(box) for box in guided.pseudo_labels.targets.boxes_n4.tolist()} <= kept


def test_without_the_temporal_term() -> None:
    student = tiny_detector().train()
    assert set(losses(student, temporal=False).terms) == {"box", "frame", "box_u", "frame_u"}


def test_weights_of_the_frame_terms() -> None:
    one = losses(tiny_detector().train()).terms
    two = losses(tiny_detector().train(), beta=2.0, delta=3.0).terms
    torch.testing.assert_close(two["frame"], 2 * one["frame"])
    torch.testing.assert_close(two["frame_u"], 3 * one["frame_u"])


def test_supervised_knows_boxes_only_unless_asked() -> None:
    plain = Supervised(Supervised.Config())
    assert set(plain.losses(batch(), tiny_detector(frame_head=False), PROGRESS).terms) == {"box"}
    control = Supervised(Supervised.Config(equal_clips=True))
    assert control.needs.extra_labelled and not control.needs.unlabelled
    framed = Supervised(Supervised.Config(frame_head=True))
    assert set(framed.losses(batch(), tiny_detector(), PROGRESS).terms) == {"box", "frame", "temporal"}
    assert not plain.needs.unlabelled and not framed.needs.unlabelled
    timeless = Supervised(Supervised.Config(frame_head=True, temporal=False))
    assert set(timeless.losses(batch(), tiny_detector(), PROGRESS).terms) == {"box", "frame"}
    assert not timeless.needs.temporal and not plain.needs.temporal
    with pytest.raises(ValueError, match="beta, temporal do nothing without frame_head=true"):
        Supervised.Config(beta=0.5, temporal=False)


# ------------------------------------------------------------------------------------------ the guidance


def candidates(rows: list[tuple[int, int]], classes: int = 3) -> BoxRecords:
    """One box a row of (clip, best class)."""
    scores = torch.full((len(rows), classes), 0.1)
    for row, (_, best) in enumerate(rows):
        scores[row, best] = 0.8
    boxes = torch.tensor([[4.0, 4, 20, 20]]).repeat(len(rows), 1)
    return BoxRecords(torch.tensor([clip for clip, _ in rows]), boxes, torch.full((len(rows),), 0.9), scores)


def _guide(found: BoxRecords, probabilities: Tensor, f_th: float, **options: Any) -> Targets:
    """The candidates that agree with their frames, and the frames, as pseudo-labels."""
    frames = frames_above(probabilities, "mask_unsure" in options, FrameLabelOptions(f_th=f_th, **options))
    return agreeing_boxes(found[frames.allow(found)], frames)


def decoded(boxes: list[list[float]], confidence: list[float], classes: list[float]) -> Decoded:
    """Boxes of one clip, their confidence and the probability of their best class."""
    scores = torch.zeros(1, len(boxes), 3)
    scores[0, :, 1] = torch.tensor(classes)
    return Decoded(torch.tensor([boxes]), torch.tensor([confidence]), scores)


def test_candidates_stand_above_the_threshold_and_are_suppressed() -> None:
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [20, 20, 30, 30]]
    some = decoded(boxes, [0.5, 0.75, 0.25, 0.5], [0.9, 0.5, 0.9, 0.4])
    found = candidate_boxes(some, threshold=0.25, nms_iou=0.4)
    assert found.boxes_n4.tolist() == [boxes[1], boxes[3]]  # 0 overlaps 1 by 0.8; 2 is at the threshold, not above
    assert found.confidence_n.tolist() == [0.75, 0.5]
    found = candidate_boxes(some, threshold=0.25, nms_iou=0.4, confidence="objectness_class")
    assert found.boxes_n4.tolist() == [boxes[0]]  # 0.45 beats 0.375; 0.2 is too little
    apart = candidate_boxes(some, threshold=0.25, nms_iou=0.85)
    assert len(apart) == 3


def test_one_enormous_box_does_not_round_the_boxes_of_other_clips() -> None:
    near = [[0.0, 0, 10, 10], [4.5, 0, 14.5, 10]]  # IoU 0.38
    giant = [[0.0, 0, 3e7, 3e7], [0, 0, 3e7, 3e7]]
    both = Decoded(torch.tensor([giant, near]), torch.tensor([[0.9, 0.9], [0.9, 0.8]]), torch.ones(2, 2, 3))
    found = candidate_boxes(both, threshold=0.4, nms_iou=0.4)
    assert found.clip_n.bincount().tolist() == [1, 2]


def test_a_box_needs_an_accepted_frame_of_its_own_class() -> None:
    """Clips: sure of class 0; unsure; sure of class 2; sure of the background."""
    probabilities = torch.tensor([[0.9, 0.05, 0.03, 0.02], [0.5, 0.3, 0.1, 0.1], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    found = candidates([(0, 0), (0, 1), (1, 0), (2, 1), (3, 2)])
    targets = _guide(found, probabilities, f_th=0.8)
    assert targets.clip_n.tolist() == [0]
    assert targets.labels_nk.tolist() == [[1, 0, 0]]
    assert targets.frame_mask_b.tolist() == [True, False, True, True]
    assert targets.frame_labels_b.tolist() == [0, 0, 2, 3]
    assert targets.box_mask_b.tolist() == [True, False, False, False]  # the background trains F only


def test_thresholds_are_strict() -> None:
    targets = _guide(candidates([(0, 0)]), torch.tensor([[0.75, 0.25, 0, 0]]), f_th=0.75)
    assert not targets.frame_mask_b.any()
    assert len(targets.clip_n) == 0


def test_multilabel_guidance() -> None:
    probabilities = torch.tensor([[0.9, 0.85, 0.1], [0.2, 0.2, 0.2]])
    found = candidates([(0, 0), (0, 2), (1, 0)])
    targets = _guide(found, probabilities, 0.8, mask_unsure=False)
    assert targets.clip_n.tolist() == [0]
    assert targets.labels_nk.tolist() == [[1, 0, 0]]
    assert targets.frame_labels_b.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert targets.frame_mask_b.tolist() == [True, False]
    assert targets.frame_label_mask_bk is None and targets.label_mask_nk is None


def test_classes_that_the_teacher_is_unsure_of_count_neither_way() -> None:
    """Clip 0: sure of two classes, unsure of one, sure against one; clip 1: sure of nothing but an absence."""
    probabilities = torch.tensor([[0.9, 0.85, 0.5, 0.1], [0.5, 0.6, 0.7, 0.05]])
    found = candidates([(0, 0), (0, 2), (1, 0)], classes=4)
    found.scores_nk[0] = torch.tensor([0.9, 0.3, 0.8, 0.7])
    targets = _guide(found, probabilities, 0.8, mask_unsure=True)
    assert targets.clip_n.tolist() == [0]
    assert targets.labels_nk.tolist() == [[1, 0, 0, 0]]  # class 1 is the frame's, and the box denies it
    assert targets.label_mask_nk is not None and targets.frame_label_mask_bk is not None
    assert targets.label_mask_nk.tolist() == [[True, True, False, True]]
    assert targets.frame_labels_b.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert targets.frame_label_mask_bk.tolist() == [[True, True, False, True], [False, False, False, True]]
    assert targets.frame_mask_b.tolist() == [True, False]
    views = WindowGeometry(torch.tensor([[0, 0, 32, 32]] * 2), torch.tensor([False, False]), 32)
    strong = carry_to_strong(targets, views, 0.25)
    assert strong.label_mask_nk is not None and strong.label_mask_nk.tolist() == targets.label_mask_nk.tolist()
    assert strong.frame_label_mask_bk is targets.frame_label_mask_bk
    away = replace(views, window_b4=views.window_b4 + 40)
    dropped = carry_to_strong(targets, away, 0.25).label_mask_nk
    assert dropped is not None and dropped.shape == (0, 4)


@pytest.mark.parametrize(("mask_unsure", "moves"), [(True, False), (False, True)])
def test_no_gradient_comes_of_a_class_that_the_teacher_is_unsure_of(mask_unsure: bool, moves: bool) -> None:
    """The frame head says class 0 with 0.99, classes 1 and 2 with 0.5: their logits stay where they are."""
    student = tiny_detector(MULTILABEL).train()
    clips = batch()
    clips.labelled.targets.frame_labels_b = torch.zeros(len(clips.labelled.clips_bcthw), 3)
    assert isinstance(student.frame_head, FrameHead) and isinstance(student.frame_head.classifier, torch.nn.Linear)
    with torch.no_grad():
        student.frame_head.classifier.weight.mul_(0.01)
        student.frame_head.classifier.bias.copy_(torch.tensor([5.0, 0, 0]))
    terms = losses(student, clips, f_th=0.8, o_th=1.0, mask_unsure=mask_unsure).terms
    (gradient,) = torch.autograd.grad(terms["frame_u"], student.frame_head.classifier.bias)
    assert gradient[0] != 0
    assert bool(gradient[1:].any()) == moves


def test_boxes_that_leave_the_crop_take_their_clips_box_loss_along() -> None:
    pseudo = _guide(candidates([(0, 0), (1, 1)]), torch.eye(4)[:2], 0.5)
    away = WindowGeometry(torch.tensor([[0, 0, 32, 32], [22, 22, 54, 54]]), torch.tensor([False, False]), 32)
    strong = carry_to_strong(pseudo, away, min_visible=0.25)
    assert strong.clip_n.tolist() == [0]
    assert strong.box_mask_b.tolist() == [True, False]
    assert strong.frame_mask_b.tolist() == [True, True]


def test_parts_of_a_box_that_the_weak_view_does_not_show_are_not_lost() -> None:
    """A box half outside the weak view, in two strong views that are twice as wide: of its columns 0 to 16 the first
    shows all, the second, which begins outside the weak view, half. A box wholly outside is nothing.
    """
    found = candidates([(0, 0), (1, 0), (1, 0)])
    found.boxes_n4 = torch.tensor([[-16.0, 8, 16, 24], [-16, 8, 16, 24], [-8, 8, -2, 24]])
    pseudo = _guide(found, torch.eye(4)[[0, 0]], 0.5)
    views = WindowGeometry(torch.tensor([[0, 0, 16, 32], [-8, 0, 8, 32]]), torch.tensor([False, False]), 32)
    strong = carry_to_strong(pseudo, views, min_visible=0.5)
    assert strong.clip_n.tolist() == [0, 1] and strong.box_mask_b.tolist() == [True, True]
    assert strong.boxes_n4.tolist() == [[0, 8, 32, 24], [16, 8, 32, 24]]
    assert carry_to_strong(pseudo, views, min_visible=0.6).clip_n.tolist() == [0]
    assert pseudo.boxes_n4.tolist() == found.boxes_n4.tolist()  # what the diagnostics see stays


@pytest.mark.parametrize("facts", [FACTS, MULTILABEL])
def test_multilabel_runs_through_every_term(facts: DatasetFacts) -> None:
    student = tiny_detector(facts).train()
    clips = batch()
    if facts.multilabel:
        b = len(clips.labelled.clips_bcthw)
        clips.labelled.targets.frame_labels_b = torch.zeros(b, facts.num_classes)
    terms = losses(student, clips).terms
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize(("reduction", "classes"), [("auto", 1), ("sum", 1), ("mean", 4)])
def test_the_temporal_term_by_hand(reduction: TemporalReduction, classes: int) -> None:
    """Softmax: dp_i / dlogit_j = p_i ((i = j) - p_j), and the signs of the differences are + - - +."""
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.25] * 4])).requires_grad_()
    grid = torch.zeros(2, 40, 2, 2)
    after = GridPredictions(grid[:1], torch.log(torch.tensor([[0.25, 0.5, 0.15, 0.1]])))
    term = temporal_term(GridPredictions(grid, logits), after, multilabel=False, reduction=reduction)
    assert float(term.detach()) == pytest.approx((0.25 + 0.25 + 0.025 + 0.025) / classes)
    (gradient,) = torch.autograd.grad(term, logits)
    expected = torch.tensor([[0.375, -0.3125, -0.15625, 0.09375], [0, 0, 0, 0]]) / classes
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("reduction", "classes"), [("auto", 2), ("mean", 2), ("sum", 1)])
def test_the_temporal_term_of_multilabel_data_by_hand(reduction: TemporalReduction, classes: int) -> None:
    """Two pairs; sigmoid: dp / dlogit = p (1 - p)."""
    logits = torch.logit(torch.tensor([[0.5, 0.25], [0.75, 0.5]])).requires_grad_()
    grid = torch.zeros(2, 35, 2, 2)
    after = GridPredictions(grid, torch.logit(torch.tensor([[0.25, 0.5], [0.5, 0.125]])))
    term = temporal_term(GridPredictions(grid, logits), after, multilabel=True, reduction=reduction)
    assert float(term.detach()) == pytest.approx((0.25 + 0.25 + 0.25 + 0.375) / 2 / classes)
    (gradient,) = torch.autograd.grad(term, logits)
    torch.testing.assert_close(gradient, torch.tensor([[0.25, -0.1875], [0.1875, 0.25]]) / 2 / classes)


def test_the_temporal_term_is_weighted_in_both_stages() -> None:
    plain = {name: term.detach() for name, term in losses(tiny_detector().train()).terms.items()}
    for options, factor in (({"temporal_weight": 3.0}, 3), ({"temporal_reduction": "mean"}, 0.25)):
        terms = losses(tiny_detector().train(), **options).terms
        for name, term in terms.items():
            expected = float(plain[name]) * (factor if "temporal" in name else 1)
            assert float(term.detach()) == pytest.approx(expected), name
    framed = Supervised(Supervised.Config(frame_head=True, temporal_weight=3.0))
    alone = framed.losses(batch(), tiny_detector().train(), PROGRESS).terms
    assert float(alone["temporal"].detach()) == pytest.approx(3 * float(plain["temporal"]))


# ---------------------------------------------------------------------------------- guidance as a component


@pytest.mark.parametrize("kind", [MeanTeacher, FixMatch])
def test_guidance_is_the_papers_without_the_temporal_term(kind: type[TeacherStudent]) -> None:
    """Of one network the same boxes and frames are taken as by Dual Guidance, and the terms are the same to the bit."""
    teacher = "ema" if kind is MeanTeacher else "shared"
    options = {"o_th": 0.0, "f_th": 0.3}
    whole = losses(tiny_detector().train(), temporal=False, teacher=teacher, **options)
    strategy, student = kind(kind.Config(guidance=True, **options)), tiny_detector().train()
    strategy.start(student, TINY_INFO)
    part = strategy.losses(batch(), student, PROGRESS)
    assert strategy.needs == DualGuidance(DualGuidance.Config(temporal=False)).needs
    assert part.pseudo_labels and whole.pseudo_labels and len(part.pseudo_labels.targets.clip_n) > 0
    assert part.pseudo_labels.candidates == whole.pseudo_labels.candidates > len(part.pseudo_labels.targets.clip_n)
    assert {name: term.item() for name, term in part.terms.items()} == {
        name: term.item() for name, term in whole.terms.items()
    }


@pytest.mark.parametrize("facts", [FACTS, MULTILABEL])
def test_the_frame_head_alone_labels_frames_and_drops_no_candidate(facts: DatasetFacts) -> None:
    kept, frames = {}, {}
    clips = batch()
    if facts.multilabel:
        clips.labelled.targets.frame_labels_b = torch.zeros(len(clips.labelled.clips_bcthw), facts.num_classes)
    for name, options in {"plain": {}, "framed": {"frame_head": True}, "guided": {"guidance": True}}.items():
        strategy = MeanTeacher(MeanTeacher.Config(o_th=0.0, f_th=0.5 if facts.multilabel else 0.3, **options))
        student = tiny_detector(facts, frame_head=True).train()
        strategy.start(student, TINY_INFO)
        found = strategy.losses(clips, student, PROGRESS).pseudo_labels
        assert found is not None
        kept[name] = {tuple(box) for box in found.targets.boxes_n4.tolist()}
        frames[name] = found.targets.frame_labels_b.tolist(), found.targets.frame_mask_b.tolist()
    assert kept["framed"] == kept["plain"] > kept["guided"]
    assert frames["framed"] == frames["guided"] != frames["plain"]


def test_options_of_a_frame_head_that_is_not_there_do_nothing_and_name_no_run() -> None:
    plain = MeanTeacher.Config().model_dump()
    assert not plain.keys() & GuidanceOptions.model_fields.keys()
    assert MeanTeacher.Config(f_th=0.1).model_dump() == plain  # which the smoke preset proposes
    assert MeanTeacher.Config(guidance=True).model_dump() == plain | {
        "guidance": True,
        "frame_head": False,
        "f_th": 0.8,
        "beta": 1.0,
        "delta": 1.0,
        "mask_unsure": True,
    }
    with pytest.raises(ValueError, match="beta, mask_unsure do nothing without guidance=true or frame_head=true"):
        MeanTeacher.Config(beta=0.5, mask_unsure=False)
    with pytest.raises(ValueError, match="trains the frame head already"):
        MeanTeacher.Config(guidance=True, frame_head=True)


# ---------------------------------------------------------------------------------------------- teachers


def moved(student: GridDetector) -> None:
    with torch.no_grad():
        for tensor in student.state_dict().values():
            tensor.add_(1)


def test_the_moving_average_equals_its_closed_form_buffers_included() -> None:
    student = tiny_detector()
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    teacher = Teacher(student, "ema", decay=0.75)
    for _ in range(3):
        moved(student)
        teacher.follow(student)
    # after students w+1, w+2, w+3: w + 0.25 * (1 * 0.75^2 + 2 * 0.75 + 3)
    expected = 0.25 * (0.75**2 + 2 * 0.75 + 3)
    for name, tensor in teacher.network.state_dict().items():
        gain = 3 if name.endswith("num_batches_tracked") else expected
        torch.testing.assert_close(tensor, (start[name] + gain).to(tensor.dtype), msg=name)


def test_an_average_does_not_follow_a_network_with_other_names() -> None:
    student = tiny_detector()
    teacher = Teacher(student, "ema", 0.5)
    with pytest.raises(TrainingError, match=r"such as '_orig_mod\..*network.compile\(\) is not"):
        teacher.follow(torch.compile(student))
    assert teacher.updates == 0


def test_a_young_average_follows_quickly() -> None:
    """Decays min(0.2, 1/10), min(0.2, 2/11), min(0.2, 3/12): the third is the teacher's own."""
    student = tiny_detector()
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    teacher = Teacher(student, "ema", decay=0.2, warmup=True)
    shift = 0.0
    for update, decay in enumerate((1 / 10, 2 / 11, 0.2)):
        moved(student)
        teacher.follow(student)
        shift = decay * shift + (1 - decay) * (update + 1)
        assert teacher.updates == update + 1
        for name, tensor in teacher.network.state_dict().items():
            gain = update + 1 if name.endswith("num_batches_tracked") else shift
            torch.testing.assert_close(tensor, (start[name] + gain).to(tensor.dtype), msg=name)


def test_the_warm_up_bounds_a_schedule_too_and_goes_on_where_it_stood() -> None:
    student = tiny_detector()
    teachers = [Teacher(student, "ema", 0.5, warmup=True) for _ in range(2)]
    moved(student)
    teachers[0].follow(student, 0.999)
    teachers[1].load_state_dict(teachers[0].state_dict())
    moved(student)
    for teacher in teachers:
        teacher.follow(student, 0.999)
    first, second = (teacher.state_dict() for teacher in teachers)
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    assert first["updates"].dtype == torch.int64 and int(first["updates"]) == 2
    bias = "box_head.bias"  # after 1/10: w + 0.9; after 2/11: w + 2/11 * 0.9 + 9/11 * 2
    expected = student.state_dict()[bias] - 2 + 2 / 11 * 0.9 + 9 / 11 * 2
    torch.testing.assert_close(first[bias], expected)


@pytest.mark.parametrize("kind", [MeanTeacher, DualGuidance])
def test_the_average_is_warmed_up_unless_told_otherwise(kind: type[TeacherStudent]) -> None:
    for options, decay in (({}, 0.1), ({"ema_warmup": False}, 0.9)):
        strategy = kind(kind.Config(ema_decay=0.9, **options))
        student = tiny_detector()
        strategy.start(student, TINY_INFO)
        before = student.box_head.bias.detach().clone()
        moved(student)
        strategy.after_step(student, PROGRESS)
        torch.testing.assert_close(strategy.teacher.network.box_head.bias, before + 1 - decay)


def test_a_frozen_teacher_stays_and_a_shared_one_is_the_student() -> None:
    student = tiny_detector()
    frozen, shared = Teacher(student, "frozen", 0.9), Teacher(student, "shared", 0.9)
    before = {name: tensor.clone() for name, tensor in frozen.network.state_dict().items()}
    moved(student)
    frozen.follow(student)
    shared.follow(student)
    assert all(torch.equal(before[name], tensor) for name, tensor in frozen.network.state_dict().items())
    assert shared.network is student
    assert shared.state_dict() == {}


def test_a_teacher_predicts_in_evaluation_mode_and_leaves_the_mode_alone() -> None:
    student = tiny_detector().train()
    teacher = Teacher(student, "shared", 0.9)
    before = student.features.layers[1].running_mean.clone()
    teacher.predict(torch.rand(4, 3, 4, 32, 32))
    assert torch.equal(student.features.layers[1].running_mean, before)
    assert student.training


def test_targets_of_the_strong_view_serve_as_they_are() -> None:
    result = losses(tiny_detector().train())
    assert result.pseudo_labels is not None
    assert isinstance(result.pseudo_labels.targets, Targets)
    assert result.teacher_clips == 4
