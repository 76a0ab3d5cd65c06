"""Batch normalisation folded into convolutions: which layers it is, and that networks compute what they did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ssldet.nn import FoldedBatchNorm, fold_batch_norm
from ssldet_backbones.branches.catalogue import branch_2d, branch_3d


def settled(network: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics and weights of normalisation that are those of no fresh network."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for entry in (module.weight, module.bias, module.running_mean, module.running_var):
                assert entry is not None
                entry.data.copy_(0.5 + torch.rand(entry.shape, generator=generator))
    return network.eval()


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("network", "x", "pairs"),
    [
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU()), torch.rand(2, 3, 8, 8), 1),
        (nn.Sequential(nn.Conv3d(2, 4, (3, 1, 1), bias=False), nn.BatchNorm3d(4)), torch.rand(2, 2, 4, 3, 3), 1),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4, affine=False)), torch.rand(2, 2, 9), 1),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3)), torch.rand(2, 3, 8, 8), 0),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), torch.rand(2, 3, 8, 8), 0),
    ],
)
def test_only_what_normalises_a_convolution_is_folded(network: nn.Sequential, x: Tensor, pairs: int) -> None:
    network.eval()
    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean += 0.3  # type: ignore[operator]
                module.running_var *= 2  # type: ignore[operator]
        before, names = network(x), list(network.state_dict())
        folded = fold_batch_norm(network, lambda: network(x))
        assert folded.pairs == pairs
        with folded.in_place():
            assert sum(isinstance(module, nn.Identity) for module in network) == pairs
            assert difference(network(x), before) < 1e-5
        assert torch.equal(network(x), before)
    assert list(network.state_dict()) == names


class Odd(nn.Module):
    """Layers that stand beside each other as those of others do, and are called otherwise."""

    def __init__(self, form: Callable[[Odd, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.bn, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, x)


@pytest.mark.parametrize(
    "form",
    [
        lambda net, x: net.conv(net.bn(x)),  # the other way round
        lambda net, x: net.bn(net.conv(x).add_(1)),  # changed in between
        lambda net, x: net.bn(net.conv(net.conv(x))),  # used twice
        lambda net, x: net.bn(net.conv(x)) + net.bn(x),  # likewise
    ],
)
def test_a_call_says_which_layer_normalises_which(form: Callable[[Odd, Tensor], Tensor]) -> None:
    network = Odd(form).eval()
    with torch.no_grad():
        assert fold_batch_norm(network, lambda: network(torch.rand(1, 3, 4, 4))).pairs == 0


def test_neither_layers_in_training_nor_those_with_hooks_are_folded() -> None:
    x = torch.rand(2, 3, 8, 8)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    with torch.no_grad():
        assert fold_batch_norm(network.train(), lambda: network(x)).pairs == 0
        hook = network.eval()[0].register_forward_hook(lambda module, inputs, output: output * 2)
        assert fold_batch_norm(network, lambda: network(x)).pairs == 0
        hook.remove()
        assert fold_batch_norm(network, lambda: network(x)).pairs == 1


class FoldsItself(nn.Module):
    """Layers that are folded by the module that they belong to, at its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
        self.folded: FoldedBatchNorm | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.folded = self.folded or fold_batch_norm(self.layers, lambda: self.layers(x))
        with self.folded.in_place():
            assert isinstance(self.layers[1], nn.Identity)
            y: Tensor = self.layers(x)
            return y


@pytest.mark.parametrize("first_call", ["before", "while it is watched"])
def test_a_part_that_folds_itself_is_left_to_do_so(first_call: str) -> None:
    part, x = FoldsItself(), torch.rand(2, 3, 8, 8)
    network = nn.Sequential(part, nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).eval()
    with torch.no_grad():
        if first_call == "before":
            network(x)
        folded = fold_batch_norm(network, lambda: network(x))
        assert part.folded is not None and (part.folded.pairs, folded.pairs) == (1, 1)
        with folded.in_place():
            assert isinstance(network[2], nn.Identity)
            together = network(x)
        assert difference(together, network(x)) < 1e-5


def test_an_error_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)).eval()
    modules = list(network)
    folded = fold_batch_norm(network, lambda: network(torch.rand(1, 3, 8, 8)))
    with pytest.raises(RuntimeError), folded.in_place():
        network(torch.rand(1, 2, 8, 8))
    assert list(network) == modules


@pytest.mark.parametrize(("name", "pairs"), [("shufflenet_2x", 49), ("r2plus1d_18", 37)])
def test_published_3d_branches_keep_their_maps(name: str, pairs: int) -> None:
    branch = settled(branch_3d(name).build())
    clips = torch.rand(1, 3, 16, 32, 32)
    with torch.no_grad():
        before: list[Tensor] = []
        folded = fold_batch_norm(branch, lambda: before.append(branch(clips)))
        assert folded.pairs == pairs
        with folded.in_place():
            assert difference(branch(clips), before[0]) < 1e-4


@pytest.mark.parametrize(("name", "pairs"), [("darknet19", 22), ("timm:tf_efficientnet_lite0", 48)])
def test_2d_branches_keep_their_maps(name: str, pairs: int) -> None:
    branch = settled(branch_2d(name).build())
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before: list[Tensor] = []
        folded = fold_batch_norm(branch, lambda: before.append(branch(images)))
        assert folded.pairs == pairs
        with folded.in_place():
            assert difference(branch(images), before[0]) < 1e-4
