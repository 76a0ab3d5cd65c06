"""Which process of which machine: what tells one that is dead from another one that has got its number."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil


@cache
def this_machine() -> str:
    """This boot of this machine, and the namespace that its processes are numbered in."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def born(pid: int) -> str:
    """When a process began, in ticks that no change of the clock moves; "" where there is none, or its corpse alone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in ("Z", "X") else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    with suppress(psutil.Error):
        return str(psutil.Process(pid).create_time())
    return ""
