"""Parts of a network that are not trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from torch import nn


class FrozenParts(nn.Module):
    """Base of a module some of whose parts are not trained, in place of nn.Module: no gradient, no dropout, and batch
    normalisation uses and keeps the statistics that it has.

    Call `freeze` after the parts are made. `train()` leaves them in evaluation mode, also when it is called on a
    module that this one is part of. Names of entries are those of any module, and a copy's parts are frozen too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._frozen: tuple[nn.Module, ...] = ()  # a tuple, which registers no module twice

    def freeze(self, *parts: nn.Module) -> None:
        """Stop training these modules and all in them; what was frozen before stays so.

        Raises:
            ValueError: one of them is no part of this module, whose `train()` would not reach it.
        """
        own = set(self.modules())
        strange = [type(part).__name__ for part in parts if part not in own or part is self]
        if strange:
            raise ValueError(f"{strange[0]} is no part of {type(self).__name__}: freeze what is assigned to it")
        self._frozen += parts
        for part in parts:
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """As usual, except that frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self


def frozen_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of which no parameter is trained, by name. What has no parameters of its own is none of them."""
    for name, layer in network.named_modules():
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            yield name, layer
