"""Where computed things (decoded frames, indices, features) are kept between runs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """The folder of cached frames and indices: $SSLDET_CACHE, else the user's cache folder."""
    named = os.environ.get("SSLDET_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("ssldet", appauthor=False))


def safe_name(name: str) -> str:
    """A file name for any video id: its plain characters, for people, and a hash, to tell ids apart."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:80]
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing that is cached: `name` is its path below the cache folder."""

    name: str
    path: Path
    bytes: int


def entries() -> list[CacheEntry]:
    """What is cached, by name: each folder or file of the second level."""
    root = cache_root()
    paths = sorted(path for kind in root.glob("*") if kind.is_dir() for path in kind.iterdir())
    kept = (path for path in paths if not path.name.startswith(".") and path.suffix != ".lock")
    return [CacheEntry(path.relative_to(root).as_posix(), path, _bytes(path)) for path in kept]


def clear(chosen: Iterable[CacheEntry]) -> None:
    """Remove cached things; what does not exist any more is no error."""
    for entry in chosen:
        if entry.path.is_dir() and not entry.path.is_symlink():
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            entry.path.unlink(missing_ok=True)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())
