"""The log of a run for a tracker, beside its file. What goes wrong there is said, and stops no run.

A tracker is called from a thread of its own, so that a server that is slow, or does not answer, holds nothing up. The
first thing that it raises ends the tracking.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from ssldet.contracts import TrackedRun, TrackedStatus, Tracker
from ssldet.evaluation.results import Results
from ssldet.runs import layout
from ssldet.runs.planning import Plan
from ssldet.util.rank_processes import RankStopped

SECONDS_TO_FOLLOW = 30.0
"""How long a run waits, when it is at its end, for a tracker that has not taken everything yet."""


class Tracking:
    """Tells no tracker anything. The derived class has one."""

    fault: str = ""
    """What became of a tracker that failed."""

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of the log."""

    def news(self) -> list[str]:
        """The fault, once."""
        return []

    def settle(self) -> None:
        """Wait for the tracker to take all that it was told."""

    def finish(self, status: TrackedStatus, scores: Results | None = None) -> None:
        """The run is done or was stopped: nothing more comes."""


class TrackerThread(Tracking):
    """One run's tracker, at work."""

    def __init__(self, plan: Plan, tracker: Tracker) -> None:
        machine = plan.config.machine
        self.name, self.tracker = str(machine.tracker), tracker
        self._calls = SimpleQueue[Callable[[], object]]()
        self._said = self._finished = False
        folder = machine.results / layout.TRACKERS / self.name
        run = TrackedRun(plan.id, plan.folder.name, plan.config.model_dump(mode="json"), folder)
        self._calls.put(lambda: folder.mkdir(parents=True, exist_ok=True))
        self._calls.put(lambda: self.tracker.start(run))
        self._thread = threading.Thread(target=self._work, name="ssldet-tracker", daemon=True)
        self._thread.start()

    def log(self, line: Mapping[str, Any]) -> None:
        step, numbers = int(line["step"]), flat_numbers({k: v for k, v in line.items() if k != "step"})
        self._calls.put(lambda: self.tracker.log(step, numbers))

    def news(self) -> list[str]:
        if not self.fault or self._said:
            return []
        self._said = True
        return [self.fault]

    def settle(self) -> None:
        taken = threading.Event()
        self._calls.put(taken.set)
        self._wait(taken.is_set)

    def finish(self, status: TrackedStatus, scores: Results | None = None) -> None:
        if self._finished:
            return
        self._finished = True
        numbers = flat_numbers(scored_numbers(scores or {}))
        self._calls.put(lambda: self.tracker.finish(status, numbers))
        self._calls.put(self._end)
        self._wait(lambda: not self._thread.is_alive())

    def _wait(self, condition: Callable[[], bool]) -> None:
        """For a condition, or the end of the thread."""
        pause, waited = 0.02, 0.0
        while self._thread.is_alive() and not condition() and waited < SECONDS_TO_FOLLOW:
            self._thread.join(pause)
            waited += pause
        if self._thread.is_alive() and not condition():
            self._fail(f"did not answer for {SECONDS_TO_FOLLOW:g} s")

    def _work(self) -> None:
        try:
            while not self.fault:
                self._calls.get()()
        except _Ended:
            return
        except BaseException as error:  # others' code may raise anything, sys.exit's included
            self._fail(f"failed ({type(error).__name__}: {error})")

    @staticmethod
    def _end() -> None:
        raise _Ended

    def _fail(self, how: str) -> None:
        self.fault = self.fault or f"tracker {self.name!r} {how}; the run goes on without it, and its log is whole"


class _Ended(Exception):
    """Nothing more is to be told."""


@contextmanager
def tracked(plan: Plan, warn: Callable[[str], None]) -> Iterator[Tracking]:
    """A planned run's tracking for the length of a block, which should `finish` it where the run is done.

    Args:
        plan: names the tracker, or none.
        warn: hears of a fault that the log could not say.
    """
    tracker = plan.config.build_tracker()
    tracking = TrackerThread(plan, tracker) if tracker else Tracking()
    try:
        yield tracking
    except RankStopped:
        tracking.finish("interrupted")
        raise
    except BaseException:
        tracking.finish("failed")
        raise
    finally:
        for fault in tracking.news():
            warn(fault)


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """{"losses": {"box": 1}} -> {"losses/box": 1.0}, without what is no finite number."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            flat[prefix + name] = float(value)
    return flat


def scored_numbers(scores: Results) -> dict[str, Any]:
    """Metric -> protocol -> key -> number."""
    return {
        metric: {protocol: result.numbers for protocol, result in by_protocol.items()}
        for metric, by_protocol in scores.items()
    }
