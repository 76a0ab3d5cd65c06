"""The 2D branch of `yowo_lite`: EfficientNet-Lite0 (timm), and how it is computed quickly where it is not trained."""

from __future__ import annotations

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssldet.nn import FrozenParts
from ssldet_backbones.branches.timm_images import TimmFeatures

ZOOM = 2
"""The key frame is enlarged so many times; small persons are seen better so."""

CHUNK = 2
"""Frames at a time where nothing is trained: their activations stay in the cache of a CPU core, 1.9 times as fast."""


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
        network = self._folded.of(self.network)
        chunks = images_bchw.split(CHUNK if images_bchw.device.type == "cpu" else len(images_bchw))
        return [torch.cat(maps) for maps in zip(*map(network, chunks), strict=True)]


class Folded:
    """Keeps a network's copy in evaluation mode whose batch normalisation is folded into its convolutions."""

    def __init__(self) -> None:
        self._network: nn.Module | None = None
        self._made_of: tuple[tuple[int, int], ...] = ()

    def of(self, network: nn.Module) -> nn.Module:
        """The folded copy, made anew where an entry of the network has changed in place or was replaced."""
        made_of = tuple((entry.data_ptr(), entry._version) for entry in (*network.parameters(), *network.buffers()))
        if self._network is None or made_of != self._made_of:
            self._network, self._made_of = fold(network), made_of
        return self._network

    def __deepcopy__(self, memo: object) -> Folded:
        return Folded()  # the copy's network has entries of its own

    def __getstate__(self) -> dict[str, object]:
        return {"_network": None, "_made_of": ()}


def fold(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose convolutions scale and shift as the batch normalisation behind them did."""
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for module in folded.modules():
        names = list(module._modules)
        for before, after in itertools.pairwise(names):
            convolution, normalisation = getattr(module, before), getattr(module, after)
            if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
                setattr(module, before, fuse_conv_bn_eval(convolution, normalisation))
                setattr(module, after, normalisation.act)  # timm's batch normalisation holds what follows it
    return folded
