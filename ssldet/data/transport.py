"""How what workers make comes over: whole, in one piece of shared memory.

torch opens a connection and a file for each tensor that one process sends to another, which takes most of a
millisecond, and a batch has a dozen small ones beside its clips. What goes through the pipe itself stays short, since a
process that is killed in the midst of a long message leaves the reader waiting for the rest.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssldet.errors import DataError

ALIGNED = 64
"""Bytes at whose multiples the data of each tensor begins."""


class Parcel:
    """Something that holds CPU tensors, packed for another process of this program.

    Its bytes are unpickled: they come from a worker that the program started, never from a file.

    Raises:
        DataError: there is no shared memory left.
    """

    def __init__(self, content: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        body = _pickled(content, buffers)
        pieces = [memoryview(body), *(buffer.raw() for buffer in buffers)]
        self._sizes = [len(piece) for piece in pieces]
        self._places = np.cumsum([0, *(-(-size // ALIGNED) * ALIGNED for size in self._sizes)]).tolist()
        self._bytes = _shared(self._places.pop())
        for place, piece in zip(self._places, pieces, strict=True):
            self._bytes.numpy()[place : place + len(piece)] = np.frombuffer(piece, dtype=np.uint8)

    def unpack(self) -> Any:
        """What was packed; its tensors lie in the memory that it came in."""
        memory = self._bytes.numpy()
        body, *buffers = (memory[at : at + size] for at, size in zip(self._places, self._sizes, strict=True))
        return pickle.loads(body.data, buffers=buffers)  # noqa: S301 - from a worker of ours

    def pin_memory(self) -> Any:
        """What was packed, in page-locked memory where it can be: torch's loader calls it for a GPU, in a thread."""
        content = self.unpack()
        return content.pin_memory() if hasattr(content, "pin_memory") else content


def _shared(size: int) -> Tensor:
    """So many bytes of shared memory."""
    try:
        return torch.empty(size, dtype=torch.uint8).share_memory_()
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"the shared memory of this machine (/dev/shm) has no room for a batch of {size / 1e6:.1f} MB; give it "
            "more, or choose fewer --loader-workers (0: none)"
        ) from error


def _pickled(content: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    """The bytes of something but for the data of its tensors, which go to `buffers`."""
    message = io.BytesIO()
    _Packer(message, protocol=5, buffer_callback=buffers.append).dump(content)
    return message.getvalue()


class _Packer(pickle.Pickler):
    """Pickles tensors as arrays, whose data it can leave where they are."""

    def reducer_override(self, part: Any) -> Any:
        return (torch.from_numpy, (part.numpy(),)) if isinstance(part, Tensor) else NotImplemented
