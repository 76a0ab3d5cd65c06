"""Weak and strong views of a clip, and the geometry that carries boxes and maps from one to the other.

The weak view is the whole frame resized to a square. The strong view flips, scales and crops it: one draw for all
frames of a clip, geometric only, no colour (paper, Sec. 4.1), unless photometric changes are asked for. It is what a
window of the weak view shows when resized to the weak view's size; the window's edges are whole pixels and may lie
outside the frame, where all is black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from ssldet.contracts import Options


class ViewOptions(Options):
    """How views are drawn."""

    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    scale: tuple[float, float] = (0.8, 1.2)
    """The range of the random scale; above 1 the content grows."""
    crop: float = Field(0.2, ge=0, lt=0.5)
    """Each edge of the crop window moves by up to this share of the frame, in or out."""
    min_visible: float = Field(0.25, ge=0, le=1)
    """A box is dropped when less than this share of its area stays inside the strong view."""
    labelled: Literal["weak", "strong"] = "strong"
    """The view that labelled clips are trained in."""
    labelled_colour: float = Field(0.0, ge=0, lt=1)
    """How far brightness, contrast and saturation of labelled clips are changed, each by a factor in 1 +- this."""
    strong_colour: float = Field(0.0, ge=0, lt=1)
    """The same for strong views of unlabelled clips; like the next three not the paper's, and off."""
    strong_grey: float = Field(0.0, ge=0, le=1)
    """Probability that a strong view of an unlabelled clip loses its colours."""
    strong_blur: float = Field(0.0, ge=0, le=1)
    """Probability that a strong view is blurred, by a Gaussian of 0.1 to 2 pixels."""
    strong_cutout: float = Field(0.0, ge=0, le=1)
    """Probability that a rectangle of a strong view, of up to half of each side, is filled with grey."""

    @property
    def photometric(self) -> bool:
        """Whether strong views of unlabelled clips are changed in more than geometry."""
        return any((self.strong_colour, self.strong_grey, self.strong_blur, self.strong_cutout))

    @field_validator("scale")
    @classmethod
    def _is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError("expected a range [low, high] with 0 < low <= high")
        return scale


LARGEST_WEIGHT = 32767.5
"""In units of a weight of 16 bits: the largest of a window's weights is at least half of it, and less than all."""


@dataclass(slots=True)
class WindowGeometry:
    """The map from the weak to the strong view of b clips, both `size` pixels square.

    Attributes:
        window_b4: int64 xyxy, the part of the weak view that the strong view shows, in pixels; may reach outside.
        flip_b: bool, whether the strong view is mirrored left to right.
    """

    window_b4: Tensor
    flip_b: Tensor
    size: int

    def to_strong(self, boxes_n4: Tensor, clip_n: Tensor) -> Tensor:
        """Boxes of the weak view in the strong view, not clipped. `clip_n`: the clip of each box."""
        origin, scale = self._origin_and_scale(clip_n)
        return self._mirrored((boxes_n4 - origin) * scale, clip_n)

    def warp(self, map_bchw: Tensor) -> Tensor:
        """A dense map over the weak view, of any resolution, as the strong view shows it: bilinear, 0 outside.

        Args:
            map_bchw: float; row b belongs to clip b, and its h x w cells cover the weak view evenly.
        """
        height, width = map_bchw.shape[2:]
        low, extent = self.window_b4[:, :2].to(map_bchw), (self.window_b4[:, 2:] - self.window_b4[:, :2]).to(map_bchw)
        mirror = 1 - 2 * self.flip_b.to(map_bchw)  # of the strong view's x, which runs from -1 to 1
        centre = (2 * low + extent) / self.size - 1
        theta_b23 = map_bchw.new_zeros(len(map_bchw), 2, 3)
        theta_b23[:, 0, 0], theta_b23[:, 1, 1] = mirror * extent[:, 0] / self.size, extent[:, 1] / self.size
        theta_b23[:, :, 2] = centre
        grid = functional.affine_grid(theta_b23, [len(map_bchw), 1, height, width], align_corners=False)
        return functional.grid_sample(map_bchw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def apply(self, weak_bthwc: Tensor) -> Tensor:
        """The strong views of weak clips, uint8 (b, t, size, size, 3), antialiased bilinear."""
        draws = zip(weak_bthwc, self.window_b4.tolist(), self.flip_b.tolist(), strict=True)
        return torch.stack([self._view(clip, window, flip) for clip, window, flip in draws])

    def apply_in_batch(self, weak_bthwc: Tensor) -> Tensor:
        """The strong views of weak clips as the network takes them, made all at once on the device of the clips.

        Two products of matrices resample x, then y, with the weights of `apply` and its rounding after each: nearly all
        values are those of `apply`, and none differs by more than 1/255. The geometry itself is on the CPU, so that
        nothing waits for the device.

        Args:
            weak_bthwc: uint8 (b, t, size, size, 3).

        Returns:
            float32 in [0, 1], (b, 3, t, size, size).
        """
        if not self.flip_b.any() and (self.window_b4 == torch.tensor([0, 0, self.size, self.size])).all():
            return normalised(weak_bthwc)
        across_bow, down_boh = self._shares(weak_bthwc.device)
        mirrored_b11 = self.flip_b.to(weak_bthwc.device, non_blocking=True)[:, None, None]
        across_bow = torch.where(mirrored_b11, across_bow.flip(1), across_bow)
        b, t, h, w, c = weak_bthwc.shape
        pixels_bcthw = weak_bthwc.permute(0, 4, 1, 2, 3).contiguous().float()
        columns = torch.bmm(across_bow, pixels_bcthw.view(b, c * t * h, w).transpose(1, 2)).add_(0.5).floor_()
        rows = torch.bmm(columns.view(b, w * c * t, h), down_boh.transpose(1, 2)).add_(0.5).floor_()  # (b, x c t, y)
        return rows.view(b, w, c, t, h).permute(0, 2, 3, 4, 1).contiguous().div_(255)

    def _shares(self, device: torch.device) -> tuple[Tensor, ...]:
        """Along x and along y, (b, size, size): what the pixels of the weak view add to each of the strong view.

        torch resamples bytes with 16-bit weights; so these are multiples of the same power of two.
        """
        exact = torch.float32 if device.type == "mps" else torch.float64  # which mps has not
        first, last = min(int(self.window_b4.min()), 0), max(int(self.window_b4.max()), self.size)
        window_b4 = self.window_b4.to(device, non_blocking=True).to(exact)
        low_2b11, high_2b11 = window_b4.T.reshape(2, 2, -1, 1, 1)  # of x and y
        step_2b11 = (high_2b11 - low_2b11) / self.size
        pixel_p, place_o1 = torch.arange(first, last, device=device), torch.arange(self.size, device=device)[:, None]
        centre_2bo1 = low_2b11 + (place_o1 + 0.5) * step_2b11
        shares_2bop = (1 - (pixel_p + 0.5 - centre_2bo1).abs() / step_2b11.clamp_min(1)).clamp_min(0)
        shares_2bop = shares_2bop * ((pixel_p >= low_2b11) & (pixel_p < high_2b11))
        shares_2bop = shares_2bop / shares_2bop.sum(dim=3, keepdim=True)  # outside the frame it is black
        unit_2b11 = torch.exp2(1 - (LARGEST_WEIGHT / shares_2bop.amax(dim=(2, 3), keepdim=True)).log2().ceil())
        shares_2bop = torch.floor(shares_2bop / unit_2b11 + 0.5) * unit_2b11
        return shares_2bop[..., -first : self.size - first].float().unbind()

    def part(self, own: slice) -> WindowGeometry:
        """The geometry of some of the clips."""
        return WindowGeometry(self.window_b4[own], self.flip_b[own], self.size)

    def to(self, device: torch.device) -> WindowGeometry:
        window_b4, flip_b = (own.to(device, non_blocking=device.type != "cpu") for own in (self.window_b4, self.flip_b))
        return WindowGeometry(window_b4, flip_b, self.size)

    def _origin_and_scale(self, clip_n: Tensor) -> tuple[Tensor, Tensor]:
        window = self.window_b4[clip_n].float()
        return window[:, :2].repeat(1, 2), (self.size / (window[:, 2:] - window[:, :2])).repeat(1, 2)

    def _mirrored(self, boxes_n4: Tensor, clip_n: Tensor) -> Tensor:
        x1, y1, x2, y2 = boxes_n4.unbind(1)
        mirrored = torch.stack((self.size - x2, y1, self.size - x1, y2), dim=1)
        return torch.where(self.flip_b[clip_n, None], mirrored, boxes_n4)

    def _view(self, clip_thwc: Tensor, window: list[int], flip: bool) -> Tensor:
        x1, y1, x2, y2 = window
        if not flip and window == [0, 0, self.size, self.size]:
            return clip_thwc
        outside = [max(-x1, 0), max(x2 - self.size, 0), max(-y1, 0), max(y2 - self.size, 0)]
        padded = functional.pad(clip_thwc.permute(0, 3, 1, 2), outside)
        x1, y1, x2, y2 = x1 + outside[0], y1 + outside[2], x2 + outside[0], y2 + outside[2]
        # on uint8 in channels-last order this is several times faster than a float grid_sample
        shown = functional.interpolate(
            padded[:, :, y1:y2, x1:x2], (self.size, self.size), mode="bilinear", antialias=True
        )
        return (shown.flip(3) if flip else shown).permute(0, 2, 3, 1)


def normalised(clips_bthwc: Tensor) -> Tensor:
    """Clips as the network takes them: uint8 (b, t, h, w, 3) -> float32 in [0, 1], (b, 3, t, h, w), where they are."""
    clips_bcthw = clips_bthwc.permute(0, 4, 1, 2, 3)
    return clips_bcthw.contiguous().float().div_(255)  # a contiguous copy of bytes costs less than one of floats


def identity(count: int, size: int) -> WindowGeometry:
    """The geometry under which the strong view is the weak one."""
    return WindowGeometry(
        torch.tensor([[0, 0, size, size]]).repeat(count, 1), torch.zeros(count, dtype=torch.bool), size
    )


def draw_geometry(count: int, size: int, options: ViewOptions, generator: torch.Generator) -> WindowGeometry:
    """Draw the strong views of `count` clips of `size` pixels.

    The window's four edges move independently, which changes its place, size and aspect; the random scale then
    shrinks or grows it about its centre.
    """
    low, high = options.scale
    near, far = options.crop * (2 * torch.rand(2, count, 2, generator=generator) - 1)
    zoom = low + (high - low) * torch.rand(count, 1, generator=generator)
    flip_b = torch.rand(count, generator=generator) < options.flip
    centre, extent = (1 + near - far) / 2 * size, (1 - near - far) / zoom * size
    corners = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
    return WindowGeometry(corners.round().long(), flip_b, size)


def draw_colours(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Factors of brightness, contrast and saturation for `count` clips, (b, 3), each within 1 +- strength."""
    return 1 + strength * (2 * torch.rand(count, 3, generator=generator) - 1)


def change_colours(clips_bcthw: Tensor, colours_b3: Tensor) -> Tensor:
    """Clips in [0, 1] with their light, distance to the clip's mean and distance to grey multiplied."""
    brightness, contrast, saturation = colours_b3.to(clips_bcthw, non_blocking=True).view(-1, 3, 1, 1, 1, 1).unbind(1)
    grey = (clips_bcthw * brightness).mean(dim=1, keepdim=True)
    clips_bcthw = torch.lerp(grey, clips_bcthw * brightness, saturation)
    return torch.lerp(grey.mean(dim=(2, 3, 4), keepdim=True), clips_bcthw, contrast).clamp_(0, 1)


@dataclass(slots=True)
class Photometry:
    """What is changed in the look of b clips, one draw for all frames of a clip; see `ViewOptions`.

    Attributes:
        colours_b3: factors of brightness, contrast and saturation.
        grey_b: bool: the clip loses its colours.
        blur_b: standard deviation of the blur in pixels; 0: none.
        cutout_b4: xyxy in shares of the view, filled with grey; an empty one: none.
    """

    colours_b3: Tensor
    grey_b: Tensor
    blur_b: Tensor
    cutout_b4: Tensor

    def part(self, rows: slice) -> Photometry:
        """The draws of some of the clips."""
        return Photometry(self.colours_b3[rows], self.grey_b[rows], self.blur_b[rows], self.cutout_b4[rows])

    def apply(self, clips_bcthw: Tensor) -> Tensor:
        """Clips in [0, 1], changed."""
        clips_bcthw = change_colours(clips_bcthw, self.colours_b3)
        grey_b = self.grey_b.to(clips_bcthw.device, non_blocking=True).view(-1, 1, 1, 1, 1)
        clips_bcthw = torch.where(grey_b, clips_bcthw.mean(dim=1, keepdim=True), clips_bcthw)
        clips = [_blurred(clip, sigma) for clip, sigma in zip(clips_bcthw, self.blur_b.tolist(), strict=True)]
        for clip, shares in zip(clips, self.cutout_b4.tolist(), strict=True):
            x1, x2 = (round(share * clip.shape[3]) for share in shares[::2])
            y1, y2 = (round(share * clip.shape[2]) for share in shares[1::2])
            clip[:, :, y1:y2, x1:x2] = 0.5
        return torch.stack(clips)


def draw_photometry(count: int, options: ViewOptions, generator: torch.Generator) -> Photometry:
    """Draw the look of `count` strong views."""
    colours_b3 = draw_colours(count, options.strong_colour, generator)
    grey, blurred, cut = torch.rand(3, count, generator=generator)
    sigma_b = 0.1 + 1.9 * torch.rand(count, generator=generator)
    side_b2, place_b2 = 0.5 * torch.rand(2, count, 2, generator=generator) * torch.tensor([[[1.0]], [[2.0]]])
    side_b2 = side_b2 * (cut < options.strong_cutout)[:, None]
    low_b2 = place_b2 * (1 - side_b2)
    return Photometry(
        colours_b3,
        grey < options.strong_grey,
        sigma_b * (blurred < options.strong_blur),
        torch.cat([low_b2, low_b2 + side_b2], dim=1),
    )


def _blurred(clip_cthw: Tensor, sigma: float) -> Tensor:
    """A clip, each frame blurred; a new tensor in any case."""
    if sigma == 0:
        return clip_cthw.clone()
    from torchvision.transforms.v2.functional import gaussian_blur  # a second to import, and the paper has no blur

    radius = math.ceil(2 * sigma)
    frames = gaussian_blur(clip_cthw.transpose(0, 1), [2 * radius + 1, 2 * radius + 1], [sigma, sigma])
    return frames.transpose(0, 1).contiguous()


def clip_and_filter(boxes_n4: Tensor, size: int, min_visible: float) -> tuple[Tensor, Tensor]:
    """Clip boxes to a view of `size` pixels: (clipped boxes_n4, kept_n).

    A box is kept when at least `min_visible` of its area, and some of it, lies inside.
    """
    clipped = boxes_n4.clamp(0, size)
    share = _area(clipped) / _area(boxes_n4).clamp_min(1e-6)
    return clipped, (share >= min_visible) & (_area(clipped) > 0)


def _area(boxes_n4: Tensor) -> Tensor:
    return (boxes_n4[:, 2] - boxes_n4[:, 0]) * (boxes_n4[:, 3] - boxes_n4[:, 1])
