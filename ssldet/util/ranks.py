"""Processes that compute one thing together, each a part of it: ranks, as torch.distributed calls them.

Ranks           this process alone: sums and gathered tensors are what was given
ProcessRanks    one of several, over a process group: gloo on the CPU, NCCL between GPUs and gloo for what the host says
joined(...)     a process group for the length of a block
of_environment  what `torchrun` says of this process

Every rank makes the same calls in the same order. What one of them cannot do, because another has ended, is a LostRank.
"""

from __future__ import annotations

import base64
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ssldet.errors import LostRank

T = TypeVar("T")

STALL_SECONDS = 1800.0
"""Ranks that wait for another one give up when this long nothing was heard of it."""

POLL_SECONDS = 0.05


class Ranks:
    """This process alone, or (derived classes) one of several.

    Attributes:
        rank: which one this is, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and speaks to people."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The part of `count` things in order that is this rank's; all parts are equal where they can be."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, rows: Tensor) -> Tensor:
        """(n, ...) of each rank, which may differ in n alone -> the rows of all, in the order of ranks."""
        return rows

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes the sum of those of all ranks, in the same bits everywhere."""

    def gather_objects(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return any(self.gather_objects(flag))

    def from_first(self, function: Callable[[], T]) -> T:
        """What a function gives on the first rank, for which all others wait.

        Raises:
            LostRank: on the others, where it raises on the first; or where nothing is heard of it (`beat`).
        """
        return function()

    def beat(self) -> None:
        """Tell those who wait in `from_first` that this rank is getting on."""


ALONE = Ranks()
"""A process that computes everything itself."""


class ProcessRanks(Ranks):
    """One of several processes.

    Args:
        store: where the ranks leave notes for each other.
        rank, size: which one this is, of how many.
        stall_seconds: how long `from_first` waits without hearing of the first rank.
    """

    def __init__(self, store: Store, rank: int, size: int, *, stall_seconds: float = STALL_SECONDS) -> None:
        self.store, self.rank, self.size, self.stall_seconds = store, rank, size, stall_seconds
        self._waits = 0

    def gather(self, rows: Tensor) -> Tensor:
        if rows.ndim == 0:
            raise ValueError("gather takes rows, a tensor of at least one dimension; give value[None]")
        mine = rows.detach().contiguous().reshape(-1).view(torch.uint8)  # whatever the type is, and however many rows
        length = torch.tensor([len(mine)])
        lengths = [int(one) for one in self._all_gather(length)]
        if max(lengths) == 0:
            return rows
        padded = mine.new_zeros(max(lengths))
        padded[: len(mine)] = mine
        parts = [part[:n] for part, n in zip(self._all_gather(padded), lengths, strict=True)]
        return torch.cat(parts).view(rows.dtype).reshape(-1, *rows.shape[1:])

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        kinds = dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors)
        for kind in kinds:
            alike = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == kind]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            with _lost(self.rank, self.size):
                dist.all_reduce(flat)
            for tensor, values in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.detach().copy_(values.view(tensor.shape))

    def gather_objects(self, value: T) -> list[T]:
        pickled = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        lengths = self.gather(torch.tensor([len(pickled)])).tolist()
        parts = self.gather(pickled).split(lengths)
        return [pickle.loads(part.numpy().tobytes()) for part in parts]  # noqa: S301 - from a process of this run

    def from_first(self, function: Callable[[], T]) -> T:
        key = f"first/{self._waits}"
        self._waits += 1
        if not self.is_first:
            return self._awaited(key)
        try:
            value = function()
        except BaseException:
            self.store.set(key, "")
            raise
        self.store.set(key, base64.b64encode(pickle.dumps(value)).decode())
        return value

    def beat(self) -> None:
        if self.is_first:
            self.store.add("beats", 1)

    def _awaited(self, key: str) -> Any:
        beats, moved = 0, time.monotonic()
        with _lost(self.rank, self.size):
            while not self.store.check([key]):
                now = self.store.add("beats", 0)
                if now != beats:
                    beats, moved = now, time.monotonic()
                if time.monotonic() - moved > self.stall_seconds:
                    raise LostRank(
                        f"rank {self.rank} of {self.size} waited {self.stall_seconds:g} s for rank 0, which says "
                        "nothing; end its process, and give the same command again"
                    )
                time.sleep(POLL_SECONDS)
            value = self.store.get(key)
        if not value:
            raise LostRank(f"rank {self.rank} of {self.size} waited for rank 0, which failed")
        return pickle.loads(base64.b64decode(value))  # noqa: S301 - from a process of this run

    def _all_gather(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _lost(self.rank, self.size):
            dist.all_gather(parts, tensor)
        return parts


@contextmanager
def _lost(rank: int, size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's: the connection was closed, or nothing came in time
        why = str(error).partition("\n")[0]
        raise LostRank(
            f"rank {rank} of {size} lost the others ({why}); what the first one to fail says is why"
        ) from error


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank a process is, of how many; `local` counts on its machine."""

    rank: int
    size: int
    local: int


def of_environment() -> Place | None:
    """What RANK and WORLD_SIZE, as `torchrun` sets them, say of this process; None where it is the only one."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return Place(rank, size, int(os.environ.get("LOCAL_RANK", rank)))


@contextmanager
def joined(device: torch.device, place: Place, store_file: Path | None = None) -> Iterator[ProcessRanks]:
    """This process as one of several, for the length of a block.

    Args:
        device: what it computes on.
        place: which one it is.
        store_file: a file that all of them know, on one machine; None: as `torchrun`'s environment says.

    Raises:
        LostRank: the others do not come.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if store_file is not None and sys.platform == "linux":  # on one machine; a name that does not resolve is no matter
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _lost(place.rank, place.size):
        store = _store(place, store_file)
        dist.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.size, timeout=timedelta(seconds=STALL_SECONDS)
        )
    try:
        yield ProcessRanks(PrefixStore("ssldet", store), place.rank, place.size)
    except BaseException:
        raise  # and no farewell: the others may be in the midst of what this one was to take part in
    else:
        dist.destroy_process_group()


def _store(place: Place, file: Path | None) -> Store:
    if file is not None:
        return FileStore(str(file), place.size)
    store, _, _ = next(rendezvous("env://", place.rank, place.size))
    return store
