"""recommend, similar, explain and feedback on the command line, of a store and of a running recommender."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli.ask import wanted_items
from client.cli.main import app
from client.personalization.store import PlatformStore
from client.recommend.answers import AttributeCondition
from client.recommend.recommender import Recommender
from client.service.server import TlsFiles, serve_recommender
from common.deploy.tls import issue_server_certificate, make_authority
from common.errors import ConfigError, DataError
from simulations.engine.random_model import random_platform_model
from tests.support.stores import described

TOKEN = "of-the-applications"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ask")
    PlatformStore(made / "store").commit(described(random_platform_model(np.random.default_rng(3))))
    (made / "api.token").write_text(TOKEN + "\n")
    authority = make_authority("cinema")
    authority.write(made / "ca.pem", made / "ca.key")
    issue_server_certificate(authority, ["localhost", "127.0.0.1"]).write(made / "server.pem", made / "server.key")
    return made


@pytest.fixture(scope="module")
def target(folder: Path) -> Iterator[list[str]]:
    tls = TlsFiles(folder / "server.pem", folder / "server.key")
    with serve_recommender(folder / "store", port=0, token=TOKEN, tls=tls) as server:
        yield ["--target", server.target, "--token-file", str(folder / "api.token"), "--ca", str(folder / "ca.pem")]


def asked(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


QUESTIONS = {
    "recommend": ["recommend", "--user", "user-1", "-k", "4", "--scope", "all"],
    "some items": ["recommend", "--user", "user-1", "-k", "9", "--where", "maker=maker 1", "--where", "year>=1992"],
    "other items": ["similar", "--item", "imdb:0000003", "--where", "topics!=t1", "--where", "year<=1994"],
    "similar": ["similar", "--item", "imdb:0000003", "-k", "4", "--scope", "cross"],
    "explain": ["explain", "--user", "user-1", "--item", "imdb:0000003", "--limit", "3"],
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_a_running_recommender_answers_as_its_store_does(folder: Path, target: list[str], question: list[str]) -> None:
    stored = asked(*question, "--store", str(folder / "store"))
    served = asked(*question, *target)
    assert _rounded(served) == _rounded(stored)
    assert stored


def _rounded(value: Any) -> Any:
    """Scores travel as float32."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def test_feedback_on_the_command_line_is_in_the_next_recommendation(folder: Path, target: list[str]) -> None:
    question = ["recommend", "--user", "someone new", "-k", "3", *target]
    with pytest.raises(DataError, match="NOT_FOUND"):
        asked(*question)
    item = Recommender(PlatformStore(folder / "store").load()).own.items.keys[0]
    receipt = asked("feedback", "--user", "someone new", "--item", item, "--event-id", "one", *target)
    assert (receipt["duplicate"], receipt["reflected"]) == (False, True)
    assert item not in {listed["key"] for listed in asked(*question)}
    again = CliRunner().invoke(app, ["feedback", "--user", "someone new", "--item", item, "--event-id", "one", *target])
    assert again.stdout.startswith("recorded before")


def test_tables_are_for_people(folder: Path) -> None:
    for question in QUESTIONS.values():
        shown = CliRunner().invoke(app, [*question, "--store", str(folder / "store")])
        assert (shown.exit_code, "score" in shown.stdout) == (0, True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give one of them"),
        (["--store", "STORE", "--target", "127.0.0.1:1"], "give one of them"),
        (["--store", "STORE", "--token-file", "TOKEN"], "are for --target"),
    ],
)
def test_where_to_ask_is_said_once(folder: Path, options: list[str], reason: str) -> None:
    given = [{"STORE": str(folder / "store"), "TOKEN": str(folder / "api.token")}.get(word, word) for word in options]
    with pytest.raises(ConfigError, match=reason):
        asked("recommend", "--user", "user-1", *given)


def test_a_wrong_token_is_refused(folder: Path, target: list[str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another")
    options = [str(tmp_path / "token") if word.endswith("api.token") else word for word in target]
    with pytest.raises(ConfigError, match="UNAUTHENTICATED"):
        asked("recommend", "--user", "user-1", *options)


@pytest.mark.parametrize("where", ["maker", "=x", "year>=old", "year<=nan", "Maker=x", "maker= "])
def test_a_condition_that_says_nothing_is_refused(where: str) -> None:
    with pytest.raises(ConfigError, match="--where"):
        wanted_items([where])


def test_values_of_one_attribute_are_alternatives() -> None:
    wanted = wanted_items(["genres = Drama", "genres=War", "genres!=Noir", "year>=1990", "year<=1999.5"])
    assert wanted.attributes == (
        AttributeCondition("genres", any_of=("Drama", "War"), none_of=("Noir",)),
        AttributeCondition("year", at_least=1990.0, at_most=1999.5),
    )


def test_people_read_what_item_and_history_have_in_common(folder: Path) -> None:
    shown = CliRunner().invoke(
        app, ["explain", "--store", str(folder / "store"), "--user", "user-1", "--item", "imdb:0000003"]
    )
    assert shown.exit_code == 0
    why = asked("explain", "--store", str(folder / "store"), "--user", "user-1", "--item", "imdb:0000003")
    for reason in why["reasons"]:
        assert f"{reason['attribute']} {reason['value']} ({reason['count']} of {reason['of']})" in shown.stdout.replace(
            "\n", " "
        )
