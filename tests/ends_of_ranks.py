"""Ways in which ranks of tests end; a module of its own, so that processes that import it start quickly."""

from __future__ import annotations

import os
import signal
import time

import torch

from ssldet.util.rank_processes import Line, RankStopped


def end_badly(line: Line, how: str) -> None:
    """Rank 1 ends in one of several ways; the other one waits for it."""
    if line.ranks.rank == 1:
        if how == "error":
            raise ValueError("no such luck")
        os.kill(os.getpid(), signal.SIGKILL)
    line.ranks.gather(torch.zeros(1))


def wait_for_stop(line: Line) -> None:
    """Until the process that started the ranks asks them to stop."""
    line.say("at work")
    while not line.ranks.any(line.stop()):
        time.sleep(0.05)
    raise RankStopped("stopped when asked")
