"""Clips that overlap: of clips one frame apart, the first convolution in time is computed once a frame.

Whoever knows that a batch holds such clips says so (`consecutive_clips`, inference); a network whose first layer can
make use of it asks (`runs_of`) and takes `convolve_runs`. The same sums in another order, so equal but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_runs: ContextVar[tuple[int, ...]] = ContextVar("lengths of runs of consecutive clips", default=())


@contextmanager
def consecutive_clips(runs: Sequence[int]) -> Iterator[None]:
    """Say of the batch that a network gets meanwhile: it is made of runs of so many clips, each of which starts one
    frame after the clip before it. Their lengths add up to the batch.
    """
    token = _runs.set(tuple(runs))
    try:
        yield
    finally:
        _runs.reset(token)


def runs_of(clips_bcthw: Tensor) -> tuple[int, ...]:
    """The lengths of a batch's runs, where there are longer ones than 1 and no gradient is wanted; else nothing.

    Nothing for a network that is being compiled, either: compiled code is that of any batch of its shape.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return ()
    runs = _runs.get()
    return runs if sum(runs) == len(clips_bcthw) and any(run > 1 for run in runs) else ()


def shares_frames(convolution: nn.Conv3d, frames: int) -> bool:
    """Whether `convolve_runs` can compute it over clips of so many frames: an odd kernel in time that keeps length."""
    kernel, padding = convolution.kernel_size[0], convolution.padding[0]
    in_time = convolution.stride[0] == convolution.dilation[0] == 1 and padding == kernel // 2 and kernel % 2
    return bool(in_time) and frames >= kernel and convolution.padding_mode == "zeros"


def convolve_runs(
    convolution: nn.Conv3d, clips_bcthw: Tensor, runs: Sequence[int], then: Callable[[Tensor], Tensor]
) -> Tensor:
    """`then(convolution(clips))`, (b, c, t, h, w), where `then` treats every step of time by itself.

    Args:
        convolution: one that `shares_frames`.
        clips_bcthw: runs of clips, each one frame behind the one before.
        runs: how many clips each has.
        then: (n, c, t, h, w) -> (n, d, t, g, f), such as normalisation, activation and a pool over space.
    """
    return torch.cat([_of_a_run(convolution, run, then) for run in clips_bcthw.split(list(runs))])


def _of_a_run(convolution: nn.Conv3d, clips_bcthw: Tensor, then: Callable[[Tensor], Tensor]) -> Tensor:
    """Steps near the ends of a clip see zeros beyond, and so a part of the kernel: each such step has a sum of its own,
    over the frames of the whole run. All other steps are shared.
    """
    count, frames = len(clips_bcthw), clips_bcthw.shape[2]
    kernel, edge = convolution.kernel_size[0], convolution.kernel_size[0] // 2
    later_cthw = clips_bcthw[1:, :, -1].transpose(0, 1)
    run_1cthw = torch.cat((clips_bcthw[0], later_cthw), dim=1)[None].contiguous(memory_format=torch.channels_last_3d)

    def steps(first_frame: int, taps: slice, number: int) -> Tensor:
        """(c, number, h, w): sums over some taps of the kernel, the first of which begins at a frame of the run."""
        weight = convolution.weight[:, :, taps].contiguous(memory_format=torch.channels_last_3d)
        seen = run_1cthw[:, :, first_frame : first_frame + number + weight.shape[2] - 1]
        padding = (0, *convolution.padding[1:])
        options = (convolution.stride, padding, convolution.dilation, convolution.groups)
        out: Tensor = then(F.conv3d(seen, weight, convolution.bias, *options))[0]
        return out

    shared = steps(0, slice(None), count + frames - kernel)
    begin = [steps(0, slice(edge - step, None), count) for step in range(edge)]
    end = [steps(frames - 2 * edge + step, slice(0, kernel - 1 - step), count) for step in range(edge)]
    inner = frames - 2 * edge
    clips = [
        torch.cat(
            (
                *(step[:, clip : clip + 1] for step in begin),
                shared[:, clip : clip + inner],
                *(step[:, clip : clip + 1] for step in end),
            ),
            dim=1,
        )
        for clip in range(count)
    ]
    return torch.stack(clips)
