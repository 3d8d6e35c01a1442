"""Lists by shards are those that one process makes, whole or not there, and of nobody who is left out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from client.batch.outputs import ListOutputs
from client.batch.run import BatchJob, recommend_to_file
from client.data.reading.exclusions import ExclusionBook
from client.data.recorded import EventRules
from client.deploy.loading import load_platform_data
from client.keys import KeyFolder, make_keys
from client.person.erasure import Erasures
from client.person.export import export_person
from client.person.places import Places
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG
from client.sharding.lists import recommend_by_shards
from client.sharding.platform import catalogue_of, open_shards
from common.config.serving import SteeringConfig
from common.deploy.roles import PlatformConfig
from common.errors import StoreError
from simulations.engine.random_model import random_platform_model
from tests.support.persons import holding
from tests.support.sharded import N_ITEMS, InlineCluster, local, partitioned, sharded_config


@pytest.fixture
def config(tmp_path: Path) -> PlatformConfig:
    """Its model knows all users, which are in shards too."""
    config = partitioned(sharded_config(tmp_path, keys=tmp_path / "keys"))
    make_keys(KeyFolder(config.keys), tmp_path / "node.key")
    data = load_platform_data(local(config))
    model = random_platform_model(np.random.default_rng(0), own=N_ITEMS, foreign=20, unshared=4)
    PlatformStore(config.state / "store").commit(replace(model, user_ids=data.user_ids, histories=data.interactions))
    return config


def job(config: PlatformConfig, output: str, **changes: Any) -> BatchJob:
    given = {"users": None, "k": 6, "scope": "all", "steering": SteeringConfig(), "rules": EventRules(meaning="weight")}
    return BatchJob(store=config.state / "store", output=config.state.parent / output, **(given | changes))


def by_shards(config: PlatformConfig, cluster: Any = None, **changes: Any) -> pl.DataFrame:
    shards = open_shards(config, catalogue_of(config).items)
    asked = job(config, "lists", **changes)
    recommend_by_shards(asked, shards, cluster or InlineCluster(), 7, lambda _: None)
    return in_order(pl.read_parquet(asked.output / "*.parquet"))


def at_once(config: PlatformConfig, **changes: Any) -> pl.DataFrame:
    asked = job(config, "lists.parquet", **changes)
    recommend_to_file(asked, lambda _: None)
    return in_order(pl.read_parquet(asked.output))


def in_order(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.sort("user_id", "rank")


@pytest.mark.parametrize("changes", [{}, {"scope": "own"}, {"steering": SteeringConfig(diversity=0.5)}])
def test_lists_are_those_of_one_process(config: PlatformConfig, changes: dict[str, Any]) -> None:
    found, expected = by_shards(config, **changes), at_once(config, **changes)
    assert found.drop("score").equals(expected.drop("score"))
    np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), rtol=1e-5, atol=1e-6)


def test_events_since_the_partition_count(config: PlatformConfig) -> None:
    with FeedbackLog(config.state / "store" / FEEDBACK_LOG) as log:
        model = PlatformStore(config.state / "store").load()
        for event in range(5):
            log.record(f"e{event}", "person-0", model.own.keys[event], 1.0, 3000)
    found, expected = by_shards(config), at_once(config)
    assert found.drop("score").equals(expected.drop("score"))


def test_everybody_in_shards_has_a_list_though_the_model_knows_few(config: PlatformConfig) -> None:
    store = PlatformStore(config.state / "store")
    expected, model = by_shards(config, scope="own"), store.load()
    few = np.arange(len(model.user_ids)) >= 5
    store.commit(model.without(few))
    assert by_shards(config, scope="own").drop("score").equals(expected.drop("score"))


def test_workers_of_before_take_up_a_version_of_the_same_number(config: PlatformConfig) -> None:
    """A store that was restored or made anew numbers its versions from where it is; a cluster's workers live on."""
    store = PlatformStore(config.state / "store")
    before, known = by_shards(config), store.load()
    shutil.rmtree(store.all_versions)
    other = random_platform_model(np.random.default_rng(1), own=N_ITEMS, foreign=20, unshared=4)
    assert store.commit(replace(other, user_ids=known.user_ids, histories=known.histories)) == 1
    found = by_shards(config)
    assert not found.drop("score").equals(before.drop("score"))
    assert found.drop("score").equals(at_once(config).drop("score"))


def test_who_is_left_out_has_no_list(config: PlatformConfig) -> None:
    before = by_shards(config)
    book = ExclusionBook(config.state / "store")
    book.add({book.tag("person-1"): "erased"})
    after = by_shards(config)
    assert set(before["user_id"]) - set(after["user_id"]) == {"person-1"}


class Interrupted(InlineCluster):
    """Ends in the middle."""

    def few_at_a_time(self, refs: Any) -> Any:
        for number, ref in enumerate(refs):
            if number == 3:
                raise KeyboardInterrupt
            yield ref


def test_an_interrupted_command_goes_on_where_it_was(config: PlatformConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        by_shards(config, Interrupted())
    output = job(config, "lists").output
    assert not output.exists()
    parts = {part: part.stat().st_mtime_ns for part in output.parent.glob(".lists.parts/*.parquet")}
    assert parts
    found = by_shards(config)
    kept = {part.name: part.stat().st_mtime_ns for part in output.glob("*.parquet")}
    assert all(kept[part.name] == at for part, at in parts.items())
    assert found.drop("score").equals(at_once(config).drop("score"))
    assert {part.suffix for part in output.iterdir()} == {".parquet"}
    assert not list(output.parent.glob(".lists.parts"))


def test_parts_cut_short_are_erased_with_a_person(config: PlatformConfig) -> None:
    """Whoever is in shards alone changes no version of the model: nothing else would make the command begin anew."""
    store = PlatformStore(config.state / "store")
    model = store.load()
    store.commit(model.without(np.arange(len(model.user_ids)) >= 5))
    with pytest.raises(KeyboardInterrupt):
        by_shards(config, Interrupted())
    parts = config.state.parent / ".lists.parts"
    person = next(user for user in pl.read_parquet(parts / "*.parquet")["user_id"] if user not in store.load().user_ids)
    [held] = export_person(config, person)["lists"]
    assert [row["rank"] for row in held["rows"]] == [1, 2, 3, 4, 5, 6]
    assert Places(config).still_held() == []
    erasures = Erasures(config, patience=0)
    erasures.complete(erasures.begin(person, "erased"))
    assert holding(config.state.parent, person) == ["views.csv"], "the platform's own"
    assert person not in set(by_shards(config)["user_id"])


def test_an_erasure_ends_a_command_that_writes(config: PlatformConfig) -> None:
    person, erasures = "person-33", Erasures(config, patience=0)

    class Meanwhile(InlineCluster):
        def few_at_a_time(self, refs: Any) -> Any:
            yield next(iter(refs))
            with pytest.raises(StoreError, match="crossfed-client recommend"):
                erasures.complete(erasures.begin(person, "erased"))
            yield from refs

    with pytest.raises(StoreError, match="a person was left out"):
        by_shards(config, Meanwhile())
    assert len(erasures.resume()) == 1
    assert holding(config.state.parent, person) == ["views.csv"]


def test_a_receipt_names_whole_lists_and_an_export_holds_them(config: PlatformConfig) -> None:
    by_shards(config)
    person, erasures = "person-33", Erasures(config, patience=0)
    [held] = export_person(config, person)["lists"]
    assert Path(held["file"]).parent == job(config, "lists").output
    other = config.state.parent / "other.parquet"
    ListOutputs(config.state / "store").note(other)
    other.write_text("no lists of crossfed")
    receipt = erasures.complete(erasures.begin(person, "erased"))
    assert held["file"] in receipt.own_files
    assert f"{other} (cannot be read as lists)" in receipt.own_files


def test_a_file_of_that_name_stays(config: PlatformConfig) -> None:
    job(config, "lists").output.write_text("precious")
    with pytest.raises(StoreError, match="is a file"):
        by_shards(config)
    assert job(config, "lists").output.read_text() == "precious"
