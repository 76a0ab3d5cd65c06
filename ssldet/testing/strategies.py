"""The contract suite of strategies, on a tiny network and made-up clips, single-label and multi-label.

A step is taken as the training loop takes it: `losses`, one backward pass over the sum of its terms, the optimiser,
`after_step`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from ssldet.contracts import (
    Batch,
    DatasetFacts,
    Decoded,
    Detector,
    Needs,
    Options,
    Progress,
    StepLosses,
    Strategy,
    Targets,
)
from ssldet.testing.base import ConfiguredContract, skip
from ssldet.testing.tiny import MULTI_LABEL, SINGLE_LABEL, TINY_INFO, SealedClips, TinyState, tiny_batch, tiny_detector

BURN_IN, STEPS = 2, 10


@dataclass(slots=True)
class Case:
    """A strategy that has started over a tiny student, at the first step of the second stage."""

    strategy: Strategy
    student: Detector
    optimizer: torch.optim.Optimizer
    step: int = BURN_IN

    def batch(self, **options: Any) -> Batch:
        """The clips of this step; the same for a step every time."""
        return tiny_batch(self.student.facts, self.strategy.needs, seed=self.step, **options)

    def start(self) -> None:
        """Start the strategy; what it wants trained beside the student joins the optimiser."""
        self.strategy.start(self.student, TINY_INFO)
        for module in self.strategy.trained_modules().values():
            self.optimizer.add_param_group({"params": list(module.parameters())})

    def trained(self) -> list[nn.Module]:
        """The student, and the modules that the strategy wants trained with it."""
        return [cast(nn.Module, self.student), *self.strategy.trained_modules().values()]

    @property
    def progress(self) -> Progress:
        return Progress(self.step, STEPS, BURN_IN, epoch=self.step / STEPS)

    def losses(self, batch: Batch | None = None) -> StepLosses:
        """The terms of this step, drawn as the loop has it: from the step alone."""
        torch.manual_seed(self.step)
        return self.strategy.losses(batch or self.batch(), self.student, self.progress)

    def advance(self, batch: Batch | None = None) -> StepLosses:
        """Take a whole step."""
        found = self.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        total(found).backward()
        self.optimizer.step()
        self.strategy.after_step(self.student, self.progress)
        self.step += 1
        return found


def total(found: StepLosses) -> Tensor:
    """The sum that the loop back-propagates."""
    return torch.stack(list(found.terms.values())).sum()


class DetectorFactory(Protocol):
    """What makes the students of a suite."""

    def __call__(self, facts: DatasetFacts, *, frame_head: bool, state: TinyState) -> Detector: ...


class StrategyContract(ConfiguredContract):
    """What every strategy keeps. Subclass it as `class TestMine(StrategyContract): plugin = Mine`.

    Attributes:
        plugin: the strategy's class.
        config: its options; thresholds must let a network that is 99 % sure of its boxes pass.
        detector: makes the student, as `tiny_detector` does; it must be able to be confident and to find nothing.
        data: the label kinds that it is tested on; leave one out where the strategy is not made for it.
    """

    plugin: ClassVar[type[Strategy]]
    detector: ClassVar[DetectorFactory] = staticmethod(tiny_detector)
    data: ClassVar[tuple[DatasetFacts, ...]] = (SINGLE_LABEL, MULTI_LABEL)

    # ------------------------------------------------------------------------------------------- what it asks for

    def test_its_needs_are_known_before_it_starts(self) -> None:
        needs = self.plugin(self.options()).needs
        assert isinstance(needs, Needs), f"needs is {needs!r}, expected ssldet.contracts.Needs"

    def test_it_does_without_hidden_truth(self) -> None:
        """Unlabelled clips have no truth; whoever looks for it is caught, and whoever asks the core for it is named."""
        for case in self.cases("confident"):
            batch = case.batch()
            assert batch.unlabelled is None or isinstance(batch.unlabelled, SealedClips)
            case.advance(batch)
        if self.plugin(self.options()).needs.unlabelled_extent != "video":
            skip("it asks for unlabelled_extent='action', hidden temporal extents: for ablations only")

    # ------------------------------------------------------------------------------------------------- its losses

    def test_losses_are_finite_scalars(self) -> None:
        for state in ("confident", "random", "empty"):
            for case in self.cases(state):
                for _ in range(2):
                    _check_terms(case.losses(), f"with a {state} network on {case.student.facts.name} data")
                    case.advance()

    def test_pseudo_labels_are_in_form(self) -> None:
        """What it reports as PseudoLabels are Targets of the weak view, and carry no gradient."""
        for case in self.cases("confident"):
            found, batch = case.losses(), case.batch()
            clips = 0 if batch.unlabelled is None else len(batch.unlabelled.weak_bcthw)
            assert isinstance(found.teacher_clips, int), f"teacher_clips is {found.teacher_clips!r}, expected an int"
            if found.pseudo_labels is not None:
                _check_targets(found.pseudo_labels.targets, clips, case.student.facts)
                candidates, kept = found.pseudo_labels.candidates, len(found.pseudo_labels.targets.clip_n)
                assert candidates >= kept, f"candidates is {candidates}, fewer than the {kept} boxes that were kept"

    def test_clips_without_a_box_are_no_obstacle(self) -> None:
        for case in self.cases("confident"):
            _check_terms(case.advance(case.batch(boxes=False)), "on labelled clips without any box")
            _check_gradients(case.student, "on labelled clips without any box")

    def test_finding_nothing_costs_nothing(self) -> None:
        """Where the network finds nothing to learn from, box_u is exactly 0, and so is its gradient."""
        for case in self.cases("empty"):
            found = case.losses()
            _check_terms(found, "when nothing is found")
            if found.pseudo_labels is not None and len(found.pseudo_labels.targets.clip_n):
                skip("it takes boxes for true that its network all but rules out")
            if (term := found.terms.get("box_u")) is None:
                continue
            assert term.item() == 0, f"box_u is {term.item()} where nothing was found, expected exactly 0"
            case.optimizer.zero_grad(set_to_none=True)
            if term.requires_grad:
                term.backward()
            moved = [name for name, p in case.student.named_parameters() if p.grad is not None and p.grad.any()]
            assert not moved, f"box_u is 0 but has a gradient in {moved[0]}"

    # ---------------------------------------------------------------------------------------------- its gradients

    def test_gradients_reach_the_student(self) -> None:
        """Every term that is not 0 reaches through the whole student, to its clips, when there are pseudo-labels.

        One that trains a module of the strategy's own reaches that module at least.
        """
        for case in self.cases("confident"):
            batch = case.batch()
            shown = _student_clips(batch)
            for clips in shown:
                clips.requires_grad_()
            trained = [p for module in case.strategy.trained_modules().values() for p in module.parameters()]
            for name, term in case.losses(batch).terms.items():
                reached = term.requires_grad and _reaches(term, [*shown, *trained])
                assert reached or term.item() == 0, f"term {name!r} is {term.item():.3g} and reaches none of the clips"
            case.advance()
            _check_gradients(case.student, "with pseudo-labels")
            for name, child in case.student.named_children():
                assert _any_gradient(child), f"no gradient reaches {name}, a part of the student"

    def test_no_gradient_flows_through_the_weak_view(self) -> None:
        """Pseudo-labels are data: what made them is not trained through them."""
        for case in self.cases("confident"):
            batch = case.batch()
            if batch.unlabelled is None:
                skip("it takes no unlabelled clips")
            assert batch.unlabelled is not None
            batch.unlabelled.weak_bcthw.requires_grad_()
            total(case.losses(batch)).backward()
            assert batch.unlabelled.weak_bcthw.grad is None, (
                "a gradient flows through the weak view; make pseudo-labels under torch.no_grad()"
            )

    def test_no_gradient_reaches_a_teacher(self) -> None:
        """Whatever parameters the strategy holds, beside the student's and its trained modules', have no gradient."""
        for case in self.cases("confident"):
            case.advance()
            own = {id(parameter) for module in case.trained() for parameter in module.parameters()}
            others = [p for p in parameters_within(case.strategy) if id(p) not in own]
            assert all(p.grad is None for p in others), "a gradient reaches parameters that are not trained"

    def test_frozen_parts_stay_as_they_are(self) -> None:
        """Parameters that require no gradient are bit-identical after steps."""
        for case in self.cases("confident"):
            parameters = list(case.student.named_parameters())
            frozen = dict(parameters[: len(parameters) // 2])
            for parameter in frozen.values():
                parameter.requires_grad_(False)
            before = {name: parameter.clone() for name, parameter in frozen.items()}
            for _ in range(2):
                case.advance()
            for name, parameter in frozen.items():
                assert torch.equal(parameter, before[name]), f"the frozen parameter {name} has moved"

    def test_it_leaves_the_student_in_training_mode(self) -> None:
        for case in self.cases("confident"):
            case.advance()
            resting = [name for name, module in case.student.named_modules() if not module.training]
            assert not resting, f"{resting[0] or 'the student'} is left in evaluation mode"

    # ---------------------------------------------------------------------------------------- repeating, resuming

    def test_the_same_seed_gives_the_same_losses(self) -> None:
        """Two runs agree bit for bit: all that is drawn comes from torch's generator."""
        for first, second in zip(self.cases("confident"), self.cases("confident"), strict=True):
            for _ in range(3):
                _check_equal(first.advance(), second.advance(), "two runs of one seed")

    def test_a_resumed_run_goes_on_as_if_nothing_had_happened(self) -> None:
        """state_dict -> start -> load_state_dict in a fresh object gives the same losses, scored network and state."""
        for state in ("confident", "random"):
            for first, second in zip(self.cases(state), self.cases(state, start=False), strict=True):
                for _ in range(2):
                    first.advance()
                saved = copy.deepcopy(dict(first.strategy.state_dict()))
                loose = [name for name, value in saved.items() if not isinstance(value, Tensor)]
                assert not loose, f"state_dict()[{loose[0]!r}] is no tensor, and checkpoints hold tensors only"
                _resume(second, first, saved)
                _check_evaluated(first, second)
                for _ in range(2):
                    _check_equal(first.advance(), second.advance(), "a run and the same run resumed")
                _check_state(first.strategy.state_dict(), second.strategy.state_dict())

    def test_moving_thresholds_are_finite_numbers(self) -> None:
        for case in self.cases("confident"):
            case.advance()
            for name, value in case.strategy.thresholds().items():
                found = f"thresholds()[{name!r}] is {value!r}"
                assert isinstance(value, float) and math.isfinite(value), f"{found}, expected a finite float"

    def test_what_is_scored_is_a_detector(self) -> None:
        for case in self.cases("random"):
            found = case.strategy.evaluated(case.student)
            assert isinstance(found, Detector), f"evaluated() gave {type(found).__name__}, expected a Detector"
            watched = case.strategy.networks(case.student)
            assert watched.get("student") is case.student, "networks() does not name the student 'student'"
            for name, network in watched.items():
                form = type(network).__name__
                assert isinstance(network, Detector), f"networks()[{name!r}] is {form}, expected a Detector"

    # --------------------------------------------------------------------------------------------------- the cases

    def cases(self, state: TinyState, *, start: bool = True) -> Iterator[Case]:
        """The strategy over a tiny student, for each label kind."""
        for facts in self.data:
            strategy = self.plugin(self.options())
            student = self.detector(facts, frame_head=strategy.needs.frame_head, state=state)
            case = Case(strategy, student, torch.optim.SGD(student.parameters(), lr=0.01))
            if start:
                case.start()
            yield case


def _resume(fresh: Case, of: Case, state: Mapping[str, Tensor]) -> None:
    """As the loop resumes: the student's weights first, then start, then the strategy's own state."""
    fresh.student.load_state_dict(copy.deepcopy(of.student.state_dict()))
    fresh.step = of.step
    fresh.start()
    fresh.strategy.load_state_dict(state)
    for name, module in fresh.strategy.trained_modules().items():
        module.load_state_dict(copy.deepcopy(of.strategy.trained_modules()[name].state_dict()))


# ---------------------------------------------------------------------------------------------------- assertions


def _check_terms(found: Any, when: str) -> None:
    assert isinstance(found, StepLosses), f"losses() gave {type(found).__name__}, expected StepLosses"
    assert found.terms, f"losses() gave no term {when}"
    for name, term in found.terms.items():
        assert isinstance(term, Tensor) and term.ndim == 0 and term.is_floating_point(), (
            f"term {name!r} is {_form(term)} {when}, expected a float tensor without dimensions"
        )
        assert torch.isfinite(term), f"term {name!r} is {term.item()} {when}, expected a finite number"


def _check_targets(targets: Any, clips: int, facts: DatasetFacts) -> None:
    assert isinstance(targets, Targets), f"pseudo-labels are {type(targets).__name__}, expected Targets"
    n, k, b = len(targets.clip_n), facts.num_classes, clips
    frame = ((b, k), torch.float32) if facts.multilabel else ((b,), torch.int64)
    expected = {
        "clip_n": ((n,), torch.int64),
        "boxes_n4": ((n, 4), torch.float32),
        "labels_nk": ((n, k), torch.float32),
        "box_mask_b": ((b,), torch.bool),
        "frame_labels_b": frame,
        "frame_mask_b": ((b,), torch.bool),
    }
    for name, (shape, dtype) in expected.items():
        tensor = getattr(targets, name)
        assert isinstance(tensor, Tensor) and (tuple(tensor.shape), tensor.dtype) == (shape, dtype), (
            f"pseudo-labels' {name} is {_form(tensor)}, expected {dtype} {shape}"
        )
        assert not tensor.requires_grad, f"pseudo-labels' {name} carries a gradient"
    for name, shape in {"label_mask_nk": (n, k), "frame_label_mask_bk": (b, k)}.items():
        mask = getattr(targets, name)
        assert mask is None or facts.multilabel, f"pseudo-labels have {name}, which is for multi-label data"
        assert mask is None or (mask.dtype, tuple(mask.shape)) == (torch.bool, shape), (
            f"pseudo-labels' {name} is {_form(mask)}, expected {torch.bool} {shape}"
        )
    assert n == 0 or 0 <= int(targets.clip_n.min()) <= int(targets.clip_n.max()) < b, "clip_n points outside the batch"


def _form(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_gradients(student: Detector, when: str) -> None:
    """The last step's gradients are finite, and some reach G."""
    for name, parameter in student.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
    assert _any_gradient(student), f"no gradient reaches the student {when}"


def _student_clips(batch: Batch) -> list[Tensor]:
    """The clips that the student sees with gradients."""
    views: list[Tensor | None] = [batch.labelled.clips_bcthw, batch.labelled.following]
    if batch.unlabelled is not None:
        views += [batch.unlabelled.strong_bcthw, batch.unlabelled.following]
    return [view for view in views if view is not None]


def _reaches(term: Tensor, leaves: list[Tensor]) -> bool:
    """Whether a term depends on any of these: on clips, and so on every layer in between, or on parameters."""
    found = torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in found)


def _any_gradient(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def _check_equal(one: StepLosses, other: StepLosses, who: str) -> None:
    assert one.terms.keys() == other.terms.keys(), f"{who} have other terms"
    for name, term in one.terms.items():
        a, b = term.item(), other.terms[name].item()
        assert a == b, f"{who} differ in term {name!r}: {a!r} and {b!r}"


def _check_state(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys(), "a run and the same run resumed have other entries in state_dict()"
    moved = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
    assert not moved, f"a run and the same run resumed differ in state_dict()[{moved[0]!r}]"


@torch.no_grad()
def _check_evaluated(first: Case, second: Case) -> None:
    clips_bcthw = first.batch().labelled.clips_bcthw
    detectors = [copy.deepcopy(case.strategy.evaluated(case.student)).eval() for case in (first, second)]
    one, other = (detector.decode(detector(clips_bcthw)) for detector in detectors)
    for name in Decoded.__slots__:
        equal = torch.equal(getattr(one, name), getattr(other, name))
        assert equal, f"after resuming, the network that is scored predicts other {name}"


def parameters_within(holder: Any, depth: int = 4) -> list[nn.Parameter]:
    """All parameters that an object holds, in its attributes, their attributes, and lists and dictionaries of them."""
    if isinstance(holder, nn.Module):
        return list(holder.parameters())
    if isinstance(holder, nn.Parameter):
        return [holder]
    if depth == 0 or isinstance(holder, Options | type | str):
        return []
    if isinstance(holder, Mapping):
        inner = list(holder.values())
    elif isinstance(holder, list | tuple | set):
        inner = list(holder)
    else:
        inner = list(getattr(holder, "__dict__", {}).values())
    return [parameter for value in inner for parameter in parameters_within(value, depth - 1)]
