"""Dockerfiles and compose file pass the linters of ``make check``, which refuse worse ones; images have one version."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.dashboards import DEPLOY

BIN = Path(sys.executable).parent
DOCKERFILES = [DEPLOY / role / "Dockerfile" for role in ("aggregator", "platform")]


def refusal(*command: object) -> str:
    done = subprocess.run([BIN / str(command[0]), *map(str, command[1:])], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(re.search(r"DL\d{4}|FAIL", done.stdout)), done.stderr
    return done.stdout if done.returncode else ""


def compose_refusal(path: Path) -> str:
    return refusal("compose-lint", "check", "--fail-on", "low", "--config", DEPLOY / "compose-lint.yaml", path)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_hadolint_has_nothing_against_a_dockerfile(path: Path, tmp_path: Path) -> None:
    assert refusal("hadolint", path) == ""
    (tmp_path / "Dockerfile").write_text(path.read_text().replace("python:3.11-slim", "python"))
    assert "DL3006" in refusal("hadolint", tmp_path / "Dockerfile")


@pytest.mark.parametrize(
    "taken", ["cap_drop: [ALL]", "read_only: true", ":0.1.0", 'memory: "${CROSSFED_AGENT_MEMORY:-16g}", ']
)
def test_compose_lint_has_nothing_against_the_compose_file(taken: str, tmp_path: Path) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert compose_refusal(DEPLOY / "compose.yaml") == ""
    assert taken in text
    (tmp_path / "compose.yaml").write_text(text.replace(taken, ""))
    assert compose_refusal(tmp_path / "compose.yaml")


def test_images_are_named_with_the_packages_version() -> None:
    named = {
        (name, tag)
        for path in [*DEPLOY.rglob("*.yaml"), *DOCKERFILES]
        for name, tag in re.findall(r"(?:image: |--tag )(crossfed-\w+):?(\S*)", path.read_text())
    }
    assert named == {(f"crossfed-{role}", version("crossfed")) for role in ("aggregator", "platform")}
