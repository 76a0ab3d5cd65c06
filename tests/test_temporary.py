"""Temporary folders go with their process, and where that was killed with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ssldet.util.temporary import temporary_folder

MAKE = """
from ssldet.util.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "socket").touch()
    print(folder, flush=True)
    input()
"""

SOCKETS = """
import multiprocessing.util
from ssldet.util.temporary import keep_sockets_apart
keep_sockets_apart()
print(multiprocessing.util.get_temp_dir(), flush=True)
input()
"""

IN_A_CHILD = """
import multiprocessing, multiprocessing.util
from ssldet.util.temporary import keep_sockets_apart

def say():
    print(multiprocessing.util.get_temp_dir(), flush=True)
    multiprocessing.parent_process().join()

if __name__ == "__main__":
    keep_sockets_apart()
    multiprocessing.get_context("fork").Process(target=say, daemon=True).start()
    input()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def started(code: str) -> tuple[subprocess.Popen[str], Path]:
    """A program, and the folder that it says it has."""
    program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdout
    return program, Path(program.stdout.readline().strip())


@pytest.mark.parametrize("code", [MAKE, SOCKETS, IN_A_CHILD], ids=["a block", "sockets", "a child's"])
def test_what_a_killed_process_left_is_removed_by_the_next(temporary: Path, code: str) -> None:
    living, its_folder = started(MAKE)
    killed, left = started(code)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert left.parent == temporary and left.is_dir()
    with temporary_folder() as folder:
        assert sorted(temporary.iterdir()) == sorted([folder, its_folder])
    living.communicate("\n")
    assert not list(temporary.iterdir())


def test_folders_of_other_machines_and_of_others_are_left_alone(temporary: Path) -> None:
    with temporary_folder() as folder:
        pass
    prefix, machine, pid, *_ = folder.name.split("-")
    others = [f"{prefix}-{'0' * len(machine)}-{pid}-1-x", f"{prefix}-{machine}-notes", f"{prefix}-notes"]
    for name in others:
        (temporary / name).mkdir()
    (temporary / f"{prefix}-{machine}-{os.getpid()}-1-x").mkdir()  # an earlier process had this one's number
    with temporary_folder():
        pass
    assert sorted(path.name for path in temporary.iterdir()) == sorted(others)
