"""The two forms in which the frames of a video lie on disk.

RawForm      a .npy of all its frames, memory-mapped: a clip costs the bytes it touches and no arithmetic
PackedForm   a .jpegs file: one JPEG a frame and an index, a seventh to a third of the size; what clips cannot touch is
             left out, and only the frames of a clip are decoded

A .jpegs file is the JPEGs one after another, then the index (`INDEX`, a row a frame, sorted), then a JSON header, then
`TAIL`. The tail says how long index and header are and has their checksum, the index that of every JPEG.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

import numpy as np
from PIL import Image

from ssldet.contracts import DatasetFacts, Video, VideoSource
from ssldet.data.video import Span, read_frames, read_spans
from ssldet.errors import DataError
from ssldet.util.files import replacing

DEFAULT_QUALITY = 95
"""Of JPEGs where nobody names one: docs/data.md has what it does to numbers."""

HEADER_BYTES = 128
"""What a .npy file of four dimensions has before its numbers."""

MAGIC = b"ssldetJ1"
TAIL = struct.Struct("<QQI8s")
"""Bytes of the index, bytes of the header, CRC-32 of both, and what kind of file this is."""

INDEX = np.dtype([("frame", "<i8"), ("offset", "<i8"), ("bytes", "<i8"), ("crc", "<u4")])
"""Where a frame's JPEG lies in the file, and its CRC-32. Frames that repeat their predecessor share its JPEG."""

QUALITIES = (50, 75, 90, 95, 100)
BYTES_PER_PIXEL = (0.11, 0.18, 0.31, 0.44, 0.90)
"""Of videos of UCF101 and HMDB at 224 x 224 pixels in these qualities, measured; for estimates only."""


class StoredFrames(Protocol):
    """The frames of a video, (t, height, width, 3) uint8; what they are indexed with, they give as an array."""

    def __len__(self) -> int: ...

    def __getitem__(self, frames: Any, /) -> Any: ...


class Form(Protocol):
    """How the frames of a video are written, found and read."""

    suffix: ClassVar[str]

    @property
    def name(self) -> str:
        """What tells the folder of a store of this form from others; "" for the raw one."""

    def wanted(self, video: Video) -> np.ndarray:
        """The frames that are kept of a video, sorted."""

    def bytes_expected(self, video: Video) -> int:
        """What a video will take."""

    def is_whole(self, path: Path, video: Video) -> bool:
        """Whether the file has all that is wanted of a video. Cheap: reads no frames."""

    def write(self, path: Path, source: VideoSource, video: Video) -> None:
        """Decode a video into a file, whole or not at all.

        Raises:
            DecodeError: it does not decode.
            OSError: the file cannot be written.
        """

    def open(self, path: Path) -> StoredFrames:
        """The frames of a file. Raises OSError, ValueError or EOFError where there are none."""

    def decoded(self, path: Path, video: Video) -> int:
        """How many frames the video file gave; fewer than annotated where frames were repeated."""

    def damaged(self, path: Path) -> list[int]:
        """The frames whose checksum is not that of their bytes."""


@dataclass(frozen=True, slots=True)
class RawForm:
    """All frames as they are, `size` x `size` pixels. Has no checksums: a file of another length counts as absent."""

    size: int
    suffix: ClassVar[str] = ".npy"

    @property
    def name(self) -> str:
        return ""

    def wanted(self, video: Video) -> np.ndarray:
        return np.arange(video.num_frames)

    def bytes_expected(self, video: Video) -> int:
        return int(video.num_frames) * self.size * self.size * 3

    def is_whole(self, path: Path, video: Video) -> bool:
        try:
            return path.stat().st_size == HEADER_BYTES + self.bytes_expected(video)
        except FileNotFoundError:
            return False

    def write(self, path: Path, source: VideoSource, video: Video) -> None:
        decoded = read_frames(source, video.num_frames, (self.size, self.size))
        if decoded.decoded < video.num_frames:  # noted first: who sees the frames must see the note
            with replacing(_short_note(path)) as temporary:
                temporary.write_text(json.dumps([decoded.decoded, int(video.num_frames)]))
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, decoded.frames_thwc, allow_pickle=False)

    def open(self, path: Path) -> StoredFrames:
        return _open_raw(str(path))

    def decoded(self, path: Path, video: Video) -> int:
        with suppress(FileNotFoundError):
            return int(json.loads(_short_note(path).read_text())[0])
        return video.num_frames

    def damaged(self, path: Path) -> list[int]:
        return []


@dataclass(frozen=True, slots=True)
class PackedForm:
    """JPEGs of `quality`, with colours at full resolution.

    Attributes:
        size: side of a frame, pixels.
        quality: 1 to 100, libjpeg's scale.
        step: frames from one key frame to the next; with 1 every frame is kept.
        offsets: the frames of a clip, counted from its key frame: 0 and negative numbers.
    """

    size: int
    quality: int
    step: int = 1
    offsets: tuple[int, ...] = (0,)
    suffix: ClassVar[str] = ".jpegs"

    @property
    def name(self) -> str:
        return f"jpeg{self.quality}"

    def wanted(self, video: Video) -> np.ndarray:
        keys_k = np.arange(0, video.num_frames, self.step)
        return np.unique(np.clip(keys_k[:, None] + np.asarray(self.offsets), 0, video.num_frames - 1))

    def bytes_expected(self, video: Video) -> int:
        return len(self.wanted(video)) * self.size * self.size * bytes_per_pixel(self.quality, self.size) // 1000

    def is_whole(self, path: Path, video: Video) -> bool:
        frames = self._present(path, video)
        return frames is not None and bool(np.isin(self.wanted(video), frames, assume_unique=True).all())

    def write(self, path: Path, source: VideoSource, video: Video) -> None:
        present = self._present(path, video)  # for clips of another reach: they keep their frames
        wanted = self.wanted(video) if present is None else np.union1d(self.wanted(video), present)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            spans = read_spans(source, video.num_frames, (self.size, self.size))
            index_n, decoded = _write_jpegs(stream, spans, wanted, self.quality)
            header = {"video": video.id, "frames": int(video.num_frames), "size": self.size, "quality": self.quality}
            _write_tail(stream, index_n, header | {"decoded": decoded})

    def open(self, path: Path) -> StoredFrames:
        frames = packed_frames(path)
        if (problem := self._mismatch(frames)) is not None:
            raise ValueError(f"{path} {problem}")
        return frames

    def decoded(self, path: Path, video: Video) -> int:
        with suppress(OSError, ValueError):
            return int(packed_frames(path).header["decoded"])
        return video.num_frames

    def damaged(self, path: Path) -> list[int]:
        return packed_frames(path).damaged()

    def _present(self, path: Path, video: Video) -> np.ndarray | None:
        """The frames of a video that a file has; None where it is absent, not whole, or of something else."""
        try:
            frames = packed_frames(path)
        except (OSError, ValueError):
            return None
        same = self._mismatch(frames) is None and len(frames) == video.num_frames
        return frames.index_n["frame"] if same else None

    def _mismatch(self, frames: PackedFrames) -> str | None:
        """Why a file is not one of this form."""
        found, expected = ([getter["size"], getter["quality"]] for getter in (frames.header, self._header()))
        if found == expected:
            return None
        return f"holds frames of (size, quality) {tuple(found)}, and {tuple(expected)} are asked for"

    def _header(self) -> dict[str, int]:
        return {"size": self.size, "quality": self.quality}


class PackedFrames:
    """The frames of a .jpegs file, (t, size, size, 3) uint8, of which those that it is indexed with are decoded.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or not whole, or its index is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = np.memmap(path, np.uint8, mode="r")
        tail = self._bytes[-TAIL.size :].tobytes()
        if len(tail) < TAIL.size or not tail.endswith(MAGIC):
            raise ValueError(f"{path} is no whole file of packed frames")
        index_bytes, header_bytes, crc, _ = TAIL.unpack(tail)
        start = len(self._bytes) - TAIL.size - header_bytes - index_bytes
        described = self._bytes[max(start, 0) : len(self._bytes) - TAIL.size].tobytes()
        if start < 0 or zlib.crc32(described) != crc:
            raise ValueError(f"the index of {path} is damaged")
        self.index_n: np.ndarray = np.frombuffer(described[:index_bytes], INDEX)
        self.header: dict[str, Any] = json.loads(described[index_bytes:])

    def __len__(self) -> int:
        return int(self.header["frames"])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), self.header["size"], self.header["size"], 3)

    def __getitem__(self, frames: int | np.ndarray) -> np.ndarray:
        """Some frames, (..., size, size, 3) for an array (...) of numbers; each is decoded once.

        Raises:
            DataError: the file does not have one, or it is damaged.
        """
        rows, inverse = np.unique(self._rows(np.asarray(frames)), return_inverse=True)
        pictures = np.stack([self._picture(int(row)) for row in rows])
        return pictures[inverse.reshape(np.shape(frames))]

    def damaged(self) -> list[int]:
        """The frames whose checksum is not that of their bytes."""
        return [int(row["frame"]) for row in self.index_n if zlib.crc32(self._jpeg(row)) != row["crc"]]

    def _rows(self, frames: np.ndarray) -> np.ndarray:
        stored_n = self.index_n["frame"]
        rows = np.searchsorted(stored_n, frames).clip(0, len(stored_n) - 1)
        if (absent := stored_n[rows] != frames).any():
            raise DataError(
                f"{self.path} has not frame {frames[absent].flat[0]} of {self.header['video']}: it was stored for "
                "shorter clips or other key frames; prepare it for clips of this length"
            )
        return rows

    def _jpeg(self, row: np.void) -> bytes:
        return self._bytes[row["offset"] : row["offset"] + row["bytes"]].tobytes()

    def _picture(self, row: int) -> np.ndarray:
        jpeg = self._jpeg(self.index_n[row])
        if zlib.crc32(jpeg) != self.index_n[row]["crc"]:
            raise self._damage(int(self.index_n[row]["frame"]))
        return decode_jpeg(jpeg)

    def _damage(self, frame: int) -> DataError:
        """What is said of a damaged file. It is removed where that can be, so that it is made anew."""
        try:
            self.path.unlink(missing_ok=True)
            what_next = "it was removed, and the same command makes it anew and goes on"
        except OSError as error:
            what_next = f"it cannot be removed ({error.strerror}); remove it, and the same command makes it anew"
        return DataError(
            f"frame {frame} of {self.header['video']} is damaged: its checksum in {self.path} is not that of its "
            f"bytes; {what_next}"
        )


def default_quality(facts: DatasetFacts, size: int) -> int | None:
    """The quality in which a data set proposes to store frames of a size; None is raw."""
    return DEFAULT_QUALITY if facts.packed_from is not None and size >= facts.packed_from else None


def packed_frames(path: Path) -> PackedFrames:
    """The frames of a .jpegs file, opened once for as long as it stays the same file. Raises as `PackedFrames`."""
    status = path.stat()
    return _open_packed(path, status.st_ino, status.st_mtime_ns, status.st_size)


def bytes_per_pixel(quality: int, size: int) -> int:
    """About how many thousandths of a byte a pixel takes as JPEG; small pictures take more a pixel."""
    at_224 = float(np.interp(quality, QUALITIES, BYTES_PER_PIXEL))
    return round(1000 * at_224 * (224 / size) ** 0.55)


def _write_jpegs(stream: BinaryIO, spans: Iterator[Span], wanted: np.ndarray, quality: int) -> tuple[np.ndarray, int]:
    """Write what is wanted of a video; gives the index, and how many frames the video file gave."""
    rows, decoded = list[tuple[int, int, int, int]](), 0
    for span in spans:
        decoded = span.known
        first, end = np.searchsorted(wanted, (span.first, span.end))
        if first < end:
            jpeg = encode_jpeg(span.pixels(), quality)
            offset, crc = stream.tell(), zlib.crc32(jpeg)
            stream.write(jpeg)
            rows += [(int(frame), offset, len(jpeg), crc) for frame in wanted[first:end]]
    return np.array(rows, INDEX), decoded


def _write_tail(stream: BinaryIO, index_n: np.ndarray, header: dict[str, Any]) -> None:
    index, text = index_n.tobytes(), json.dumps(header, ensure_ascii=True).encode()
    stream.write(index + text + TAIL.pack(len(index), len(text), zlib.crc32(index + text), MAGIC))


def encode_jpeg(pixels_hwc: np.ndarray, quality: int) -> bytes:
    """Colours stay at full resolution: at the same error that takes less room than a higher quality without it."""
    buffer = BytesIO()
    Image.fromarray(pixels_hwc).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(jpeg: bytes) -> np.ndarray:
    """(h, w, 3) uint8. torchvision takes a fifth less time for the same bits, and is about to lose its decoder."""
    with Image.open(BytesIO(jpeg), formats=("JPEG",)) as image:
        return np.asarray(image)


@lru_cache(maxsize=256)  # each open map holds a file descriptor, of which a process has about a thousand
def _open_raw(path: str) -> np.ndarray:
    frames: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return frames


@lru_cache(maxsize=256)
def _open_packed(path: Path, inode: int, changed: int, size: int) -> PackedFrames:
    return PackedFrames(path)


def _short_note(path: Path) -> Path:
    return path.with_suffix(".short.json")
