"""The patch that is proposed for Flower applies to the version that is installed, and does there what it says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PATCH = Path(__file__).parents[2] / "docs" / "flower-poll.patch"
MODULE = Path("flwr") / "supernode" / "start_client_internal.py"


class Ended(Exception):
    """Ends the node's endless loop."""


@contextmanager
def connection(**options: object) -> Iterator[list[Any]]:
    """Stand in for a SuperLink: a node's number, and seven calls that are not made."""
    yield [1, *[None] * 7]


def waits(source: Path, pulls: list[int | None]) -> list[float]:
    """Return how long a node sleeps that finds what ``pulls`` says: a run's number, or nothing."""
    spec = spec_from_file_location("a_copy_of_flowers", source)
    assert spec is not None
    assert spec.loader is not None
    node: Any = module_from_spec(spec)
    spec.loader.exec_module(node)
    slept: list[float] = []
    left = iter(pulls)

    def pull(**options: object) -> int | None:
        try:
            return next(left)
        except StopIteration:
            raise Ended from None

    node.time = SimpleNamespace(sleep=slept.append)
    node._init_connection, node._pull_and_store_message = connection, pull
    node._push_messages = node.register_signal_handlers = lambda **options: None
    states = SimpleNamespace(
        objectstore_factory=SimpleNamespace(store=lambda: None),
        state=lambda: SimpleNamespace(set_node_id=lambda node_id: None),
    )
    with pytest.raises(Ended):
        node.start_client_internal(
            state_factory=states, server_address="", node_config={}, insecure=True, isolation="process"
        )
    return slept


@pytest.mark.skipif(shutil.which("patch") is None, reason="needs patch")
def test_the_proposed_patch_lets_a_node_ask_sooner(tmp_path: Path) -> None:
    flower = find_spec("flwr")
    assert flower is not None
    assert flower.origin is not None
    copy = tmp_path / MODULE
    copy.parent.mkdir(parents=True)
    shutil.copy(Path(flower.origin).parents[1] / MODULE, copy)
    pulls = [None, None, 7, *[None] * 7]
    assert waits(copy, pulls) == [3.0] * 9
    with PATCH.open() as patch:
        subprocess.run(["patch", "-p1", "--fuzz=0"], cwd=tmp_path, stdin=patch, check=True, capture_output=True)
    assert waits(copy, pulls) == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0])
