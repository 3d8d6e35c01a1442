"""items and models on the command line, of a platform's configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli.main import app
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG
from client.recommend.recommender import Recommender
from client.scoring.fold_in import Recency
from client.steering.hidden import HiddenItems
from client.versions.outcomes import ShownUsers
from common.errors import ConfigError, StoreError
from simulations.engine.random_model import random_platform_model
from tests.support.joined import joined


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("platform")
    made = joined(folder, folder)
    with made.open("a") as file:
        file.write("steering: {novelty: 0.9}\npassport: {redeem: true}\n")
    store = PlatformStore(made.parent / "state" / "store")
    for seed in (0, 1):
        store.commit(random_platform_model(np.random.default_rng(seed)))
    return made


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_items_are_hidden_listed_and_shown(config: Path) -> None:
    there = ["--config", str(config)]
    store = config.parent / "state" / "store"
    key = Recommender(PlatformStore(store).load()).own.items.keys[0]
    assert "hidden" in said("items", "hide", key, "x:1", *there, "--reason", "recalled [/b]")
    assert json.loads(said("items", "list", *there, "--json"))[key]["reason"] == "recalled [/b]"
    assert "recalled [/b]" in said("items", "list", "--store", str(store))
    listed = json.loads(said("recommend", "--store", str(store), "--user", "user-1", "-k", "500", "--json"))
    assert key not in {one["key"] for one in listed}
    assert said("items", "show", key, "x:2", *there) == f"were not hidden: x:2\nshown again: {key}\n"
    assert HiddenItems(store).current() == {"x:1"}
    said("items", "show", "x:1", *there)
    assert "nothing is hidden" in said("items", "list", *there)
    with pytest.raises(ConfigError, match="--config, --store"):
        said("items", "list")


def test_coverage_tells_before_from_after(config: Path) -> None:
    told = json.loads(said("items", "coverage", "--config", str(config), "--json"))
    assert told["after"]["novelty"] > told["before"]["novelty"]
    assert told["before"]["lists"] == told["after"]["lists"] == 20
    assert "Gini" in said("items", "coverage", "--config", str(config))


def test_versions_say_whose_latest_items_weigh_more(tmp_path: Path) -> None:
    made = joined(tmp_path, tmp_path)
    store = PlatformStore(made.parent / "state" / "store")
    for seed, verdict in ((0, "shared"), (1, "local")):
        model = random_platform_model(np.random.default_rng(seed), verdict=verdict)
        store.commit(model.with_recency("shared", Recency(boost=40.0, span=3.0)))
    told = json.loads(said("models", "list", "--config", str(made), "--json"))
    assert [one["recency"] for one in told] == [{"shared": {"boost": 40.0, "span": 3.0}}] * 2
    lines = " ".join(said("models", "list", "--config", str(made)).split())
    assert "shared, latest" in lines
    assert "local, latest" not in lines, "its shared model ranks no own items"


def test_versions_go_back_and_are_compared(config: Path) -> None:
    there = ["--config", str(config)]
    store = PlatformStore(config.parent / "state" / "store")
    assert [one["role"] for one in json.loads(said("models", "list", *there, "--json"))] == ["", "serves"]
    said("models", "rollback", "1", *there)
    assert store.current() == 1
    with pytest.raises(StoreError, match="no version 9"):
        said("models", "rollback", "9", *there)
    with pytest.raises(ConfigError, match="serves already"):
        said("models", "split", "1", *there)
    said("models", "split", "2", "--share", "0.5", *there)
    with pytest.raises(ConfigError, match="going on"):
        said("models", "shadow", "2", *there)
    assert "split 0.5" in said("models", "list", *there)
    experiment = store.experiments.current()
    assert experiment is not None
    shown = ShownUsers(store.experiments.shown_path, experiment)
    users = [f"user-{number}" for number in range(20)]
    for user in users:
        shown.note(user, 1_000)
    with FeedbackLog(store.root / FEEDBACK_LOG) as log:
        for user in users[:7]:
            log.record(user, user, "imdb:1", 1.0, 2_000)
    told = json.loads(said("models", "outcomes", *there, "--json"))
    assert sum(one["users"] for one in told["variants"]) == 20
    assert sum(one["acted"] for one in told["variants"]) == 7
    table = said("models", "end", *there)
    assert "challenger" in table
    assert "user-" not in table
    assert "no experiment is going on" in said("models", "end", *there)
    with pytest.raises(ConfigError, match="no experiment"):
        said("models", "outcomes", *there)
