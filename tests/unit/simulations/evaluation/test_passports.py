"""Small runs measure passports: newcomers are hidden altogether, and their passports tell their taste."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from common.errors import DataError
from simulations.engine.datasets import make_platforms
from simulations.evaluation.passports import _worth
from simulations.report.terminal import result_tables
from simulations.run import simulate
from simulations.scenarios.scenario import Scenario

pytestmark = pytest.mark.usefixtures("one_thread")
_OPEN = {"privacy": {"mode": "none"}}
_GROUPS, _ITEMS, _USERS = 4, 80, 360


def _rows(prefix: str, seed: int, *, tells: bool) -> list[str]:
    """User k is of taste k mod 4, unless nothing ``tells`` so; each shop calls the user by a name of its own."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(_USERS):
        weights = np.where(np.arange(_ITEMS) % _GROUPS == user % _GROUPS, 8.0, 1.0) if tells else np.ones(_ITEMS)
        for item in rng.choice(_ITEMS, size=14, replace=False, p=weights / weights.sum()):
            rows.append(f"{prefix}{user},{prefix}{item},person-{user}")
    return rows


def _scenario(folder: Path, *, tells: bool = True, **passport: Any) -> Scenario:
    for seed, name in enumerate(("records", "books")):
        text = "\n".join(["user_id,item_id,person", *_rows(name[0], seed, tells=tells)])
        (folder / f"{name}.csv").write_text(text + "\n")
    platforms = [
        {"name": name, "data": {"interactions": {"path": str(folder / f"{name}.csv")}}} for name in ("books", "records")
    ]
    return Scenario.model_validate(
        {
            "name": "pair",
            "platforms": platforms,
            "passport": {"person_column": "person", "holders": [30], "own_interactions": [2, 5], **passport},
            "plan": {"federation": "pair", "rounds": 2, "model": {"dimension": 4}, "privacy": {"mode": "none"}},
            "personalization": {"tuning_candidates": 1, "anchored": False},
            "split": {"test_share": 0.1},
        }
    )


def test_newcomers_are_hidden_and_differ_on_each_platform(tmp_path: Path) -> None:
    books, records = make_platforms(_scenario(tmp_path, cold=0.5))
    assert books.people is not None
    assert records.people is not None
    cold = {platform.name: set(platform.people.cold) for platform in (books, records) if platform.people}
    assert {name: len(people) for name, people in cold.items()} == {"books": 90, "records": 90}
    assert not cold["books"] & cold["records"]
    for platform in (books, records):
        users = {f"person-{user[1:]}" for user in platform.training.user_ids}
        assert users == set(platform.people.users)  # type: ignore[union-attr]
        assert not users & cold[platform.name]
        assert platform.people.hidden.nnz == 14 * 90  # type: ignore[union-attr]


def test_passports_of_people_of_a_taste_beat_popularity(tmp_path: Path) -> None:
    content = simulate(_scenario(tmp_path), tmp_path / "out").content
    assert [(block["from"], block["to"]) for block in content["passports"]] == [
        ("books", "records"),
        ("records", "books"),
    ]
    for block in content["passports"]:
        assert (block["holders"], block["cold"]) == (288, 36)
        assert block["over_popularity"] > 1.15
        assert block["passport_minus_popularity"]["recall@20"][1] > 0
        # Too few holders to learn from: popularity, exactly.
        assert block["with_holders"] == {"30": 1.0}
        assert block["kinds"]["profile"] == block["over_popularity"]
        assert [point["own"] for point in block["own"]] == [2, 5]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["passports"] == content["passports"]
    console = Console(file=io.StringIO(), width=80)
    console.print(result_tables(content))
    assert "books to records" in console.file.getvalue()  # type: ignore[attr-defined]


def test_passports_that_tell_nothing_leave_popularity(tmp_path: Path) -> None:
    for block in simulate(_scenario(tmp_path, tells=False), tmp_path / "out").content["passports"]:
        assert block["over_popularity"] == 1.0


def test_a_history_cut_in_two_lies_on_both_platforms_once(tmp_path: Path) -> None:
    _scenario(tmp_path)
    source = {
        "data": {"interactions": {"path": str(tmp_path / "books.csv")}},
        "platforms": {"one": 1, "two": 1},
        "common_items": 0.5,
        "same_users": True,
    }
    scenario = Scenario.model_validate({"partition": source, "passport": {"cold": 0.1}, "plan": _OPEN})
    platforms = make_platforms(scenario)
    total = sum(one.interactions + one.people.hidden.nnz for one in platforms if one.people)
    assert total == 14 * _USERS
    common = set(platforms[0].training.items.keys) & set(platforms[1].training.items.keys)
    assert len(common) == _ITEMS // 2
    assert all(one.hidden is None for one in platforms)
    seen = [
        {(one.people.users[user], one.training.items.keys[item]) for user, item in _entries(one)}
        for one in platforms
        if one.people
    ]
    assert not seen[0] & seen[1]
    with pytest.raises(ValidationError, match="same_users"):
        Scenario.model_validate({"partition": source | {"common_items": 1.0, "hide_items": 0.2}})


def test_platforms_without_common_people_are_refused(tmp_path: Path) -> None:
    scenario = _scenario(tmp_path, person_column=None)
    with pytest.raises(DataError, match="no person is on two platforms"):
        make_platforms(scenario)
    with pytest.raises(DataError, match=r"passport\.person_column"):
        make_platforms(_scenario(tmp_path, person_column="nobody"))


def test_worth_is_where_own_interactions_find_as_much() -> None:
    points = [{"own": 1, "passport": 0.3, "without": 0.1}, {"own": 5, "passport": 0.3, "without": 0.4}]
    assert _worth(points) == pytest.approx(1 + 4 * (0.2 / 0.3))
    assert _worth(points[:1]) is None
    assert _worth([{"own": 2, "passport": 0.1, "without": 0.2}]) == 2.0


def _entries(platform: Any) -> list[tuple[int, int]]:
    known = platform.training.known
    return list(zip(known.entry_users().tolist(), known.indices.tolist(), strict=True))
