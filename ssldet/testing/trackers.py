"""What every tracker keeps, with made-up numbers in a temporary folder."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ssldet.contracts import TrackedRun, Tracker
from ssldet.errors import RequestError
from ssldet.testing.base import ConfiguredContract, skip


class TrackerContract(ConfiguredContract):
    """What every tracker keeps. Subclass it as `class TestMine(TrackerContract): plugin = Mine`."""

    plugin: ClassVar[type[Tracker]]

    def test_it_is_ready_or_says_what_is_missing(self) -> None:
        """`check` raises nothing but RequestError, with words for a user."""
        try:
            self.tracker().check()
        except RequestError as error:
            assert len(str(error).split()) > 3, f"{str(error)!r} does not say what is missing and what to do"

    def test_it_takes_a_run_from_start_to_end(self) -> None:
        with self.run() as run:
            tracker = self.ready()
            tracker.start(run)
            tracker.log(10, {"losses/box": 0.5, "lr": 0.001})
            tracker.log(20, {"losses/box": 0.25, "validation/student/recall": 0.125})
            tracker.finish("done", {"frame_map/yowo/0.5": 0.5})

    def test_a_run_may_go_on_in_another_process(self) -> None:
        """It begins again, with all lines from the first on, in the folder where it was before."""
        with self.run() as run:
            for status in ("interrupted", "failed", "done"):
                tracker = self.ready()
                tracker.start(run)
                tracker.log(10, {"losses/box": 0.5})
                tracker.finish(status, {})

    def test_a_run_may_end_before_its_first_line(self) -> None:
        with self.run() as run:
            tracker = self.ready()
            tracker.start(run)
            tracker.finish("failed", {})

    def test_it_leaves_random_numbers_alone(self) -> None:
        """Training may be drawing at the same moment: neither a draw nor a seed of a tracker may move its numbers."""
        with self.run() as run:
            tracker, before = self.ready(), _generators()
            tracker.start(run)
            tracker.log(10, {"losses/box": 0.5})
            tracker.finish("done", {})
            assert _generators() == before, "it drew from, or seeded, the global generator of torch, NumPy or random"

    def test_it_leaves_nothing_where_a_user_stands(self) -> None:
        """By default all that it writes lies in the folder that it is given."""
        with self.run() as run, tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
            tracker = self.ready()
            tracker.start(run)
            tracker.log(10, {"losses/box": 0.5})
            tracker.finish("done", {})
            left = sorted(path.name for path in Path(elsewhere).iterdir())
            assert not left, f"it wrote {', '.join(left)} into the current folder; expected all in run.folder"

    def tracker(self) -> Tracker:
        """The tracker with the options of the tests."""
        return self.plugin(self.options())

    def ready(self) -> Tracker:
        """The same; skips where what it needs is not installed."""
        tracker = self.tracker()
        try:
            tracker.check()
        except RequestError as error:
            skip(str(error))
        return tracker

    @contextlib.contextmanager
    def run(self) -> Iterator[TrackedRun]:
        """A run to be tracked, whose folder is there for the length of a test."""
        with tempfile.TemporaryDirectory() as folder:
            yield TrackedRun("0123456789ab", "made-up-0123456789ab", {"train": {"lr": 0.001}}, Path(folder))


def _generators() -> list[Any]:
    """The states of the generators that all of a process shares."""
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002 - to see that nobody touches it
    return [torch.get_rng_state().tolist(), random.getstate(), str(numpys)]
