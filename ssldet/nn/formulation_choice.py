"""The quickest layout of a network's convolutions and formulations of its 3D ones, on the device at hand, measured.

    chosen = choose_formulations(network, clips, backward=True)
    chosen.as_record()   # what a run's record says of it

Weights, their names and numbers stay; results move by rounding alone. What was measured is kept for the process.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssldet.nn.convolution import Conv3d
from ssldet.nn.formulations import formulations_of
from ssldet.util.devices import tensors_in, wait_for

Layout = Literal["as it is", "contiguous", "channels last"]
"""Of the weights of all convolutions, which maps then follow."""

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}
FORMATS_2D = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}

REPEATS, REPEATS_ON_CPU = 6, 2
"""Timed calls of a layer or network, of which the quickest counts; one before them is not timed."""

HOPELESS = 4
"""On a CPU, where a first call is much like the next, what takes so many times the best so far is called just once."""

WORTH = 0.97
"""Another choice must take less than this share of the time that the network takes as it is."""

_Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ChosenFormulations:
    """How the convolutions of a network are computed.

    Attributes:
        layout: of all of them, in 2D and 3D.
        formulations: name of a 3D layer -> its formulation; torch's own is not listed.
        seconds: of the network as it was ("as it is") and under what was tried, a call each.
    """

    layout: Layout
    formulations: Mapping[str, str]
    seconds: Mapping[str, float]

    def apply(self, network: nn.Module) -> None:
        """Let a network compute so."""
        for name, layer in network.named_modules():
            if not isinstance(layer, nn.Conv2d | nn.Conv3d) or self.layout == "as it is":
                continue
            formats = FORMATS if isinstance(layer, nn.Conv3d) else FORMATS_2D
            layer.weight.data = layer.weight.data.contiguous(memory_format=formats[self.layout])
            if isinstance(layer, Conv3d):
                layer.formulation = self.formulations.get(name)

    def as_record(self) -> dict[str, Any]:
        """Plain data: the layout, how many layers have each formulation, and what the choice is worth."""
        chosen = self.seconds.get(self.layout, 0.0)
        return {
            "layout": self.layout,
            "formulations": dict(sorted(Counter(self.formulations.values()).items())),
            "times_as_fast": round(self.seconds["as it is"] / chosen, 2) if chosen else 1.0,
        }


_chosen: dict[_Key, ChosenFormulations] = {}


def choose_formulations(
    network: nn.Module, clips_bcthw: Tensor, *, backward: bool, autocast: bool = False
) -> ChosenFormulations:
    """Measure, let the network compute as was quickest, and say what that is.

    Layers are timed one by one in both layouts, then the network with the best of each layout, as a whole. A copy of it
    is measured: neither statistics nor the state of torch's generators move.

    Args:
        network: anything over clips, on the device.
        clips_bcthw: clips as it will get them.
        backward: whether it will be trained; else it is timed in evaluation mode.
        autocast: whether it will compute in bfloat16.
    """
    devices = [clips_bcthw.device] if clips_bcthw.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(clips_bcthw.device.type, torch.bfloat16, enabled=autocast):
        trial = copy.deepcopy(network)
        inputs = _inputs_of_layers(trial, clips_bcthw)
        flat = [tuple(layer.weight.shape) for layer in trial.modules() if isinstance(layer, nn.Conv2d)]
        named = ((name, _key(*pair)) for name, pair in inputs.items())
        key = (_place(clips_bcthw.device), backward, autocast, *flat, *named)
        if key not in _chosen:
            _chosen[key] = _measured(trial, clips_bcthw, inputs, backward)
    _chosen[key].apply(network)
    return _chosen[key]


def _measured(
    trial: nn.Module, clips_bcthw: Tensor, inputs: Mapping[str, tuple[Conv3d, Tensor]], backward: bool
) -> ChosenFormulations:
    seconds = {"as it is": _seconds_of_network(trial, clips_bcthw, backward)}
    tried: list[ChosenFormulations] = [ChosenFormulations("as it is", {}, seconds)]
    layouts: tuple[Layout, ...] = ("contiguous", "channels last") if inputs else ()
    for layout in layouts:
        quickest = {_key(layer, x): _quickest(layer, x, layout, backward) for layer, x in inputs.values()}
        named = {name: quickest[_key(layer, x)] for name, (layer, x) in inputs.items()}
        choice = ChosenFormulations(layout, {name: each for name, each in named.items() if each}, seconds)
        choice.apply(trial)
        seconds[layout] = _seconds_of_network(trial, clips_bcthw, backward)
        tried.append(choice)
    best = min(tried, key=lambda choice: seconds[choice.layout])
    return best if seconds[best.layout] < WORTH * seconds["as it is"] else tried[0]


def _inputs_of_layers(network: nn.Module, clips_bcthw: Tensor) -> dict[str, tuple[Conv3d, Tensor]]:
    """Each of our layers by name, and an empty tensor of the shape and type that it gets."""
    inputs: dict[str, tuple[Conv3d, Tensor]] = {}
    network.eval()
    with ExitStack() as stack, torch.no_grad():
        for name, layer in network.named_modules():
            if isinstance(layer, Conv3d):

                def note(module: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                    assert isinstance(module, Conv3d)
                    inputs[name] = module, torch.empty(args[0].shape, dtype=args[0].dtype, device="meta")

                stack.callback(layer.register_forward_pre_hook(note).remove)
        network(clips_bcthw)
    return inputs


def _key(layer: Conv3d, x: Tensor) -> _Key:
    """What the time of a layer depends on."""
    shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return (*shape, layer.groups, layer.bias is None, tuple(x.shape), x.dtype)


def _place(device: torch.device) -> _Key:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name, torch.get_num_threads()


def _quickest(layer: Conv3d, like: Tensor, layout: Layout, backward: bool) -> str | None:
    """The formulation that takes the least time in a layout; None is torch's own."""
    form = FORMATS[layout]
    device = layer.weight.device
    x = torch.rand(like.shape, dtype=like.dtype, device=device).contiguous(memory_format=form)
    layer = copy.deepcopy(layer)
    layer.weight.data = layer.weight.data.contiguous(memory_format=form)
    seconds: dict[str | None, float] = {}
    for name in (None, *formulations_of(layer)):
        layer.formulation = name
        # the first layer of all needs no gradient of its input
        asked = x.detach().requires_grad_(backward and layer.in_channels > 3)

        def once(asked: Tensor = asked) -> None:
            out = layer(asked)
            if backward:
                out.backward(torch.ones_like(out))

        bound = HOPELESS * min(seconds.values(), default=float("inf"))
        seconds[name] = _seconds(once, device, backward, bound if device.type == "cpu" else float("inf"))
    return min(seconds, key=lambda name: seconds[name])


def _seconds_of_network(network: nn.Module, clips_bcthw: Tensor, backward: bool) -> float:
    def once() -> None:
        out = network(clips_bcthw)
        if backward:
            network.zero_grad(set_to_none=True)
            total = sum(tensor.float().sum() for tensor in tensors_in(out) if tensor.requires_grad)
            if isinstance(total, Tensor):
                total.backward()

    network.train(backward)
    seconds = _seconds(once, clips_bcthw.device, backward)
    network.zero_grad(set_to_none=True)
    return seconds


def _seconds(once: Callable[[], None], device: torch.device, backward: bool, bound: float = float("inf")) -> float:
    """Of the quickest call; where the first one takes longer than a bound, of that one."""
    taken = []
    with torch.set_grad_enabled(backward):
        for _ in range((REPEATS_ON_CPU if device.type == "cpu" else REPEATS) + 1):
            wait_for(device)
            began = time.perf_counter()
            once()
            wait_for(device)
            taken.append(time.perf_counter() - began)
            if taken[0] > bound:
                return taken[0]
    return min(taken[1:])
