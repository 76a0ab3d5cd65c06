"""Decoding: a video file or a folder of images -> uint8 frames, exactly as many as the annotation counts.

Files lie about their length. An .avi of UCF101 may decode to fewer frames than annotated, because frames that repeat
their predecessor were stored empty; an .avi of J-HMDB has gaps in its time stamps and yet decodes to exactly the
annotated frames. So frames are taken in order while there are enough of them, and are placed by presentation time only
where there are too few; then each gap repeats the frame before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from ssldet.contracts import VideoSource
from ssldet.errors import DecodeError


@dataclass(frozen=True, slots=True, eq=False)
class DecodedVideo:
    """Frames of one video.

    Attributes:
        frames_thwc: (t, height, width, 3) uint8 RGB.
        decoded: how many frames the file gave; fewer than t where frames were repeated, more where it goes on.
    """

    frames_thwc: np.ndarray
    decoded: int


class VideoInfo(NamedTuple):
    """What a file says of itself without being decoded."""

    width: int
    height: int
    frames: int


def read_frames(source: VideoSource, num_frames: int, size: tuple[int, int] | None = None) -> DecodedVideo:
    """Decode the first `num_frames` frames of a video, resized to `size` (width, height), or as they are.

    Resizing averages over the area of a pixel. Where the file gives fewer frames, they are placed by presentation
    time and repeated; the count is in `decoded`.

    Raises:
        DecodeError: a file that is absent, holds no video, no frames, or is damaged before frame `num_frames`.
    """
    if num_frames < 1:
        raise DecodeError(f"{_name(source)}: asked for {num_frames} frames; the annotation must count at least one")
    if source.file is None:
        return _read_images(source.images, num_frames, size)
    if source.rate is not None:
        return _read_at_rate(source.file, num_frames, size, source.rate)
    return _read_container(source.file, num_frames, size)


def probe(source: VideoSource) -> VideoInfo:
    """Size and number of frames, by counting packets: nothing is decoded (about 0.3 ms for a short clip).

    A file may decode to fewer frames than it has packets.

    Raises:
        DecodeError: a file that cannot be opened or holds no video.
    """
    if source.file is None:
        if not source.images:
            raise DecodeError("an image sequence without images")
        with _open_image(source.images[0]) as image:
            return VideoInfo(image.width, image.height, len(source.images))
    with _open_container(source.file) as (container, stream):
        try:
            packets = sum(1 for packet in container.demux(stream) if packet.size)
        except av.FFmpegError as error:
            raise DecodeError(f"{source.file}: cannot be read to its end: {error}") from error
        return VideoInfo(stream.codec_context.width, stream.codec_context.height, packets)


def frame_size(source: VideoSource) -> tuple[int, int]:
    """(width, height) of the frames; a container is opened, not read through.

    Raises:
        DecodeError: a file that cannot be opened or holds no video.
    """
    if source.file is None:
        info = probe(source)
        return info.width, info.height
    with _open_container(source.file) as (_, stream):
        return stream.codec_context.width, stream.codec_context.height


def align(positions: Sequence[int], num_frames: int) -> np.ndarray:
    """For each of `num_frames` frames, which decoded frame shows there: the last one at or before it.

    Args:
        positions: the frame number of each decoded frame by its presentation time. Files with damaged time stamps
            give them out of order; decoders never do, so they are sorted.
    """
    return np.maximum(np.searchsorted(np.sort(positions), np.arange(num_frames), side="right") - 1, 0)


def _read_container(file: Path, num_frames: int, size: tuple[int, int] | None) -> DecodedVideo:
    frames_thwc = np.empty((0, 0, 0, 3), np.uint8)
    positions: list[int | None] = []
    decoded = 0
    # one reformatter per file keeps its scaling tables: frame.reformat() alone is 2.4 times slower
    reformatter = VideoReformatter()
    for frame, position in _decode(file, num_frames):
        if decoded == 0:
            size = size or (frame.width, frame.height)
            frames_thwc = np.empty((num_frames, size[1], size[0], 3), np.uint8)
        if decoded < num_frames:
            assert size is not None
            scaled = reformatter.reformat(frame, *size, format="rgb24", interpolation=Interpolation.AREA)
            frames_thwc[decoded] = scaled.to_ndarray()
            positions.append(position)
        decoded += 1
    if decoded == 0:
        raise DecodeError(f"{file}: holds no frames (expected {num_frames})")
    if decoded < num_frames:
        known = [p for p in positions if p is not None]
        which = align(known if len(known) == decoded else range(decoded), num_frames)
        frames_thwc = frames_thwc[which]
    return DecodedVideo(frames_thwc, decoded)


def _read_at_rate(file: Path, num_frames: int, size: tuple[int, int] | None, rate: float) -> DecodedVideo:
    """The frames that show at 0, 1/rate, 2/rate ... seconds; each gap repeats the frame before it."""
    frames_thwc = np.empty((0, 0, 0, 3), np.uint8)
    reformatter, end = VideoReformatter(), 0  # frames before `end` are there
    for frame, position in _decode(file, num_frames, rate):
        at = end if position is None else max(position, end - 1, 0)
        if at >= num_frames and end:
            return DecodedVideo(_repeat_last(frames_thwc, end), num_frames)
        if not end:
            size, at = size or (frame.width, frame.height), 0
            frames_thwc = np.empty((num_frames, size[1], size[0], 3), np.uint8)
        assert size is not None
        scaled = reformatter.reformat(frame, *size, format="rgb24", interpolation=Interpolation.AREA)
        frames_thwc[end:at] = frames_thwc[max(end - 1, 0)]
        frames_thwc[at], end = scaled.to_ndarray(), at + 1
    if end == 0:
        raise DecodeError(f"{file}: holds no frames (expected {num_frames})")
    return DecodedVideo(_repeat_last(frames_thwc, end), end)


def _first_at(position: Fraction) -> int:
    """The first sample at or after a position; containers that keep milliseconds are a little off."""
    return math.ceil(position - Fraction(1, 20))


def _repeat_last(frames_thwc: np.ndarray, end: int) -> np.ndarray:
    frames_thwc[end:] = frames_thwc[end - 1]
    return frames_thwc


def _decode(file: Path, num_frames: int, rate: float | None = None) -> Iterator[tuple[av.VideoFrame, int | None]]:
    """Frames with their number by presentation time at `rate` (None: the file's own).

    Damage behind the last frame needed does not count.
    """
    with _open_container(file) as (container, stream):
        place = round if rate is None else _first_at
        rate, start, count = rate or stream.average_rate, stream.start_time or 0, 0
        try:
            for frame in container.decode(stream):
                timed = frame.pts is not None and frame.time_base is not None and rate
                yield frame, place((frame.pts - start) * frame.time_base * rate) if timed else None
                count += 1
        except av.FFmpegError as error:
            if count < num_frames:
                raise DecodeError(
                    f"{file}: frame {count} of {num_frames} does not decode ({error.strerror}); "
                    "the file is damaged or cut off: get it again, or skip this video"
                ) from error


@contextmanager
def _open_container(file: Path) -> Iterator[tuple[Any, Any]]:
    try:
        # names of tags in old .avi files are not UTF-8; and a file must not make ffmpeg fetch others
        container = av.open(str(file), metadata_errors="replace", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"{file}: cannot be opened as a video: {error.strerror}") from error
    with container:
        if not container.streams.video:
            raise DecodeError(f"{file}: holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # clips are short: starting threads costs more than they save
        yield container, stream


def _read_images(images: Sequence[Path], num_frames: int, size: tuple[int, int] | None) -> DecodedVideo:
    if not images:
        raise DecodeError(f"an image sequence without images (expected {num_frames})")
    first = _read_image(images[0], size)
    frames_thwc = np.empty((num_frames, *first.shape), np.uint8)
    for index in range(num_frames):
        frame = _read_image(images[index], size) if index < len(images) else frames_thwc[index - 1]
        if frame.shape != first.shape:
            raise DecodeError(f"{images[index]}: is {frame.shape[1]}x{frame.shape[0]}, the images before it are not")
        frames_thwc[index] = frame
    return DecodedVideo(frames_thwc, len(images))


def _read_image(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    with _open_image(path) as image:
        try:
            rgb = image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DecodeError(f"{path}: does not decode: {error}") from error
    return np.asarray(rgb.resize(size, Image.Resampling.BOX) if size else rgb)


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{path}: cannot be opened as an image: {error}") from error
    with image:
        yield image


def _name(source: VideoSource) -> str:
    return str(source.file or (source.images[0] if source.images else "empty source"))
