"""Ctrl-C and SIGTERM taken as a request: what is under way comes to a stop of its own that can be gone on from."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def graceful_interrupts(announce: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """While the block runs, a first Ctrl-C or SIGTERM asks it to stop, a second one ends it at once.

    Args:
        announce: called at the first signal, to say that the block is about to stop.

    Yields:
        what tells whether the block was asked to stop.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        announce()

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
