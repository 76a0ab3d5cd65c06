"""Processes that decode videos: one pool, for frames that are kept and for files that are only tried."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ssldet.errors import DataError
from ssldet.util.interrupts import leave_signals_to_parent
from ssldet.util.temporary import keep_sockets_apart

Result = TypeVar("Result")
Job = tuple[str, tuple[Any, ...]]
"""A video's id, and the arguments of the function that decodes it."""


def run_jobs(function: Callable[..., Result], jobs: Iterable[Job], workers: int) -> Iterator[tuple[str, Result]]:
    """Call `function` for every job, and give (id, result) as each is done.

    Args:
        function: of a module, so that another process can import it; what it raises is raised here.
        jobs: taken one by one.
        workers: processes; with 1 all is done here, in order.

    Raises:
        DataError: a process died.
    """
    if workers <= 1:
        yield from ((video_id, function(*arguments)) for video_id, arguments in jobs)
        return
    keep_sockets_apart()
    # fork would copy whatever threads torch has started; spawn is safe everywhere
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=leave_signals_to_parent) as pool:
        try:
            ids = {pool.submit(function, *arguments): video_id for video_id, arguments in jobs}
            for future in as_completed(ids):
                yield ids[future], future.result()
        except BrokenProcessPool as error:
            raise DataError(f"a decoding process died, perhaps for memory; use fewer than {workers}") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
