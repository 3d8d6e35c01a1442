"""The README's commands do what it says, as they are written there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

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


@pytest.mark.parametrize("command", commands("crossfed-client"))
def test_the_clients_commands_run_as_written(quickstart: Path, command: str) -> None:
    assert run(quickstart, command).strip()


def test_the_recommendations_come_from_the_other_platforms(quickstart: Path) -> None:
    (command,) = commands("crossfed-client recommend")
    shown = run(quickstart, command)
    assert "cinema" in shown or "club" in shown


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_the_sample_output_is_of_this_version() -> None:
    assert "SAMPLE" not in README
    for heading in ("Own items, test interactions", "Items of the other platforms", "gap closed"):
        assert heading in README
