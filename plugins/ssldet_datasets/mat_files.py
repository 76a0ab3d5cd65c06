"""Reading MATLAB 5 files from strangers: numbers, text, cells and structs, nothing else.

Why it is hand-written: SciPy's reader crashed the interpreter 26 times in 2,160 mutated files, which no `except` can
catch. This one reads what annotation uses, and sets nothing aside that the file does not hold: compressed parts are
inflated within bounds, and each array must fill its shape.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssldet.errors import DataError

MAX_BYTES = 64 * 2**20
"""A file larger than this is refused: UCF24's annotation has 1.2 MB, a puppet mask some kB."""
MAX_INFLATED = 256 * 2**20
"""So many bytes may come out of a file's compressed parts."""
MAX_DEPTH = 8

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Kinds of numbers as they lie in a file; text may be of kinds 16 to 18 too."""
TEXT = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
NUMBERS = range(6, 16)
"""Classes of arrays of numbers."""
CELL, STRUCT, CHAR = 1, 2, 4


def load_mat(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The named variables of a MATLAB 5 file.

    Numbers come as arrays of their shape (a single one as a NumPy scalar), text as str, cells as a list, a struct as a
    dictionary and an array of structs as a list of them, in the order of MATLAB's columns.

    Raises:
        DataError: the file is absent, damaged, of another version, too large, or lacks one of the names.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; annotation files have at most {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        variables = dict(_variables(content))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (struct.error, zlib.error, ValueError, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: a damaged MATLAB file ({type(error).__name__}: {error})") from error
    if missing := [name for name in names if name not in variables]:
        raise DataError(f"{path}: holds no {', '.join(missing)}; it has {', '.join(variables) or 'nothing'}"[:500])
    return {name: variables[name] for name in names}


@dataclass(slots=True)
class _Stream:
    """Bytes that are read from front to back: `order` is "<" or ">"."""

    content: memoryview
    order: Literal["<", ">"]
    place: int = 0

    @property
    def left(self) -> int:
        return len(self.content) - self.place

    def element(self) -> tuple[int, memoryview]:
        """Kind and bytes of the next element; short ones lie inside their tag."""
        first, size = struct.unpack_from(f"{self.order}II", self.content, self.place)
        kind, start, end = first, self.place + 8, self.place + 8 + size + -size % 8
        if first >> 16:
            kind, size, start, end = first & 0xFFFF, first >> 16, self.place + 4, self.place + 8
        if start + size > len(self.content) or (first >> 16 and size > 4):
            raise DataError("an element is cut off")
        self.place = min(start + size if kind == COMPRESSED else end, len(self.content))
        return kind, self.content[start : start + size]

    def numbers(self) -> np.ndarray:
        """The next element as a flat array."""
        kind, raw = self.element()
        if kind not in STORED:
            raise DataError(f"expected numbers, found an element of kind {kind}")
        stored = np.dtype(STORED[kind]).newbyteorder(self.order)
        return np.frombuffer(raw[: len(raw) - len(raw) % stored.itemsize], stored)

    def text(self) -> str:
        """The next element as a text."""
        kind, raw = self.element()
        if kind not in TEXT:
            raise DataError(f"expected text, found an element of kind {kind}")
        wide = "" if TEXT[kind] in ("latin1", "utf-8") else {"<": "-le", ">": "-be"}[self.order]
        return bytes(raw).decode(TEXT[kind] + wide, errors="replace")


def _variables(content: bytes) -> Iterator[tuple[str, Any]]:
    if content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise DataError("not a MATLAB 5 file; save it again with -v7")
    order: Literal["<", ">"] = "<" if content[126:128] == b"IM" else ">"
    stream, budget = _Stream(memoryview(content), order, HEADER_BYTES), MAX_INFLATED
    while stream.left >= 8:
        kind, raw = stream.element()
        if kind == COMPRESSED:
            inflated = _inflate(raw, budget)
            budget -= len(inflated)
            kind, raw = _Stream(memoryview(inflated), order).element()
        if kind == MATRIX:
            yield _matrix(_Stream(raw, order), depth=0)


def _inflate(content: memoryview, most: int) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(content, most + 1)
    if len(inflated) > most:
        raise DataError(f"its compressed parts hold more than {MAX_INFLATED} bytes; annotation files do not")
    if not inflater.eof:
        raise DataError("a compressed part is cut off or damaged")
    return inflated


def _matrix(stream: _Stream, depth: int) -> tuple[str, Any]:
    """Name and value of an array."""
    if depth > MAX_DEPTH:
        raise DataError(f"arrays inside arrays more than {MAX_DEPTH} deep")
    flags = stream.numbers()
    kind = int(flags[0]) & 0xFF if len(flags) else 0
    shape = tuple(int(side) for side in stream.numbers())
    name = stream.text()
    if not 2 <= len(shape) <= 8 or min(shape) < 0:
        raise DataError(f"an array of shape {shape}")
    if kind in NUMBERS:
        return name, _numbers(stream, shape)
    if kind == CHAR:
        return name, stream.text() if prod(shape) else ""
    if kind == CELL:
        return name, [_inner(stream, depth) for _ in range(_count(stream, shape, 1))]
    if kind == STRUCT:
        return name, _structs(stream, shape, depth)
    raise DataError(f"an array of class {kind}; only numbers, text, cells and structs are read")


def _numbers(stream: _Stream, shape: tuple[int, ...]) -> Any:
    values = stream.numbers()
    if len(values) != prod(shape):
        raise DataError(f"an array of shape {shape} with {len(values)} numbers")
    array = values.reshape(shape, order="F")  # as stored: MATLAB keeps whole doubles in the smallest integer type
    return array[(0,) * len(shape)] if array.size == 1 else array


def _structs(stream: _Stream, shape: tuple[int, ...], depth: int) -> Any:
    lengths = stream.numbers()
    length, names = int(lengths[0]) if len(lengths) else 0, stream.text()
    if length < 1:
        raise DataError(f"names of fields with {length} characters")
    fields = [names[at : at + length].split("\0")[0] for at in range(0, len(names), length)]
    count = _count(stream, shape, len(fields))
    structs = [{name: _inner(stream, depth) for name in fields} for _ in range(count)]
    return structs[0] if count == 1 else structs


def _count(stream: _Stream, shape: tuple[int, ...], fields: int) -> int:
    """How many cells or structs there are; each of their fields takes 8 bytes at least."""
    count = prod(shape)
    if count * max(fields, 1) * 8 > stream.left:
        raise DataError(f"{count} cells or structs in {stream.left} bytes")
    return count


def _inner(stream: _Stream, depth: int) -> Any:
    kind, raw = stream.element()
    if kind != MATRIX:
        raise DataError(f"expected an array, found an element of kind {kind}")
    return _matrix(_Stream(raw, stream.order), depth + 1)[1] if len(raw) else np.empty((0, 0))
