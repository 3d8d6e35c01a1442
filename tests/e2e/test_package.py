"""The wheel holds all code, the embedded data and scenarios, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_every_module_is_in_the_wheel(wheel: list[str]) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for package in ("client", "common", "server", "simulations")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources <= set(wheel)


def test_the_embedded_data_and_its_licence_are_in_the_wheel(wheel: list[str]) -> None:
    folder = "simulations/data/movietweetings_core"
    assert {f"{folder}/{name}" for name in ("ratings.csv.gz", "movies.csv.gz", "LICENSE")} <= set(wheel)
    assert "simulations/scenarios/quickstart.yaml" in wheel


def test_no_other_data_is_in_the_wheel(wheel: list[str]) -> None:
    data = [name for name in wheel if name.endswith((".gz", ".parquet", ".csv", ".inter", ".npz", ".db", ".pem"))]
    shipped = tuple(f"simulations/data/{name}/" for name in ("movietweetings_core", "synthetic", "insurance"))
    assert all(name.startswith(shipped) for name in data)
    assert not any(name.startswith("tests/") for name in wheel)
