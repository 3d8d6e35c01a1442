"""Shards hold what cleaning all at once gives, are refused where they are stale, and leave out who must be left out."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from client.data.reading.exclusions import ExclusionBook, read_exclusions
from client.deploy.loading import load_platform_data, load_training_data
from client.deploy.partition import partition_users
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG
from client.sharding.adding import added
from client.sharding.cluster import Machine
from client.sharding.platform import catalogue_of, open_shards, source_of_shards
from client.sharding.ray_engine import RayEngine, tree
from client.sharding.shards import ShardedUsers, UserRows
from client.sharding.worker import PartialSum, sum_of_sums
from common.config.model import FactorizationConfig
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError, DataError, InternalError
from tests.support.sharded import InlineCluster, local, partitioned, sharded_config


@pytest.fixture
def config(tmp_path: Path) -> PlatformConfig:
    return partitioned(sharded_config(tmp_path))


def shards_of(config: PlatformConfig) -> ShardedUsers:
    return open_shards(config, catalogue_of(config).items)


def people(blocks: Any) -> dict[str, Any]:
    """By user id: items, values, times and what is held back, in order."""
    found = {}
    for rows in blocks:
        for row, user in enumerate(rows.user_ids):
            own = slice(*rows.known.indptr[row : row + 2])
            parts = (rows.known.indices, rows.known.values, rows.known.times, rows.withheld)
            found[user] = [part[own].tolist() for part in parts]
    return found


def everybody(users: ShardedUsers, size: int = 7, **options: Any) -> dict[str, Any]:
    return people(rows for shard in range(len(users.shards)) for rows in users.blocks(shard, size, **options))


def test_shards_hold_what_cleaning_all_at_once_gives(config: PlatformConfig) -> None:
    data, users = load_training_data(local(config)), shards_of(config)
    whole = load_platform_data(local(config))
    withheld = {user: [] for user in whole.user_ids}
    truth = data.validation.truth
    for row, user in enumerate(whole.user_ids):
        held = set(truth.row(row).tolist())
        withheld[user] = [item in held for item in whole.interactions.row(row).tolist()]
    rows = UserRows(whole.user_ids, whole.interactions, np.concatenate([*withheld.values()]))
    assert everybody(users) == people([rows])
    assert any(any(flags) for flags in withheld.values())
    assert users.n_users == len(whole.user_ids)
    assert len([shard for shard in users.shards if shard.users]) > 1


def test_the_report_is_that_of_all_rows(config: PlatformConfig) -> None:
    whole, sample = load_platform_data(local(config)).report, load_platform_data(config).report
    assert (sample.rows_read, sample.rows_kept, sample.users) == (whole.rows_read, whole.rows_kept, whole.users)
    assert {(one.reason, one.rows) for one in sample.dropped} == {(one.reason, one.rows) for one in whole.dropped}


def test_blocks_of_any_size_hold_the_same(config: PlatformConfig) -> None:
    users = shards_of(config)
    assert everybody(users, 1) == everybody(users, 7) == everybody(users, 10_000)


def test_a_sample_is_timed_as_the_file_is(config: PlatformConfig) -> None:
    assert load_training_data(config).timed
    assert load_training_data(local(config)).timed


def test_a_sample_is_some_of_the_users_whole(tmp_path: Path) -> None:
    config = partitioned(sharded_config(tmp_path, users=400))
    users = shards_of(config)
    sample, everyone = people([users.sample(100)]), everybody(users)
    assert 90 <= len(sample) <= 110
    assert sample.items() <= everyone.items()


def test_recorded_feedback_is_cleaned_with_the_rows(tmp_path: Path) -> None:
    config = sharded_config(tmp_path)
    with FeedbackLog(config.state / "store" / FEEDBACK_LOG) as log:
        for user in range(40):
            log.record(f"e{user}", f"person-{user}", "imdb:3", 1.0, 2000)
    users, whole = shards_of(partitioned(config)), load_platform_data(local(config))
    assert users.n_interactions == whole.interactions.nnz
    assert everybody(users)["person-0"][0] == whole.interactions.row(whole.user_ids.index("person-0")).tolist()


def test_who_is_left_out_is_in_no_block(config: PlatformConfig) -> None:
    book = ExclusionBook(config.state / "store")
    book.add({book.tag("person-1"): "erased", book.tag("person-2"): "objected"})
    users, excluded = shards_of(config), read_exclusions(config.state / "store")
    left = everybody(users, excluded=excluded)
    gone = everybody(users).keys() - left.keys()
    assert gone == {"person-1", "person-2"}
    assert left.items() <= everybody(users).items()
    assert not gone & set(load_training_data(config).user_ids)


def test_shards_of_another_catalogue_are_refused(config: PlatformConfig) -> None:
    films = config.data.items.path
    assert films is not None
    films.write_text(films.read_text() + "99,New,Drama\n")
    with pytest.raises(DataError, match=r"another items file; run crossfed-client data partition again"):
        load_training_data(config)


@pytest.mark.parametrize(
    "change", [{"seed": 3}, {"validation_share": 0.5}, {"validation_entries": "latest"}, {"name": "other"}]
)
def test_shards_of_other_settings_are_refused(config: PlatformConfig, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="other settings"):
        load_training_data(config.model_copy(update=change))


def test_without_shards_the_mend_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training\.shards.*crossfed-client data partition"):
        load_training_data(sharded_config(tmp_path))


def test_a_damaged_shard_is_named_and_not_shown(config: PlatformConfig) -> None:
    users = shards_of(config)
    path = users.folder / users.shards[0].file
    path.write_bytes(b"person-7" * 100)
    with pytest.raises(DataError) as caught:
        everybody(users)
    assert str(path) in str(caught.value)
    assert "person" not in str(caught.value).replace(str(path), "")


def test_the_shards_before_stay_until_the_next_but_one(config: PlatformConfig) -> None:
    before = shards_of(config)
    partition_users(config, 3, lambda _: None)
    assert everybody(before) == everybody(shards_of(config)), "a run that has begun reads on"
    partition_users(config, 2, lambda _: None)
    assert not (before.folder / before.shards[0].file).exists()
    assert not list(config.training.shards.glob(".rows*"))


def test_shards_are_closed_to_other_users(config: PlatformConfig) -> None:
    assert config.training.shards.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"passport": {"issue": True}}, "passport"),
        ({"data": {"cleaning": {"k_core": 2}}}, r"data\.cleaning\.k_core"),
        ({"data": {"catalogue": "interactions"}}, r"data\.catalogue"),
        ({"data": {"retention_days": 3}}, r"data\.retention_days"),
        ({"plan": {"linear": {}}}, r"plan\.linear"),
        ({"plan": {"towers": {}}}, r"plan\.towers"),
    ],
)
def test_what_needs_all_users_in_one_process_is_refused(
    tmp_path: Path, change: dict[str, dict[str, Any]], named: str
) -> None:
    content = sharded_config(tmp_path).model_dump(mode="json", exclude_unset=True)
    for section, values in change.items():
        content[section] = content.get(section, {}) | values
    with pytest.raises(ValidationError, match=f"training.engine: ray does not go with .*{named}"):
        PlatformConfig.model_validate(content)


def test_machines_that_round_differently_are_refused() -> None:
    one = np.ones(2)
    parts = [PartialSum({"x": one}, "a"), PartialSum({"x": one}, "a"), PartialSum({"x": one}, "b")]
    assert sum_of_sums(*parts[:2]).sums["x"].tolist() == [2, 2]
    with pytest.raises(InternalError, match="machines round differently"):
        sum_of_sums(*parts)


@pytest.mark.parametrize("leaves", [1, 2, 7, 8, 9, 63, 64, 65, 100, 600])
def test_a_tree_joins_all_leaves_in_order(leaves: int) -> None:
    assert tree(iter([str(leaf)] for leaf in range(leaves)), lambda *parts: [*chain(*parts)]) == [
        *map(str, range(leaves))
    ]


def test_floats_are_added_in_64_bits_and_keep_their_type() -> None:
    parts = [{"x": np.full(3, value, dtype=np.float32)} for value in (2.0**24, 1.0, 1.0)]
    found = added(iter(parts))["x"]
    assert found.dtype == np.float32
    assert found.tolist() == [2.0**24 + 2] * 3


def test_whole_numbers_are_added_exactly() -> None:
    """A platform's sums have more digits than floats: 2^53 + 1 is no float of 64 bits, and not where it stands."""
    parts = [{"x": np.array([value, -value], dtype=np.int64)} for value in (2**53, 1, 2**60)]
    found = added(iter(parts))["x"]
    assert found.dtype == np.int64
    assert found.tolist() == [2**60 + 2**53 + 1, -(2**60) - 2**53 - 1]


def test_a_cluster_that_rounds_differently_is_refused_before_a_run(config: PlatformConfig) -> None:
    class Mixed(InlineCluster):
        def on_every_machine(self, function: Any, *arguments: Any) -> list[tuple[Machine, Any]]:
            return [
                (machine, f"{found}{machine.name}") for machine, found in super().on_every_machine(function, *arguments)
            ]

    def engine(cluster: Any) -> RayEngine:
        return RayEngine(cluster, source_of_shards(config, load_training_data(config)))

    model = FactorizationConfig()
    assert engine(InlineCluster()).solver(model) == "numba, on 2 machines of a Ray cluster"
    with pytest.raises(ConfigError, match=r"training\.address: the cluster's machines round differently"):
        engine(Mixed()).solver(model)
