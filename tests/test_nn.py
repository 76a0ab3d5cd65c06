"""Modules that networks are made of: parts that are not trained. Others are tested with the networks that use them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssldet.nn import FrozenParts


class Halves(FrozenParts):
    """Two normalised layers, the first of which is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.freeze(self.first)

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x_bchw))


def step(network: nn.Module) -> set[str]:
    """The layers that a training step moves, by gradient or statistics."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.randn(8, 3, 2, 2)).square().sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad + 1
    return {name.split(".")[-3] for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def test_frozen_parts_keep_weights_and_statistics() -> None:
    network = Halves()
    assert step(network.train()) == {"second"}
    assert [network.first.training, network.first[1].training, network.second[1].training] == [False, False, True]
    assert not network.train(False).second.training


def test_names_of_entries_are_those_of_any_module() -> None:
    assert list(Halves().state_dict())[:2] == ["first.0.weight", "first.0.bias"]
    assert len(list(Halves().modules())) == 9


@pytest.mark.parametrize("wrap", [copy.deepcopy, nn.Sequential])
def test_they_stay_frozen_in_a_copy_and_within_another_module(wrap) -> None:
    network = wrap(Halves())
    assert step(network.train()) == {"second"}


def test_a_module_that_is_no_part_is_refused() -> None:
    network = Halves()
    for strange in (nn.Linear(1, 1), network):
        with pytest.raises(ValueError, match="is no part of Halves"):
            network.freeze(strange)
