"""The README's commands do what it says, as they are written there."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(os.environ.get("CROSSFED_BIN", ROOT / ".venv" / "bin"))


def commands(name: str) -> list[str]:
    """Every line of the README's code blocks that runs ``name``, without its comment."""
    blocks = re.findall(r"```\w*\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.removeprefix(".venv/bin/").startswith(name)]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a short quickstart was run, as ``make simulate`` does."""
    folder = tmp_path_factory.mktemp("readme")
    run(folder, "crossfed-simulate run quickstart --set plan.rounds=2 --set personalization.tuning_candidates=1 "
        "--set price_at=[] --set cross.ceiling=false --set cross.tune_beta=false")  # fmt: skip
    return folder


def run(folder: Path, command: str) -> str:
    program, *arguments = shlex.split(command.removeprefix(".venv/bin/"))
    done = subprocess.run([str(BIN / program), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_simulate_runs_the_quickstart() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "crossfed-simulate run quickstart" in makefile
    assert commands("make simulate")
    assert commands("make test")


SERVE = commands("crossfed-client serve")


@pytest.mark.parametrize("command", [one for one in commands("crossfed-client") if one not in SERVE])
def test_the_clients_commands_run_as_written(quickstart: Path, command: str) -> None:
    assert run(quickstart, command).strip()


def test_the_recommendations_come_from_the_other_platforms(quickstart: Path) -> None:
    (command,) = commands("crossfed-client recommend")
    shown = run(quickstart, command)
    assert "cinema" in shown or "club" in shown


def test_the_served_store_answers_the_requests_as_written(quickstart: Path) -> None:
    program, *arguments = shlex.split(SERVE[0].removeprefix(".venv/bin/"))
    command = [str(BIN / program), *arguments, "--port", "0", "--http-port", "0"]
    with subprocess.Popen(command, cwd=quickstart, stdout=subprocess.PIPE, text=True) as serving:
        try:
            said = [serving.stdout.readline(), serving.stdout.readline()]
            (target,) = re.findall(r"HTTP at (http://[\d.:]+) ", said[1])
            answers = [asked(line, target) for line in commands("curl")]
        finally:
            serving.send_signal(signal.SIGTERM)
    assert serving.returncode == 0
    foreign, before, event, after, health = answers
    assert [one["platforms"] != ["forum"] for one in foreign["items"]] == [True] * 3
    assert event == {"sequence": 1, "duplicate": False, "reflected": True, "variant": ""}
    seen = json.loads(re.findall(r"--json '([^']*event_id[^']*)'", README)[0])["item_key"]
    assert [len(one["items"]) for one in (before, after)] == [3, 3]
    assert seen not in [one["key"] for one in after["items"]]
    assert health == {"status": "SERVING"}


def asked(line: str, target: str) -> dict[str, Any]:
    """Return what a curl of the README is answered, by a server at another address."""
    *options, address = shlex.split(line)[1:]
    assert address.startswith("http://127.0.0.1:50062/")
    address = address.replace("http://127.0.0.1:50062", target)
    answer = httpx.get(address) if not options else httpx.post(address, json=json.loads(options[1]))
    assert answer.status_code == 200, (line, answer.text)
    return answer.json()


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_the_sample_output_is_of_this_version() -> None:
    assert "SAMPLE" not in README
    for heading in ("Own items, test interactions", "Items of the other platforms", "gap closed"):
        assert heading in README
