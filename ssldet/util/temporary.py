"""Temporary folders that a kill does not leave behind for good: the next one to be made removes those of the dead."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ssldet.util.files import content_hash
from ssldet.util.processes import born, this_machine

NAME = re.compile(r"ssldet-(?P<machine>[0-9a-f]{12})-(?P<pid>\d+)-(?P<born>[\d.]+)-\w+")
"""The machine and the process that made a folder; processes of another machine, or container, are none of ours."""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder for the length of a block."""
    sweep()
    pid = os.getpid()
    with tempfile.TemporaryDirectory(prefix=f"ssldet-{_machine_hash()}-{pid}-{born(pid)}-") as folder:
        yield Path(folder)


def keep_sockets_apart() -> None:
    """Let sockets of multiprocessing, of this process and its children, lie in a folder that outlives no kill for long.

    Call it before a process is started: it knows the folder of the one that starts it.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined] # where multiprocessing looks
    if not config.get("tempdir"):
        kept = ExitStack()
        config["tempdir"] = str(kept.enter_context(temporary_folder()))
        atexit.register(kept.close)


def sweep() -> None:
    """Remove what killed processes of this machine left."""
    for folder in Path(tempfile.gettempdir()).glob(f"ssldet-{_machine_hash()}-*"):
        made = NAME.fullmatch(folder.name)
        if made and born(int(made["pid"])) != made["born"]:
            shutil.rmtree(folder, ignore_errors=True)


def _machine_hash() -> str:
    return content_hash(this_machine())[:12]
