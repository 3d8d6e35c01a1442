from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from client.data.describe import describe_items
from common.config.platform import CatalogueConfig
from common.errors import DataError
from simulations.engine.datasets import SimulatedPlatform, make_platforms, shared_items, split_matrix
from simulations.evaluation.cross_weights import hide_further
from simulations.scenarios.scenario import Scenario, SplitConfig
from tests.support import item_table, random_matrix

N_USERS, N_ITEMS = 30, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, users in (("all", range(N_USERS)), ("left", range(8)), ("right", range(50, 62))):
        lines = ["user_id,item_id,timestamp"]
        for user in users:
            items = rng.permutation(N_ITEMS)[: rng.integers(3, 12)]
            lines += [f"u{user},{item},{place}" for place, item in enumerate(items)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    for name, items in (("items", range(N_ITEMS)), ("left-items", range(15)), ("right-items", range(5, 20))):
        (folder / f"{name}.csv").write_text("item_id,title\n" + "".join(f"{i},T{i}\n" for i in items))
    return folder


def data_of(folder: Path, name: str, items: str = "items") -> dict[str, Any]:
    return {
        "interactions": {"path": str(folder / f"{name}.csv")},
        "items": {"path": str(folder / f"{items}.csv"), "namespace": "item", "id_column": "item_id"},
    }


def partition(folder: Path, *, seed: int = 0, **changes: Any) -> list[SimulatedPlatform]:
    source = {"data": data_of(folder, "all"), "platforms": {"small": 1, "big": 4}, "common_items": 0.5} | changes
    return make_platforms(Scenario.model_validate({"seed": seed, "partition": source}))


def keys_of(platform: SimulatedPlatform) -> set[str]:
    return set(platform.training.items.keys)


def test_a_partition_gives_every_user_to_one_platform_in_proportion(folder: Path) -> None:
    platforms = partition(folder)
    assert [platform.name for platform in platforms] == ["big", "small"], "in order of name"
    users = [set(platform.training.user_ids) for platform in platforms]
    assert [len(one) for one in users] == [24, 6]
    assert users[0] | users[1] == {f"u{user}" for user in range(N_USERS)}


def test_common_items_are_everywhere_and_others_on_one_platform(folder: Path) -> None:
    big, small = (keys_of(platform) for platform in partition(folder))
    assert len(big & small) == 10
    assert len(big | small) == 20
    assert (len(big - small), len(small - big)) == (8, 2)


def test_what_users_did_elsewhere_is_hidden_and_nothing_else(folder: Path) -> None:
    for platform in partition(folder):
        assert platform.hidden is not None
        assert set(platform.hidden.keys) == {f"item:{i}" for i in range(N_ITEMS)} - keys_of(platform)
        raw: dict[str, set[str]] = {}
        for line in (folder / "all.csv").read_text().splitlines()[1:]:
            user, item, _ = line.split(",")
            raw.setdefault(user, set()).add(f"item:{item}")
        for row, user in enumerate(platform.training.user_ids):
            away = {platform.hidden.keys[column] for column in platform.hidden.interactions.row(row)}
            here = {platform.training.items.keys[column] for column in platform.training.known.row(row)}
            test = {platform.training.items.keys[column] for column in platform.test.truth.row(row)}
            assert away | here | test == raw[user]
            assert len(away) + len(here) + len(test) == len(raw[user])


def test_profiles_stay_beside_their_users_through_partition_and_split(folder: Path) -> None:
    # An age that names its user: u7 is 7.
    (folder / "users.csv").write_text("user_id,age\n" + "".join(f"u{user},{user}\n" for user in range(N_USERS)))
    data = data_of(folder, "all") | {"users": {"path": str(folder / "users.csv")}}
    for platform in partition(folder, data=data):
        assert platform.training.users is not None
        assert [f"u{age}" for age in platform.training.users["age"]] == list(platform.training.user_ids)
        kept = hide_further(platform, set(platform.training.items.keys[:2]))[0].training
        assert kept.users is platform.training.users


def test_without_private_items_nothing_is_hidden(folder: Path) -> None:
    assert [platform.hidden for platform in partition(folder, common_items=1.0)] == [None, None]


def test_the_same_seed_cuts_the_same_way_and_another_does_not(folder: Path) -> None:
    first, again, other = (partition(folder, seed=seed) for seed in (1, 1, 2))
    assert first[0].training.user_ids == again[0].training.user_ids
    assert first[0].training.items.keys == again[0].training.items.keys
    assert np.array_equal(first[0].test.truth.indices, again[0].test.truth.indices)
    assert first[0].training.user_ids != other[0].training.user_ids
    assert first[0].training.items.keys != other[0].training.items.keys


def separate(folder: Path, hide: float = 0.0, **changes: Any) -> list[SimulatedPlatform]:
    sources = [
        {"name": "right", "data": data_of(folder, "right", "right-items")} | changes,
        {"name": "left", "data": data_of(folder, "left", "left-items"), "hide_shared": hide},
    ]
    return make_platforms(Scenario.model_validate({"seed": 3, "platforms": sources}))


def test_platforms_of_their_own_keep_their_catalogues(folder: Path) -> None:
    left, right = separate(folder)
    assert (left.name, right.name) == ("left", "right")
    assert keys_of(left) == {f"item:{i}" for i in range(15)}
    assert keys_of(right) == {f"item:{i}" for i in range(5, 20)}
    assert left.hidden is None


def test_hidden_are_only_items_that_another_platform_has(folder: Path) -> None:
    left, right = separate(folder, hide=0.4)
    assert left.hidden is not None
    hidden = set(left.hidden.keys)
    assert len(hidden) == 4
    assert hidden <= {f"item:{i}" for i in range(5, 15)}
    assert hidden <= keys_of(right)
    assert keys_of(left) == {f"item:{i}" for i in range(15)} - hidden


def test_hiding_one_platforms_items_leaves_the_others_splits(folder: Path) -> None:
    plain, hiding = separate(folder)[1], separate(folder, hide=0.4)[1]
    assert np.array_equal(plain.test.truth.indices, hiding.test.truth.indices)
    assert np.array_equal(plain.training.train.indices, hiding.training.train.indices)


def test_what_a_platform_shares_reaches_its_training_data(folder: Path) -> None:
    _, right = separate(folder, catalogue={"share": "none", "cards": False})
    assert not right.training.shared.any()
    assert not right.training.cards_shared
    left, _ = separate(folder)
    assert left.training.shared.all()
    assert left.training.cards_shared


def test_a_platform_that_gets_no_users_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="platform small: gets no users"):
        partition(folder, platforms={"small": 1, "big": 5000})


def test_a_platform_with_nothing_left_to_train_on_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("user_id,item_id\nu1,1\nu2,2\n")
    (tmp_path / "items.csv").write_text("item_id\n1\n2\n")
    data = {"interactions": {"path": str(tmp_path / "one.csv")}, "items": {"path": str(tmp_path / "items.csv")}}
    data["cleaning"] = {"min_item_interactions": 2}
    with pytest.raises(DataError, match="one"):
        make_platforms(
            Scenario.model_validate(
                {"platforms": [{"name": "one", "data": data}], "plan": {"privacy": {"mode": "none"}}}
            )
        )


def test_users_out_of_the_core_and_rare_items_are_left_out(folder: Path) -> None:
    data = data_of(folder, "all") | {"cleaning": {"k_core": 5}}
    plan = {"privacy": {"mode": "none"}}
    scenario = Scenario.model_validate({"seed": 1, "platforms": [{"name": "left", "data": data}], "plan": plan})
    (platform,) = make_platforms(scenario)
    lengths = platform.training.train.row_lengths
    assert 0 < len(platform.training.items) < N_ITEMS
    assert (lengths == 0).any(), "somebody fell out"
    assert lengths[lengths > 0].min() >= 5
    assert platform.training.train.item_counts().min() >= 5
    assert platform.test.truth.n_items == platform.training.train.n_items == len(platform.training.items)
    assert "5-core" in platform.report.dropped[-1].reason


KEYS = ["imdb:1", "imdb:2", "shop:3", "shop:4"]  # genres: Comedy/War, Drama, Comedy/War, Drama


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"share": "all", "genres": ("Drama",)}, [1, 1, 1, 1]),
        ({"share": "none"}, [0, 0, 0, 0]),
        ({"share": "filter"}, [1, 1, 1, 1]),
        ({"share": "filter", "genres": ("War", "Western")}, [1, 0, 1, 0]),
        ({"share": "filter", "key_prefixes": ("imdb:",)}, [1, 1, 0, 0]),
        ({"share": "filter", "genres": ("Drama",), "key_prefixes": ("shop:", "tmdb:")}, [0, 0, 0, 1]),
        ({"share": "filter", "genres": ("Opera",)}, [0, 0, 0, 0]),
    ],
)
def test_what_is_shared_is_what_the_filter_says(config: dict[str, Any], expected: list[int]) -> None:
    assert shared_items(item_table(KEYS), CatalogueConfig(**config)).tolist() == [bool(one) for one in expected]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"maker": {"any_of": ["ÉCLAIR", "nobody"]}}, [1, 0, 0, 0]),
        ({"maker": {"none_of": ["éclair"]}}, [0, 1, 1, 1]),
        ({"tags": {"any_of": ["a"], "none_of": ["b"]}}, [1, 0, 0, 0]),
        ({"year": {"at_least": 1990}}, [0, 1, 0, 1]),
        ({"year": {"at_least": 1980, "at_most": 1990}}, [1, 1, 0, 0]),
        ({"year": {"at_least": 1980}, "tags": {"any_of": ["b"]}}, [0, 1, 0, 0]),
        ({"genres": {"any_of": ["drama"]}}, [0, 1, 0, 1]),
    ],
)
def test_any_described_attribute_filters_what_is_shared(where: dict[str, Any], expected: list[int]) -> None:
    columns = {
        "maker": ["Éclair", "界", "b", None],
        "tags": ["a|c", "b|a", "b", None],
        "year": [1980, 1990, None, 2010],
    }
    table = replace(item_table(KEYS), attributes=pl.DataFrame(columns))
    kinds = {"maker": "category", "tags": "categories", "year": "number"}
    config = CatalogueConfig.model_validate({"share": "filter", "describe": kinds, "where": where})
    described, _ = describe_items(table, config.describe)
    assert shared_items(described, config).tolist() == [bool(one) for one in expected]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"margin": {"at_least": 1}}, "where.margin: is none of the categories and numbers there .genres, maker, year"),
        ({"blurb": {"any_of": ["x"]}}, "where.blurb: is none"),
        ({"maker": {"at_least": 1}}, "where.maker: is a category; give any_of or none_of"),
        ({"year": {"any_of": ["1"]}}, "where.year: is a number; give at_least or at_most"),
        ({"maker": {}}, "give any_of or none_of, for categories; or at_least"),
        ({"year": {"at_least": 1, "any_of": ["x"]}}, "give any_of or none_of, for categories; or at_least"),
    ],
)
def test_a_rule_on_what_is_not_described_is_refused(where: dict[str, Any], said: str) -> None:
    describe = {"maker": "category", "year": "number", "blurb": "text"}
    with pytest.raises(ValidationError, match=said):
        CatalogueConfig.model_validate({"share": "filter", "describe": describe, "where": where})


def test_the_folds_test_every_interaction_of_a_user_once() -> None:
    rng = np.random.default_rng(0)
    data = random_matrix(rng, 12, 9)
    tested = np.zeros((12, 9), dtype=int)
    for fold in range(3):
        config = SplitConfig(protocol="k-fold", folds=3, fold=fold)
        truth = split_matrix(data, config, np.random.default_rng(1)).test.truth
        tested[truth.entry_users(), truth.indices] += 1
    several = np.flatnonzero(data.row_lengths >= 2)
    owned = np.zeros((12, 9), dtype=int)
    owned[data.entry_users(), data.indices] = 1
    assert (tested[several] == owned[several]).all()
