"""Batch normalisation over all groups of a step, those of other processes too: one batch, whoever computes its parts.

    with normalised_together(network, ranks):
        network(clips_of_the_groups_of_this_process)

Each layer takes its mean and variance over the rows of all processes, and its gradient accordingly, as synchronised
batch normalisation does (`train.sync_bn`); running statistics move once a call, everywhere alike. `nn.SyncBatchNorm`
does this on GPUs alone, and as another layer; here a network's layers stay what they are.

All processes must call the network in training mode as often, and go backwards through the same calls: each call waits
for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssldet.nn.batch_norm import batch_norms, one_batch
from ssldet.util.ranks import Ranks


@contextmanager
def normalised_together(network: nn.Module, ranks: Ranks) -> Iterator[None]:
    """While it lasts, the rows of a call in training mode are one batch with those of all processes, whatever
    `normalised_in_groups` says.
    """
    layers = [layer for layer in batch_norms(network) if layer.training]
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:  # an attribute of the instance goes before the method of its class
        layer.forward = partial(_forward, layer, layer.forward, ranks)  # type: ignore[method-assign]
    try:
        with one_batch():
            yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward  # type: ignore[method-assign]


def _forward(layer: _BatchNorm, forward: Callable[[Tensor], Tensor], ranks: Ranks, x: Tensor) -> Tensor:
    """Normalise here, and let the layer do the rest as it does in evaluation, with a mean of 0 and a deviation of 1.

    A layer that is in evaluation mode, where the student labels clips itself, computes as it does there.
    """
    if not layer.training:
        return forward(x)
    x_nc = x.float().movedim(1, -1).reshape(-1, x.shape[1])
    count, total_c = _summed(ranks, x_nc.new_tensor([len(x_nc)])), _summed(ranks, x_nc.sum(dim=0))
    mean_c = total_c / count
    variance_c = _summed(ranks, (x_nc - mean_c).square().sum(dim=0)) / count
    _move(layer, mean_c.detach(), variance_c.detach(), count)
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    normalised = (x.float() - mean_c.view(shape)) * (variance_c + layer.eps).rsqrt().view(shape)
    with _as_normalised(layer, x.device):
        return forward(normalised.to(x.dtype))


@torch.no_grad()
def _move(layer: _BatchNorm, mean_c: Tensor, variance_c: Tensor, count: Tensor) -> None:
    if layer.running_mean is None or layer.running_var is None:
        return
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    share = 1 / int(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    unbiased_c = variance_c * count / (count - 1).clamp_min(1)
    layer.running_mean.lerp_(mean_c.to(layer.running_mean.dtype), share)
    layer.running_var.lerp_(unbiased_c.to(layer.running_var.dtype), share)


@contextmanager
def _as_normalised(layer: _BatchNorm, device: torch.device) -> Iterator[None]:
    """In evaluation mode, over statistics that leave what comes in as it is but for weight and bias."""
    before = {name: layer._buffers.get(name) for name in ("running_mean", "running_var")}
    ones_c = torch.ones(layer.num_features, device=device)
    layer._buffers.update(running_mean=torch.zeros_like(ones_c), running_var=ones_c - layer.eps)
    layer.training = False
    try:
        yield
    finally:
        layer.training = True
        layer._buffers.update(before)


def _summed(ranks: Ranks, values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values, ranks)
    return total


class _Sum(torch.autograd.Function):
    """The sum over processes; every process's loss has its part in the gradient of each."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return _sum(values, ranks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sum(gradient, ctx.ranks), None


def _sum(values: Tensor, ranks: Ranks) -> Tensor:
    total = values.clone()
    ranks.sum_in_place([total])
    return total
