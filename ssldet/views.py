"""Weak and strong views of a clip, and the geometry that carries boxes from one to the other.

The weak view is the whole frame resized to a square. The strong view flips, scales and crops it: one draw for
all frames of a clip, geometric only, no colour (paper, Sec. 4.1). Pixels that fall outside the frame are black.
Both axes are mapped independently, so a geometry is two numbers an axis: x_strong = scale * x_weak + shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ssldet.contracts import Options


class ViewOptions(Options):
    """How views are drawn.

    Attributes:
        flip: probability of a horizontal flip.
        scale: the range of the random scale; above 1 the content grows.
        crop: each edge of the crop window moves by up to this share of the frame, in or out.
        min_visible: a box is dropped when less than this share of its area stays inside the strong view.
        labelled: the view that labelled clips are trained in.
    """

    flip: float = Field(0.5, ge=0, le=1)
    scale: tuple[float, float] = (0.8, 1.2)
    crop: float = Field(0.2, ge=0, lt=0.5)
    min_visible: float = Field(0.25, ge=0, le=1)
    labelled: Literal["weak", "strong"] = "strong"


@dataclass(slots=True)
class Geometry:
    """The map from the weak to the strong view of b clips, both `size` pixels square.

    Attributes:
        scale_b2: factor of x and y; a negative x is a flip.
        shift_b2: offset of x and y in pixels, added after the factor.
    """

    scale_b2: Tensor
    shift_b2: Tensor
    size: int

    def to_strong(self, boxes_n4: Tensor, clip_n: Tensor) -> Tensor:
        """Boxes of the weak view in the strong view, not clipped. `clip_n`: the clip of each box."""
        scale, shift = self.scale_b2[clip_n], self.shift_b2[clip_n]
        return _ordered(boxes_n4[:, :2] * scale + shift, boxes_n4[:, 2:] * scale + shift)

    def to_weak(self, boxes_n4: Tensor, clip_n: Tensor) -> Tensor:
        """The inverse of `to_strong`."""
        scale, shift = self.scale_b2[clip_n], self.shift_b2[clip_n]
        return _ordered((boxes_n4[:, :2] - shift) / scale, (boxes_n4[:, 2:] - shift) / scale)

    def apply(self, clips_bcthw: Tensor) -> Tensor:
        """The strong view of weak clips, bilinear: (b, c, t, size, size) float -> the same shape."""
        b, c, t, h, w = clips_bcthw.shape
        # grid_sample asks, for an output place in [-1, 1], for the input place in [-1, 1]
        inverse = 1 / self.scale_b2
        centre = self.size / 2
        offset = ((centre - self.shift_b2) * inverse - centre) / centre
        theta = torch.zeros(b, 2, 3, device=clips_bcthw.device, dtype=clips_bcthw.dtype)
        theta[:, 0, 0], theta[:, 1, 1] = inverse[:, 0], inverse[:, 1]
        theta[:, :, 2] = offset
        grid = functional.affine_grid(theta, [b, c * t, h, w], align_corners=False)
        flat = functional.grid_sample(clips_bcthw.reshape(b, c * t, h, w), grid, align_corners=False)
        return flat.view(b, c, t, h, w)

    def to(self, device: torch.device) -> Geometry:
        return Geometry(self.scale_b2.to(device), self.shift_b2.to(device), self.size)

    def head(self, count: int) -> Geometry:
        """The geometry of the first `count` clips."""
        return Geometry(self.scale_b2[:count], self.shift_b2[:count], self.size)


def identity(count: int, size: int) -> Geometry:
    """The geometry under which the strong view is the weak one."""
    return Geometry(torch.ones(count, 2), torch.zeros(count, 2), size)


def draw_geometry(count: int, size: int, options: ViewOptions, generator: torch.Generator) -> Geometry:
    """Draw the strong views of `count` clips of `size` pixels.

    The crop window's four edges move independently, which changes its place, size and aspect; the random
    scale then shrinks or grows it about its centre.
    """
    low, high = options.scale
    near, far = options.crop * (2 * torch.rand(2, count, 2, generator=generator) - 1)
    zoom = low + (high - low) * torch.rand(count, 1, generator=generator)
    flipped = torch.rand(count, generator=generator) < options.flip
    extent = (1 - near - far) / zoom * size
    start = (1 + near - far) / 2 * size - extent / 2
    scale = size / extent
    shift = -start * scale
    scale[flipped, 0] *= -1
    shift[flipped, 0] = size - shift[flipped, 0]
    return Geometry(scale, shift, size)


def visible(boxes_n4: Tensor, size: int, min_visible: float) -> tuple[Tensor, Tensor]:
    """Clip boxes to a view of `size` pixels: (clipped boxes_n4, kept_n).

    A box is kept when at least `min_visible` of its area, and some of it, lies inside.
    """
    clipped = boxes_n4.clamp(0, size)
    share = _area(clipped) / _area(boxes_n4).clamp_min(1e-6)
    return clipped, (share >= min_visible) & (_area(clipped) > 0)


def _ordered(a_n2: Tensor, b_n2: Tensor) -> Tensor:
    return torch.cat([torch.minimum(a_n2, b_n2), torch.maximum(a_n2, b_n2)], dim=1)


def _area(boxes_n4: Tensor) -> Tensor:
    return (boxes_n4[:, 2] - boxes_n4[:, 0]) * (boxes_n4[:, 3] - boxes_n4[:, 1])
