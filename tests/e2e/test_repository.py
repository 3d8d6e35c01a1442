"""Nothing that would be true of one machine only is in the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked(pattern: str) -> list[Path]:
    try:
        done = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines()]


def test_no_generated_code_or_data_is_ignored() -> None:
    for path in (
        "client/data/reading/reader.py",
        "simulations/data/movietweetings_core/ratings.csv.gz",
        "common/proto/agent_pb2.py",
    ):
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
        assert ignored.returncode != 0, path


def test_generated_protocol_code_is_that_of_the_definitions(tmp_path: Path) -> None:
    # A process of its own: the compiler's descriptors and those of a loaded protobuf do not go together.
    for definition in tracked("common/proto/*.proto"):
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={tmp_path}", str(definition)]
        subprocess.run(command, check=True, capture_output=True)
        name = definition.name.replace(".proto", "_pb2.py")
        fresh = (tmp_path / "common" / "proto" / name).read_text()
        assert fresh == (ROOT / "common" / "proto" / name).read_text(), f"run make proto: {name} is out of date"


def test_no_absolute_path_of_a_machine_is_named() -> None:
    homes = re.compile(r"(?<![\w.$~])/(home|root|Users)/\w+")
    named = [
        str(path) for path in tracked("*.py") + tracked("*.md") + tracked("*.yaml") if homes.search(path.read_text())
    ]
    assert not [name for name in named if "deploy" not in name and "tests/" not in name]


def test_no_file_holds_the_marks_of_a_merge() -> None:
    marks = re.compile(rb"^(<{7} |>{7} )", re.MULTILINE)
    assert not [str(path) for path in tracked("*") if path.is_file() and marks.search(path.read_bytes())]
