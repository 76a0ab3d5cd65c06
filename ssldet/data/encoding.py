"""Encoding: frames -> a video file that players and browsers show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.codec import UnknownCodecError

from ssldet.errors import RequestError
from ssldet.util.files import replacing

ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""What an .mp4 is written with: the first that the installed PyAV brings. The last one browsers do not show."""

QUALITY = {"libx264": {"crf": "18", "preset": "veryfast"}, "mpeg4": {"qscale": "4"}}

MOST_TICKS = 65535
"""Largest denominator of a frame rate: MPEG-4 has 16 bits for it."""

Write = Callable[[np.ndarray], None]
"""Takes the next frame, (height, width, 3) uint8 RGB."""


@contextmanager
def writing_video(path: Path, size: tuple[int, int], rate: Fraction) -> Iterator[Write]:
    """Write an .mp4, whole or not at all, frame by frame; gives what takes the frames.

    Colours are stored at half the resolution, as players expect: an odd width or height gets one pixel more, a copy of
    the last column or row.

    Args:
        path: of the file.
        size: (width, height) of the frames.
        rate: frames a second.

    Raises:
        RequestError: there is no encoder, or it refuses such frames.
    """
    encoder = _encoder()
    with replacing(path) as temporary, _container(temporary, path) as container:
        stream = _add_stream(container, encoder, size, rate)

        def write(frame_hwc: np.ndarray) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_even(frame_hwc), "rgb24")))

        try:
            yield write
            container.mux(stream.encode())
        except av.FFmpegError as error:
            raise RequestError(f"{path}: {encoder} cannot write {size[0]}x{size[1]} frames: {error}") from error


def _encoder() -> str:
    for name in ENCODERS:
        try:
            av.Codec(name, "w")
        except UnknownCodecError:
            continue
        return name
    raise RequestError(
        f"the installed PyAV {av.__version__} writes none of {', '.join(ENCODERS)}; install the one of PyPI "
        "(pip install --force-reinstall --only-binary av av), or leave out annotated videos with --no-video"
    )


@contextmanager
def _container(temporary: Path, path: Path) -> Iterator[Any]:
    try:
        container = av.open(str(temporary), "w", format="mp4")
    except (av.FFmpegError, OSError) as error:
        raise RequestError(f"{path}: cannot be written: {error}") from error
    with container:
        yield container


def _add_stream(container: Any, encoder: str, size: tuple[int, int], rate: Fraction) -> Any:
    stream = container.add_stream(encoder, rate=rate.limit_denominator(MOST_TICKS), options=QUALITY.get(encoder, {}))
    stream.width, stream.height = size[0] + size[0] % 2, size[1] + size[1] % 2
    stream.pix_fmt = "yuv420p"
    return stream


def _even(frame_hwc: np.ndarray) -> np.ndarray:
    """The frame with an even number of rows and of columns."""
    height, width = frame_hwc.shape[:2]
    if height % 2 or width % 2:
        return np.pad(frame_hwc, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame_hwc)
