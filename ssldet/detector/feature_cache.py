"""Features of frozen layers, kept on disk between runs.

For a seed every strategy sees the same clips in the same views, and all runs of a table score the same frames. What
frozen layers make of them is the same too, and most of the work of a small network. Where a run has room for it
(`use_feature_cache`), `cached_features` reads what an earlier call has made of the same input. It changes no number: a
file holds the maps of one call, is named by a hash of all that they follow from, and is checked when it is read.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ssldet.util.cache import cache_root
from ssldet.util.files import file_hash

FOLDER = "features"
"""Below the cache folder."""

CHECKSUM_BYTES = 4

LOOK_AFTER = 0.05
"""The folder's size is looked at whenever so large a share of its room was added."""

LEFT_AFTER_REMOVAL = 0.9
"""Share of the room that is used after files were removed."""


class FeatureCache:
    """Files of feature maps below a folder; those that were not read for longest are removed when there is no room.

    Args:
        folder: of all of them; made when absent.
        capacity: bytes.
    """

    def __init__(self, folder: Path, capacity: float) -> None:
        self.folder, self.capacity = folder, capacity
        self._added = math.inf  # nobody has looked yet

    def read(self, name: str) -> list[Tensor] | None:
        """The maps that a file holds; None where there is none, or it is damaged."""
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # of a cache that may be read alone
            os.utime(path)
        payload, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if zlib.crc32(payload).to_bytes(CHECKSUM_BYTES, "big") != checksum:
            return None
        maps = safetensors.torch.load(payload)
        return [maps[str(place)].permute(0, 3, 1, 2) for place in range(len(maps))]

    def write(self, name: str, maps: Sequence[Tensor]) -> None:
        """Keep maps (b, c, h, w), whose channels come last in memory. A disk that is full ends the keeping."""
        rows = {str(place): each.permute(0, 2, 3, 1).contiguous() for place, each in enumerate(maps)}
        payload = safetensors.torch.save(rows)
        content = payload + zlib.crc32(payload).to_bytes(CHECKSUM_BYTES, "big")
        try:
            self._write(self.folder / name, content)
            self._make_room(len(content))
        except OSError as error:
            self.capacity = 0
            warnings.warn(f"no more features are kept in {self.folder}: {error.strerror}", stacklevel=2)

    def _write(self, path: Path, content: bytes) -> None:
        """Not through to the disk, which would take longer than computing: what a crash leaves fails its checksum."""
        if not self.capacity:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(6)}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, added: int) -> None:
        self._added += added
        if self._added < LOOK_AFTER * self.capacity:
            return
        self._added = 0
        files = sorted(_files(self.folder))
        taken = sum(size for _, size, _ in files)
        wanted = taken - LEFT_AFTER_REMOVAL * self.capacity if taken > self.capacity else 0
        for _, size, path in files:
            if wanted <= 0:
                break
            Path(path).unlink(missing_ok=True)
            wanted -= size


def _files(folder: Path) -> list[tuple[float, int, str]]:
    """When each file was used last, its bytes and its path. Others may remove files meanwhile."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            status = path.stat()
            if path.is_file():
                found.append((status.st_mtime, status.st_size, str(path)))
    return found


_cache: ContextVar[FeatureCache | None] = ContextVar("where features are kept", default=None)


def use_feature_cache(gigabytes: float) -> None:
    """Let networks of this process keep features of frozen layers below the cache folder; with 0 they keep none."""
    _cache.set(FeatureCache(cache_root() / FOLDER, gigabytes * 1e9) if gigabytes else None)


def cached_features(
    maker: Callable[[], str], images_bchw: Tensor, compute: Callable[[], Sequence[Tensor]]
) -> Sequence[Tensor]:
    """What frozen layers make of images: read where it is kept, else computed, and kept.

    Args:
        maker: says what computes, such as `layers_digest`; asked for only where features are kept.
        images_bchw: all that the result follows from, beside the maker.
        compute: gives maps (b, c, h, w), whose channels come last in memory.
    """
    cache = _cache.get()
    if cache is None or images_bchw.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return compute()
    arithmetic = _arithmetic(torch.get_num_threads(), torch.get_float32_matmul_precision())
    name = f"{maker()[:16]}-{arithmetic}/{_input_digest(images_bchw)}"
    maps = cache.read(name)
    if maps is None:
        maps = list(compute())
        cache.write(name, maps)
    return maps


def layers_digest(network: nn.Module, *code: str) -> str:
    """A hash of a network's entries, and of the source files that say how it is computed."""
    digest = hashlib.sha256()
    for name, entry in network.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(entry))
    for file in code:
        digest.update(file_hash(Path(file)).encode())
    return digest.hexdigest()


@lru_cache
def _arithmetic(*settings: object) -> str:
    """A hash of what decides the last bits: torch's version, the processor, settings of this process."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions say less
    about = f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {sorted(known.items())} {settings}"
    return hashlib.sha256(about.encode()).hexdigest()[:8]


def _input_digest(images_bchw: Tensor) -> str:
    digest = hashlib.blake2b(f"{tuple(images_bchw.shape)} {images_bchw.dtype}".encode(), digest_size=20)
    digest.update(_bytes(images_bchw))
    return f"{digest.hexdigest()[:2]}/{digest.hexdigest()}"


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
