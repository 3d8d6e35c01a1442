"""Waiting for processes takes patience from looks, not from a clock that goes on while everything stands still."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from common.errors import FederationError
from simulations.engine.deployment import wait_for


def clock(*jumps: float) -> Iterator[float]:
    now = 0.0
    for jump in jumps:
        now += jump
        yield now
    while True:
        now += 1.0
        yield now


def test_an_hour_in_which_all_was_stopped_counts_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    times, looks = clock(0, 1, 3600, 1), iter([False, False, False, True])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    wait_for(lambda: next(looks), "it", 20)


def test_what_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = clock(0)
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(FederationError, match="waited 20 s in vain for it"):
        wait_for(lambda: False, "it", 20)
