"""Where the time of some code goes, by named sections: `section("views")` around what makes views.

Sections cost next to nothing unless somebody measures:

    with measured() as clock:
        training.run()
    clock.seconds              # {"forward": 12.1, "views": 0.8, ...}, each without the sections within it
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Observer(Protocol):
    """Hears of sections."""

    def enter(self, name: str) -> None:
        """A section begins."""

    def leave(self) -> None:
        """The section that began last ends."""


_observer: ContextVar[Observer | None] = ContextVar("hears of sections", default=None)


class SectionClock:
    """Wall-clock seconds by section. What lies outside of all is `outside`.

    Args:
        synchronize: waits until the device has done what was asked of it, so that its time counts where it belongs.
        outside: the name of time outside of all sections.
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None, outside: str = "other") -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._synchronize = synchronize
        self._open = [outside]
        self._since = time.perf_counter()

    def enter(self, name: str) -> None:
        """A section begins."""
        self.charge()
        self._open.append(name)

    def leave(self) -> None:
        """The section that began last ends."""
        self.charge()
        self._open.pop()

    def charge(self) -> None:
        """Add the time since the last call to the innermost open section."""
        self._synchronize()
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now


@contextmanager
def section(name: str) -> Iterator[None]:
    """What happens within belongs to this section, for whoever observes."""
    observer = _observer.get()
    if observer is None:
        yield
        return
    observer.enter(name)
    try:
        yield
    finally:
        observer.leave()


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """This observer hears of the sections that this thread goes through."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@contextmanager
def measured(synchronize: Callable[[], None] = lambda: None) -> Iterator[SectionClock]:
    """Measure the sections that this thread goes through; at the end of the block `seconds` are complete."""
    clock = SectionClock(synchronize)
    with observed(clock):
        yield clock
    clock.charge()
