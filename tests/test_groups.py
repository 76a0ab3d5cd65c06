"""Groups of clips: what batch normalisation takes for one batch, however many go through the network at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from helpers import FACTS, MULTILABEL, tiny_detector
from test_training import OPTIONS, training
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssldet.config import TrainOptions
from ssldet.contracts import Batch, DatasetFacts, Detector, Progress, StepLosses, Strategy
from ssldet.data.sampling import Sampling
from ssldet.errors import TrainingError
from ssldet.nn.batch_norm import (
    StatisticsSnapshot,
    can_be_traced,
    make_opaque,
    make_traceable,
    normalised_in_groups,
    running_statistics_of_groups,
    statistics_kept,
)
from ssldet.training.loop import Training, takes_groups
from ssldet.training.memory import largest_that_fits
from ssldet_strategies.dual_guidance import DualGuidance
from ssldet_strategies.fixmatch import FixMatch
from ssldet_strategies.mean_teacher import MeanTeacher
from ssldet_strategies.supervised import Supervised

STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "dual_guidance": lambda: DualGuidance(DualGuidance.Config(o_th=0.3, f_th=0.3, ema_decay=0.9)),
    "dual_guidance, one network": lambda: DualGuidance(DualGuidance.Config(o_th=0.3, f_th=0.3, teacher="shared")),
    "fixmatch": lambda: FixMatch(FixMatch.Config(o_th=0.3)),
    "mean_teacher": lambda: MeanTeacher(MeanTeacher.Config(o_th=0.3)),
    "supervised": lambda: Supervised(Supervised.Config()),
    "supervised, equal clips": lambda: Supervised(Supervised.Config(frame_head=True, equal_clips=True)),
}


def grouped(
    strategy: Strategy,
    micro_batch: int,
    facts: DatasetFacts = FACTS,
    *,
    student: Detector | None = None,
    train: Mapping[str, Any] | None = None,
    **extra: Any,
) -> Training:
    """Training with four groups of two clips a step, some of them at once."""
    changed = {"batch": 8, "bn_batch": 2, "micro_batch": micro_batch, "steps": 4, "lr": 1e-3}
    options = TrainOptions(**OPTIONS.model_dump() | changed | dict(train or {}))
    student = student or tiny_detector(facts, frame_head=strategy.needs.frame_head)
    run = training(strategy, options, student=student, **extra)
    run.optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)  # Adam makes steps of rounding errors
    run.source.sampling = Sampling(8, 8, 0.5)
    return run


def after_steps(run: Training, steps: int = 4) -> dict[str, Tensor]:
    """Everything that some steps leave behind: terms, the gradients of each step, statistics, pseudo-labels."""
    left: dict[str, Tensor] = {}
    move = run.optimizer.step

    def step() -> None:
        for name, parameter in run.student.named_parameters():
            left[f"{run.counts.step} gradient {name}"] = torch.as_tensor(parameter.grad).clone()
        move()

    run.optimizer.step = step  # type: ignore[method-assign, assignment]
    run.student.train()
    for number in range(steps):
        terms, _ = run.step_once()
        left |= {f"{number} {name}": torch.tensor(value) for name, value in terms.items()}
        left |= {f"{number} {name}": b.clone().float() for name, b in run.student.named_buffers()}
    if run.meter:
        left |= {name: torch.tensor(float(count)) for name, count in run.meter.counts.items()}
    return left


@pytest.mark.parametrize("name", STRATEGIES)
def test_groups_give_the_same_step_however_many_are_computed_at_once(name: str) -> None:
    """Losses, gradients, running statistics and pseudo-labels of one, two and four groups at once."""
    one = after_steps(grouped(STRATEGIES[name](), 2))
    for micro_batch in (4, 8):
        several = after_steps(grouped(STRATEGIES[name](), micro_batch))
        assert several.keys() == one.keys()
        for what, value in one.items():
            torch.testing.assert_close(several[what], value, rtol=1e-4, atol=1e-5, msg=lambda m, w=what: f"{w}: {m}")
    if "boxes" in one:
        assert one["boxes"] > 0  # otherwise the losses of pseudo-labels were not compared


def test_bigger_groups_give_another_step() -> None:
    """What the test above holds equal is not equal by itself."""
    one = after_steps(grouped(STRATEGIES["mean_teacher"](), 2), steps=1)
    run = grouped(STRATEGIES["mean_teacher"](), 2)
    run.options = run.options.model_copy(update={"bn_batch": 4})
    other = after_steps(run, steps=1)
    assert any(not torch.allclose(one[what], other[what], rtol=1e-4, atol=1e-5) for what in one)


def test_every_group_keeps_its_clips_and_its_partners() -> None:
    """A group's clips are those that it has where it comes alone, whatever is computed at once."""
    run = grouped(STRATEGIES["dual_guidance"](), 8)
    groups = [run.source.batch(3, group, 4, unlabelled=True)[0] for group in range(4)]
    seen: list[Batch] = []

    def watch(batches: Sequence[Batch], student: Detector, progress: Progress) -> list[StepLosses]:
        seen.extend(batches)
        return DualGuidance.group_losses(run.strategy, batches, student, progress)  # type: ignore[arg-type]

    run.counts.step = 3
    run.strategy.group_losses = watch  # type: ignore[method-assign]
    run.step_once()
    assert len(seen) == 4
    for mine, theirs in zip(groups, seen, strict=True):
        assert mine.labelled.following is not None and theirs.labelled.following is not None
        assert len(mine.labelled.following) == 1
        assert torch.equal(mine.labelled.following, theirs.labelled.following)
        assert torch.equal(mine.labelled.clips_bcthw, theirs.labelled.clips_bcthw)
        assert torch.equal(mine.generator.get_state(), theirs.generator.get_state())


class Counted(Supervised):
    """A strategy that knows of no groups, and whose losses hang on how many it saw before."""

    def start(self, student: Detector, info: Any) -> None:
        self.seen = 0

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        self.seen += 1
        found = super().losses(batch, student, progress)
        return StepLosses({"box": found.terms["box"] * self.seen})


def test_a_strategy_that_knows_of_no_groups_gets_them_one_by_one() -> None:
    assert not takes_groups(Counted) and takes_groups(Supervised) and takes_groups(FixMatch)
    one, four = (after_steps(grouped(Counted(Supervised.Config()), micro_batch)) for micro_batch in (2, 8))
    for what, value in one.items():
        torch.testing.assert_close(four[what], value, rtol=1e-4, atol=1e-5)


class Reads(TorchFunctionMode):
    """Counts what makes the host wait for a device: values of tensors that Python asks for."""

    NAMES = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in self.NAMES
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("micro_batch", [2, 8])
def test_a_step_is_read_from_the_device_once(micro_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = grouped(STRATEGIES["dual_guidance"](), micro_batch)
    run.counts.step = 2
    run.step_once()  # sets the optimiser up
    run.meter = None  # which reads copies on the CPU
    drawn = [run.source.batch(3, group, 4, unlabelled=True) for group in range(4)]
    monkeypatch.setattr(run.source, "batch", lambda step, group, groups, unlabelled: drawn[group])
    monkeypatch.setattr(run.optimizer, "step", lambda: None)  # on a CPU it keeps its counters where they cost nothing
    with Reads() as reads:
        run.step_once()
    assert reads.count == 1


# ------------------------------------------------------------------------------------------------------- memory


def too_big(run: Training, clips: int) -> None:
    """A student whose memory holds so many clips."""

    def refuse(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training and len(inputs[0]) > clips:
            raise torch.OutOfMemoryError("made up")

    run.student.register_forward_pre_hook(refuse)


@pytest.mark.parametrize("name", ["dual_guidance", "fixmatch"])
def test_memory_that_is_too_small_halves_what_is_computed_at_once(name: str) -> None:
    """The steps are those of an undisturbed run, and it is said once."""
    plain = after_steps(grouped(STRATEGIES[name](), 2))
    lines: list[dict[str, Any]] = []
    run = grouped(STRATEGIES[name](), 8, log=lines.append)
    too_big(run, clips=3)  # a group of two and a partner
    small = after_steps(run)
    for what, value in plain.items():
        torch.testing.assert_close(small[what], value, rtol=1e-4, atol=1e-5)
    assert run.micro_batch == 2
    assert len(run.notices) == 1
    assert "does not hold train.micro_batch = 8: 2 labelled clips at once from here on" in run.notices[0]


def test_a_step_that_failed_in_its_second_part_is_taken_again_whole() -> None:
    """Gradients and statistics of the first part do not count twice, nor what a strategy gathered."""
    plain = after_steps(grouped(Gathering(Supervised.Config()), 2), steps=3)
    run, calls = grouped(Gathering(Supervised.Config()), 4), list[int]()

    def refuse(module: nn.Module, inputs: tuple[Tensor]) -> None:
        calls.append(len(inputs[0]))
        if len(calls) == 7:  # two calls in each of two steps; then one a group, the third of four here
            raise torch.OutOfMemoryError("made up")

    run.student.register_forward_pre_hook(refuse)
    disturbed = after_steps(run, steps=3)
    assert run.micro_batch == 2 and len(calls) == 11
    for what, value in plain.items():
        torch.testing.assert_close(disturbed[what], value, rtol=1e-4, atol=1e-5)
    assert (run.strategy.clips, run.strategy.steps) == (0, [8])  # type: ignore[attr-defined]


class Gathering(Counted):
    """A strategy that counts the clips of a step."""

    def start(self, student: Detector, info: Any) -> None:
        self.clips, self.steps = 0, list[int]()

    def losses(self, batch: Batch, student: Detector, progress: Progress) -> StepLosses:
        self.clips += len(batch.labelled.clips_bcthw)
        return Supervised.losses(self, batch, student, progress)

    def forget_step(self) -> None:
        self.clips = 0

    def after_step(self, student: Detector, progress: Progress) -> None:
        self.steps.append(self.clips)
        self.clips = 0


def test_a_group_that_the_memory_does_not_hold_ends_the_run() -> None:
    run = grouped(STRATEGIES["dual_guidance"](), 8)
    too_big(run, clips=2)
    with pytest.raises(TrainingError, match=r"does not hold train.bn_batch = 2 labelled clips"):
        run.run()


@pytest.mark.parametrize("limit", range(1, 18))
def test_the_largest_part_is_found_in_few_tries(limit: int) -> None:
    tried: list[int] = []

    def fits(groups: int) -> bool:
        tried.append(groups)
        return groups <= limit

    assert largest_that_fits(fits, 16) == min(limit, 16)
    assert len(tried) <= 8 and 1 not in tried


@pytest.mark.parametrize("name", STRATEGIES)
def test_trying_what_fits_leaves_no_trace(name: str) -> None:
    run = grouped(STRATEGIES[name](), 2)
    run.student.train()
    too_big(run, clips=10)
    needs = run.strategy.needs
    group = 2 * (1 + needs.extra_labelled) + needs.temporal * (1 + needs.extra_labelled)
    before, drawn = copy.deepcopy(run.student.state_dict()), torch.get_rng_state()
    assert run._largest_part(reserve=1) == min(4, 10 // group)
    torch.testing.assert_close(run.student.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in run.student.parameters())


# ------------------------------------------------------------------------------------------ batch normalisation


def normalised(layer: nn.Module, chunks: Sequence[Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output of chunks one by one, the gradient of a sum at the input, and the entries afterwards."""
    inputs = [chunk.clone().requires_grad_() for chunk in chunks]
    out = torch.cat([layer(chunk) for chunk in inputs])
    (out.square() * torch.arange(out.numel()).view_as(out) / out.numel()).sum().backward()
    grad = torch.cat([torch.as_tensor(chunk.grad) for chunk in inputs])
    return out, grad, layer.state_dict()


LAYERS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(3), (6, 3)),
    "2d": (lambda: nn.BatchNorm2d(3), (6, 3, 4, 5)),
    "3d": (lambda: nn.BatchNorm3d(3), (6, 3, 2, 4, 5)),
    "mean over all batches": (lambda: nn.BatchNorm2d(3, momentum=None), (6, 3, 4, 5)),
    "no running statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (6, 3, 4, 5)),
    "of timm, with an activation": (lambda: BatchNormAct2d(3), (6, 3, 4, 5)),
}


TRACEABLE = {name: pair for name, pair in LAYERS.items() if can_be_traced(pair[0]())}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_groups_for_batches_of_their_own(name: str) -> None:
    make, shape = LAYERS[name]
    check_groups_are_batches(make(), shape)


@pytest.mark.parametrize("name", TRACEABLE)
def test_so_does_a_traceable_layer(name: str) -> None:
    make, shape = TRACEABLE[name]
    layer = make()
    make_traceable(layer)
    check_groups_are_batches(layer, shape)
    make_opaque(layer)
    assert type(layer) is type(make()) and vars(layer).keys() == vars(make()).keys()
    check_groups_are_batches(layer, shape)


def test_layers_that_do_more_than_normalise_are_not_made_traceable() -> None:
    assert LAYERS.keys() - TRACEABLE.keys() == {"of timm, with an activation"}


def check_groups_are_batches(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * torch.arange(1, 7).view(-1, *[1] * (len(shape) - 1))
    apart = normalised(copy.deepcopy(layer), x.chunk(3))
    names = list(layer.state_dict())
    with normalised_in_groups(layer, 3):
        together = normalised(layer, [x])
    torch.testing.assert_close(together[:2], apart[:2])
    assert list(together[2]) == names and "forward" not in vars(layer)
    for entry in names:
        torch.testing.assert_close(together[2][entry], apart[2][entry], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("traceable", [False, True])
def test_statistics_move_through_all_calls_of_a_group_before_the_next_group(traceable: bool) -> None:
    """As they do where each group goes through labelled and unlabelled clips before the next one comes."""
    torch.manual_seed(0)
    labelled, unlabelled = torch.randn(4, 3), torch.randn(4, 3) * 5 + 2
    apart, together = nn.BatchNorm1d(3, momentum=0.5), nn.BatchNorm1d(3, momentum=0.5)
    for group in range(2):
        for clips in (labelled, unlabelled):
            apart(clips[2 * group : 2 * group + 2])
    if traceable:
        make_traceable(together)
    with running_statistics_of_groups(together):
        for clips in (labelled, unlabelled):
            with normalised_in_groups(together, 2):
                together(clips)
        assert torch.equal(together.running_mean, torch.zeros(3))
    torch.testing.assert_close(together.state_dict(), apart.state_dict())


@pytest.mark.parametrize("traceable", [False, True])
def test_an_error_leaves_statistics_and_layers_as_they_were(traceable: bool) -> None:
    layer = nn.BatchNorm1d(3)
    if traceable:
        make_traceable(layer)
    refused = pytest.raises(ValueError, match="5 rows do not divide into 2 groups")
    with refused, running_statistics_of_groups(layer), normalised_in_groups(layer, 2):
        layer(torch.randn(4, 3))
        layer(torch.randn(5, 3))
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert layer.momentum == 0.1 and "forward" not in vars(layer) and getattr(layer, "groups", 1) == 1


def test_frozen_layers_know_no_groups() -> None:
    layer = nn.BatchNorm1d(3).eval()
    x = torch.randn(5, 3)
    with normalised_in_groups(layer, 2):
        assert torch.equal(layer(x), nn.BatchNorm1d(3).eval()(x))


def test_statistics_are_kept_and_put_back() -> None:
    layer = nn.BatchNorm1d(3)
    layer(torch.randn(4, 3))
    before = copy.deepcopy(layer.state_dict())
    snapshot = StatisticsSnapshot(layer)
    with statistics_kept(layer):
        layer(torch.randn(4, 3))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    layer(torch.randn(4, 3))
    now = copy.deepcopy(layer.state_dict())
    with snapshot.in_place():
        torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(layer.state_dict(), now, rtol=0, atol=0)
    snapshot.restore()
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("facts", [FACTS, MULTILABEL], ids=lambda facts: facts.name)
def test_one_group_is_computed_as_ever(facts: DatasetFacts) -> None:
    """No layer is touched where a part is one group: the numbers of a CPU stay what they were, bit for bit."""
    student, clips = tiny_detector(facts), torch.rand(4, 3, 4, 32, 32)
    plain = student(clips).frame_logits
    with normalised_in_groups(student, 1):
        assert all("forward" not in vars(module) for module in student.modules())
        assert torch.equal(student(clips).frame_logits, plain)
