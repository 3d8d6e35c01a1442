"""``crossfed-client console`` as a process: it says where it is, asks for its token, and ends on SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.joined import joined


def test_a_console_runs_until_it_is_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "client", "console", "--config", str(joined(tmp_path, tmp_path))]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            token = process.stdout.readline().removeprefix("token: ").strip()
            assert address is not None, process.stderr.read()
            headers = {"origin": address[0].rstrip("/")}
            with httpx.Client(base_url=address[0], headers=headers, follow_redirects=True) as browser:
                assert "Token" in browser.get("/").text
                assert "cinema" in browser.post("/enter", data={"token": token}).text
                assert "There is no model yet" in browser.get("/models").text
        finally:
            process.send_signal(signal.SIGTERM)
            said, warned = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == ""
    assert warned == ""
