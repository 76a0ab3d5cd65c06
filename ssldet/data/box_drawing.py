"""Boxes and their names on pictures, one colour a class."""

from __future__ import annotations

import colorsys
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]

INK: Colour = (30, 30, 30)
"""Behind names."""


@cache
def text_font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's; the one that Pillow brings lacks letters with accents."""
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def class_colour(label: int, num_classes: int) -> Colour:
    """One hue a class, as far apart as there are classes."""
    red, green, blue = colorsys.hsv_to_rgb(label / max(num_classes, 1), 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_box(
    pen: ImageDraw.ImageDraw,
    edges_4: np.ndarray,
    name: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
    *,
    width: int = 2,
    top: int = 0,
) -> None:
    """A box with its name above it, or within it where there is no room.

    Args:
        pen: of the picture.
        edges_4: x1 y1 x2 y2 in pixels of a frame.
        name: what is written.
        colour: of box and name.
        font: of the name.
        width: of the lines, pixels.
        top: row of the picture in which the frame begins.
    """
    x1, y1, x2, y2 = (float(edge) for edge in edges_4)
    pen.rectangle((x1, y1 + top, x2, y2 + top), outline=colour, width=width)
    line = round(font.size) + 3
    above = y1 >= line
    at = max(x1, 0) + (0 if above else 3), top + (y1 - line if above else max(y1, 0) + 2)
    pen.rectangle(pen.textbbox(at, name, font), fill=INK)
    pen.text(at, name, colour, font)
