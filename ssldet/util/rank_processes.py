"""Several ranks started by one process of this machine, which hears of them and ends all when one fails.

    run_on_ranks(function, arguments, [torch.device("cuda:0"), torch.device("cuda:1")], on_message, stop)

calls `function(line, *arguments)` in one process a device. Each has a `Line`: its ranks, a way to say something to the
process that started it, and whether that one asked to stop. Nobody is left behind: ranks that one of them leaves in the
midst of a sum are ended, and when the process that started them ends, all do.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ssldet import errors
from ssldet.errors import LostRank, SsldetError, TrainingError
from ssldet.util.interrupts import SIGNALS, leave_signals_to_parent
from ssldet.util.ranks import Place, Ranks, joined
from ssldet.util.temporary import keep_sockets_apart, temporary_folder

SECONDS_TO_FOLLOW = 5.0
"""How long the other ranks have to say what they know, once one has failed."""

SECONDS_TO_EXPLAIN = 30.0
"""The same where all that was heard is that a rank lost another one."""

SECONDS_TO_LEAVE = 600.0
"""The same after a request to stop, while the first one writes a checkpoint."""

POLL_SECONDS = 0.1


class RankStopped(Exception):
    """A rank heeded the request to stop; derive what a function raises then from it."""


class Line:
    """What a rank has of the process that started it."""

    def __init__(self, ranks: Ranks, connection: Connection) -> None:
        self.ranks, self._connection, self._stopping = ranks, connection, False

    def say(self, message: Any) -> None:
        """Hand something over; of other ranks than the first nothing is expected."""
        _send(self._connection, message)

    def stop(self) -> bool:
        """Whether the process that started the ranks asks to stop."""
        while not self._stopping and self._connection.poll():
            self._connection.recv()
            self._stopping = True
        return self._stopping


@dataclass(frozen=True, slots=True)
class _Failure:
    """How a rank failed. `kind`: the class; `lost`: it only lost another rank; `stopped`: it was asked to."""

    kind: str
    text: str
    lost: bool = False
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Done:
    value: Any


@dataclass(slots=True)
class _Member:
    rank: int
    device: torch.device
    process: BaseProcess
    connection: Connection
    ended: _Failure | _Done | None = None


def run_on_ranks(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    devices: Sequence[torch.device],
    *,
    on_message: Callable[[Any], None] = lambda message: None,
    stop: Callable[[], bool] = lambda: False,
) -> Any:
    """Call a function in one process a device; what the first rank's call gives.

    Args:
        function: of a module, so that other processes can import it; called with its `Line` and the arguments.
        arguments: what can be pickled.
        devices: of the ranks, in their order.
        on_message: hears what the first rank says.
        stop: asked now and then; once it is True, every rank's `Line.stop` is.

    Raises:
        SsldetError: what a rank raised, of its class where that is one of `ssldet.errors`; else TrainingError.
        RankStopped: the ranks heeded `stop`.
    """
    with temporary_folder() as folder:
        members = [_start(function, arguments, folder / "store", devices, rank) for rank in range(len(devices))]
        team = _Team(members, on_message, stop)
        try:
            team.listen()
        finally:
            team.end()
    return team.value()


@dataclass(slots=True)
class _Team:
    """Ranks at work."""

    members: list[_Member]
    on_message: Callable[[Any], None]
    stop: Callable[[], bool]
    stopping: bool = False
    deadline: float | None = field(default=None)

    def listen(self) -> None:
        """Until all have ended, or one has failed and the others have had their time."""
        while at_work := [member for member in self.members if member.ended is None]:
            if self.deadline is not None and time.monotonic() > self.deadline:
                return
            self._pass_on_stop(at_work)
            ready = wait([member.connection for member in at_work], timeout=POLL_SECONDS)
            for member in at_work:
                if member.connection in ready:
                    self._hear(member)

    def value(self) -> Any:
        """What the first rank gave. Raises what the ranks failed of, what is a cause before what is a consequence."""
        failures = [(member, member.ended) for member in self.members if isinstance(member.ended, _Failure)]
        if not failures:
            first = self.members[0].ended
            assert isinstance(first, _Done)
            return first.value
        _, member, failure = min((_severity(failure), member.rank, failure) for member, failure in failures)
        raise _error(failure, self.members[member])

    def end(self) -> None:
        """End those who are still there."""
        for member in self.members:
            if member.ended is None and member.process.is_alive():
                member.process.terminate()
        for member in self.members:
            member.process.join(timeout=SECONDS_TO_FOLLOW)
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
            member.connection.close()

    def _pass_on_stop(self, at_work: Sequence[_Member]) -> None:
        if not self.stopping and self.stop():
            self.stopping = True
            for member in at_work:
                with suppress(OSError):  # it has just ended
                    member.connection.send("stop")

    def _hear(self, member: _Member) -> None:
        try:
            message = pickle.loads(member.connection.recv_bytes())  # noqa: S301 - from a process that this one started
        except (EOFError, OSError):
            message = _death(member)
        if not isinstance(message, _Failure | _Done):
            if member.rank == 0:
                self.on_message(message)
            return
        member.ended = message
        if isinstance(message, _Failure):
            until = time.monotonic() + _patience(message)
            self.deadline = until if self.deadline is None else min(self.deadline, until)


def _severity(failure: _Failure) -> int:
    return 2 if failure.lost else 1 if failure.stopped else 0


def _patience(failure: _Failure) -> float:
    return SECONDS_TO_LEAVE if failure.stopped else SECONDS_TO_EXPLAIN if failure.lost else SECONDS_TO_FOLLOW


def _death(member: _Member) -> _Failure:
    """What is known of a rank that said nothing."""
    member.process.join(timeout=SECONDS_TO_FOLLOW)
    code = member.process.exitcode
    how = f"ended with exit code {code}"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        how = f"was ended by {name}" + (" (the system may have run out of memory)" if name == "SIGKILL" else "")
    return _Failure("TrainingError", f"{how}; the last checkpoint is kept, and the same command goes on from it")


def _error(failure: _Failure, member: _Member) -> BaseException:
    if failure.stopped:
        return RankStopped(failure.text)
    where = f"rank {member.rank} ({member.device})"
    kind = getattr(errors, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, SsldetError)):
        return TrainingError(f"{where} failed: {failure.kind}: {failure.text}")
    error: SsldetError = kind.__new__(kind)  # some take more than the message
    error.args = (failure.text if member.rank == 0 and failure.text else f"{where}: {failure.text}",)
    return error


# ------------------------------------------------------------------------------------------ in the other processes


def _start(
    function: Callable[..., Any], arguments: Sequence[Any], store: Path, devices: Sequence[torch.device], rank: int
) -> _Member:
    keep_sockets_apart()
    context = multiprocessing.get_context("spawn")  # a fork would copy threads, and a GPU's state
    here, there = context.Pipe()
    place = Place(rank, len(devices), rank)
    process = context.Process(
        target=_work, args=(function, tuple(arguments), store, place, devices[rank], there), name=f"rank {rank}"
    )
    with _signals_held_back():
        process.start()
    there.close()
    return _Member(rank, devices[rank], process, here)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """While a process starts, no signal reaches it that it would not yet know how to take; here it is only late."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started later on, it would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    store: Path,
    place: Place,
    device: torch.device,
    connection: Connection,
) -> None:
    leave_signals_to_parent()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with joined(device, place, store) as ranks:
            value = function(Line(ranks, connection), *arguments)
    except BaseException as error:
        _send(connection, _failure(error))
        connection.close()
        os._exit(1)  # the others may be in the midst of what this one was to take part in: nothing to wait for
    _send(connection, _Done(value if place.rank == 0 else None))
    connection.close()


def _send(connection: Connection, message: Any) -> None:
    """By plain pickle: `send` would pass tensors on as memory, which a process that has ended shares no more."""
    connection.send_bytes(pickle.dumps(message))


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _failure(error: BaseException) -> _Failure:
    if not isinstance(error, SsldetError | RankStopped):
        traceback.print_exception(error)
    return _Failure(
        type(error).__name__, str(error), lost=isinstance(error, LostRank), stopped=isinstance(error, RankStopped)
    )
