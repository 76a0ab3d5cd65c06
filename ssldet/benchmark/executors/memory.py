"""Amounts of memory as people write and read them, 16G, and what this machine has."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

PATTERN = r"^\d+[KMGT]B?$"
"""What an option for an amount of memory takes."""

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def read_memory(text: str) -> int:
    """Bytes of a text of `PATTERN`, counted in powers of 1024 as batch systems count them."""
    amount = text.removesuffix("B")
    return int(amount[:-1]) * UNITS[amount[-1]]


def in_words(count: float) -> str:
    """An amount of bytes for a message, "1.5G"."""
    return f"{count / UNITS['G']:.1f}G"


def of_this_machine() -> int:
    """Bytes of main memory that this machine has, or the container that this process is in allows."""
    total = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # no cgroup of version 2, or one that sets no limit ("max")
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total
