"""Claims: which process writes into a folder, on any file system that machines share.

    <folder>/.claim    who it is: host, process, token; the time of its last change is the owner's last sign of life

A claim is a file that only one process can create (O_EXCL, which NFS honours; locks are often not). Its owner touches
it every BEAT_SECONDS. A claim whose owner is seen to be dead, on this machine, is taken over at once. Of other machines
nothing is seen but silence: it must have lasted SILENCE_SECONDS by the clock of the file system, and WATCH_SECONDS
more by this machine's own while it is watched, so that a clock that jumps makes no one dead. Taking over is exclusive
too. An owner that lost its claim (a machine that slept, a network that was cut) finds out at the next beat, and `check`
stops it before it writes.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssldet.errors import RequestError, SsldetError
from ssldet.runs import layout
from ssldet.util.processes import born, this_machine

BEAT_SECONDS = 10.0
SILENCE_SECONDS = 120.0
WATCH_SECONDS = 25.0
"""More than two beats."""

POLL_SECONDS = 0.5


class ClaimHeld(RequestError):
    """Another process writes into the folder."""


class ClaimLost(SsldetError):
    """This process was silent for so long that another one took its folder over."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a claim.

    Attributes:
        token: names this claim among all.
        host, pid: for people.
        machine: boot and process namespace, within which `pid` and `born` name one process.
        born: when the process began, in ticks of that boot.
        since: when the claim was taken, ISO 8601 in UTC.
    """

    token: str
    host: str = "unknown"
    pid: int = 0
    machine: str = ""
    born: str = ""
    since: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def is_dead(self) -> bool:
        """Whether it was a process of this machine that is no more; nothing is known of other machines."""
        return bool(self.machine) and self.machine == this_machine() and born(self.pid) != self.born


class Claim:
    """This process's claim on one folder."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / layout.CLAIM
        self.owner = Owner(
            secrets.token_hex(8),
            socket.gethostname(),
            os.getpid(),
            this_machine(),
            born(os.getpid()),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._file = -1
        self._lost = False
        self._beaten = 0.0
        self._end = threading.Event()

    # ----------------------------------------------------------------------------------------- taking, leaving

    def take(self) -> bool:
        """Take the folder, from a dead owner too. False where another process holds it. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # the owner may leave between two looks
            if self._create(self.path):
                self._start()
                return True
            if (owner := read_owner(self.path)) is not None:
                return self._is_abandoned(owner) and self._take_over(owner)
        return False

    def release(self) -> None:
        """Leave the folder to others; nothing where the claim is lost."""
        self._end.set()
        if self._file < 0:
            return
        with suppress(OSError):
            if self.is_mine():
                self.path.unlink()
        os.close(self._file)
        self._file = -1

    def check(self) -> None:
        """Called before anything is written. Raises ClaimLost where the folder is another's by now."""
        if time.monotonic() - self._beaten > 2 * BEAT_SECONDS:
            self._beat()  # the beats were held up; this process may have slept
        if self._lost:
            raise ClaimLost(self._how_lost())

    def _how_lost(self) -> str:
        owner = read_owner(self.path)
        if owner is None:
            return (
                f"{self.path.parent} vanished, or the claim in it was removed, while this process was at work; the "
                "same command goes on from what is left"
            )
        if owner.token == self.owner.token:
            return (
                f"{self.path.parent} could not be reached for {SILENCE_SECONDS:.0f} s; the same command goes on from "
                "the last checkpoint when it can"
            )
        return (
            f"{self.path.parent} was taken over by {owner} after {SILENCE_SECONDS:.0f} s without a sign of life of "
            "this process, which stops here; its checkpoints were kept"
        )

    def is_mine(self) -> bool:
        """Whether the claim that lies there is this one. Raises OSError."""
        owner = read_owner(self.path)
        return owner is not None and owner.token == self.owner.token

    def _create(self, path: Path) -> bool:
        """Create a file with this owner in it, unless it is there."""
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        os.write(file, json.dumps(asdict(self.owner)).encode())
        os.fsync(file)
        self._file = file
        return True

    def _is_abandoned(self, owner: Owner) -> bool:
        """Whether the owner is dead, or has been silent for long and is so while it is watched."""
        if owner.is_dead():
            return True
        if silence(self.path) < SILENCE_SECONDS:
            return False
        before, end = _changed(self.path), time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(min(POLL_SECONDS, WATCH_SECONDS))
            if _changed(self.path) != before:
                return False
        return True

    def _take_over(self, seen: Owner) -> bool:
        """Put this claim in the place of a dead one. Of several that try, one creates the guard and goes on."""
        guard = self.path.with_name(f"{self.path.name}-{seen.token}")
        new = self.path.with_name(f"{self.path.name}-{self.owner.token}")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            if silence(guard) >= SILENCE_SECONDS:  # who made it died within this function
                guard.unlink(missing_ok=True)
            return False
        try:
            now = read_owner(self.path)
            if now is None or now.token != seen.token or not self._create(new):
                return False
            new.replace(self.path)
            self._start()
            return True
        finally:
            guard.unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------------- signs of life

    def _start(self) -> None:
        self._beaten = time.monotonic()
        threading.Thread(target=self._beat_on, name="ssldet-claim", daemon=True).start()

    def _beat_on(self) -> None:
        while not self._end.wait(BEAT_SECONDS) and not self._lost:
            self._beat()

    def _beat(self) -> None:
        """Touch the claim; its own file, wherever that lies by now: never the one of who took over."""
        try:
            os.utime(self._file)
            self._lost = not self.is_mine()
            self._beaten = time.monotonic()
        except OSError:  # a file system that is away for a moment, or a handle that is stale for good
            self._lost = time.monotonic() - self._beaten > SILENCE_SECONDS


# ------------------------------------------------------------------------------------------------ looking, holding


@contextmanager
def claimed(
    folder: Path,
    *,
    patience: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
    waiting: Callable[[Owner], None] = lambda owner: None,
) -> Iterator[Claim | None]:
    """Hold a folder against other processes.

    Args:
        patience: seconds to wait for another one that holds it.
        stop: asked while it waits; True gives up.
        waiting: called again and again while it waits.

    Yields:
        the claim; None where `stop` gave up.

    Raises:
        ClaimHeld: another process holds the folder; says which. OSError: the folder cannot be written.
    """
    claim, began = Claim(folder), time.monotonic()
    while not claim.take():
        owner = read_owner(claim.path) or Owner("")
        if time.monotonic() - began >= patience:
            raise ClaimHeld(
                f"another process is at work in {folder}: {owner}; it is taken over when it dies, on another machine "
                f"after {SILENCE_SECONDS:.0f} s without a sign of life"
            )
        if stop():
            yield None
            return
        waiting(owner)
        time.sleep(POLL_SECONDS)
    try:
        yield claim
    finally:
        claim.release()


def owner_of(folder: Path) -> Owner | None:
    """Who is at work in a folder; None where nobody is, or a dead process was."""
    path = Path(folder) / layout.CLAIM
    owner = read_owner(path)
    if owner is None or owner.is_dead():
        return None
    with suppress(OSError):
        return owner if time.time() - path.stat().st_mtime < SILENCE_SECONDS else None
    return None


def read_owner(path: Path) -> Owner | None:
    """The owner that a claim's file names; one without a name where it cannot be read, None where there is no file."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # it is being written, or a crash cut it short
        content = None
    known = Owner.__dataclass_fields__
    fields = {key: value for key, value in content.items() if key in known} if isinstance(content, Mapping) else {}
    return Owner(**fields) if "token" in fields else Owner("unreadable")


def silence(path: Path) -> float:
    """Seconds since a file was last touched, by the clock that touched it: that of its file system. Raises OSError."""
    probe = path.with_name(f"{path.name}-{secrets.token_hex(4)}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # the owner has left
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
