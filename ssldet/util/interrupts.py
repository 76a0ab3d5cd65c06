"""Signals taken as a request: what is under way comes to a stop of its own that can be gone on from."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has but two of them
)
"""Ctrl-C; a request to end; a terminal that closed; what batch systems send before they end a job."""


class StopRequest:
    """Whether a block was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it: 130 after Ctrl-C, and where there was none."""
        return 128 + (self.signal or signal.SIGINT)


@contextmanager
def graceful_interrupts(announce: Callable[[], None], *, impatient: bool = True) -> Iterator[StopRequest]:
    """While the block runs, a first signal of `SIGNALS` asks it to stop, a second one ends it at once (`impatient`).

    A signal that was ignored before, as `nohup` ignores SIGHUP, stays ignored.

    Args:
        announce: called at the first signal, to say that the block is about to stop.
        impatient: whether a second signal ends the block; batch systems send several, and mean one.

    Yields:
        what tells whether the block was asked to stop.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    request = StopRequest()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if request():
            if impatient:
                raise KeyboardInterrupt
            return
        request.signal = number
        announce()

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent(*, termination: bool = False) -> None:
    """Ignore what reaches every process of a terminal or job; the one that started the workers decides what it means.

    SIGTERM still ends a worker, unless `termination` is left to the parent too.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM or termination:
            signal.signal(number, signal.SIG_IGN)
    if not termination and hasattr(signal, "pthread_sigmask"):  # may be blocked in the fork server that made us
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
