"""kill -9 at any moment of an erasure at which something becomes durable: it goes on, and nothing of the person is left.

A driver forks a child for each call of ``fsync`` that an erasure makes; the child kills itself there, a second one goes on with
what it finds. In a process of its own, since forking one that has threads would be no test of anything.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from client.person.erasure import Erasures
from client.person.places import Places
from common.deploy.roles import PlatformConfig
from tests.support.persons import ANNA, BERND, holding, platform_with_persons

MOST = 100


def erase(platform: PlatformConfig) -> None:
    erasures = Erasures(platform, patience=0)
    erasures.complete(erasures.begin(ANNA, "erased"))


def killed_at(platform: PlatformConfig, call: int) -> None:
    """Erase, and die in the ``call``-th fsync."""
    real, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync
    erase(platform)


def go_on(platform: PlatformConfig) -> None:
    """As an operator would: with resume, or with the command again where nothing had been noted yet."""
    if not Erasures(platform, patience=0).resume():
        erase(platform)
    assert holding(platform.state, ANNA) == []
    assert holding(platform.state, BERND)
    assert Places(platform).still_held() == []
    assert Erasures(platform).unfinished() == []


def child(work: Callable[[], None]) -> int:
    """How a forked child that does ``work`` ended, as wait status."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1]


def drive(folder: Path) -> int:
    """Kill at the first, second, … call until an erasure lives; how many were killed."""
    Places.files_that_hold = lambda self, tag: []  # type: ignore[method-assign]  # reads; a pool of threads for each child
    original = folder / "original"
    platform_with_persons(original)
    for call in range(1, MOST):
        place = folder / str(call)
        shutil.copytree(original, place)
        platform = platform_with_persons_at(place)
        status = child(lambda at=call, where=platform: killed_at(where, at))  # type: ignore[misc]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return call - 1
        assert child(lambda where=platform: go_on(where)) == 0, call  # type: ignore[misc]
    raise AssertionError("an erasure makes more things durable than this test knows")


def platform_with_persons_at(place: Path) -> PlatformConfig:
    """The configuration of a copy."""
    return PlatformConfig.model_validate(
        {
            "name": "cinema",
            "aggregator": "h.example.org:9443",
            "state": place / "state",
            "keys": place / "keys",
            "pins": place / "pins.json",
            "plan": {"federation": "films", "platforms": 2, "privacy": {"mode": "none"}},
            "data": {
                "interactions": {"path": place / "views.csv"},
                "items": {"path": place / "films.csv", "namespace": "imdb"},
                "users": {"path": place / "users.csv"},
            },
        }
    )


def test_an_erasure_survives_a_kill_at_every_durable_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.test_erasure_kill", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 15


if __name__ == "__main__":
    sys.stdout.write(str(drive(Path(sys.argv[1]))))
