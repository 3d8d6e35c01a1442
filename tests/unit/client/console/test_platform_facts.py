"""A platform's console reads logs, versions and feedback by day from its files; one damaged file hides nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.main import app
from client.console import facts
from client.console.places import PlatformPages
from client.console.trying import Answer, Trial
from client.personalization.store import PlatformStore
from client.privacy.card import limits_of
from client.privacy.report import egress_dicts, privacy_dict
from client.service.client import RecommenderClient
from client.service.server import serve_recommender
from client.versions.outcomes import wilson
from common.config.loader import load_yaml_model
from common.config.serving import ServingConfig
from common.deploy.roles import PlatformConfig
from common.errors import ContractError, DataError, StoreError
from common.web.console.app import Redirect, Visit
from common.web.texts import LANGUAGES
from tests.support.consoles import MARK, a_user, platform_files
from tests.support.joined import joined

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return platform_files(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def config(path: Path) -> PlatformConfig:
    return load_yaml_model(path, PlatformConfig)


def test_a_platform_before_its_first_run_has_a_page(tmp_path: Path) -> None:
    pages = PlatformPages(joined(tmp_path, tmp_path))
    content = pages.overview(Visit()).content
    assert content["versions"] == ([], None)
    assert content["budget"] == content["progress"] == (None, None)
    assert content["feedback"][0][-1][1] == 0
    assert pages.privacy(Visit()).content["entries"] == []


def test_the_books_are_shown_as_the_commands_print_them(config: PlatformConfig) -> None:
    assert facts.budget(config) == privacy_dict(config.state, config.plan)
    shown, more = facts.messages(config)
    assert not more
    left = [entry for entry in egress_dicts(config.state) if entry["event"] in ("sent", "replied")]
    assert shown == left[::-1]
    older, _ = facts.messages(config, before=shown[1]["number"])
    assert older == shown[2:]


def test_what_the_promise_does_not_hide_stands_below_what_left(path: Path, config: PlatformConfig) -> None:
    limits = PlatformPages(path).privacy(Visit()).content["limits"]
    assert limits == {language: limits_of(config.plan, language) for language in LANGUAGES}
    assert len(limits["en"]) == len(limits["zh"]) >= 6


def test_long_journals_come_in_pages(config: PlatformConfig) -> None:
    first, more = facts.messages(config, most=2)
    second, _ = facts.messages(config, before=first[-1]["number"], most=2)
    assert more
    assert [entry["number"] for entry in (*first, *second)] == [7, 6, 5, 4]


def test_the_newest_run_is_followed_by_what_left(config: PlatformConfig) -> None:
    found = facts.progress(config)
    assert found is not None
    assert (found.done, found.planned, found.closed) == (2, 2, True)
    assert found.kinds == {"counts": 1, "statistics": 2}


def test_versions_are_read_without_their_users(config: PlatformConfig) -> None:
    newest, before = facts.versions(config)
    model = PlatformStore(config.state / "store").load()
    assert (newest.number, newest.serves, before.number, before.serves) == (2, True, 1, False)
    assert (newest.server_round, newest.verdict) == (model.server_round, model.verdict.name)
    assert MARK not in repr((newest, before))


def test_outcomes_of_a_split_are_those_of_the_command(path: Path, config: PlatformConfig) -> None:
    found = facts.outcomes(config)
    assert found is not None
    told = CliRunner().invoke(app, ["models", "outcomes", "--config", str(path), "--json"])
    assert json.loads(told.stdout) == json.loads(json.dumps(found))
    assert sum(one["users"] for one in found["variants"]) == 40
    # One of the four events is of a user who was shown a list before it.
    assert sum(one["acted"] for one in found["variants"]) == 1
    for one in found["variants"]:
        assert one["interval"] == pytest.approx(wilson(one["acted"], one["users"]))
    assert MARK not in repr(found)


def test_another_version_serves_at_a_click(path: Path, config: PlatformConfig) -> None:
    pages, store = PlatformPages(path), PlatformStore(config.state / "store")
    assert pages.roll_back(Visit(form={"version": "1"})) == Redirect(path="/models")
    assert store.current() == 1
    for wrong in ("", "x", "-1", "../1"):
        with pytest.raises(ContractError, match="the number of one that is listed"):
            pages.roll_back(Visit(form={"version": wrong}))
    with pytest.raises(StoreError, match="there is no version 7"):
        pages.roll_back(Visit(form={"version": "7"}))
    assert store.current() == 1
    pages.roll_back(Visit(form={"version": "2"}))
    assert store.current() == 2


def test_feedback_is_counted_by_day(config: PlatformConfig) -> None:
    days = facts.feedback(config)
    assert [count for _, count in days[-4:]] == [1, 1, 1, 1]
    assert [count for _, count in days[:-4]] == [0, 0, 0]
    assert [count for _, count in facts.feedback(config, now=days[-1][0] + 2 * 86_400)] == [0, 1, 1, 1, 1, 0, 0]


def test_a_damaged_file_hides_nothing_else(path: Path, config: PlatformConfig) -> None:
    ledger = config.state / "ledger.db"
    sound = ledger.read_bytes()
    ledger.write_bytes(b"cut short")
    try:
        content = PlatformPages(path).overview(Visit()).content
    finally:
        ledger.write_bytes(sound)
    assert content["budget"][0] is None
    assert "ledger" in content["budget"][1]
    assert content["versions"][1] is None


@pytest.mark.parametrize(("k", "scope"), [("0", "all"), ("21", "all"), ("x", "all"), ("5", "every")])
def test_a_wrong_question_is_refused_without_the_id(config: PlatformConfig, k: str, scope: str) -> None:
    trial = Trial()
    with pytest.raises(ContractError) as refused:
        trial.ask(config, f"nobody-{MARK}", k, scope)
    assert MARK not in str(refused.value)
    for user in (f"nobody-{MARK}", f"{MARK}\x00", MARK * 1000, ""):
        with pytest.raises((DataError, ContractError)) as unknown:
            trial.ask(config, user, "5", "all")
        assert MARK not in str(unknown.value)


def scores_add_up(answer: Answer) -> bool:
    for one in answer.tried:
        assert one.why is not None
        parts = sum(part.amount for part in one.why.contributions)
        total = parts + one.why.others + one.why.item_bias + one.why.popularity
        assert total == pytest.approx(one.item.score, abs=1e-5)
    return bool(answer.tried)


def test_the_stored_model_answers_where_nothing_runs(config: PlatformConfig, path: Path) -> None:
    answer = Trial().ask(config, a_user(path), "5", "own")
    assert not answer.running
    assert len(answer.tried) == 5
    assert scores_add_up(answer)


def test_a_running_recommender_answers_with_what_it_knows_since(config: PlatformConfig, path: Path) -> None:
    user, trial = a_user(path), Trial()
    (first, *_), stored = trial.ask(config, user, "1", "own").tried, config.state / "store"
    with serve_recommender(stored, config=ServingConfig(port=0)) as server:
        port = int(server.target.rpartition(":")[2])
        settings = config.recommender.model_copy(update={"port": port, "token_file": None})
        running = config.model_copy(update={"recommender": settings})
        with RecommenderClient(server.target) as application:
            application.record_feedback(user, first.item.key, event_id="seen")
        answer = trial.ask(running, user, "5", "own")
        with pytest.raises(DataError) as unknown:
            trial.ask(running, f"nobody-{MARK}", "5", "own")
    assert answer.running
    assert scores_add_up(answer)
    assert first.item.key not in [one.item.key for one in answer.tried]
    assert MARK not in str(unknown.value)
