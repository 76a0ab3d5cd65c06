"""Reading MATLAB files from strangers: inflated within bounds first, then parsed; any failure is a DataError."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from ssldet.errors import DataError

MAX_BYTES = 64 * 2**20
"""A file larger than this is refused: UCF24's annotation has 1.2 MB, a puppet mask some kB."""
MAX_INFLATED = 256 * 2**20
"""So many bytes may come out of a file's compressed parts."""

HEADER_BYTES = 128
COMPRESSED = 15


def load_mat(path: Path, names: Sequence[str], *, simple: bool = False) -> dict[str, Any]:
    """The named variables of a MATLAB 5 file (`simple`: structs as dictionaries, arrays of them as lists).

    Raises:
        DataError: the file is absent, damaged, of another version, too large, or holds none of the names.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; annotation files have at most {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        plain = b"".join([content[:HEADER_BYTES], *_elements(content)])
        found = loadmat(io.BytesIO(plain), variable_names=list(names), simplify_cells=simple)
        return {name: found[name] for name in names}
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        raise DataError(
            f"{path}: not a readable MATLAB 5 file with {', '.join(names)} ({type(error).__name__}: {error})"
        ) from error


def _elements(content: bytes) -> Iterator[bytes]:
    """The variables of a file, inflated."""
    if content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise DataError("not a MATLAB 5 file; save it again with -v7")
    order = "<" if content[126:128] == b"IM" else ">"
    place, left = HEADER_BYTES, MAX_INFLATED
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        whole = content[place : place + 8 + size]
        part = _inflate(whole[8:], left) if kind == COMPRESSED else whole
        left -= len(part)
        yield part
        place += 8 + size


def _inflate(content: bytes, most: int) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(content, most + 1)
    if len(inflated) > most:
        raise DataError(f"its compressed parts hold more than {MAX_INFLATED} bytes; annotation files do not")
    if not inflater.eof:
        raise DataError("a compressed part is cut off or damaged")
    return inflated
