"""Waiting for what other processes and threads do."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(400):
        if condition():
            return
        pause.wait(0.05)
    pytest.fail("it did not happen")
