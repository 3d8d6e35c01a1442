from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.deploy.locks import held, holder, is_held
from common.errors import InUseError

HOLD = """
import sys, time
from pathlib import Path
from common.deploy.locks import held
with held(Path(sys.argv[1]), "the other one", mend=""):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(lock: Path) -> Iterator[subprocess.Popen[str]]:
    root = str(Path(__file__).parents[4])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        env=os.environ | {"PYTHONPATH": root},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with another_process(lock) as process:
        assert is_held(lock)
        said = rf"{tmp_path}: in use by the other one, process {process.pid} on {socket.gethostname()}, since 20\S+; go away"
        with pytest.raises(InUseError, match=said), held(lock, "me", mend="go away"):
            pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with another_process(lock) as process:
        process.kill()
        process.wait()
        assert not is_held(lock)
        with held(lock, "me", mend=""):
            assert is_held(lock)
            assert holder(lock).process == os.getpid()  # type: ignore[union-attr]


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    lock, heard = tmp_path / "lock", list[str]()
    with another_process(lock) as process:

        def end(text: str) -> None:
            heard.append(text)
            process.kill()

        with held(lock, "me", mend="", wait=end):
            assert heard == [f"{tmp_path}: in use by {heard[0].partition('in use by ')[2]}"]


def test_a_look_at_a_lock_does_not_refuse_who_takes_it(tmp_path: Path) -> None:
    lock, done = tmp_path / "lock", threading.Event()
    with held(lock, "me", mend=""):
        pass

    def look() -> None:
        while not done.is_set():
            is_held(lock)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(20):
            with held(lock, "me", mend=""):
                pass
    finally:
        done.set()
        watcher.join()


def test_a_file_that_says_nothing_names_nobody(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    assert holder(lock) is None
    for content in ("", "{", json.dumps({"process": 1})):
        lock.write_text(content)
        assert holder(lock) is None
