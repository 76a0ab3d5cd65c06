"""How a step is computed: options that move no number, or none but by rounding, and those that make another run."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from helpers import ANCHORS, FACTS
from test_groups import STRATEGIES, after_steps, grouped
from torch import Tensor, nn
from torch._inductor.exc import InvalidCxxCompiler

from ssldet.config import resolve
from ssldet.detector.detector import GridDetector, GridOptions
from ssldet.errors import ConfigError
from ssldet.nn import FrameHead
from ssldet.nn.recomputing import blocks, recompute_blocks
from ssldet.runs.first_stage import UNREAD
from ssldet.runs.planning import plan
from ssldet.training import acceleration
from ssldet.training.acceleration import Accelerator, choose, compiled_parts
from ssldet.training.loop import Training, takes_one_forward
from ssldet_strategies.dual_guidance import DualGuidance
from ssldet_strategies.supervised import Supervised

CHANNELS = 8


class Blocks(nn.Module):
    """G: two blocks, which draw (dropout) and normalise, and if asked for a layer that normalises by itself."""

    def __init__(self, dropout: float = 0.25, norm: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(block(3, dropout), block(CHANNELS, dropout))
        self.norm = nn.BatchNorm2d(CHANNELS) if norm else nn.Identity()

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        features: Tensor = self.norm(self.layers(clips_bcthw.mean(dim=2)))
        return features


def block(inputs: int, dropout: float) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, CHANNELS, 4, stride=4)
    return nn.Sequential(convolution, nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True), nn.Dropout(dropout))


def detector(frame_head: bool = True, dropout: float = 0.25, norm: bool = False) -> GridDetector:
    """A network whose features are blocks."""
    torch.manual_seed(3)
    head = FrameHead(CHANNELS, FACTS) if frame_head else None
    grid = nn.Conv2d(CHANNELS, len(ANCHORS) * (5 + FACTS.num_classes), 1)
    return GridDetector(Blocks(dropout, norm), grid, head, facts=FACTS, stride=16, options=GridOptions())


def trained(name: str, micro_batch: int = 2, *, dropout: float = 0.25, norm: bool = False, **train: Any) -> Training:
    """Training of a network of blocks, four groups a step."""
    strategy = STRATEGIES[name]()
    student = detector(strategy.needs.frame_head, dropout, norm)
    return grouped(strategy, micro_batch, student=student, train=train)


def is_compiled(network: nn.Module) -> bool:
    parts = {part._compiled_call_impl is not None for part in compiled_parts(network)}
    assert len(parts) == 1
    return parts.pop()


def assert_same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [what for what in one if not torch.equal(one[what], other[what])] == []


def id_parts(*assignments: str) -> Mapping[str, Any]:
    fields = {"strategy": "dual_guidance", "dataset": "synthetic", "ratio": 0.2}
    return resolve(fields, preset="nano", assignments=assignments).experiment.identity()


# ------------------------------------------------------------------------------------- activation checkpointing


@pytest.mark.parametrize("micro_batch", [2, 4])
@pytest.mark.parametrize("name", ["dual_guidance", "fixmatch", "supervised"])
def test_blocks_that_are_computed_again_give_the_same_bits(name: str, micro_batch: int) -> None:
    """Losses, gradients, draws of dropout and running statistics, whose counter of batches moves once a batch."""
    plain = after_steps(trained(name, micro_batch))
    assert_same_bits(after_steps(trained(name, micro_batch, checkpoint_activations=True)), plain)


def test_gradient_norms_of_terms_are_the_same_with_blocks_that_are_computed_again() -> None:
    """They take several backward passes over one graph."""
    norms = []
    for asked in (False, True):
        run = trained("dual_guidance", gradient_norms=True, log_every=1, checkpoint_activations=asked)
        run.counts.step = 2
        run.step_once()
        norms.append(run.gradient_norms)
    assert norms[0] == norms[1]


def test_what_lies_within_blocks_is_not_kept() -> None:
    kept = []
    for asked in (False, True):
        network, held = nn.Sequential(*(nn.Sequential(*(layer() for _ in range(3))) for _ in range(3))), list[Tensor]()
        if asked:
            assert recompute_blocks(network) == 3
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x, held=held: held.append(x) or x, lambda x: x)
        with hooks:
            network(torch.rand(2, 4, 16, 16))
        kept.append(sum(x.nbytes for x in held))
    assert kept[1] < 0.3 * kept[0]


def layer() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))


def test_names_and_modes_stay_with_blocks_that_are_computed_again() -> None:
    plain, student = detector(), detector()
    assert recompute_blocks(student) == recompute_blocks(student) == len(list(blocks(student))) == 2
    assert list(student.state_dict()) == list(plain.state_dict())
    clips = torch.rand(4, 3, 4, 32, 32)
    assert torch.equal(student.eval()(clips).grid, plain.eval()(clips).grid)


def test_checkpointed_activations_are_no_part_of_an_id() -> None:
    assert id_parts("train.checkpoint_activations=true") == id_parts()


# ---------------------------------------------------------------------------------------------- one forward pass


@pytest.mark.parametrize("micro_batch", [2, 8])
def test_labelled_clips_and_strong_views_go_through_the_student_in_one_call(micro_batch: int) -> None:
    """Without statistics of a batch both ways give the same; with them they do not, which is why it is another run."""
    for frozen in (True, False):
        apart, _ = one_step(trained("dual_guidance", dropout=0), frozen)
        together, clips = one_step(trained("dual_guidance", micro_batch, dropout=0, fused_forward=True), frozen)
        assert clips == [3 * micro_batch] * (8 // micro_batch)
        assert all(math.isfinite(value) for value in together.values())
        assert ("box_u" in apart) and (together == pytest.approx(apart, rel=1e-4)) == frozen


def one_step(run: Training, frozen: bool) -> tuple[dict[str, float], list[int]]:
    """The terms of a step of the second stage, and how many clips each call of the student with gradients had."""
    run.counts.step, calls = 2, list[int]()
    run.student.train(not frozen)

    def count(module: nn.Module, given: tuple[Tensor]) -> None:
        if torch.is_grad_enabled():  # the teacher, a copy, has this hook too
            calls.append(len(given[0]))

    run.student.register_forward_pre_hook(count)
    return run.step_once()[0], calls


def test_one_call_with_groups_at_once_is_one_call_a_group() -> None:
    one, four = (after_steps(trained("dual_guidance", micro, dropout=0, fused_forward=True)) for micro in (2, 8))
    for what, value in one.items():
        torch.testing.assert_close(four[what], value, rtol=1e-4, atol=1e-5, msg=lambda m, w=what: f"{w}: {m}")


def test_one_forward_pass_is_another_run_with_the_same_first_stage() -> None:
    asked = "train.fused_forward=true"
    assert "fused_forward" not in id_parts()["train"]
    assert id_parts(asked) == id_parts() | {"train": id_parts()["train"] | {"fused_forward": True}}
    assert "fused_forward" in UNREAD


@pytest.mark.parametrize("name", ["supervised", "mean_teacher"])
def test_strategies_without_unlabelled_clips_have_no_one_forward_pass(name: str) -> None:
    fields = {"strategy": name, "dataset": "synthetic", "ratio": 0.2, "device": "cpu"}
    config = resolve(fields, preset="smoke", assignments=["train.fused_forward=true"])
    refused = pytest.raises(ConfigError, match=r"train.fused_forward: supervised has no labelled and unlabelled clips")
    with refused if name == "supervised" else nullcontext():
        plan(config)


def test_a_strategy_that_overrides_losses_says_anew_that_it_takes_one_forward_pass() -> None:
    class Other(DualGuidance):
        def losses(self, batch: Any, student: Any, progress: Any) -> Any:
            return super().losses(batch, student, progress)

    class Heeding(Other):
        takes_one_forward = True

    assert [takes_one_forward(kind) for kind in (DualGuidance, Other, Heeding, Supervised)] == [
        True,
        False,
        True,
        False,
    ]


# ------------------------------------------------------------------------------------------ options of the machine


FASTER = {"channels_last": 0.9, "compile": 0.98, "fused_optimizer": 0.5}
"""What the made-up time of a step is multiplied by; that of "compile" is not worth it."""


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({}, {"channels_last", "fused_optimizer"}),
        ({"compile": "on"}, {"channels_last", "compile", "fused_optimizer"}),
        ({"channels_last": "off", "fused_optimizer": "off"}, set()),
        (dict.fromkeys(FASTER, "off"), set()),
    ],
)
def test_what_is_quicker_is_taken_where_it_was_not_said(asked: dict[str, str], taken: set[str]) -> None:
    measured = []

    def measure(options: frozenset[str]) -> float:
        measured.append(options)
        return 8.0 * math.prod(FASTER[name] for name in options)

    assert choose(asked, measure) == taken
    assert len(measured) == len(set(measured)) <= 4
    assert choose(asked, None) == {name for name, state in asked.items() if state == "on"}


def test_compilation_is_tried_in_long_training_alone() -> None:
    tried = []

    def measure(options: frozenset[str]) -> float:
        tried.append("compile" in options)
        return 0.5 if "compile" in options else 2.0

    assert "compile" not in choose({}, measure, steps=800) and not any(tried)
    assert "compile" in choose({}, measure, steps=1000)
    assert "compile" in choose({"compile": "on"}, measure, steps=800)


def test_a_gpu_is_measured_once_in_rehearsed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a made-up clock: weights that lie channels last take half the time, and memory refuses compilation."""
    run, rehearsed = trained("dual_guidance", 4), []
    weight = next(run.student.parameters())

    def clock(call: Callable[[], Any], device: torch.device) -> float:
        call()
        return 1.0 if weight.is_contiguous(memory_format=torch.channels_last) else 2.0

    def rehearsal(groups: int) -> None:
        rehearsed.append(groups)
        if is_compiled(run.student):
            raise torch.OutOfMemoryError("made up")
        run._rehearse(groups)

    monkeypatch.setattr(acceleration, "seconds_of", clock)
    weights = [torch.clone(parameter) for parameter in run.student.parameters()]
    accelerator = Accelerator({"fused_optimizer": "off"}, torch.device("cuda"), run.notices.append)
    for _ in range(2):
        assert accelerator.choose(run.student, run.optimizer, rehearsal, 2, 4, 10**6) == 2
    assert accelerator.taken == {"channels_last"} and rehearsed == [2, 2, 2, 1]
    assert accelerator.as_record()["seconds"]["none"] == 2.0 * 4 / 2 + 2.0
    assert weight.is_contiguous() and not is_compiled(run.student)  # until it is applied
    assert all(torch.equal(*pair) for pair in zip(weights, run.student.parameters(), strict=True))


def test_compiled_blocks_that_need_more_memory_come_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("dual_guidance", 4)

    def rehearsal(groups: int) -> None:
        if is_compiled(run.student) and groups > 1:
            raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr(acceleration, "seconds_of", lambda call, device: call() or 1.0)
    accelerator = Accelerator({"compile": "on"}, run.device, run.notices.append)
    assert accelerator.choose(run.student, run.optimizer, rehearsal, 4, 4, 10**6) == 1
    assert accelerator.taken == {"compile"} and run.notices == []


def test_a_cpu_computes_as_ever_unless_it_is_told_otherwise() -> None:
    run = trained("dual_guidance")
    run._accelerate()
    assert run.accelerator.taken == frozenset() and run._rehearsed is None
    assert_same_bits(after_steps(run), after_steps(trained("dual_guidance")))
    assert not is_compiled(run.strategy.teacher.network)  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", ["channels_last", "fused_optimizer"])
def test_options_of_the_machine_move_numbers_by_rounding_alone(option: str) -> None:
    left = []
    for state in ("off", "on"):
        run = trained("dual_guidance", dropout=0)  # whose masks are drawn in the order of memory
        run.optimizer = torch.optim.AdamW(run.student.parameters(), lr=1e-3, eps=1e-3)
        run.accelerator = Accelerator({option: state}, run.device, run.notices.append)
        run._accelerate()
        left.append(after_steps(run))
    assert run.accelerator.as_record()[option] is True
    for what, value in left[0].items():
        torch.testing.assert_close(left[1][what], value, rtol=1e-3, atol=1e-5, msg=lambda m, w=what: f"{w}: {m}")


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler to compile with")
@pytest.mark.filterwarnings("ignore")  # of the compiler, which speaks of its own parts
def test_compiled_networks_compute_what_they_do_without() -> None:
    """Student and teacher, of which two groups come at once; they draw the same, statistics move in order."""
    plain, run = trained("dual_guidance", 4, norm=True), trained("dual_guidance", 4, norm=True)
    run.accelerator = Accelerator({"compile": "on"}, run.device, run.notices.append)
    run.student.train()
    run._accelerate()
    assert run.notices == [] and run.groups_at_once == 2
    left, expected = after_steps(run), after_steps(plain)
    for what, value in expected.items():
        torch.testing.assert_close(left[what], value, rtol=1e-3, atol=1e-5, msg=lambda m, w=what: f"{w}: {m}")
    teacher = run.strategy.teacher.network  # type: ignore[attr-defined]
    assert is_compiled(run.student) and is_compiled(teacher)
    parts = {name for name, module in run.student.named_modules() if module in compiled_parts(run.student)}
    assert parts == {"features.layers.0", "features.layers.1", "features.norm", "frame_head"}
    assert list(run.student.state_dict()) == list(teacher.state_dict()) == list(plain.student.state_dict())


def test_a_missing_compiler_is_said_once_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise InvalidCxxCompiler

    def compiled(self: nn.Module, **options: Any) -> None:
        self._compiled_call_impl = refuse

    monkeypatch.setattr(nn.Module, "compile", compiled)
    run = trained("dual_guidance")
    run.accelerator = Accelerator({"compile": "on"}, run.device, run.notices.append)
    for _ in range(2):
        run._accelerate()
    assert len(run.notices) == 1 and "cannot be compiled here, and computes as it is" in run.notices[0]
    assert run.accelerator.as_record()["compile"] is False
    run.step_once()


def test_options_of_the_machine_are_read_as_yaml_has_them() -> None:
    fields = {"strategy": "supervised", "dataset": "synthetic", "ratio": 0.2, "device": "cpu"}
    config = resolve(fields, preset="smoke", assignments=["compile=on", "channels_last=off"])
    assert config.machine.switches() == {"channels_last": "off", "compile": "on", "fused_optimizer": "auto"}
    assert config.experiment == resolve(fields, preset="smoke").experiment
    both = resolve(fields, preset="smoke", assignments=["compile=on", "train.checkpoint_activations=true"])
    with pytest.raises(ConfigError, match="do not go together"):
        plan(both)
