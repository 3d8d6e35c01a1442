"""Following a run from another process: what its status says, told as it happens, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from common.errors import FederationError
from server.deploy.runs import FAILED, FINISHED, INTERRUPTED, PENDING, RUNNING, RunStatus

_POLL_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 300.0
_REMINDER_SECONDS: Final = 30.0


class Followed(Protocol):
    """A run whose status can be read."""

    name: str

    def status(self) -> RunStatus:
        """As of now."""


class RunFollower:
    """Tells what is new about a run each time that it looks.

    Args:
        run: the run.
        tell: told of each event, as a line.
        clock: seconds, for what takes long.
    """

    def __init__(self, run: Followed, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._tell = tell
        self._clock = clock
        self._state = ""
        self._since = self._reminded = clock()
        self._waiting: tuple[tuple[str, ...], int] | None = None
        self._answers: set[tuple[object, ...]] = set()
        self._rounds: set[tuple[object, object]] = set()

    def look(self) -> bool:
        """Tell what is new; whether the run has finished.

        Raises:
            FederationError: it failed, or its process is gone and nobody takes it up.
        """
        now = self._run.status()
        self._tell_state(now.state)
        if now.state == RUNNING:
            self._tell_waiting(now)
        self._tell_answers(now)
        self._tell_rounds(now)
        if now.state == FINISHED:
            self._tell(f"run {self._run.name} is finished; each platform builds its own model now")
            return True
        if now.state == FAILED:
            raise FederationError(f"run {self._run.name} {now.state}: {now.error or 'no reason is known'}")
        if now.state == INTERRUPTED and self._clock() - self._since > _PATIENCE_SECONDS:
            raise FederationError(
                f"run {self._run.name} {now.state}: its process is gone and nothing took it up in {_PATIENCE_SECONDS:.0f} s; "
                f"is crossfed-server start running? crossfed-server run --resume {self._run.name} goes on with it"
            )
        return False

    def _tell_state(self, state: str) -> None:
        if state != self._state:
            lines = {
                PENDING: "the run is handed to Flower; its process starts in some seconds",
                RUNNING: "the run's process works",
                INTERRUPTED: "the run's process is gone; a running crossfed-server start takes it up again",
            }
            if state in lines:
                self._tell(lines[state])
            self._state, self._since, self._reminded = state, self._clock(), self._clock()
        elif state in (PENDING, INTERRUPTED) and self._clock() - self._reminded > _REMINDER_SECONDS:
            self._reminded = self._clock()
            self._tell(
                f"still {state} after {self._clock() - self._since:.0f} s: is crossfed-server start running? Its "
                "state/logs/aggregator.log and state/logs/superexec.log say more"
            )

    def _tell_waiting(self, now: RunStatus) -> None:
        if now.wanted == 0:
            return
        waiting = (tuple(now.connected), now.wanted)
        if waiting != self._waiting:
            self._waiting = waiting
            there = ", ".join(now.connected) or "none"
            self._tell(f"{len(now.connected)} of {now.wanted} platforms connected: {there}")

    def _tell_answers(self, now: RunStatus) -> None:
        """Answers before the first round and after the last; rounds say for themselves who took part."""
        for name, answer in sorted(now.answers.items()):
            seen = (name, answer["kind"], answer["round"], answer["code"])
            if seen in self._answers:
                continue
            self._answers.add(seen)
            if not now.rounds or answer["kind"] == "finish":
                self._tell(f"{name}: {answer['kind']} {answer['code']}")

    def _tell_rounds(self, now: RunStatus) -> None:
        for record in now.rounds:
            place = (record.get("phase"), record["round"])
            if place in self._rounds:
                continue
            self._rounds.add(place)
            failed = "".join(f", {name}: {code}" for name, code in record["failed"].items())
            self._tell(
                f"round {record['round']}: {len(record['platforms'])} platforms, {record['seconds']:.1f} s{failed}"
            )


def follow(run: Followed, tell: Callable[[str], None]) -> None:
    """Tell a run's events to its end; a process that was killed meanwhile is waited for.

    Raises:
        FederationError: the run failed, or nobody takes it up.
    """
    follower = RunFollower(run, tell)
    while not follower.look():
        time.sleep(_POLL_SECONDS)
