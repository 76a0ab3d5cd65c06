"""Batch normalisation of clips: the same in three dimensions and, where maps lie channels last, in two."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssldet.nn import BatchNorm3d
from ssldet.nn.convolution import take_own_layers


def layers() -> tuple[BatchNorm3d, BatchNorm3d]:
    torch.manual_seed(0)
    layer = BatchNorm3d(6)
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    return layer, copy.deepcopy(layer)


def maps() -> Tensor:
    x = torch.randn(2, 6, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    return x.requires_grad_()


@pytest.mark.parametrize("training", [True, False])
def test_two_dimensions_give_what_three_give(training: bool) -> None:
    plain, other = (layer.train(training) for layer in layers())
    x, weight = maps(), torch.randn(2, 6, 3, 4, 5)
    grads = []
    for layer, normalise in ((plain, plain), (other, other.in_two_dimensions)):
        out = F.relu(normalise(x), inplace=True)
        (out * weight).sum().backward()
        grads.append((out.detach(), x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var))
        x.grad = None
    assert grads[0][0].shape == grads[1][0].shape
    for one, same in zip(*grads, strict=True):
        torch.testing.assert_close(one, same)


def test_the_result_lies_channels_last_and_is_no_view() -> None:
    _, layer = layers()
    out = layer.in_two_dimensions(maps())
    assert out.is_contiguous(memory_format=torch.channels_last_3d) and not out._is_view()


def test_maps_of_images_are_refused_with_their_shape() -> None:
    with pytest.raises(ValueError, match=r"\(b, c, t, h, w\), and \(2, 6\) came"):
        BatchNorm3d(6)(torch.zeros(2, 6))


def test_layers_of_a_library_become_own_ones_and_keep_what_they_know() -> None:
    network = nn.Sequential(nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6), nn.BatchNorm2d(6))
    names = list(network.state_dict())
    take_own_layers(network)
    assert isinstance(network[1], BatchNorm3d) and type(network[2]) is nn.BatchNorm2d
    assert list(network.state_dict()) == names
