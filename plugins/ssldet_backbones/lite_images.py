"""The 2D branch of `yowo_lite`: EfficientNet-Lite0 (timm), and how it is computed quickly where it is not trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from ssldet.nn import FoldedBatchNorm, FrozenParts, fold_batch_norm
from ssldet_backbones.branches.timm_images import TimmFeatures

ZOOM = 2
"""The key frame is enlarged so many times; small persons are seen better so."""

CHUNK = 4
"""Frames at a time where nothing is trained: their activations stay in the cache of a CPU core."""


class LiteImages(FrozenParts):
    """Key frames (b, 3, h, w) in [0, 1] -> (b, 768, h / 16, w / 16).

    The maps at strides 16 and 32 of the enlarged frame: of the finer one, each 2 x 2 neighbourhood becomes channels.

    Attributes:
        channels: of the output.
        network: EfficientNet-Lite0 without its classifier, with timm's names.
    """

    def __init__(self) -> None:
        super().__init__()
        features = TimmFeatures("tf_efficientnet_lite0", (16, 32))
        fine, coarse = features.channels
        self.standardise = features.standardise
        self.network = features.network.to(memory_format=torch.channels_last)
        self.channels = 4 * fine + coarse
        self._folded = Folded()

    def forward(self, images_bchw: Tensor) -> Tensor:
        images_bchw = self.standardise(F.interpolate(images_bchw, scale_factor=ZOOM, mode="bilinear"))
        images_bchw = images_bchw.contiguous(memory_format=torch.channels_last)
        trained = torch.is_grad_enabled() and any(entry.requires_grad for entry in self.network.parameters())
        compute = self.network if trained or self.network.training else self._without_training
        fine, coarse = compute(images_bchw)
        return torch.cat((F.pixel_unshuffle(fine, 2), coarse), dim=1)

    @torch.no_grad()
    def _without_training(self, images_bchw: Tensor) -> list[Tensor]:
        chunks = images_bchw.split(CHUNK if images_bchw.device.type == "cpu" else len(images_bchw))
        with self._folded.of(self.network, chunks[0]).in_place():
            return [torch.cat(maps) for maps in zip(*map(self.network, chunks), strict=True)]


class Folded:
    """Keeps a network's batch normalisation, folded into its convolutions."""

    def __init__(self) -> None:
        self._folded: FoldedBatchNorm | None = None
        self._made_of: tuple[tuple[int, int], ...] = ()

    def of(self, network: nn.Module, images_bchw: Tensor) -> FoldedBatchNorm:
        """The folded layers, made anew where an entry of the network has changed in place or was replaced."""
        made_of = tuple((entry.data_ptr(), entry._version) for entry in (*network.parameters(), *network.buffers()))
        if self._folded is None or made_of != self._made_of:
            folded = fold_batch_norm(network, lambda: network(images_bchw), finish=quickened)
            self._folded, self._made_of = folded, made_of
        return self._folded

    def __deepcopy__(self, memo: object) -> Folded:
        return Folded()  # the copy's network has entries of its own

    def __getstate__(self) -> dict[str, object]:
        return {"_folded": None, "_made_of": ()}


def quickened(convolution: nn.Module) -> nn.Module:
    """A layer of EfficientNet-Lite0 in a form that takes less time on one CPU core: the same sums, and no copies.

    For a few images and one thread torch lays maps out anew before and after each 1x1 convolution, and timm makes a
    padded copy of a map wherever the padding has two unequal sides.
    """
    if isinstance(convolution, Conv2dSame) and convolution.dilation == (1, 1):
        return SamePadding(convolution)
    if isinstance(convolution, nn.Conv2d) and convolution.kernel_size == convolution.stride == (1, 1):
        return Pointwise(convolution) if convolution.groups == 1 and convolution.padding == (0, 0) else convolution
    return convolution


class Pointwise(nn.Module):
    """A 1x1 convolution of maps that lie channels last, as a product of matrices."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight_oi, self.bias = convolution.weight.flatten(1), convolution.bias

    def forward(self, x_bchw: Tensor) -> Tensor:
        return F.linear(x_bchw.permute(0, 2, 3, 1), self.weight_oi, self.bias).permute(0, 3, 1, 2)


class SamePadding(nn.Module):
    """A convolution with TensorFlow's padding, which has one more row and column behind than before a map.

    The kernel gets a row and a column of zeros in front instead, and both sides the larger padding.
    """

    grown: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        grown = F.pad(convolution.weight, (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)
        self.register_buffer("grown", grown, persistent=False)

    def forward(self, x_bchw: Tensor) -> Tensor:
        layer = self.convolution
        padding = {
            (-(-length // stride) - 1) * stride + kernel - length
            for length, stride, kernel in zip(x_bchw.shape[2:], layer.stride, layer.kernel_size, strict=True)
        }
        odd = len(padding) == 1 and min(padding) > 0 and min(padding) % 2 == 1
        if not odd:
            same: Tensor = layer(x_bchw)
            return same
        return F.conv2d(x_bchw, self.grown, layer.bias, layer.stride, (padding.pop() + 1) // 2, 1, layer.groups)
