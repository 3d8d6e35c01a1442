"""Names that packages offer are there, and costs nothing before it is asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "client",
    "client.data",
    "client.personalization",
    "client.recommend",
    "client.service",
    "common.contributions",
    "server",
    "simulations",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__
    for public in package.__all__:
        assert getattr(package, public).__name__ == public


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'simulations' has no attribute 'stimulate'"):
        importlib.import_module("simulations").stimulate  # noqa: B018


def test_packages_import_nothing_heavy() -> None:
    heavy = ("numpy", "polars", "tensorflow", "keras", "flwr", "grpc", "pydantic")
    code = f"import sys, {', '.join(PACKAGES)}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
