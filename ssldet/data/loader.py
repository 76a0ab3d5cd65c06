"""Batches made ahead of the training loop, by worker processes.

batch_source(source, keys, workers)   gives what has `source.batch`: the source itself, or workers that make its batches

Every draw of a batch follows from (seed, stream, step), and a worker gives the bytes that the loop's own process would:
so the number of workers changes no number, and nothing of them is in a checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ssldet.contracts import Batch
from ssldet.data.batches import BatchSource, DrawnBatch
from ssldet.data.sampling import ClipRefs
from ssldet.data.transport import Parcel
from ssldet.errors import DataError, SsldetError
from ssldet.util.interrupts import SIGNALS, leave_signals_to_parent
from ssldet.util.temporary import keep_sockets_apart

PREFETCHED = 2
"""Batches that each worker makes ahead."""

SECONDS_OF_DYING = 2.0
"""How long a process that broke off a transfer may take until it counts as alive."""

SHOWN_VIDEOS = 8
"""How many videos an error names."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """The arguments of one call of `BatchSource.batch`."""

    step: int
    part: int
    parts: int
    unlabelled: bool


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """The batches of some steps in order, `parts` of each step, with unlabelled clips from step `burn_in` on.

    `taken`: which parts of each step are asked for; None means all.
    """

    steps: range
    parts: int
    burn_in: int
    taken: range | None = None

    def __len__(self) -> int:
        return len(self.steps) * len(self._taken)

    def __getitem__(self, place: int) -> BatchKey:
        step, part = divmod(place, len(self._taken))
        return BatchKey(self.steps[step], self._taken[part], self.parts, self.steps[step] >= self.burn_in)

    @property
    def _taken(self) -> range:
        return range(self.parts) if self.taken is None else self.taken


class Batches(Protocol):
    """What a training loop takes its batches from."""

    def batch(self, step: int, part: int = 0, parts: int = 1, *, unlabelled: bool) -> tuple[Batch, ClipRefs | None]:
        """As `BatchSource.batch`."""


@contextmanager
def batch_source(
    source: BatchSource,
    keys: BatchKeys,
    workers: int,
    on_restart: Callable[[str], None] = lambda text: None,
) -> Iterator[Batches]:
    """The source of some batches for the length of a block, which ends its workers however it ends.

    Args:
        source: makes the batches.
        keys: the batches that will be asked for, in order. Asking for another one is allowed, and starts the workers
            anew from there: a step may come to be cut into more parts.
        workers: processes that make them ahead; 0: the source makes each when it is asked for.
        on_restart: hears of a worker that died and was replaced.

    Raises:
        DataError: the source cannot be sent to processes; later, of `batch`: a worker died a second time.
    """
    if workers == 0 or not keys:
        yield source
        return
    loader = BatchLoader(source, keys, workers, on_restart)
    try:
        yield loader
    finally:
        loader.close()


class BatchLoader:
    """Worker processes that make batches ahead; see `batch_source`, which also ends them.

    Attributes:
        waited: seconds that callers of `batch` waited for workers, all together.
    """

    def __init__(self, source: BatchSource, keys: BatchKeys, workers: int, on_restart: Callable[[str], None]) -> None:
        self.source, self.keys, self.workers, self.on_restart = source, keys, workers, on_restart
        self.waited, self._place, self._restarted = 0.0, 0, False
        self._start()

    def batch(self, step: int, part: int = 0, parts: int = 1, *, unlabelled: bool) -> tuple[Batch, ClipRefs | None]:
        """As `BatchSource.batch`.

        Raises:
            DataError: what the source raises; or a worker died, and one had died before.
        """
        key = BatchKey(step, part, parts, unlabelled)
        if self._place == len(self.keys) or self.keys[self._place] != key:
            self._turn_to(key)
        began = time.perf_counter()
        drawn = self._receive()
        self.waited += time.perf_counter() - began
        self._place += 1
        if isinstance(drawn, SsldetError):
            raise drawn
        return self.source.on_device(drawn)

    def close(self) -> None:
        """End the workers. What they made ahead is dropped."""
        self._batches._shutdown_workers()  # the only call that ends them now, not when the last reference goes
        for process in self._processes:
            if process.is_alive():  # in a batch that nobody wants any more, or still starting
                process.kill()
                process.join()

    def _start(self) -> None:
        """Start workers on the keys from the next one on."""
        keep_sockets_apart()
        self._processes: list[BaseProcess] = []
        self._at_w2 = torch.full((self.workers, 2), -1, dtype=torch.int64).share_memory_()
        others = set(multiprocessing.active_children())
        loader = _loader(_Made(self.source.for_workers(), self.keys, self._at_w2), self._place, self.workers)
        try:
            with _quiet_start():
                self._batches: Any = iter(loader)
        except (TypeError, AttributeError, PicklingError) as error:
            raise DataError(
                f"the clips cannot be sent to worker processes ({error}); choose --loader-workers 0"
            ) from error
        self._processes = [child for child in multiprocessing.active_children() if child not in others]

    def _turn_to(self, key: BatchKey) -> None:
        """Drop what was made ahead, and go on from another batch."""
        self.close()
        burn_in = min(self.keys.burn_in, key.step) if key.unlabelled else max(self.keys.burn_in, key.step + 1)
        steps, taken = range(key.step, max(self.keys.steps.stop, key.step + 1)), self.keys.taken
        if taken is not None and (key.parts != self.keys.parts or key.part not in taken):
            taken = None
        self.keys = BatchKeys(steps, key.parts, burn_in, taken)
        self._place = key.part if taken is None else taken.index(key.part)
        self._start()

    def _receive(self) -> DrawnBatch | SsldetError:
        """The next batch, or what is wrong with it, from workers that are replaced once."""
        while True:
            try:
                sent = next(self._batches)
                drawn: DrawnBatch | SsldetError = sent.unpack() if isinstance(sent, Parcel) else sent
                return drawn  # `Parcel.pin_memory` has unpacked a pinned one already
            except (RuntimeError, OSError, EOFError) as error:
                dead = self._dead()
                if not dead:
                    raise
                self._replace(dead, error)

    def _dead(self) -> list[BaseProcess]:
        ending = wait([process.sentinel for process in self._processes], timeout=SECONDS_OF_DYING)
        for process in self._processes:
            if process.sentinel in ending:  # which it is a moment before the process has an exit code
                process.join(SECONDS_OF_DYING)
        return [process for process in self._processes if process.exitcode is not None]

    def _replace(self, dead: Sequence[BaseProcess], error: Exception) -> None:
        what = f"a worker that makes batches {_how(dead[0])} at {self._whereabouts(dead)}"
        if self._restarted:
            raise DataError(
                f"{what}, and one had died before; look at these videos with `ssldet data verify`, give the machine "
                f"more memory, or choose fewer than {self.workers} --loader-workers (0: none)"
            ) from error
        self._restarted = True
        self.close()
        self._start()
        self.on_restart(f"{what}; the workers were started again")

    def _whereabouts(self, dead: Sequence[BaseProcess]) -> str:
        """The step that a dead worker was at, or the one that is waited for, and its videos."""
        pids = {process.pid for process in dead}
        places = [place for pid, place in self._at_w2.tolist() if pid in pids]
        key = self.keys[max(self._place, min(places, default=self._place))]
        videos = self.source.videos(key.step, key.part, key.parts, unlabelled=key.unlabelled)
        more = f" and {len(videos) - SHOWN_VIDEOS} more" if len(videos) > SHOWN_VIDEOS else ""
        return f"step {key.step + 1} (videos {', '.join(videos[:SHOWN_VIDEOS])}{more})"


class _Made(Dataset[Parcel | SsldetError]):
    """The batches of some keys as a worker sends them, or what is wrong with one.

    `at_w2`: the process of each worker, and the key it is at.
    """

    def __init__(self, source: BatchSource, keys: BatchKeys, at_w2: Tensor) -> None:
        self.source, self.keys, self.at_w2 = source, keys, at_w2

    def __getitem__(self, place: int) -> Parcel | SsldetError:
        if worker := get_worker_info():
            self.at_w2[worker.id] = torch.tensor([multiprocessing.current_process().pid, place])
        key = self.keys[place]
        try:
            return Parcel(self.source.drawn(key.step, key.part, key.parts, unlabelled=key.unlabelled))
        except SsldetError as error:  # torch would put a worker's traceback into its message
            return error


def _loader(made: _Made, place: int, workers: int) -> DataLoader[Parcel | SsldetError]:
    """The batches of the keys from `place` on, one by one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more workers than cores: the user's to choose
        return DataLoader(
            made,
            batch_size=None,
            sampler=range(place, len(made.keys)),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=made.source.device.type == "cuda",
            worker_init_fn=_begin_work,
            multiprocessing_context=_context(),
            generator=torch.Generator(),  # the seed of workers, which draw nothing from it, is no draw of the training
            prefetch_factor=PREFETCHED,
        )


def _as_it_is(sent: Any) -> Any:
    return sent


def _context() -> multiprocessing.context.BaseContext:
    """Fresh processes: threads and a GPU must not be forked, and a fork server may let signals through to its own."""
    return multiprocessing.get_context("spawn")


def _begin_work(number: int) -> None:
    """Whether a batch is still wanted after a signal is the loop's decision; torch gave the worker one thread."""
    leave_signals_to_parent(termination=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its training is gone, however that ended.

    torch looks for that too, but not while a batch is made, and only every five seconds.
    """
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """While workers start: no signal that asks to stop reaches them, from their first moment on, and torch adds none.

    A blocked signal stays blocked in a process that is started meanwhile; here it is only late. torch would raise an
    error in the midst of a step when a worker dies; it is enough to hear of it when the worker's batch is wanted.
    """
    has_masks = hasattr(signal, "pthread_sigmask")  # Windows has none
    if has_masks:
        resource_tracker.ensure_running()  # started later on, it would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if has_masks else set()
    on_death = signal.getsignal(signal.SIGCHLD) if has_masks else None  # None: set by a program around Python
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it cannot be pickled is raised as well
            yield
    finally:
        if has_masks:
            with suppress(ValueError):  # not in the main thread, where torch set nothing either
                signal.signal(signal.SIGCHLD, on_death or signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(process: BaseProcess) -> str:
    code = process.exitcode
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hints = {"SIGKILL": " (the system may have run out of memory)", "SIGBUS": " (/dev/shm may be full)"}
    return f"was ended by {name}{hints.get(name, '')}"
