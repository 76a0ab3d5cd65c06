"""Whether nodes see the results folder: a job that looks for a file there and answers with another one."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from ssldet.benchmark.executors import slurm_queue
from ssldet.benchmark.executors.slurm_queue import UNDER_WAY, WAITING
from ssldet.errors import RequestError

PROBE_SECONDS = 60.0
"""How long a probe may wait for a free node; where none is free by then, jobs look themselves when they begin."""

SETTLING_SECONDS = 10.0
"""How long an answer may be on its way through a shared file system after the probe has ended."""

POLL_SECONDS = 0.5


def check_nodes(folder: Path, options: Mapping[str, str | int | bool]) -> None:
    """Have a node look for a file in a folder.

    Args:
        folder: what must be seen, under the same path.
        options: of sbatch, which say where jobs run.

    Raises:
        RequestError: the node does not see the folder, or cannot write there.
    """
    question = folder / f"probe-{secrets.token_hex(4)}"
    answer = question.with_suffix(".seen")
    question.touch()
    try:
        look = f"test -e {shlex.quote(str(question))} && touch {shlex.quote(str(answer))}"
        number = slurm_queue.submit_line(look, "ssldet-probe", options)
        if number and _went_without_answer(number, answer):
            raise RequestError(
                f"a node of the cluster does not see {folder}, or cannot write there: job {number} looked for a file "
                "in it; give a results folder that all nodes share under one path, with --results"
            )
    finally:
        question.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)


def _went_without_answer(number: str, answer: Path) -> bool:
    """Whether a probe looked and left no answer; one that waits for too long is taken back, and nothing is known."""
    give_up = time.monotonic() + PROBE_SECONDS
    while time.monotonic() < give_up and not answer.exists():
        state = (slurm_queue.queue() or {}).get(number)
        if state and state.state == "FAILED":
            return not _arrives(answer)
        if state and state.state not in WAITING | UNDER_WAY | {"COMPLETED"}:  # it was ended: nothing is known
            return False
        time.sleep(POLL_SECONDS)
    if not answer.exists():
        slurm_queue.cancel([number])
    return False


def _arrives(answer: Path) -> bool:
    give_up = time.monotonic() + SETTLING_SECONDS
    while not answer.exists() and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
    return answer.exists()
