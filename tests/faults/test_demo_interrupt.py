"""Ctrl-C in the middle of the demo: every process that it started ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from simulations.engine.deployment import wait_for


def alive(folder: Path, *, but: int) -> list[str]:
    """Command lines of the processes that name ``folder``; ended ones that nobody has waited for have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in line and int(path.parent.name) != but:
            found.append(line)
    return found


def test_an_interrupted_demo_leaves_no_process(tmp_path: Path) -> None:
    folder, output = tmp_path / "demo", tmp_path / "output"
    command = [str(Path(sys.executable).parent / "crossfed-simulate"), "demo", "--output", str(folder)]
    with output.open("wb") as file:
        demo = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        # Of each platform the agent, SuperNode and SuperExec; of the aggregator itself and its three programs.
        wait_for(lambda: len(alive(folder, but=demo.pid)) >= 9 or demo.poll() is not None, "the demo's processes", 150)
        assert demo.poll() is None, output.read_text()
        # The terminal sends it to the whole group, and what the supervisor started is in groups of its own.
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(90) != 0
    finally:
        if demo.poll() is None:
            demo.kill()
    wait_for(lambda: not alive(folder, but=demo.pid), "all processes to end", 30)
