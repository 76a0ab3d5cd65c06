"""How a step is computed on the device at hand: memory layout, compilation, a fused optimiser.

None of it is part of a run: numbers move by rounding alone. Each is "on", "off", or "auto", which is off on a CPU, and
on a GPU is on where a few rehearsed steps take less time with it.

channels_last     weights of convolutions lie channels last, and maps follow them; off leaves the layout as it is
compile           torch.compile of the blocks of student and teacher; names of entries stay
fused_optimizer   one kernel moves all weights
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ssldet.nn.batch_norm import can_be_traced, make_opaque, make_traceable
from ssldet.nn.recomputing import blocks
from ssldet.training.memory import free_memory
from ssldet.util.devices import wait_for

OPTIONS = ("channels_last", "compile", "fused_optimizer")
"""In the order in which they are tried."""

WORTH = 0.97
"""An option must take less than this share of the time that the step takes without it."""

LONG = 1800.0
"""Seconds of training from which on it is found out whether compiled code is quicker."""

WARM_UP, REPEATS = 2, 3
"""Calls before the first that is timed; timed calls, of which the quickest counts."""

KINDS_OF_BLOCKS = 64
"""How often the compiler may take up the code of a block anew, for another shape, another mode or other layers."""

OF_COMPILER: dict[str, Any] = {"fallback_random": True}
"""What networks draw is what they draw when they are not compiled."""

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}

Measure = Callable[[frozenset[str]], float]
"""Options -> seconds of a step with them."""


def choose(asked: Mapping[str, str], measure: Measure | None, steps: float = math.inf) -> frozenset[str]:
    """The options that are on.

    Args:
        asked: "auto", "on" or "off" by option; "auto" where it is not named.
        measure: decides what is "auto", one option after another; None: that is off.
        steps: what is left to train. Compilation takes minutes, and is tried where that lasts longer than `LONG`.
    """
    taken = frozenset(name for name in OPTIONS if asked.get(name) == "on")
    undecided = [name for name in OPTIONS if asked.get(name, "auto") == "auto"]
    if measure is None or not undecided:
        return taken
    seconds = measure(taken)
    for name in undecided:
        if name == "compile" and steps * seconds < LONG:
            continue
        if (tried := measure(taken | {name})) < WORTH * seconds:
            taken, seconds = taken | {name}, tried
    return taken


class Accelerator:
    """The options of one training, chosen once and laid on its networks and optimiser.

    Args:
        asked: see `choose`.
        device: where training happens.
        say: hears what could not be done.

    Attributes:
        taken: the options that are on; None as long as nothing was chosen.
        seconds: what was measured, a step each.
    """

    def __init__(self, asked: Mapping[str, str], device: torch.device, say: Callable[[str], None]) -> None:
        self.asked, self.device, self.say = dict(asked), device, say
        self.taken: frozenset[str] | None = None
        self.seconds: dict[str, float] = {}
        self._compiled_at_once = 1

    def choose(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        rehearsal: Callable[[int], None],
        at_once: int,
        groups: int,
        steps: int,
    ) -> int:
        """Choose, once; returns how many groups are computed at once from here on.

        Compiled blocks may take more memory than others, and come in halves then.

        Args:
            rehearsal: computes so many groups, forwards and backwards, without a trace.
            at_once: groups that would be computed at once.
            groups: of a step, those of this process.
            steps: what is left to train.
        """
        if self.taken is None:
            measure = partial(self._measured, student, optimizer, rehearsal, at_once, groups)
            self.taken = choose(self.asked, measure if self.device.type == "cuda" else None, steps)
            if "compile" in self.taken:
                seconds, self._compiled_at_once = self._of_group(student, self.taken, rehearsal, at_once)
                if math.isinf(seconds):
                    self.taken -= {"compile"}
        return min(at_once, self._compiled_at_once) if "compile" in (self.taken or ()) else at_once

    def apply(self, networks: Iterable[nn.Module], optimizer: Optimizer) -> None:
        """Let networks and the optimiser compute so; what does already is left alone."""
        if self.taken is None:
            return
        for network in networks:
            if "channels_last" in self.taken:
                lay_channels_last(network)
            if "compile" in self.taken:
                compile_blocks(network)
        fuse(optimizer, "fused_optimizer" in self.taken)

    def as_record(self) -> dict[str, Any]:
        """Plain data: which options are on, and what was measured."""
        chosen: dict[str, Any] = {name: name in (self.taken or ()) for name in OPTIONS}
        return chosen | ({"seconds": self.seconds} if self.seconds else {})

    def _measured(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        rehearsal: Callable[[int], None],
        at_once: int,
        groups: int,
        options: frozenset[str],
    ) -> float:
        of_group, _ = self._of_group(student, options, rehearsal, at_once)
        seconds = of_group * groups + self._optimizer_seconds(optimizer, "fused_optimizer" in options)
        self.seconds[" + ".join(name for name in OPTIONS if name in options) or "none"] = seconds
        return seconds

    def _of_group(
        self, student: nn.Module, options: frozenset[str], rehearsal: Callable[[int], None], at_once: int
    ) -> tuple[float, int]:
        """Seconds of a group with options, infinite where they cannot be had; how many groups are computed at once."""
        while True:
            try:
                return self._attempt(student, options, partial(rehearsal, at_once)) / at_once, at_once
            except torch.OutOfMemoryError:
                free_memory()
                if at_once == 1 or "compile" not in options:
                    return math.inf, at_once
                at_once //= 2

    def _attempt(self, student: nn.Module, options: frozenset[str], call: Callable[[], None]) -> float:
        """Seconds of a call with options; infinite where the compiler does not do it."""
        try:
            with _for_a_while(student, options):
                return seconds_of(call, self.device)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a compiler all are possible, those of wrong code that it made too
            if "compile" not in options:
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            self.say(f"the network cannot be compiled here, and computes as it is ({type(error).__name__}: {reason})")
            return math.inf
        finally:
            free_memory()

    def _optimizer_seconds(self, optimizer: Optimizer, fused: bool) -> float:
        trial = rehearsed_optimizer(optimizer)
        fuse(trial, fused)
        return seconds_of(trial.step, self.device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """What a call takes on a device, warmed up; the quickest of some."""
    for _ in range(WARM_UP):
        call()
    return min(_seconds(call, device) for _ in range(REPEATS))


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    wait_for(device)
    began = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - began


def lay_channels_last(network: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Lay weights of convolutions channels last, in place; returns each with what it was."""
    before = [(weight, weight.data) for weight in network.parameters() if weight.ndim in FORMATS]
    for weight, values in before:
        weight.data = values.contiguous(memory_format=FORMATS[weight.ndim])
    return before


def compile_blocks(network: nn.Module) -> None:
    """Let each block of a network be called through the compiler; what is compiled already stays so.

    Blocks of a kind share their code, so that a deep network compiles in a small part of the time that it takes whole.
    """
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, KINDS_OF_BLOCKS)
    for block in compiled_parts(network):
        if block._compiled_call_impl is None:
            make_traceable(block)
            block.compile(dynamic=False, options=OF_COMPILER)


def compiled_parts(network: nn.Module) -> list[nn.Module]:
    """What of a network is compiled: its blocks (`ssldet.nn.recomputing.blocks`), and what lies beside them.

    A composite module without blocks is compiled as one, a list of modules piece by piece, and a layer that normalises
    and stands by itself, too. Parts with a layer that normalises in a way that a compiler cannot be shown stay as they
    are.
    """
    inner = set(blocks(network))
    around = {parent for parent in network.modules() if not inner.isdisjoint(parent.modules())} - inner
    return [part for part in _parts_of(network, inner, around) if can_be_traced(part)]


def _parts_of(module: nn.Module, inner: set[nn.Module], around: set[nn.Module]) -> Iterator[nn.Module]:
    is_taken_apart = module in around or isinstance(module, nn.ModuleList | nn.ModuleDict)  # which nobody calls
    if module in inner or (not is_taken_apart and (any(module.children()) or isinstance(module, _BatchNorm))):
        yield module
    elif is_taken_apart:
        for child in module.children():
            yield from _parts_of(child, inner, around)


def fuse(optimizer: Optimizer, fused: bool) -> None:
    """Let one kernel move all weights, or not; moments lie as the weights do, and counters where the kernel is."""
    for group in optimizer.param_groups:
        group["fused"] = fused or None
    if not fused:
        return
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
            else:
                state[name] = value.to(parameter.device)


def rehearsed_optimizer(optimizer: Optimizer) -> Optimizer:
    """One of the same kind over copies of its weights, with gradients."""
    groups = []
    for group in optimizer.param_groups:
        copies = [nn.Parameter(p.detach().clone()) for p in group["params"] if p.requires_grad]
        for each in copies:
            each.grad = torch.zeros_like(each)
        groups.append({**group, "params": copies})
    kind: Callable[..., Optimizer] = type(optimizer)  # torch's own have defaults, which their base has not
    return kind(groups)


@contextmanager
def _for_a_while(network: nn.Module, options: frozenset[str]) -> Iterator[None]:
    before = lay_channels_last(network) if "channels_last" in options else []
    if "compile" in options:
        compile_blocks(network)
    try:
        yield
    finally:
        for block in compiled_parts(network):
            block._compiled_call_impl = None
            make_opaque(block)
        for weight, values in before:
            weight.data = values
