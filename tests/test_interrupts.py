"""Signals as a request to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from ssldet.util.interrupts import SIGNALS, graceful_interrupts


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """All signals as a terminal's program has them, however the tests were started (nohup, a shell's background)."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    said: list[str] = []
    before = signal.getsignal(number)
    with graceful_interrupts(lambda: said.append("stopping")) as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked() and said == ["stopping"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert said == ["stopping"] and signal.getsignal(number) is before


def test_a_patient_block_is_not_ended_by_a_second_signal() -> None:
    """Batch systems send several and mean one."""
    said: list[str] = []
    with graceful_interrupts(lambda: said.append("stopping"), impatient=False) as asked:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert asked() and said == ["stopping"] and asked.exit_code == 128 + signal.SIGUSR2


def test_the_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="damaged"), graceful_interrupts(lambda: None):
        raise ValueError("damaged")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_every_signal_that_asks_to_stop_has_its_exit_code(number: signal.Signals) -> None:
    with graceful_interrupts(lambda: None) as stopping:
        os.kill(os.getpid(), number)
        assert stopping() and stopping.exit_code == 128 + number


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a program
    try:
        with graceful_interrupts(lambda: None) as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
