"""Where computed things (decoded frames, indices) are kept between runs."""

from __future__ import annotations

import hashlib
import os
import re
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
