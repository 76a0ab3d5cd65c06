"""Batch normalisation in evaluation mode, folded into the convolutions before it: the same maps, with less traffic.

    folded = fold_batch_norm(network, lambda: network(clips))
    with folded.in_place():
        network(clips)

Which layer normalises which convolution is seen in one call, not guessed from names. Rounding apart, nothing changes.
Parts that fold their own layers whenever they are called keep doing so: these are left to them.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssldet.nn.normalisation import BatchNorm3d

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm3d, nn.SyncBatchNorm)

LayerPair = tuple[nn.Module, nn.Module]
"""A convolution and what follows it."""


@dataclass(frozen=True, slots=True)
class FoldedBatchNorm:
    """Convolutions with normalisation in them, and what is left behind each, beside the network that they are for.

    Attributes:
        network: the network, whose modules and entries stay what they are but within `in_place`.
        pairs: how many layers of batch normalisation are folded.
    """

    network: nn.Module
    _replacements: dict[nn.Module, nn.Module]

    @property
    def pairs(self) -> int:
        return len(self._replacements) // 2

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network computes with folded layers for a while. It must be in evaluation mode, and not be trained."""
        swapped: list[tuple[dict[str, nn.Module | None], str, nn.Module]] = []
        try:
            for parent in list(self.network.modules()):
                for name, child in parent._modules.items():
                    if child is not None and child in self._replacements:
                        swapped.append((parent._modules, name, child))
            for modules, name, child in swapped:
                modules[name] = self._replacements[child]
            yield
        finally:
            for modules, name, child in swapped:
                modules[name] = child


@torch.no_grad()
def fold_batch_norm(
    network: nn.Module,
    call: Callable[[], object],
    finish: Callable[[nn.Module, nn.Module], LayerPair] = lambda *pair: pair,
) -> FoldedBatchNorm:
    """Fold every batch normalisation that takes the whole output of a convolution of 1 to 3 dimensions, once a call.

    The folded layers are those of the network's weights now; make them anew when these have changed.

    Args:
        network: in evaluation mode.
        call: computes with the network as it will be used, such as `lambda: network(clips)`.
        finish: what is put in the places of each folded convolution and its normalisation. It gets the convolution and
            what is left of the normalisation (its activation, or nothing), and returns two that compute the same.
    """
    pairs = _pairs_in(network, call)
    replacements: dict[nn.Module, nn.Module] = {}
    for convolution, normalisation in pairs:
        finished = finish(_fused(convolution, normalisation), _what_follows(normalisation))
        replacements[convolution], replacements[normalisation] = finished
    return FoldedBatchNorm(network, replacements)


def _fused(convolution: nn.Module, normalisation: nn.Module) -> nn.Module:
    assert isinstance(convolution, CONVOLUTIONS) and isinstance(normalisation, _BatchNorm)
    fused: nn.Module = fuse_conv_bn_eval(convolution, normalisation)
    return fused.requires_grad_(False)


@dataclass(slots=True)
class _Seen:
    """What one call of a network shows: how often each layer ran, and whose output a normalisation took."""

    calls: Counter[nn.Module] = field(default_factory=Counter)
    makers: dict[int, tuple[weakref.ref[Tensor], nn.Module, int]] = field(default_factory=dict)
    pairs: list[tuple[nn.Module, nn.Module]] = field(default_factory=list)

    def convolved(self, convolution: nn.Module, _: Any, output: Tensor) -> None:
        if _watching.get() is not self:
            return
        self.calls[convolution] += 1
        self.makers[id(output)] = weakref.ref(output), convolution, _version(output)

    def normalised(self, normalisation: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if _watching.get() is not self:
            return
        self.calls[normalisation] += 1
        made = self.makers.get(id(inputs[0])) if inputs else None
        if made and made[0]() is inputs[0] and made[2] == _version(inputs[0]):  # the same tensor, as it came
            self.pairs.append((made[1], normalisation))


_watching: ContextVar[_Seen | None] = ContextVar("_watching", default=None)
"""Who watches the present call: a part that folds its own layers within it makes a call of its own."""


def _version(tensor: Tensor) -> int:
    """How often it was changed in place; those of inference mode do not count it."""
    return 0 if tensor.is_inference() else tensor._version


def _pairs_in(network: nn.Module, call: Callable[[], object]) -> list[tuple[nn.Module, nn.Module]]:
    seen = _Seen()
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code may not heed the hooks below
        for module in network.modules():
            if isinstance(module, CONVOLUTIONS) and _is_plain(module):
                stack.callback(module.register_forward_hook(seen.convolved).remove)
            elif isinstance(module, NORMALISATIONS) and _can_be_folded(module):
                stack.callback(module.register_forward_pre_hook(seen.normalised).remove)
        token = _watching.set(seen)
        stack.callback(_watching.reset, token)
        call()
    return [pair for pair in seen.pairs if all(seen.calls[module] == 1 for module in pair)]


def _is_plain(convolution: nn.Module) -> bool:
    """Whether its weight is an entry of its own, not computed from others, and nobody listens to its output."""
    own = isinstance(convolution._parameters.get("weight"), nn.Parameter)
    return own and not convolution.training and not parametrize.is_parametrized(convolution) and _unheard(convolution)


def _can_be_folded(normalisation: nn.Module) -> bool:
    known = type(normalisation) in NORMALISATIONS or _with_activation(normalisation)
    has_statistics = getattr(normalisation, "running_mean", None) is not None
    return known and has_statistics and not normalisation.training and _unheard(normalisation)


def _unheard(layer: nn.Module) -> bool:
    """Whether nobody listens to its calls but those who fold."""
    hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
    return all(isinstance(getattr(hook, "__self__", None), _Seen) for hook in hooks)


def _with_activation(normalisation: nn.Module) -> bool:
    """Whether it is timm's layer, which holds what follows it."""
    return all(isinstance(getattr(normalisation, name, None), nn.Module) for name in ("drop", "act"))


def _what_follows(normalisation: nn.Module) -> nn.Module:
    return normalisation.get_submodule("act") if _with_activation(normalisation) else nn.Identity()
