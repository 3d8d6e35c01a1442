from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.contributions.run_file import RunFile
from tests.private_support import by_hand, private_plan, private_platforms

PLAN = private_plan()
FACTS = {"platforms": ["a", "b"]}
ARRAYS = {"digests": np.arange(64, dtype=np.uint8).reshape(2, 32), "card_offsets": np.zeros(3, dtype=np.int64)}


@pytest.fixture
def kept(tmp_path: Path) -> RunFile:
    file = RunFile(tmp_path / "store" / "vocabulary.npz")
    file.save("run", PLAN, FACTS, ARRAYS)
    return file


def test_what_was_kept_comes_back_for_its_run_and_plan_alone(kept: RunFile) -> None:
    found = kept.load("run", PLAN)
    assert found is not None
    facts, arrays = found
    assert facts == FACTS
    assert {name: (a.dtype, a.tolist()) for name, a in arrays.items()} == {
        name: (a.dtype, a.tolist()) for name, a in ARRAYS.items()
    }
    assert kept.load("another", PLAN) is None
    assert kept.load("run", private_plan(clip_norm=0.5)) is None, "a plan that nobody has compared"


def test_the_newest_replaces_the_one_before(kept: RunFile) -> None:
    kept.save("next", PLAN, FACTS, ARRAYS)
    assert kept.load("run", PLAN) is None
    assert kept.load("next", PLAN) is not None


def test_nobody_else_may_read_it(kept: RunFile, tmp_path: Path) -> None:
    assert (tmp_path / "store" / "vocabulary.npz").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-9], lambda b: b"", lambda b: b"\x00" * len(b)], ids=["cut", "empty", "0"]
)
def test_a_damaged_file_is_none(kept: RunFile, tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "store" / "vocabulary.npz"
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    assert kept.load("run", PLAN) is None


def test_no_file_is_none(tmp_path: Path) -> None:
    assert RunFile(tmp_path / "vocabulary.npz").load("run", PLAN) is None


def test_an_agent_with_another_plan_contributes_only_after_joining(tmp_path: Path) -> None:
    asked = by_hand(private_platforms(), private_plan(noise="per_platform"), tmp_path)
    assert asked.ask("platform-0", "counts").code == "ok"
    back = by_hand(private_platforms(), private_plan(noise="per_platform", kept_items=9), tmp_path, joined=False)
    assert back.ask("platform-0", "statistics", 1, arrays=back.parameters()).code == "out-of-order"
    same = by_hand(private_platforms(), asked.plan, tmp_path, joined=False)
    assert same.ask("platform-0", "statistics", 1, arrays=same.parameters()).code == "ok"
