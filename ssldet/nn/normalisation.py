"""Batch normalisation of clips that has a quick kernel in either layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchNorm3d(nn.BatchNorm3d):
    """As torch's, but maps that lie channels last on a GPU are normalised as 2D ones, with time along the rows.

    The sums are the same. For channels last torch (2.11 at least) has kernels in two dimensions alone; in three it
    takes one for any strides, which is several times slower. On a CPU nothing changes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" or x.ndim != 5 or not x.is_contiguous(memory_format=torch.channels_last_3d):
            return super().forward(x)
        return self.in_two_dimensions(x)

    def in_two_dimensions(self, x_bcthw: Tensor) -> Tensor:
        """What `forward` gives, of maps that lie channels last: nothing is copied to see them as 2D ones.

        For autograd the result is no view: of a view that an activation changes in place it would copy the gradient.
        """
        out: Tensor = super().forward(x_bcthw.flatten(2, 3))
        return torch.ops.aten._unsafe_view(out, x_bcthw.shape)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim not in (4, 5):
            raise ValueError(f"expected maps of clips, (b, c, t, h, w), and {tuple(x.shape)} came")
