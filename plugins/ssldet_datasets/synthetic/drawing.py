"""From a scene to pixels and boxes.

A body is a handful of capsules (all points within a radius of a segment); how much of a pixel one covers follows
from its distance to the segment, so edges are smooth and the extent of a figure is known exactly. All frames of a
video are drawn at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ssldet_datasets.synthetic.facts import HEIGHT, WIDTH
from ssldet_datasets.synthetic.scene import JITTER, Bar, Figure, Scene

MARGIN = 48
"""Pixels around the frame on the canvas, so that parts may stick out."""

COLOURS = np.array([[205, 80, 70], [50, 150, 150], [215, 170, 60]], np.float32)
"""Coral, teal, amber."""

OUTFITS = {
    "coral": (0, 1, 2),
    "teal": (1, 2, 0),
    "amber": (2, 0, 1),
    "brick": (0, 2, 1),
    "petrol": (1, 0, 2),
    "ochre": (2, 1, 0),
}
"""The colours of torso and arms, legs, and head of each look."""


class Capsule(NamedTuple):
    """Points within `radius` of the segment from a to b, per frame; painted in colour `paint` of the outfit."""

    a_t2: np.ndarray
    b_t2: np.ndarray
    radius: float
    paint: int


def body(figure: Figure) -> list[Capsule]:
    """The parts of a figure from back to front, in pixels of the scene.

    Torso with arms, legs, and head carry one colour each.
    """
    h, feet = figure.height, figure.feet_t2

    def at(x: float, y: float) -> np.ndarray:
        return feet + np.array([x * h, y * h])

    def limb(joint_t2: np.ndarray, side: int, angle_t: np.ndarray, length: float) -> np.ndarray:
        return joint_t2 + length * h * np.stack([side * np.sin(angle_t), np.cos(angle_t)], 1)

    parts = []
    for side in (-1, 1):
        hip, shoulder = at(0.055 * side, -0.42), at(0.12 * side, -0.71)
        parts.append(Capsule(hip, limb(hip, side, figure.leg_t, 0.36), 0.06 * h, 1))
        parts.append(Capsule(shoulder, limb(shoulder, side, figure.arm_t, 0.32), 0.05 * h, 0))
    parts.append(Capsule(at(0, -0.66), at(0, -0.46), 0.13 * h, 0))
    parts.append(Capsule(at(0, -0.90), at(0, -0.89), 0.10 * h, 2))
    return parts


def boxes(figure: Figure, camera_t2: np.ndarray) -> np.ndarray:
    """The figure's extent (t, 4), xyxy, clipped to the frame; what passes in front of it does not shrink it."""
    ends = [(np.stack([part.a_t2, part.b_t2]), part.radius) for part in body(figure)]
    low = np.min([points.min(0) - radius for points, radius in ends], 0) + camera_t2
    high = np.max([points.max(0) + radius for points, radius in ends], 0) + camera_t2
    limit = np.array([WIDTH, HEIGHT])
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], 1).astype(np.float32)


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """All frames of a scene, uint8 (t, h, w, 3)."""
    canvas = blank(scene.num_frames)
    frames = crop(canvas)
    _film(frames, backdrop(rng, scene.background), scene.camera_t2)
    for figure in scene.figures:
        paint_figure(canvas, figure, scene.camera_t2)
    if scene.bar is not None:
        _occlude(frames, scene.bar, scene.camera_t2)
    return _expose(frames, rng)


def blank(num_frames: int) -> np.ndarray:
    """Black frames (t, h, w, 3), float, with a margin all around."""
    return np.zeros((num_frames, HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN, 3), np.float32)


def crop(canvas: np.ndarray) -> np.ndarray:
    """The frames proper, without the margin: a view."""
    return canvas[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def paint_figure(canvas: np.ndarray, figure: Figure, camera_t2: np.ndarray) -> None:
    """Draw a figure onto the frames where it is visible."""
    for part in body(figure):
        colour = COLOURS[OUTFITS[figure.look][part.paint]] * figure.tint
        _paint(canvas, part, colour, figure.visible_t, camera_t2)


def _film(frames: np.ndarray, picture: np.ndarray, camera_t2: np.ndarray) -> None:
    """Fill the frames with the backdrop as the shaking camera sees it."""
    for frame, (dx, dy) in zip(frames, JITTER - camera_t2, strict=True):
        frame[:] = picture[dy : dy + HEIGHT, dx : dx + WIDTH]


def _paint(canvas: np.ndarray, part: Capsule, colour: np.ndarray, visible_t: np.ndarray, camera_t2: np.ndarray) -> None:
    """Blend a capsule into every frame, within the small window that holds it."""
    a, b = (points + camera_t2 + MARGIN for points in (part.a_t2, part.b_t2))
    corner = np.floor(np.minimum(a, b) - part.radius - 1).astype(np.int64)
    size = (np.ceil(np.maximum(a, b) + part.radius + 1).astype(np.int64) - corner).max(0)
    columns, rows = (corner[:, i, None] + np.arange(size[i]) for i in (0, 1))
    cover = _cover(columns[:, None, :] + 0.5, rows[:, :, None] + 0.5, a, b, part.radius) * visible_t[:, None, None]
    height, width = canvas.shape[1:3]
    index = (np.arange(len(a))[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    hit = cover > 0
    pixels, index = canvas.reshape(-1, 3), index[hit]
    pixels[index] += cover[hit][:, None] * (colour.astype(np.float32) - pixels[index])


def _cover(x: np.ndarray, y: np.ndarray, a_t2: np.ndarray, b_t2: np.ndarray, radius: float) -> np.ndarray:
    """How much of the pixels at (x, y) a capsule covers, 0-1, (t, rows, columns)."""
    ax, ay = (a_t2[:, i, None, None].astype(np.float32) for i in (0, 1))
    ux, uy = ((b_t2 - a_t2)[:, i, None, None].astype(np.float32) for i in (0, 1))
    px, py = x.astype(np.float32) - ax, y.astype(np.float32) - ay
    along = np.clip((px * ux + py * uy) / (ux * ux + uy * uy), 0, 1)
    distance = np.hypot(px - along * ux, py - along * uy)
    return np.clip(np.float32(radius + 0.5) - distance, 0, 1)


def _occlude(frames: np.ndarray, bar: Bar, camera_t2: np.ndarray) -> None:
    columns = np.arange(WIDTH) + 0.5
    left = (bar.left_t + camera_t2[:, 0])[:, None]
    cover = np.clip(np.minimum(columns - left, left + bar.width - columns) + 0.5, 0, 1).astype(np.float32)
    below = frames[:, int(bar.top) :]
    below += cover[:, None, :, None] * (np.float32(bar.grey) - below)


def _expose(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness of the video and noise of the sensor: one grain picture, laid at random over every frame."""
    slack = 24
    grain = rng.normal(0, rng.uniform(2, 5), (HEIGHT + slack, WIDTH + slack, 1)).astype(np.float32)
    frames = frames * np.float32(rng.uniform(0.85, 1.1))
    for frame, (x, y) in zip(frames, rng.integers(0, slack + 1, (len(frames), 2)), strict=True):
        frame += grain[y : y + HEIGHT, x : x + WIDTH]
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------ backdrops


PALETTES = np.array(
    [
        [[120, 140, 100], [90, 105, 85]],
        [[140, 125, 115], [105, 95, 95]],
        [[110, 120, 150], [80, 90, 115]],
        [[150, 145, 125], [120, 110, 90]],
        [[125, 115, 140], [95, 85, 110]],
        [[115, 135, 135], [85, 105, 100]],
    ],
    np.float32,
)
"""Two colours for each kind of backdrop, one kind a class."""


def backdrop(rng: np.random.Generator, kind: int) -> np.ndarray:
    """A still picture, float (h + 2 jitter, w + 2 jitter, 3): two colours mixed by a texture, and clutter on it."""
    height, width = HEIGHT + 2 * JITTER, WIDTH + 2 * JITTER
    y, x = np.mgrid[:height, :width].astype(np.float32)
    mix = np.clip(_texture(rng, kind, x, y), 0, 1)[..., None]
    one, two = PALETTES[kind] * rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, (2, 3)).astype(np.float32)
    picture = (one + mix * (two - one)).astype(np.float32)
    for left, top, right, bottom, colour in _clutter(rng, width, height):
        picture[top:bottom, left:right] = colour
    return picture


def _texture(rng: np.random.Generator, kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Stripes, checks or waves, whose direction and width vary."""
    period, angle, shift = rng.uniform(10, 26), rng.uniform(-0.3, 0.3), rng.uniform(0, 2 * np.pi, 2)
    u = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + shift[0]
    v = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period + shift[1]
    patterns = (np.sin(u), np.sin(v), np.sin(u) * np.sin(v))
    return 0.5 + (3.0 if kind < 3 else 0.5) * patterns[kind % 3]


def _clutter(rng: np.random.Generator, width: int, height: int) -> Iterator[tuple[int, int, int, int, np.ndarray]]:
    """Furniture: rectangles in the colours of the clothes, dulled."""
    for _ in range(rng.integers(3, 8)):
        w, h = rng.integers(6, 30, 2)
        left, top = int(rng.integers(width - w)), int(rng.integers(height - h))
        colour = COLOURS[rng.integers(len(COLOURS))] * rng.uniform(0.6, 1.1)
        yield left, top, left + int(w), top + int(h), colour
