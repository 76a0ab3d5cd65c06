"""Keeping freed memory changes where memory comes from, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import ctypes, sys
from ssldet.util import allocator
kept = allocator.keep_freed_memory()
import psutil
def hold(): return bytearray(200_000_000)
block = hold(); full = psutil.Process().memory_info().rss
del block
print(kept, full - psutil.Process().memory_info().rss < 100_000_000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_stays_with_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, stayed = done.stdout.split()
    assert kept == stayed


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssldet.util import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
