"""Signals that come faster than they are handled, one inside the other's handler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from common.deploy.signals import SignalQueue

PROGRAM = """
import signal
from common.deploy.signals import SignalQueue

signals, reloads = SignalQueue(signal.SIGTERM, signal.SIGHUP), 0
print("ready", flush=True)
while signals.wait(5.0) == signal.SIGHUP:
    reloads += 1
print(reloads, flush=True)
"""


def test_a_storm_of_signals_neither_hangs_nor_ends_the_program_early() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        for _ in range(20_000):
            os.kill(program.pid, signal.SIGHUP)
        os.kill(program.pid, signal.SIGTERM)
        try:
            said, _ = program.communicate(timeout=60)
        finally:
            program.kill()
    assert program.returncode == 0
    assert int(said) >= 1


@pytest.fixture
def handlers() -> object:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_signals_are_read_in_order_and_a_wait_ends() -> None:
    signals = SignalQueue(signal.SIGUSR1, signal.SIGUSR2)
    assert signals.wait(0.01) is None
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert [signals.wait(5.0), signals.wait(5.0)] == [signal.SIGUSR2, signal.SIGUSR1]
