"""Claims of other processes and machines, as they lie in a folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from ssldet.runs.claims import Claim


@contextmanager
def held(folder: Path) -> Iterator[Claim]:
    """A folder that this process holds, as another one would."""
    claim = Claim(folder)
    assert claim.take()
    try:
        yield claim
    finally:
        claim.release()


def leave_claim(folder: Path, *, silent: float = 0.0, host: str = "far", **fields: str | int) -> Path:
    """The claim of a process of another machine, whose last sign of life was so many seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = replace(Claim(folder).owner, token="theirs", host=host, machine=f"{host} boot", **fields)
    path = folder / ".claim"
    path.write_text(json.dumps(asdict(owner)))
    then = time.time() - silent
    os.utime(path, (then, then))
    return path
