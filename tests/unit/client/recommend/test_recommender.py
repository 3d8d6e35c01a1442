"""A platform recommends after a real federation; the serving layer has tests of its own (test_serving_*)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.main import app
from client.data.training import TrainingData
from client.personalization.store import PlatformStore
from client.recommend.recommender import Recommender
from common.errors import DataError
from tests.support import random_platforms, run_platforms, small_plan

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def platforms() -> dict[str, TrainingData]:
    return random_platforms(8, (20, 9, 6), validated=True)


@pytest.fixture(scope="module")
def folder(platforms: dict[str, TrainingData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_platforms(platforms, small_plan(), folder)
    return folder


@pytest.fixture(scope="module")
def recommender(folder: Path) -> Recommender:
    return Recommender(PlatformStore(folder / "platforms" / "platform-1" / "store").load())


def owners(platforms: dict[str, TrainingData], key: str) -> set[str]:
    return {name for name, data in platforms.items() if key in data.items.keys}


def test_own_items_are_own_and_unseen(recommender: Recommender, platforms: dict[str, TrainingData]) -> None:
    data = platforms["platform-1"]
    for row, user in enumerate(data.user_ids):
        seen = {data.items.keys[column] for column in data.known.row(row)}
        listed = recommender.recommend(user, 100, "own")
        assert {item.key for item in listed} == set(data.items.keys) - seen
        assert all(item.platforms[0] == "platform-1" for item in listed)
        assert [item.score for item in listed] == sorted((item.score for item in listed), reverse=True)


def test_cross_items_are_foreign_and_say_where_they_come_from(
    recommender: Recommender, platforms: dict[str, TrainingData]
) -> None:
    foreign = {key for data in platforms.values() for key in data.items.keys} - set(platforms["platform-1"].items.keys)
    for user in platforms["platform-1"].user_ids:
        listed = recommender.recommend(user, 100, "cross")
        assert {item.key for item in listed} == foreign
        for item in listed:
            assert set(item.platforms) == owners(platforms, item.key)
            assert "platform-1" not in item.platforms
            assert item.title == f"Title of {item.key}"


def test_common_items_are_named_after_the_platform_itself(
    recommender: Recommender, platforms: dict[str, TrainingData]
) -> None:
    for item in recommender.recommend(platforms["platform-1"].user_ids[0], 100, "own"):
        assert set(item.platforms) == owners(platforms, item.key)


def test_all_is_the_best_of_both_in_one_order(recommender: Recommender, platforms: dict[str, TrainingData]) -> None:
    user = platforms["platform-1"].user_ids[0]
    both = [*recommender.recommend(user, 7, "own"), *recommender.recommend(user, 7, "cross")]
    expected = sorted(both, key=lambda item: -item.score)[:7]
    assert recommender.recommend(user, 7, "all") == expected


def test_seen_items_come_back_only_when_asked_for(recommender: Recommender, platforms: dict[str, TrainingData]) -> None:
    data = platforms["platform-1"]
    row = int(data.known.row_lengths.argmax())
    listed = recommender.recommend(data.user_ids[row], 100, "own", exclude_seen=False)
    assert {item.key for item in listed} == set(data.items.keys)


def test_an_unknown_user_is_a_data_error_that_does_not_name_the_user(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="does not know that user") as caught:
        recommender.recommend("nobody-at-all")
    assert "nobody" not in str(caught.value)


def test_the_command_prints_what_the_recommender_answers(
    folder: Path, recommender: Recommender, platforms: dict[str, TrainingData]
) -> None:
    store = str(folder / "platforms" / "platform-1" / "store")
    user = platforms["platform-1"].user_ids[0]
    done = CliRunner().invoke(
        app, ["recommend", "--store", store, "--user", user, "-k", "3", "--scope", "cross", "--json"]
    )
    assert done.exit_code == 0, done.output
    printed = [item["key"] for item in json.loads(done.output)]
    assert printed == [item.key for item in recommender.recommend(user, 3, "cross")]
    table = CliRunner().invoke(app, ["recommend", "--store", store, "--user", user, "-k", "3", "--scope", "own"])
    assert table.exit_code == 0
    for item in recommender.recommend(user, 3, "own"):
        assert item.key in table.output
