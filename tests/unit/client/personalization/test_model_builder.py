"""A finish is acknowledged first and built after: durable in between, and nobody else's affair how it goes."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from client.agent import PlatformAgent
from client.contributions.run_file import TOWERS_FILE, RunFile
from client.personalization.model_builder import BUILD_FILE, ModelBuilder, read_outcome
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.privacy.outbox import Outbox
from common.deploy.logs import TextFormatter
from common.errors import TrainingError
from common.privacy.lifetime import budget_policy
from common.wire.exchange import AgentReply
from tests.private_support import HandMade, by_hand, private_plan, private_platforms
from tests.support import FAST, SECRET, agents_of

PLAN = private_plan(3, noise="per_platform", budget=50.0)
NAME = "platform-0"


def asked_in(folder: Path) -> HandMade:
    """A platform whose run has come to its end."""
    asked = by_hand(private_platforms(), PLAN, folder)
    for server_round in (1, 2):
        assert asked.ask(NAME, "statistics", server_round, arrays=asked.parameters()).code == "ok"
    return asked


def finish(asked: HandMade, seed: int = 0) -> AgentReply:
    return asked.ask(NAME, "finish", 2, arrays=asked.parameters(seed))


def restarted(folder: Path) -> PlatformAgent:
    return next(agent for agent in agents_of(private_platforms(), PLAN, folder) if agent.name == NAME)


class FailingBuilder(ModelBuilder):
    """Meets ``error`` in place of a model."""

    def __init__(self, store: PlatformStore, error: BaseException) -> None:
        super().__init__(store)
        self._met = error

    def begin(self, run_id: str, make: Callable[[], PlatformModel]) -> None:
        def fail() -> NoReturn:
            raise self._met

        super().begin(run_id, fail)


def failing(folder: Path, error: BaseException) -> PlatformAgent:
    """The platform's process, started again, whose models cannot be built."""
    home = folder / "platforms" / NAME
    store = PlatformStore(home / "store")
    outbox = Outbox(home, budget_policy(PLAN), PLAN, store.root)
    data, builder = private_platforms()[NAME], FailingBuilder(store, error)
    return PlatformAgent(NAME, PLAN, SECRET, data, outbox=outbox, store=store, personalization=FAST, builder=builder)


def test_the_answer_comes_before_the_model(tmp_path: Path) -> None:
    asked = asked_in(tmp_path)
    agent = asked.agents[NAME]
    reply = finish(asked)
    assert (reply.code, dict(reply.arrays), dict(reply.config)) == ("ok", {}, {})
    assert agent.store.versions() == []
    assert read_outcome(agent.store.root).state == "waiting"
    assert agent.wait_built().state == "built"
    assert agent.store.load().server_round == 2


@pytest.mark.parametrize("error", [TrainingError("no factor of person-0-3"), ZeroDivisionError("person-0-3")])
def test_a_build_that_fails_is_told_the_operator_alone(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asked_in(tmp_path)
    agent = asked.agents[NAME] = failing(tmp_path, error)
    with caplog.at_level(logging.ERROR):
        replies = [finish(asked), finish(asked)]
        outcome = agent.wait_built()
    assert [reply.code for reply in replies] == ["ok", "ok"]
    assert (outcome.state, outcome.attempts) == ("failed", 1)
    assert "could not be built" in caplog.text
    if isinstance(error, ZeroDivisionError):
        assert "person-0-3" not in "".join(TextFormatter().format(record) for record in caplog.records)
        assert "person-0-3" not in str(agent.build_error)
        assert "person-0-3" not in (agent.store.root / BUILD_FILE).read_text()
    assert finish(asked).code == "ok", "the same answer, whatever became of it"


def test_a_built_model_leaves_no_training_on_disk(tmp_path: Path) -> None:
    """Rows of users' embeddings are of no use then, and an erasure would have to find them; another run's stay."""
    asked = asked_in(tmp_path)
    agent = asked.agents[NAME]
    progress = RunFile(agent.store.root / TOWERS_FILE)
    progress.save("next", PLAN, {}, {"users": np.ones((3, 2))})
    assert finish(asked).code == "ok"
    assert agent.wait_built().state == "built"
    assert progress.load("next", PLAN) is not None
    progress.save("run", PLAN, {}, {"users": np.ones((3, 2))})
    (agent.store.root / BUILD_FILE).unlink()
    assert restarted(tmp_path).wait_built().state == "built"
    assert not (agent.store.root / TOWERS_FILE).exists()


def test_training_of_a_model_that_cannot_be_built_goes_too(tmp_path: Path) -> None:
    asked = asked_in(tmp_path)
    agent = asked.agents[NAME] = failing(tmp_path, TrainingError("no"))
    progress = RunFile(agent.store.root / TOWERS_FILE)
    progress.save("run", PLAN, {}, {"users": np.ones((3, 2))})
    assert finish(asked).code == "ok"
    for _ in range(3):
        assert progress.load("run", PLAN) is not None
        failing(tmp_path, TrainingError("no")).wait_built()
    restarted(tmp_path).wait_built()
    assert progress.load("run", PLAN) is None


def test_a_finish_is_taken_once_a_run(tmp_path: Path) -> None:
    asked = asked_in(tmp_path)
    agent = asked.agents[NAME]
    assert finish(asked).code == "ok"
    assert finish(asked, seed=1).code == "out-of-order"
    assert agent.wait_built().version == 1
    assert finish(asked).code == "ok"
    assert agent.wait_built().version == 1
    first = agent.store.load().shared.item_parameters
    assert np.array_equal(first, asked.parameters()["item_parameters"])
    # When another run has begun, too.
    asked.run_id = "next"
    asked.join()
    assert finish(asked, seed=1).code == "out-of-order", "no round of it has taken place"
    asked.run_id = "run"
    assert finish(asked).code == "ok"
    assert finish(asked, seed=1).code == "out-of-order"


def test_a_process_that_ended_after_the_answer_builds_on_restart(tmp_path: Path) -> None:
    asked = asked_in(tmp_path)
    assert finish(asked).code == "ok"
    # The vocabulary of the next run is on disk by then.
    asked.run_id = "next"
    asked.join()
    agent = restarted(tmp_path)
    assert agent.wait_built().run_id == "run"
    assert np.array_equal(agent.store.load().shared.item_parameters, asked.parameters()["item_parameters"])
    assert restarted(tmp_path).wait_built().version == 1, "and not again"


def test_a_finish_that_was_never_acknowledged_is_not_built(tmp_path: Path) -> None:
    asked = asked_in(tmp_path)
    full = "CREATE TRIGGER full BEFORE INSERT ON entry BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    with closing(sqlite3.connect(tmp_path / "platforms" / NAME / "ledger.db")) as ledger:
        ledger.execute(full)
        assert finish(asked).code == "ledger"
        ledger.execute("DROP TRIGGER full")
    again = restarted(tmp_path)
    assert again.wait_built().state == "waiting"
    assert again.store.versions() == []
    asked.agents[NAME] = again
    assert finish(asked, seed=1).code == "ok", "another may be acknowledged instead"
    assert again.wait_built().state == "built"


def test_a_build_that_ends_its_process_is_not_begun_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = asked_in(tmp_path)
    assert finish(asked).code == "ok"
    for attempt in range(1, 4):
        agent = failing(tmp_path, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            agent.wait_built()
        assert read_outcome(agent.store.root).attempts == attempt
    with caplog.at_level(logging.ERROR):
        assert restarted(tmp_path).wait_built().state == "building"
    assert "is not built again after 3 attempts" in caplog.text


def test_in_the_background_builds_come_one_after_another(tmp_path: Path) -> None:
    store, told = PlatformStore(tmp_path), []
    builder = ModelBuilder(store, background=True, on_built=lambda: told.append("a model"), delay=0.0)
    started, go = threading.Event(), threading.Event()

    def slow() -> Any:
        started.set()
        assert go.wait(30)
        raise TrainingError("the first")

    builder.begin("first", slow)
    assert started.wait(30)
    builder.begin("second", lambda: pytest.fail("superseded before its turn"))
    builder.begin("third", lambda: (_ for _ in ()).throw(TrainingError("the third")))
    assert not builder.idle
    go.set()
    assert builder.wait(30).run_id == "third"
    assert builder.idle
    assert str(builder.error) == "the third"
    assert told == []


def test_a_builder_that_was_stopped_begins_nothing(tmp_path: Path) -> None:
    builder = ModelBuilder(PlatformStore(tmp_path), background=True)
    builder.begin("run", lambda: pytest.fail("built"))
    builder.stop()
    builder.wait(30)
    assert builder.idle


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "built", "more": 1}'])
def test_an_outcome_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / BUILD_FILE).write_text(content)
    assert read_outcome(tmp_path).state == "none"
