"""Programs that are kept running: restarts, back-off, and an end that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.deploy.supervise import BackOff, Program, Supervisor
from common.errors import ConfigError
from tests.support.waiting import until

FAST = BackOff(first=0.05, most=0.2, jitter=0.0)


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@given(st.integers(1, 200), st.floats(0.01, 10), st.floats(10, 1000))
def test_back_off_grows_and_stays_within_its_bounds(failures: int, first: float, most: float) -> None:
    back_off = BackOff(first=first, most=most, jitter=0.2)
    assert 0.8 * first * 0.999 <= back_off.delay(failures) <= most * 1.2 * 1.001
    plain = BackOff(first=first, most=most, jitter=0.0)
    assert plain.delay(failures) <= plain.delay(failures + 1)


def test_a_program_that_ends_is_started_again_and_reported(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'a').write('x'); sys.exit(3)"
    ends: list[tuple[str, int]] = []
    program = Program(name="crasher", command=python(code, str(tmp_path / "starts")))
    supervisor = Supervisor([program], back_off=FAST, on_exit=lambda name, status: ends.append((name, status)))
    supervisor.start()
    until(lambda: len(ends) >= 3)
    supervisor.stop()
    assert (tmp_path / "starts").read_text().startswith("xxx")
    assert set(ends) == {("crasher", 3)}
    assert supervisor.restarts["crasher"] >= 2


def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And ends no other: a full disk for its log, say, or no memory for its process."""
    code = "import sys, time\nopen(sys.argv[1], 'w').close()\nwhile True: time.sleep(0.05)\n"
    programs = [
        Program(name="steady", command=python(code, str(tmp_path / "steady"))),
        Program(name="late", command=python(code, str(tmp_path / "late")), log=tmp_path / "none" / "late.log"),
    ]
    supervisor = Supervisor(programs, back_off=FAST)
    supervisor.start()
    try:
        until(lambda: "late cannot be started (No such file or directory)" in caplog.text)
        until((tmp_path / "steady").exists)
        steady = supervisor.process_ids["steady"]
        (tmp_path / "none").mkdir()
        until((tmp_path / "late").exists)
        assert supervisor.process_ids["steady"] == steady
        assert steady is not None
        assert alive(steady)
    finally:
        supervisor.stop()


def test_stopping_ends_all_programs_in_reverse_order(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    open(sys.argv[2], 'a').write(sys.argv[1]); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(sys.argv[2] + sys.argv[1], 'w').close()\n"
        "while True: time.sleep(0.05)\n"
    )
    ended = tmp_path / "ended"
    programs = [Program(name=name, command=python(code, name, str(ended))) for name in ("a", "b")]
    supervisor = Supervisor(programs, back_off=FAST)
    supervisor.start()
    until(lambda: (tmp_path / "endeda").exists() and (tmp_path / "endedb").exists())
    supervisor.stop()
    assert ended.read_text() == "ba"


def test_a_program_that_ignores_the_end_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(sys.argv[1] + '.new', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "time.sleep(600)\n"
    )
    program = Program(name="stubborn", command=python(code, str(tmp_path / "ids")))
    supervisor = Supervisor([program], grace=0.3)
    supervisor.start()
    until((tmp_path / "ids").exists)
    supervisor.stop()
    ids = [int(text) for text in (tmp_path / "ids").read_text().split()]
    until(lambda: not any(alive(process) for process in ids))


def test_a_killed_supervisor_takes_its_programs_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from common.deploy.supervise import Program, Supervisor\n"
        "child = 'import os, sys, time; open(sys.argv[1], \"w\").write(str(os.getpid())); time.sleep(600)'\n"
        "supervisor = Supervisor([Program(name='p', command=[sys.executable, '-c', child, sys.argv[1]])])\n"
        "supervisor.start()\n"
        "time.sleep(600)\n"
    )
    ids = tmp_path / "id"
    outer = subprocess.Popen(python(code, str(ids)))
    try:
        until(lambda: ids.exists() and ids.read_text() != "")
    finally:
        outer.send_signal(signal.SIGKILL)
        outer.wait()
    until(lambda: not alive(int(ids.read_text())))


def test_output_goes_to_the_log_and_is_appended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    program = Program(name="talker", command=python("print('hello', flush=True)"), log=log)
    supervisor = Supervisor([program], back_off=FAST)
    supervisor.start()
    until(lambda: "hello" in log.read_text())
    supervisor.stop()
    assert log.read_text().startswith("before\n")


def test_a_program_that_is_not_installed_is_named_before_the_start(tmp_path: Path) -> None:
    started = Program(name="first", command=python("open('started', 'w')"))
    missing = Program(name="second", command=["no-such-program-of-crossfed"])
    with pytest.raises(ConfigError, match="no-such-program-of-crossfed"):
        Supervisor([started, missing]).start()


def test_programs_find_their_siblings_of_the_same_installation(tmp_path: Path) -> None:
    out = tmp_path / "path"
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['PATH'])"
    supervisor = Supervisor([Program(name="p", command=python(code, str(out)))], back_off=FAST)
    supervisor.start()
    until(lambda: out.exists() and out.read_text() != "")
    supervisor.stop()
    assert out.read_text().split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_log_that_has_grown_large_is_moved_away_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 20)
    talk = python("import time; print('hello', flush=True); time.sleep(600)")
    program = Program(name="talker", command=talk, log=log, largest_log=10)
    supervisor = Supervisor([program], back_off=FAST)
    supervisor.start()
    until(lambda: log.exists() and "hello" in log.read_text())
    supervisor.stop()
    assert (tmp_path / "log.1").read_text() == "x" * 20
