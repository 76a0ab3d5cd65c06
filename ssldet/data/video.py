"""Decoding: a video file or a folder of images -> uint8 frames, exactly as many as the annotation counts.

Files lie about their length. An .avi of UCF101 may decode to fewer frames than annotated, because frames that repeat
their predecessor were stored empty; an .avi of J-HMDB has gaps in its time stamps and yet decodes to exactly the
annotated frames. So frames are taken in order while there are enough of them, and are placed by presentation time only
where there are too few; then each gap repeats the frame before it.

Frames are upright: turned as the file's display matrix, or an image's EXIF entry, says. Sizes are those of upright
frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import ExifTags, Image, ImageOps

from ssldet.contracts import VideoSource
from ssldet.data.orientation import STORED, Orientation, orientation_of
from ssldet.errors import DecodeError

TAGS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""How PyAV reads tags: in old .avi files these are not UTF-8, of which it takes care itself from version 19 on."""


SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".mts", ".3gp")
"""Suffixes of video files."""


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
    """What a file says of itself; frames are upright."""

    width: int
    height: int
    frames: int


class Timing(NamedTuple):
    """How the frames of a file follow each other: frames a second on average, and whether they last equally long."""

    rate: float
    even: bool


class Span(NamedTuple):
    """A picture and the frames that show it.

    Attributes:
        first, end: the frames from `first` to before `end`.
        pixels: makes the picture, (height, width, 3) uint8 RGB; what is not wanted need not be scaled.
        known: how many frames the file has given by the last of them.
    """

    first: int
    end: int
    pixels: Callable[[], np.ndarray]
    known: int


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


def read_spans(source: VideoSource, num_frames: int, size: tuple[int, int]) -> Iterator[Span]:
    """The pictures of `read_frames`, one after another and in the same order.

    Images, and files that are sampled at a rate (films), are never in memory as a whole.

    Raises:
        DecodeError: as `read_frames`.
    """
    if source.file is not None and source.rate is not None and num_frames >= 1:
        yield from _spans_at_rate(source.file, num_frames, size, source.rate)
    elif source.file is None and source.images and num_frames >= 1:
        last = min(len(source.images), num_frames) - 1
        for index, image in enumerate(source.images[:num_frames]):
            end = num_frames if index == last else index + 1
            yield Span(index, end, partial(_read_image, image, size), len(source.images))
    else:
        video = read_frames(source, num_frames, size)
        for index, pixels_hwc in enumerate(video.frames_thwc):
            yield Span(index, index + 1, partial(np.asarray, pixels_hwc), video.decoded)


def stream_frames(source: VideoSource, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """Every frame of a video as it comes, (height, width, 3) uint8 RGB, one after another: none is kept.

    No time stamps are looked at, and none is repeated: the n-th picture is the n-th frame that the file holds.

    Args:
        source: a file, or images.
        size: (width, height) to resize to, as `read_frames` does; None leaves frames as they are.

    Raises:
        DecodeError: a file that is absent, holds no video or no frames, or is damaged anywhere.
    """
    count = 0
    for pixels_hwc in _stream(source, size):
        yield pixels_hwc
        count += 1
    if not count:
        raise DecodeError(f"{_name(source)}: holds no frames")


def _stream(source: VideoSource, size: tuple[int, int] | None) -> Iterator[np.ndarray]:
    if source.file is None:
        yield from (_read_image(image, size) for image in source.images)
        return
    scale = _Scale(source.file, size)
    yield from (scale(frame) for frame, _ in _decode(source.file, probe(source).frames))


def read_some(source: VideoSource, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
    """Some frames of a video, (n, height, width, 3) uint8, in the order asked for; decodes to the last, keeps these.

    Raises:
        DecodeError: as `read_frames`.
    """
    last = max(frames) + 1
    if source.file is None:
        pictures = [_read_image(source.images[min(frame, len(source.images) - 1)], size) for frame in frames]
        return np.stack(pictures)
    if source.rate is not None:
        return read_frames(source, last, size).frames_thwc[list(frames)]
    kept: dict[int, np.ndarray] = {}
    wanted, scale = set(frames), _Scale(source.file, size)
    for index, (frame, _) in enumerate(_decode(source.file, last)):
        if index in wanted:
            kept[index] = scale(frame)
        if index + 1 >= last:
            return np.stack([kept[frame] for frame in frames])
    return read_frames(source, last, size).frames_thwc[list(frames)]  # a short file: placed by time


def probe(source: VideoSource) -> VideoInfo:
    """Size and number of frames, by counting packets: at most one frame is decoded (about 0.3 ms for a short clip).

    A file may decode to fewer frames than it has packets.

    Raises:
        DecodeError: a file that cannot be opened or holds no video.
    """
    if source.file is None:
        if not source.images:
            raise DecodeError("an image sequence without images")
        with _open_image(source.images[0]) as image:
            return VideoInfo(*_upright_size(image), len(source.images))
    orientation = file_orientation(source.file)
    with _open_container(source.file) as (container, stream):
        try:
            packets = sum(1 for packet in container.demux(stream) if packet.size)
        except av.FFmpegError as error:
            raise DecodeError(f"{source.file}: cannot be read to its end: {error}") from error
        return VideoInfo(*orientation.size(_stored_size(stream)), packets)


def frame_size(source: VideoSource) -> tuple[int, int]:
    """(width, height) of the frames; a container is opened, not read through.

    Raises:
        DecodeError: a file that cannot be opened or holds no video.
    """
    if source.file is None:
        info = probe(source)
        return info.width, info.height
    orientation = file_orientation(source.file)
    with _open_container(source.file) as (_, stream):
        return orientation.size(_stored_size(stream))


def file_orientation(file: Path) -> Orientation:
    """How the frames of a file are turned to be upright. The first one is decoded; an .avi has no display matrix.

    Raises:
        DecodeError: a file that cannot be opened, holds no video, or is turned by an odd angle.
    """
    if file.suffix.lower() == ".avi":
        return STORED
    with _open_container(file) as (container, stream):
        try:
            first = next(container.decode(stream), None)
        except av.FFmpegError:  # `read_frames` says what is wrong with it
            first = None
    return STORED if first is None else _orientation(first, file)


def frame_rate(source: VideoSource) -> Fraction | None:
    """Frames a second on average, as the file says; None for images, or where it does not say.

    Raises:
        DecodeError: a file that cannot be opened or holds no video.
    """
    if source.file is None:
        return None
    with _open_container(source.file) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
    return Fraction(rate) if rate else None


def timing(source: VideoSource, most: int = 300) -> Timing | None:
    """How the first `most` frames of a file follow each other, by their time stamps; None for images or without stamps.

    Raises:
        DecodeError: a file that cannot be opened or holds no video.
    """
    if source.file is None:
        return None
    with _open_container(source.file) as (container, stream):
        try:
            packets = islice((packet for packet in container.demux(stream) if packet.size), most)
            stamps = sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)
        except av.FFmpegError as error:
            raise DecodeError(f"{source.file}: cannot be read to its end: {error}") from error
    gaps = np.diff(stamps)
    if not len(gaps) or gaps.sum() <= 0:
        return None
    usual = float(np.median(gaps))
    # containers that keep milliseconds are one off; a gap is a frame that was left out or lasts longer
    uneven = np.abs(gaps - usual) > max(0.25 * usual, 0.002)
    return Timing(len(gaps) / float(gaps.sum()), not uneven.any())


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
    decoded, scale = 0, _Scale(file, size)
    for frame, position in _decode(file, num_frames):
        if decoded < num_frames:
            pixels_hwc = scale(frame)
            if decoded == 0:
                frames_thwc = np.empty((num_frames, *pixels_hwc.shape), np.uint8)
            frames_thwc[decoded] = pixels_hwc
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
    frames_thwc = np.empty((0, 0, 0, 3), np.uint8)
    decoded = 0
    for span in _spans_at_rate(file, num_frames, size, rate):
        pixels_hwc, decoded = span.pixels(), span.known
        if span.first == 0:
            frames_thwc = np.empty((num_frames, *pixels_hwc.shape), np.uint8)
        frames_thwc[span.first : span.end] = pixels_hwc
    return DecodedVideo(frames_thwc, decoded)


def _spans_at_rate(file: Path, num_frames: int, size: tuple[int, int] | None, rate: float) -> Iterator[Span]:
    """What shows at 0, 1/rate, 2/rate ... seconds; each picture until the next one, the last to the end."""
    scale, shown, first, end = _Scale(file, size), None, 0, 0  # `shown` is there from `first` on; `end` is behind it
    for frame, position in _decode(file, num_frames, rate):
        at = 0 if shown is None else end if position is None else max(position, first)
        if shown is not None and at >= num_frames:
            yield Span(first, num_frames, partial(scale, shown), num_frames)
            return
        if shown is not None and at > first:
            yield Span(first, at, partial(scale, shown), at)
        shown, first, end = frame, at, at + 1
    if shown is None:
        raise DecodeError(f"{file}: holds no frames (expected {num_frames})")
    yield Span(first, num_frames, partial(scale, shown), end)


class _Scale:
    """Decoded frames -> upright (h, w, 3) uint8 RGB of `size` (width, height), or as they are, each the first's way."""

    def __init__(self, file: Path, size: tuple[int, int] | None) -> None:
        self._file, self._size = file, size
        self._orientation: Orientation | None = None
        # one reformatter per file keeps its scaling tables: frame.reformat() alone is 2.4 times slower
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self._orientation is None:
            self._orientation = _orientation(frame, self._file)
            stored = frame.width, frame.height
            self._size = self._orientation.size(self._size) if self._size else stored
        assert self._size is not None
        scaled = self._reformatter.reformat(frame, *self._size, format="rgb24", interpolation=Interpolation.AREA)
        return self._orientation.apply(scaled.to_ndarray())


def _orientation(frame: av.VideoFrame, file: Path) -> Orientation:
    try:
        return orientation_of(frame)
    except DecodeError as error:
        raise DecodeError(f"{file}: {error}") from error


def _stored_size(stream: Any) -> tuple[int, int]:
    return stream.codec_context.width, stream.codec_context.height


def _first_at(position: Fraction) -> int:
    """The first sample at or after a position; containers that keep milliseconds are a little off."""
    return math.ceil(position - Fraction(1, 20))


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
        # a file must not make ffmpeg fetch others
        container = av.open(str(file), **TAGS, options={"protocol_whitelist": "file"})
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
            rgb = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DecodeError(f"{path}: does not decode: {error}") from error
    return np.asarray(rgb.resize(size, Image.Resampling.BOX) if size else rgb)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once it is turned as its EXIF entry says: 5 to 8 exchange rows and columns."""
    lying = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.height, image.width) if lying else (image.width, image.height)


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
