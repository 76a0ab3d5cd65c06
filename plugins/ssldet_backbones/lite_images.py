"""The 2D branch of `yowo_lite`: EfficientNet-Lite0 (timm), and how it is computed quickly where it is not trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import timm.version
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from ssldet.detector.feature_cache import cached_features, layers_digest
from ssldet.nn import FoldedBatchNorm, FrozenParts, fold_batch_norm, folding
from ssldet.nn.folding import LayerPair
from ssldet_backbones.branches import timm_images
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
        trained = torch.is_grad_enabled() and any(entry.requires_grad for entry in self.network.parameters())
        with_training = trained or self.network.training
        fine, coarse = (self._computed if with_training else self._without_training)(images_bchw)
        return torch.cat((F.pixel_unshuffle(fine, 2), coarse), dim=1)

    def _computed(self, images_bchw: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(self._enlarged(images_bchw))
        return maps

    def _enlarged(self, images_bchw: Tensor) -> Tensor:
        images_bchw = self.standardise(images_bchw).contiguous(memory_format=torch.channels_last)
        return F.interpolate(images_bchw, scale_factor=ZOOM, mode="bilinear")

    @torch.no_grad()
    def _without_training(self, images_bchw: Tensor) -> list[Tensor]:
        chunks = images_bchw.split(CHUNK if images_bchw.device.type == "cpu" else len(images_bchw))
        made_by = partial(self._folded.digest, self.network)
        maps = [cached_features(made_by, chunk, partial(self._computed_folded, chunk)) for chunk in chunks]
        return [torch.cat(of_stride) for of_stride in zip(*maps, strict=True)]

    def _computed_folded(self, images_bchw: Tensor) -> list[Tensor]:
        enlarged = self._enlarged(images_bchw)
        with self._folded.of(self.network, enlarged).in_place():
            maps: list[Tensor] = self.network(enlarged)
            return maps


class Folded:
    """Keeps a network's batch normalisation, folded into its convolutions, as long as the network's entries are what
    they were; a moving average writes them anew after each step, with the same values where they are frozen.
    """

    def __init__(self) -> None:
        self._folded: FoldedBatchNorm | None = None
        self._digest: str | None = None
        self._values: list[Tensor] = []
        self._written: list[tuple[int, int]] = []

    def of(self, network: nn.Module, images_bchw: Tensor) -> FoldedBatchNorm:
        """The folded layers, made anew where a value has changed."""
        self._forget_others(network)
        if self._folded is None:
            self._folded = fold_batch_norm(network, lambda: network(images_bchw), finish=quickened)
        return self._folded

    def digest(self, network: nn.Module) -> str:
        """A name of what the folded layers compute."""
        self._forget_others(network)
        if self._digest is None:
            code = (__file__, folding.__file__, timm_images.__file__, timm.version.__file__)
            self._digest = layers_digest(network, *code)
        return self._digest

    def _forget_others(self, network: nn.Module) -> None:
        entries = [*network.parameters(), *network.buffers()]
        written = [(entry.data_ptr(), entry._version) for entry in entries]
        if written == self._written:
            return
        if not _equal(entries, self._values):
            self._folded = self._digest = None
            self._values = [entry.detach().clone() for entry in entries]
        self._written = written

    def __deepcopy__(self, memo: object) -> Folded:
        return Folded()  # the copy's network has entries of its own

    def __reduce__(self) -> tuple[type[Folded], tuple[()]]:
        return Folded, ()


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    pairs = zip(some, others, strict=False)
    same_place = len(some) == len(others) and all(a.device == b.device and a.dtype == b.dtype for a, b in pairs)
    return same_place and all(map(torch.equal, some, others))


def quickened(convolution: nn.Module, activation: nn.Module) -> LayerPair:
    """A layer of EfficientNet-Lite0, in a form that takes less time on a CPU: the same sums, in one call."""
    with_onednn = torch.backends.mkldnn.is_available()
    if with_onednn and isinstance(convolution, nn.Conv2d) and isinstance(activation, nn.ReLU6 | nn.Identity):
        return OneCall(convolution, activation), nn.Identity()
    return convolution, activation


class OneCall(nn.Module):
    """A convolution without gradients and its activation, on a CPU in one call of oneDNN.

    By themselves a product would first copy its bias to each pixel, and the activation pass over the map once more.
    oneDNN's own layout of the weights is made once. The calls are those that compiled networks of torch make.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.ReLU6 | nn.Identity) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        self._packed: dict[torch.Size, tuple[Tensor, list[int]]] = {}

    def forward(self, x_bchw: Tensor) -> Tensor:
        plain = x_bchw.device.type != "cpu" or x_bchw.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        if plain:
            slowly: Tensor = self.activation(self.convolution(x_bchw))
            return slowly
        if x_bchw.shape not in self._packed:
            self._packed[x_bchw.shape] = self._pack(x_bchw.shape)
        weight, padding = self._packed[x_bchw.shape]
        layer = self.convolution
        clamped = isinstance(self.activation, nn.ReLU6)
        activation = ("hardtanh", [0.0, 6.0], "") if clamped else ("none", [], "")
        options = padding, layer.stride, layer.dilation, layer.groups
        computed: Tensor = torch.ops.mkldnn._convolution_pointwise(x_bchw, weight, layer.bias, *options, *activation)
        return computed

    def _pack(self, shape: torch.Size) -> tuple[Tensor, list[int]]:
        """Weights for maps of one shape, and the padding of both sides, rows and columns.

        TensorFlow's padding has one more row behind a map than before it wherever their number is odd, and timm makes a
        padded copy then. Here the kernel gets a row of zeros in front instead, and both sides the larger number.
        """
        layer = self.convolution
        rows, columns = _padding(layer, shape[2:])
        weight = F.pad(layer.weight, (columns % 2, 0, rows % 2, 0))
        padding = [-(-rows // 2), -(-columns // 2)]
        weight = weight.contiguous(memory_format=torch.channels_last)
        options = padding, layer.stride, layer.dilation, layer.groups
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *options, shape), padding


def _padding(layer: nn.Conv2d, shape_hw: Sequence[int]) -> list[int]:
    """How many rows and columns a layer adds to a map, before and behind it together."""
    if not isinstance(layer, Conv2dSame):
        assert not isinstance(layer.padding, str)
        return [2 * padding for padding in layer.padding]
    sizes = zip(shape_hw, layer.kernel_size, layer.stride, layer.dilation, strict=True)
    return [max(0, (-(-length // s) - 1) * s + (k - 1) * d + 1 - length) for length, k, s, d in sizes]
