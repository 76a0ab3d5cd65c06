"""Formulations of a 3D convolution: other ways to the same sums, so equal but for rounding, gradients included.

torch hands a 3D convolution to a library (cuDNN, oneDNN) that is at its best on few of them: not on many small groups,
and on a CPU not on 1x1x1 ones of a single clip. Which formulation is the quickest depends on layer, layout and device;
`ssldet.nn.formulation_choice` measures it. Dilation in time and padding other than by zeros are left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Compute = Callable[[nn.Conv3d, Tensor], Tensor]
"""(layer, x) -> what the layer makes of x."""

BLOCKS = (8, 16, 32, 64, 128)
"""Input channels of a block of merged groups that are tried."""

ALIGNED = 8
"""Numbers of channels that are multiples of it take the quick kernels, in half precision at least."""


def formulations_of(layer: nn.Conv3d) -> Mapping[str, Compute]:
    """The formulations that fit a layer, by name, beside torch's own."""
    if layer.dilation[0] != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return {}
    fitting: dict[str, Compute] = {}
    if layer.kernel_size == (1, 1, 1) and layer.groups == 1 and not any(layer.padding):
        fitting["matmul"] = as_matmul
    if layer.kernel_size[0] > 1:
        fitting |= {"frames": over_frames, "stacked": over_stacked_frames}
        few = layer.groups == 1 and layer.in_channels < ALIGNED
        if few and max(layer.stride[1:]) > 1 and max(layer.dilation) == 1:
            fitting["squares"] = over_squares
    each = layer.in_channels // layer.groups
    for channels in BLOCKS:
        merged = channels // each
        if 1 < merged <= layer.groups and layer.groups % merged == 0:
            fitting[f"blocks of {channels}"] = partial(in_blocks, merged=merged)
    return fitting


def as_matmul(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A 1x1x1 convolution as a product of matrices, one row a voxel; the result has its channels last."""
    if layer.stride != (1, 1, 1):
        x = x[:, :, :: layer.stride[0], :: layer.stride[1], :: layer.stride[2]]
    return F.linear(x.permute(0, 2, 3, 4, 1), layer.weight.flatten(1), layer.bias).permute(0, 4, 1, 2, 3)


def over_frames(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """One 2D convolution of all frames for each tap of the kernel in time; the shifted results are added."""
    frames, stride, pad = x.shape[2], layer.stride[0], _padding(layer)[0]
    count = (frames + 2 * pad - layer.kernel_size[0]) // stride + 1
    out: Tensor | None = None
    for tap in range(layer.kernel_size[0]):
        steps = [step for step in range(count) if 0 <= step * stride + tap - pad < frames]
        if not steps:
            continue
        first = steps[0] * stride + tap - pad
        seen = x[:, :, first : first + (len(steps) - 1) * stride + 1 : stride]
        part = _conv2d(layer, seen, layer.weight[:, :, tap], None)
        part = F.pad(part, (0, 0, 0, 0, steps[0], count - 1 - steps[-1]))
        out = part if out is None else out + part
    assert out is not None, "a kernel that sees no frame"
    return out if layer.bias is None else out + layer.bias.to(out.dtype).view(-1, 1, 1, 1)


def over_stacked_frames(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """One 2D convolution of frames that have those around them as further channels.

    Where there is one group, taps of zeros are added until the channels are a multiple of `ALIGNED`.
    """
    kernel, pad = layer.kernel_size[0], _padding(layer)[0]
    more = _taps_to_align(layer.in_channels, kernel) if layer.groups == 1 else 0
    x = _as_computed(x)
    around = F.pad(x, (0, 0, 0, 0, pad, pad + more)).unfold(2, kernel + more, layer.stride[0])  # (b, c, t, h, w, taps)
    weight = F.pad(layer.weight, (0, 0, 0, 0, 0, more)).flatten(1, 2)
    if _is_last(layer):
        stacked = around.permute(0, 2, 3, 4, 1, 5).flatten(4).permute(0, 4, 1, 2, 3)
    else:
        stacked = around.permute(0, 1, 5, 2, 3, 4).flatten(1, 2)
    return _conv2d(layer, stacked, weight, layer.bias)


def over_squares(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """One 2D convolution of stacked frames, of which each square of pixels that a stride spans is one pixel.

    The pixels of a square become channels, so that a layer over few channels has many, and no stride; the kernel is
    filled up to whole squares with zeros, and in time as in `over_stacked_frames`. For one group.
    """
    kernel, stride, pad, size = layer.kernel_size, layer.stride, _padding(layer), x.shape[2:]
    more = _taps_to_align(layer.in_channels * stride[1] * stride[2], kernel[0])
    squares = [-(-kernel[axis] // stride[axis]) for axis in (1, 2)]  # of the kernel
    fill = [squares[axis - 1] * stride[axis] - kernel[axis] for axis in (1, 2)]
    unseen = [(size[axis] + 2 * pad[axis] - kernel[axis]) % stride[axis] for axis in (1, 2)]
    beyond = [pad[axis] + fill[axis - 1] - unseen[axis - 1] for axis in (1, 2)]
    edges = (pad[2], beyond[1], pad[1], beyond[0], pad[0], pad[0] + more)
    around = _in_squares(F.pad(_as_computed(x), edges).unfold(2, kernel[0] + more, stride[0]).movedim(-1, 1), stride)
    weight = _in_squares(F.pad(layer.weight, (0, fill[1], 0, fill[0], 0, more)).transpose(1, 2)[:, :, :, None], stride)
    return _conv2d(layer, around, weight.squeeze(2), layer.bias, space=(1, 0, 1))


def _in_squares(x_bscthw: Tensor, stride: tuple[int, ...]) -> Tensor:
    """(b, s, c, t, h, w) -> (b, s * c * stride^2, t, h / stride, w / stride)."""
    cut = x_bscthw.unflatten(5, (-1, stride[2])).unflatten(4, (-1, stride[1]))  # (b, s, c, t, h, in h, w, in w)
    return cut.permute(0, 3, 4, 6, 1, 2, 5, 7).flatten(4).permute(0, 4, 1, 2, 3)


def _taps_to_align(channels: int, taps: int) -> int:
    """How many taps more make the channels of all of them a multiple of `ALIGNED`."""
    return next(more for more in range(ALIGNED) if channels * (taps + more) % ALIGNED == 0)


def _as_computed(x: Tensor) -> Tensor:
    """In the type of autocast, where that is on: before frames are copied, not after."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def in_blocks(layer: nn.Conv3d, x: Tensor, *, merged: int) -> Tensor:
    """Groups merged into blocks of several: more products, most of them with zeros, in larger matrices."""
    outputs, inputs, *kernel = layer.weight.shape
    groups = layer.groups // merged
    own = layer.weight.view(groups, merged, outputs // layer.groups, inputs, *kernel)
    diagonal = torch.eye(merged, dtype=own.dtype, device=own.device)
    blocks = torch.einsum("gmoithw,mn->gmonithw", own, diagonal).reshape(outputs, merged * inputs, *kernel)
    if _is_last(layer):
        blocks = blocks.contiguous(memory_format=torch.channels_last_3d)
    return F.conv3d(x, blocks, layer.bias, layer.stride, layer.padding, layer.dilation, groups)


def _padding(layer: nn.Conv3d) -> tuple[int, ...]:
    """The padding in numbers: of a layer whose padding is a word there are no other formulations."""
    assert not isinstance(layer.padding, str)
    return layer.padding


def _is_last(layer: nn.Conv3d) -> bool:
    """Whether the layer computes channels last, which its weight decides."""
    return layer.weight.is_contiguous(memory_format=torch.channels_last_3d)


def _conv2d(
    layer: nn.Conv3d,
    x_bcthw: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    space: tuple[Any, Any, Any] | None = None,
) -> Tensor:
    """Every frame by itself, in the layer's layout; stride, padding and dilation in space are its own, or others."""
    form = torch.channels_last if _is_last(layer) else torch.contiguous_format
    frames = x_bcthw.transpose(1, 2).flatten(0, 1).contiguous(memory_format=form)
    stride, padding, dilation = space or (layer.stride[1:], _padding(layer)[1:], layer.dilation[1:])
    out = F.conv2d(frames, weight.contiguous(memory_format=form), bias, stride, padding, dilation, layer.groups)
    return out.unflatten(0, (len(x_bcthw), -1)).transpose(1, 2)
