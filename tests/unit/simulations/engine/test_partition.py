"""Platforms by a column of the data, items hidden from each, and further files about items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from common.errors import DataError
from simulations.engine.datasets import SimulatedPlatform, make_platforms
from simulations.evaluation.cross_weights import _choose
from simulations.scenarios.scenario import Scenario

N_ITEMS = 30
WARDS = {"u0": "2", "u1": "10", "u2": "9", "u3": "10", "u4": "2", "u5": "11"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [f"{user},{item},{ward}" for user, ward in WARDS.items() for item in range(12)]
    rows += [f"u3,{item},9" for item in range(12, 15)]  # moved for a short time
    (tmp_path / "orders.csv").write_text("user_id,item_id,ward\n" + "\n".join(rows) + "\n")
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{i},T{i}\n" for i in range(N_ITEMS)))
    (tmp_path / "makers.csv").write_text("no,maker,year,title\n5,ann,1999,x\n7,bob,,y\n5,carl,2000,z\n")
    return tmp_path


def partition(folder: Path, **changes: Any) -> list[SimulatedPlatform]:
    source = {
        "data": {
            "interactions": {"path": folder / "orders.csv"},
            "items": {"path": folder / "items.csv", "namespace": "i", "id_column": "item_id"},
        },
        "by_column": "ward",
        "equal_platforms": 2,
    }
    return make_platforms(Scenario.model_validate({"partition": source | changes}))


def users(platforms: list[SimulatedPlatform]) -> dict[str, set[str]]:
    return {platform.name: set(platform.training.user_ids) for platform in platforms}


def test_values_are_dealt_in_order_and_users_follow_most_rows(folder: Path) -> None:
    # 2, 9, 10, 11 in turn: 2 and 10 to the first, 9 and 11 to the second.
    assert users(partition(folder, platform_name="network")) == {
        "network-1": {"u0", "u1", "u3", "u4"},
        "network-2": {"u2", "u5"},
    }


def test_text_values_are_in_order_of_text(folder: Path) -> None:
    text = (folder / "orders.csv").read_text().replace(",9\n", ",nine\n")
    (folder / "orders.csv").write_text(text)  # 10, 11, 2, nine
    assert users(partition(folder))["platform-1"] == {"u0", "u1", "u3", "u4"}


@pytest.mark.parametrize(("changes", "says"), [
    ({"by_column": "word"}, r"partition\.by_column.*did you mean 'ward'"),
    ({"equal_platforms": 5}, "platform-5: gets no users"),
])  # fmt: skip
def test_a_column_that_cannot_cut_is_named(folder: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        partition(folder, **changes)


def test_users_without_a_value_in_the_column_are_reported(folder: Path) -> None:
    text = (folder / "orders.csv").read_text()
    (folder / "orders.csv").write_text("".join(line + "\n" for line in text.splitlines()) + "u9,1,\n")
    with pytest.raises(DataError, match=r"1 users have no value in column 'ward'"):
        partition(folder)


def test_each_platform_lacks_its_share_and_every_item_is_somewhere(folder: Path) -> None:
    platforms = partition(folder, hide_items=0.7)
    missing = [set(platform.hidden.keys) for platform in platforms if platform.hidden is not None]
    assert len(missing) == 2
    assert not missing[0] & missing[1]
    for platform, keys in zip(platforms, missing, strict=True):
        assert keys | set(platform.training.items.keys) == {f"i:{i}" for i in range(N_ITEMS)}
        assert platform.hidden is not None
        assert platform.hidden.interactions.nnz + platform.interactions == sum(
            15 if user == "u3" else 12 for user in platform.training.user_ids
        )


def test_less_is_hidden_than_would_leave_an_item_nowhere(folder: Path) -> None:
    missing = [platform.hidden.keys for platform in partition(folder, hide_items=0.2) if platform.hidden is not None]
    assert [len(keys) for keys in missing] in ([6, 6], [5, 6], [6, 5], [5, 5], [4, 6], [6, 4])


@pytest.mark.parametrize(("changes", "says"), [
    ({"equal_platforms": None, "platforms": {"a": 1, "b": 1}}, "by_column: needs equal_platforms"),
    ({"hide_items": 0.2, "common_items": 0.5}, "common_items, hide_items: give one of the two"),
    ({"hide_items": 1.0}, "hide_items"),
])  # fmt: skip
def test_ways_to_cut_that_exclude_one_another_are_refused(folder: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        partition(folder, **changes)


def about(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"path": folder / "makers.csv", "key_column": "no", "namespace": "i", "columns": ["maker", "year"]}
    return {"descriptions": [given | changes]}


def test_what_another_file_says_of_items_joins_by_key(folder: Path) -> None:
    for platform in partition(folder, **about(folder)):
        told = dict(zip(platform.training.items.keys, platform.training.items.attributes.iter_rows(), strict=True))
        assert told["i:5"] == ("ann", 1999)
        assert told["i:7"] == ("bob", None)
        assert told["i:6"] == (None, None)


def test_keys_that_lost_their_zeros_get_them_back(folder: Path) -> None:
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"{i:03d},T{i}\n" for i in range(N_ITEMS)))
    text = (folder / "orders.csv").read_text().splitlines()
    rows = [",".join([u, f"{int(i):03d}", w]) for u, i, w in (line.split(",") for line in text[1:])]
    (folder / "orders.csv").write_text("\n".join([text[0], *rows]) + "\n")
    [first, _] = partition(folder, **about(folder, digits=3))
    assert first.training.items.attributes["maker"].drop_nulls().to_list() == ["ann", "bob"]
    with pytest.raises(DataError, match=r"describes none of the items.*'i:000'"):
        partition(folder, **about(folder))


def test_a_column_that_is_there_already_is_named(folder: Path) -> None:
    twice = {"descriptions": about(folder)["descriptions"] * 2}
    with pytest.raises(DataError, match="attribute 'maker' already"):
        partition(folder, **twice)


@pytest.mark.parametrize("name", ["commerce", "hidden"])
def test_tuning_never_takes_an_item_from_everybody(folder: Path, name: str) -> None:
    if name == "commerce":
        from simulations.scenarios.scenario import load_scenario

        scenario = load_scenario("commerce")
        platforms = make_platforms(scenario)
    else:
        platforms = partition(folder, hide_items=0.2)
        scenario = Scenario.model_validate(
            {"partition": {"data": {"interactions": {"path": "x"}}, "equal_platforms": 2, "hide_items": 0.2}}
        )
    for draw in range(3):
        lost = _choose(platforms, scenario, draw)
        assert any(lost.values())
        for key in set.union(*lost.values()):
            owners = [platform.name for platform in platforms if key in platform.training.items.keys]
            assert any(key not in lost[name] for name in owners)
        assert np.all([lost[p.name] <= set(p.training.items.keys) for p in platforms])
