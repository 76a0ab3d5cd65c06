"""How the frames of a file are turned before they are shown: phones store videos lying, with a display matrix."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type

from ssldet.errors import DecodeError

ONE = 1 << 16
"""Display matrices are fixed-point numbers, 16.16."""


class Orientation(NamedTuple):
    """Rows and columns exchanged first, then mirrored along x, along y."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, frame_hwc: np.ndarray) -> np.ndarray:
        """The frame as it is shown."""
        turned = frame_hwc.swapaxes(0, 1) if self.transpose else frame_hwc
        return turned[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) as shown from that as stored, and the other way round."""
        return (size[1], size[0]) if self.transpose else size


STORED = Orientation()
"""Frames that are shown as they are stored."""


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """How a decoded frame is to be turned.

    Raises:
        DecodeError: by an angle that is no multiple of 90 degrees.
    """
    sides: Any = frame.side_data  # by kind, which its stub does not say
    data = sides.get(Type.DISPLAYMATRIX)
    if data is None:
        return STORED
    # x' = a x + c y, y' = b x + d y; the third column is perspective, which no camera writes
    a, b, _, c, d = np.frombuffer(bytes(data)[:20], "<i4") / ONE
    if not (b or c) and a and d:
        return Orientation(False, a < 0, d < 0)
    if not (a or d) and b and c:
        return Orientation(True, c < 0, b < 0)
    degrees = round(-math.degrees(math.atan2(b, a)))
    raise DecodeError(
        f"its frames are to be shown turned by {degrees} degrees; expected a multiple of 90: encode it again upright"
    )
