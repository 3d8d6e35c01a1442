from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import ConfigError
from simulations.scenarios.scenario import Scenario, load_scenario, shipped_scenarios

DATA = {"interactions": {"path": "ratings.csv"}}
PARTITION = {"partition": {"data": DATA, "platforms": {"a": 2, "b": 1}}}


def write(folder: Path, content: dict[str, Any], name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_shipped_scenario_loads_and_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSFED_DATA", str(tmp_path))
    shipped = shipped_scenarios()
    assert {"quickstart", "movies", "ml1m-silos", "ml100k-silos"} <= set(shipped)
    for name in shipped:
        scenario = load_scenario(name)
        assert scenario.name == name
        assert scenario.description


def test_the_shipped_data_of_quickstart_is_there() -> None:
    partition = load_scenario("quickstart").partition
    assert partition is not None
    assert partition.data.interactions.path.is_file()


def test_a_file_of_ones_own_gives_its_name_and_base_of_paths(tmp_path: Path) -> None:
    scenario = load_scenario(str(write(tmp_path, PARTITION)))
    assert scenario.name == "mine"
    assert scenario.partition is not None
    assert scenario.partition.data.interactions.path == tmp_path / "ratings.csv"
    assert scenario.partition.sizes == {"a": 2, "b": 1}


def test_overrides_come_last(tmp_path: Path) -> None:
    path = str(write(tmp_path, PARTITION | {"plan": {"rounds": 3}}))
    scenario = load_scenario(path, ["plan.rounds=7", "plan.model.dimension=5", "seed=11"])
    assert (scenario.plan.rounds, scenario.plan.model.dimension, scenario.seed) == (7, 5, 11)


def test_equal_platforms_are_numbered_from_one() -> None:
    scenario = Scenario.model_validate({"partition": {"data": DATA, "equal_platforms": 3}})
    assert scenario.partition is not None
    assert scenario.partition.sizes == {"platform-1": 1.0, "platform-2": 1.0, "platform-3": 1.0}


def test_an_unknown_scenario_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"no scenario 'nope': shipped are .*quickstart"):
        load_scenario("nope")


EXPLICIT: dict[str, Any] = {"model": {"feedback": "explicit"}, "privacy": {"mode": "none"}}


def separate(*names: str) -> dict[str, Any]:
    return {"platforms": [{"name": name, "data": DATA} for name in names]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "platforms, partition: give one of the two"),
        (PARTITION | separate("a"), "platforms, partition: give one of the two"),
        (separate("a", "b", "a"), "the name 'a' is used twice"),
        ({"partition": {"data": DATA}}, "platforms, equal_platforms: give one of the two"),
        ({"partition": {"data": DATA, "equal_platforms": 2, "platforms": {"a": 1}}}, "give one of the two"),
        (PARTITION | {"protocol": "sampled-99"}, "sampled-99 needs split.protocol: leave-last-out"),
        (PARTITION | {"plan": {"ruonds": 3}}, "rounds"),
        (PARTITION | {"split": {"test_share": 1.0}}, "test_share"),
        (PARTITION | {"split": {"test_share": float("nan")}}, "test_share"),
        ({"partition": {"data": DATA, "platforms": {"../etc": 1}}}, "platforms"),
        ({"partition": {"data": DATA, "platforms": {"a": 0}}}, "platforms"),
        ({"partition": {"data": DATA, "platforms": {"a": 1}, "common_items": 0}}, "common_items"),
        (separate("a/b"), "name"),
        (
            PARTITION | {"plan": EXPLICIT},
            r"partition\.data\.feedback: is implicit where plan\.model\.feedback is explicit",
        ),
        (separate("a", "b") | {"plan": EXPLICIT}, r"platforms\.0\.data\.feedback: is implicit"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_with_the_key(
    tmp_path: Path, content: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        load_scenario(str(write(tmp_path, content)))
    assert "mine.yaml" in str(caught.value)
    assert "got a mapping" not in str(caught.value)


def test_the_number_of_platforms_enters_the_plan() -> None:
    scenario = Scenario.model_validate(PARTITION)
    assert scenario.plan.platforms is None
    assert scenario.with_platforms(5).plan.platforms == 5
