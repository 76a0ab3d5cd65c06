"""Batch normalisation of several groups of clips in one call of a network, and of running statistics in their order.

    with running_statistics_of_groups(network):         around all calls of a part of a step
        with normalised_in_groups(network, groups=4):   around one call
            network(torch.cat(clips_of_four_groups))

gives what four calls in a row give, one a group: each group is normalised by itself, and running statistics move group
after group, each through all of its calls. Layers are those of torch, and classes derived from them (`nn.BatchNorm1d`
to 3d, `nn.SyncBatchNorm`, timm's); the names of their entries stay. Rows of a layer's input must be in the order of the
clips, as those of a network over clips (or over the frames of one clip after another) are. What has its batch
statistics from elsewhere, a call of `functional.batch_norm` for one, cannot be told of groups.

torch.compile cannot trace a method that replaces a layer's own; `make_traceable` gives layers a form that it can.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssldet.nn.normalisation import BatchNorm3d


@dataclass(slots=True)
class _Statistics:
    """What one call of a layer would add to its running statistics: batch mean and variance, (g, c) for g groups."""

    mean_gc: Tensor
    variance_gc: Tensor


_Moments = dict[_BatchNorm, list[_Statistics]]

_groups: ContextVar[int] = ContextVar("groups that a call of a network has", default=1)

_held: ContextVar[_Moments | None] = ContextVar("running statistics that are held back", default=None)

_is_one_batch: ContextVar[bool] = ContextVar("whether all groups of a call are one batch", default=False)

_record: ContextVar[StatisticsRecord | None] = ContextVar("where running statistics are written down", default=None)


class StatisticsRecord:
    """What calls of layers would add to running statistics, in order, to be moved later: with those of other processes.

    Attributes:
        rows: of each layer, (n, c) means and variances of one batch after another.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        layers = [layer for network in networks for layer in batch_norms(network) if layer.running_mean is not None]
        self.rows: dict[_BatchNorm, list[_Statistics]] = {layer: [] for layer in dict.fromkeys(layers)}

    @contextmanager
    def of_part(self) -> Iterator[None]:
        """Write down what calls in training mode would add, within `normalised_in_groups` or not; nothing moves."""
        before = {layer: layer.__dict__.get("forward") for layer in self.rows}
        for layer in self.rows:
            layer.forward = partial(self._forward, layer, layer.forward)  # type: ignore[method-assign]
        held: _Moments = defaultdict(list)
        tokens = _held.set(held), _record.set(self)
        try:
            yield
        finally:
            _held.reset(tokens[0])
            _record.reset(tokens[1])
            for layer, forward in before.items():
                del layer.forward
                if forward is not None:
                    layer.forward = forward  # type: ignore[method-assign]
        for layer, calls in held.items():
            self.rows[layer].append(_in_order(calls))

    @torch.no_grad()
    def move(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Move running statistics through all that was written down here and elsewhere.

        Args:
            gather: (n, ...) of this process -> the rows of all processes, in the order in which statistics move.
        """
        if not self.rows:
            return
        mine = {layer: _joined(layer, rows) for layer, rows in self.rows.items()}
        counts = torch.tensor([[len(rows.mean_gc) for rows in mine.values()]])
        flat = torch.cat([part.reshape(-1) for rows in mine.values() for part in (rows.mean_gc, rows.variance_gc)])
        for layer, rows in self._of_all(gather(counts).tolist(), gather(flat)).items():
            n = len(rows.mean_gc)
            if layer.num_batches_tracked is not None:  # the calls of this process are counted already
                layer.num_batches_tracked.add_(n - len(mine[layer].mean_gc))
            if n:
                _move_layer(layer, rows)

    def _of_all(self, counts: list[list[int]], flat: Tensor) -> dict[_BatchNorm, _Statistics]:
        """The rows of all processes. `counts`: how many each has of each layer; `flat`: their values."""
        parts: dict[_BatchNorm, list[_Statistics]] = {layer: [] for layer in self.rows}
        sizes = [
            2 * n * layer.num_features for of_process in counts for layer, n in zip(self.rows, of_process, strict=True)
        ]
        values = iter(flat.split(sizes))
        for _ in counts:
            for layer in self.rows:
                mean_nc, variance_nc = next(values).view(2, -1, layer.num_features)
                parts[layer].append(_Statistics(mean_nc, variance_nc))
        return {layer: _joined(layer, of_layer) for layer, of_layer in parts.items()}

    def _forward(self, layer: _BatchNorm, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        groups = _groups.get()
        if not layer.training:
            return forward(x)
        if groups > 1:
            held = _held.get()
            assert held is not None
            return _in_groups(layer, forward, groups, held, x)
        with _own_statistics(layer, 1) as statistics:
            layer._buffers.update(running_mean=statistics.mean_gc[0], running_var=statistics.variance_gc[0])
            output = forward(x)
        self.rows[layer].append(statistics)
        return output


@contextmanager
def running_statistics_of_groups(network: nn.Module) -> Iterator[None]:
    """Hold back what calls in `normalised_in_groups` add to running statistics, until all of them are done.

    At its end statistics move through all calls of the first group, then through those of the second, and so on, as
    they do where each group comes alone. An error leaves them as they were.
    """
    held: _Moments = defaultdict(list)
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
    _move(held)


@contextmanager
def normalised_in_groups(network: nn.Module, groups: int) -> Iterator[None]:
    """While it lasts, layers in training mode take their input for `groups` equal chunks, each a batch of its own.

    Raises:
        ValueError: in a call whose rows do not divide into so many chunks.
    """
    if groups == 1 or _is_one_batch.get():
        yield
        return
    token, held, record = _groups.set(groups), _held.get(), _record.get()
    moments: _Moments = defaultdict(list) if held is None else held
    noted = () if record is None else record.rows  # these look at the number of groups themselves
    trained = [layer for layer in batch_norms(network) if layer.training and layer not in noted]
    layers = [layer for layer in trained if not isinstance(layer, _Traceable)]
    traceable = [layer for layer in trained if isinstance(layer, _Traceable)]
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:  # an attribute of the instance goes before the method of its class
        layer.forward = partial(_in_groups, layer, layer.forward, groups, moments)  # type: ignore[method-assign]
    for one in traceable:
        one.groups = groups
    try:
        yield
    finally:
        _groups.reset(token)
        for one in traceable:
            one.hand_over(moments)
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward  # type: ignore[method-assign]
    if held is None:
        _move(moments)


@contextmanager
def one_batch() -> Iterator[None]:
    """While it lasts, `normalised_in_groups` divides nothing."""
    token = _is_one_batch.set(True)
    try:
        yield
    finally:
        _is_one_batch.reset(token)


def groups_now() -> int:
    """How many groups the innermost `normalised_in_groups` has; 1 outside of any."""
    return _groups.get()


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The layers of a network that normalise by statistics of their batch when it is trained."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Running statistics stay as they are, whatever is called in training mode meanwhile."""
    layers = [layer for layer in batch_norms(network) if layer.training and layer.running_mean is not None]
    before = [{name: layer._buffers[name] for name in layer._buffers} for layer in layers]
    for layer in layers:
        layer._buffers.update({name: _copy(buffer) for name, buffer in layer._buffers.items()})
    try:
        yield
    finally:
        for layer, buffers in zip(layers, before, strict=True):
            layer._buffers.update(buffers)


class StatisticsSnapshot:
    """The running statistics of a network's layers in training mode, as they are now."""

    def __init__(self, network: nn.Module) -> None:
        layers = [layer for layer in batch_norms(network) if layer.training and layer.running_mean is not None]
        self._taken = [(layer, {name: _copy(b) for name, b in layer._buffers.items()}) for layer in layers]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has these statistics for a while."""
        now = [dict(layer._buffers) for layer, _ in self._taken]
        for layer, buffers in self._taken:
            layer._buffers.update(buffers)
        try:
            yield
        finally:
            for (layer, _), buffers in zip(self._taken, now, strict=True):
                layer._buffers.update(buffers)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the network these statistics back for good."""
        for layer, buffers in self._taken:
            for name, buffer in buffers.items():
                current = layer._buffers[name]
                if current is not None and buffer is not None:
                    current.copy_(buffer)


def _copy(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.clone()


def _in_groups(
    layer: _BatchNorm, forward: Callable[[Tensor], Tensor], groups: int, moments: _Moments, x: Tensor
) -> Tensor:
    _check_rows(x, groups)
    if layer.running_mean is None or layer.running_var is None:
        return torch.cat([forward(chunk) for chunk in x.chunk(groups)])
    with _own_statistics(layer, groups) as statistics:
        outputs = []
        for group, chunk in enumerate(x.chunk(groups)):
            layer._buffers["running_mean"] = statistics.mean_gc[group]
            layer._buffers["running_var"] = statistics.variance_gc[group]
            outputs.append(forward(chunk))
    moments[layer].append(statistics)
    return torch.cat(outputs)


def _check_rows(x: Tensor, groups: int) -> None:
    if len(x) % groups:
        raise ValueError(
            f"{len(x)} rows do not divide into {groups} groups of clips; a layer of batch normalisation must see as "
            "many rows of every clip, those of one clip after those of another"
        )


def can_be_traced(network: nn.Module) -> bool:
    """Whether `make_traceable` has a form for every layer of a network that normalises batches."""
    return all(isinstance(layer, _Traceable) or type(layer) in _TRACEABLE for layer in batch_norms(network))


def make_traceable(network: nn.Module) -> None:
    """From here on `normalised_in_groups` replaces no method of a network's layers; they compute groups themselves.

    Entries and numbers stay, but for rounding. `make_opaque` takes it back; `can_be_traced` says what it is for.
    """
    for layer in batch_norms(network):
        if not isinstance(layer, _Traceable):
            layer.__class__ = _TRACEABLE[type(layer)]
            vars(layer).update(groups=1, taken=[])


def make_opaque(network: nn.Module) -> None:
    """Take back what `make_traceable` did."""
    for layer in batch_norms(network):
        if isinstance(layer, _Traceable):
            layer.__class__ = type(layer).__bases__[1]
            del layer.groups, layer.taken


class _Traceable(_BatchNorm):
    """A layer that normalises groups apart in plain operators, which torch.compile turns into few kernels.

    Attributes:
        groups: how many equal chunks of the rows are batches of their own.
        taken: means and variances, (g, c) each, of the calls in groups since the last `hand_over`.
    """

    groups: int
    taken: list[tuple[Tensor, Tensor]]

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1 or not self.training:
            return super().forward(x)
        _check_rows(x, self.groups)
        x_gnc = x.unflatten(0, (self.groups, -1)).float()
        within = [1, *range(3, x_gnc.ndim)]
        variance, mean = torch.var_mean(x_gnc, within, correction=0, keepdim=True)
        of_channels = (-1, *(1 for _ in x.shape[2:]))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight.view(of_channels)
        normalised = (x_gnc - mean) * scale
        if self.affine:
            normalised = normalised + self.bias.view(of_channels)
        if self.running_mean is not None:
            rows = x_gnc.numel() // mean.numel()
            unbiased = variance * (rows / (rows - 1))
            self.taken.append((mean.detach().flatten(1), unbiased.detach().flatten(1)))
        return normalised.to(x.dtype).flatten(0, 1)

    def hand_over(self, moments: _Moments) -> None:
        """Give up the statistics of the calls since the last time, and normalise all rows together again."""
        for mean_gc, variance_gc in self.taken:
            moments[self].append(_Statistics(mean_gc, variance_gc))
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(self.groups)
        self.taken, self.groups = [], 1


_TRACEABLE: dict[type[_BatchNorm], type[_Traceable]] = {
    kind: type(f"Traceable{kind.__name__}", (_Traceable, kind), {})
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm3d)
}
"""The traceable form of kinds of layers that normalise, and do nothing else, such as activate."""


@contextmanager
def _own_statistics(layer: _BatchNorm, groups: int) -> Iterator[_Statistics]:
    """Rows of zeros that become the statistics of each group's batch when they are put in for the running ones."""
    mean, variance, momentum = layer._buffers["running_mean"], layer._buffers["running_var"], layer.momentum
    assert mean is not None and variance is not None
    statistics = _Statistics(mean.new_zeros(groups, len(mean)), variance.new_zeros(groups, len(variance)))
    layer.momentum = 1.0
    try:
        yield statistics
    finally:
        layer.momentum = momentum
        layer._buffers.update(running_mean=mean, running_var=variance)


@torch.no_grad()
def _move(moments: _Moments) -> None:
    """Move running statistics: group after group, each through all of its calls, in closed form.

    r <- (1 - m) r + m s, n times, is (1 - m)^n r + sum_i m (1 - m)^(n - 1 - i) s_i. Without a momentum statistics are
    means over all batches, whose order does not matter.
    """
    for layer, calls in moments.items():
        _move_layer(layer, _in_order(calls))


def _in_order(calls: list[_Statistics]) -> _Statistics:
    """Those of several calls, group after group, each through all of its calls."""
    means, variances = ([getattr(call, name) for call in calls] for name in ("mean_gc", "variance_gc"))
    return _Statistics(torch.stack(means, dim=1).flatten(0, 1), torch.stack(variances, dim=1).flatten(0, 1))


def _joined(layer: _BatchNorm, rows: list[_Statistics]) -> _Statistics:
    assert layer.running_mean is not None and layer.running_var is not None
    means = [layer.running_mean.new_zeros(0, layer.num_features), *(one.mean_gc for one in rows)]
    variances = [layer.running_var.new_zeros(0, layer.num_features), *(one.variance_gc for one in rows)]
    return _Statistics(torch.cat(means), torch.cat(variances))


def _move_layer(layer: _BatchNorm, rows: _Statistics) -> None:
    assert layer.running_mean is not None and layer.running_var is not None
    for running, in_order_nc in ((layer.running_mean, rows.mean_gc), (layer.running_var, rows.variance_gc)):
        kept, weight_n = _weights(layer, len(in_order_nc))
        running.mul_(kept).addmv_(in_order_nc.T, _on_device(weight_n, running.dtype, running.device))


@lru_cache(maxsize=64)
def _on_device(weight_n: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same weights for every layer, sent once: each sending waits for a GPU."""
    return torch.tensor(weight_n, dtype=dtype, device=device)


def _weights(layer: _BatchNorm, n: int) -> tuple[float, tuple[float, ...]]:
    """What running statistics keep of themselves after `n` batches, and what they take of each."""
    if layer.momentum is None:
        assert layer.num_batches_tracked is not None
        seen = int(layer.num_batches_tracked)
        return (seen - n) / seen, (1 / seen,) * n
    keep = 1 - layer.momentum
    return keep**n, tuple(layer.momentum * keep ** (n - 1 - i) for i in range(n))
