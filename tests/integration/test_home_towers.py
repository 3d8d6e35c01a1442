"""A deep model that each platform trains at home: nothing of it leaves, nothing is charged, and the verdict judges it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import PlatformAgent
from client.contributions.home_training import USERS
from client.contributions.run_file import TOWERS_FILE, RunFile
from client.recommend.similar import ItemSimilarity
from common.config.federation import FederationPlan
from common.contributions.protocol import reply_contract, request_contract
from common.contributions.run_plan import read_plan
from common.deploy.doctor import check_spending
from common.errors import ConfigError, ContractError, TrainingError
from common.wire.exchange import AgentRequest
from server.deploy.provisioning import initialise
from simulations.cli.studies import noise
from simulations.engine.federate import FederationOutcome
from tests.private_support import charges_of, private_plan
from tests.support import (
    Recorder,
    agents_of,
    federate,
    held_out_last,
    matrix,
    random_platforms,
    small_plan,
    training_data,
)
from tests.support.deep_plans import towers_of

SIZES = (20, 12, 8)
ROUNDS = 4


def home_plan(plan: FederationPlan | None = None, **changes: Any) -> FederationPlan:
    """``plan``, private unless given, and a deep model at home."""
    plan = private_plan(3, noise="per_platform") if plan is None else plan
    training = {"rounds": ROUNDS, "negatives": 4} | changes.pop("training", {})
    return read_plan(plan.model_dump() | {"towers": towers_of(place="home", training=training, **changes)})


def agents_at(folder: Path, plan: FederationPlan, *, renamed: bool = False) -> list[PlatformAgent]:
    """Of three platforms the first has users who can judge a deep model, so that no more are trained than looked at.

    With ``renamed`` its users are other people, as many.
    """
    platforms = random_platforms(3, SIZES)
    ((name, first),) = random_platforms(3, SIZES[:1], validated=True).items()
    if renamed:
        first = replace(first, user_ids=tuple(f"other-{user}" for user in first.user_ids))
    return agents_of(platforms | {name: first}, plan, folder)


Run = tuple[FederationOutcome, list[Recorder]]


def run_of(plan: FederationPlan, folder: Path) -> Run:
    recorders = [Recorder(agent) for agent in agents_at(folder, plan)]
    return federate(recorders, plan, folder), recorders


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A healthy run at some ε; read-only."""
    return run_of(home_plan(), tmp_path_factory.mktemp("private"))


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A healthy run without privacy; read-only."""
    return run_of(home_plan(small_plan()), tmp_path_factory.mktemp("exact"))


def test_a_private_run_asks_and_charges_as_without_it(private: Run, tmp_path: Path) -> None:
    _, plain = run_of(private_plan(3, noise="per_platform"), tmp_path)
    for deep, without in zip(private[1], plain, strict=True):
        charges = [[c["releases"] for c in charges_of(one.agent)] for one in (deep, without)]  # type: ignore[arg-type]
        assert charges[0] == charges[1]
        seen = [
            [(asked.kind, asked.server_round, reply.code, sorted(reply.arrays)) for asked, reply in one.seen]
            for one in (deep, without)
        ]
        assert seen[0] == seen[1]
    assert private[0].state.towers == {}


def test_what_leaves_is_the_same_to_the_bit_as_without_it(exact: Run, tmp_path: Path) -> None:
    without, plain = run_of(small_plan(), tmp_path)
    for deep, one in zip(exact[1], plain, strict=True):
        for (asked, reply), (_, expected) in zip(deep.seen, one.seen, strict=True):
            assert reply.arrays.keys() == expected.arrays.keys()
            if asked.kind in ("counts", "statistics"):
                assert all(np.array_equal(reply.arrays[name], expected.arrays[name]) for name in reply.arrays)
    assert np.array_equal(exact[0].state.item_parameters, without.state.item_parameters)


def test_an_aggregator_that_asks_for_updates_is_refused(private: Run) -> None:
    agent: Any = private[1][0].agent
    for contract in (request_contract(agent.plan), reply_contract(agent.plan)):
        assert not any("update" in name for name in contract)
    request = AgentRequest(kind="update", run_id="simulation", server_round=3, config={}, arrays={})
    assert agent.exchange(request).code == ContractError.code


def test_the_platform_keeps_a_model_of_its_own_items(private: Run) -> None:
    agent: Any = private[1][0].agent
    kept = agent.store.load()
    assert kept.towers is not None
    assert kept.towers.n_shared == 0
    assert np.array_equal(np.sort(kept.towers.own), np.arange(len(agent.data.items)))
    assert len(kept.towers.item_vectors) == len(agent.data.items)
    users = np.arange(kept.histories.n_users)
    assert kept.own_scorer("towers").scores(kept.histories, users).std() > 0


def test_it_ranks_no_item_that_only_others_have(private: Run) -> None:
    agent: Any = private[1][0].agent
    kept = agent.store.load()
    assert "towers" not in kept.cross.weights
    with pytest.raises(ContractError):
        kept.cross_scope(np.flatnonzero(kept.foreign), replace(kept.cross, weights={"towers": 1.0}))
    by_towers = ItemSimilarity(replace(kept, verdict=replace(kept.verdict, name="towers")))
    by_shared = ItemSimilarity(replace(kept, verdict=replace(kept.verdict, name="shared")))
    own = int(np.flatnonzero(kept.own_positions >= 0)[0])
    assert np.array_equal(by_towers.own_to_foreign(own), by_shared.own_to_foreign(own))
    assert np.array_equal(by_towers.foreign_to_own(0), by_shared.foreign_to_own(0))
    assert not np.array_equal(by_towers.to_own(own), by_shared.to_own(own))
    among = by_towers.among(np.array([own]), np.array([0, 1]))
    assert among[0, 1:] == pytest.approx(by_shared.own_to_foreign(own)[:2])


def test_the_verdict_takes_it_where_order_tells_what_is_next(tmp_path: Path) -> None:
    n_items, length = 24, 6
    starts = np.random.default_rng(0).integers(n_items, size=80)
    everything = matrix([{int(s + k) % n_items: 1.0 for k in range(length + 1)} for s in starts], n_items)
    held_out = held_out_last(everything)
    data = training_data([f"imdb:{item}" for item in range(n_items)], held_out.history, validation=held_out)
    plan = home_plan(
        small_plan(),
        dimension=16,
        encoders=[],
        user_embedding=False,
        sequence={"kind": "gru", "length": length},
        training={"rounds": 30, "negatives": 0},
    )
    agents = agents_of({"platform-0": data}, plan, tmp_path)
    federate(agents, plan, tmp_path)
    verdict = agents[0].store.load().verdict
    assert verdict.name in ("towers", "tower_blend")
    assert verdict.chosen_mean > verdict.local_mean + 0.1


@pytest.mark.parametrize("spend", [False, True])
def test_a_new_plan_that_spends_on_depth_has_to_say_so(tmp_path: Path, *, spend: bool) -> None:
    plan = home_plan()
    towers = plan.model_dump()["towers"] | {
        "place": "federation",
        "privacy": {"noise_multiplier": 50.0, "spend": spend},
    }
    spending = read_plan(plan.model_dump() | {"towers": towers})
    said = [finding.level for finding in check_spending(spending)]
    assert said == ([] if spend else ["note"])
    assert list(check_spending(plan)) == []
    if spend:
        initialise(tmp_path, spending, "127.0.0.1:9443")
    else:
        with pytest.raises(ConfigError, match=r"\.238 for nothing\); set plan\.towers\.place=home"):
            initialise(tmp_path, spending, "127.0.0.1:9443")
        assert list(tmp_path.iterdir()) == []


def test_no_noise_is_computed_for_a_plan_that_spends_on_depth() -> None:
    private = ["plan.privacy.mode=user", "plan.privacy.epsilon=3", "plan.towers.dimension=8"]
    with pytest.raises(ConfigError, match=r"^noise: plan\.towers: .* set plan\.towers\.place=home"):
        noise("quickstart", private)


class Killed(BaseException):
    """Ends a process as a kill does: nothing catches it."""


def with_trainer(agent: Any, before_a_round: Callable[[], None]) -> None:
    """Let the agent's deep model do something before each round of its training."""
    towers = agent._finisher._towers
    at_home = towers.at_home

    def watched(*arguments: Any) -> Any:
        training = at_home(*arguments)
        prepare = training._prepare

        def prepared() -> Any:
            model, trainer = prepare()
            train = trainer.train

            def watched_train(*options: Any) -> Any:
                before_a_round()
                return train(*options)

            trainer.train = watched_train
            return model, trainer

        training._prepare = prepared
        return training

    towers.at_home = watched


def killed_at_the_third_round(folder: Path, plan: FederationPlan) -> None:
    """The first platform's process ends while it trains; two rounds are on disk."""
    begun = []

    def dies_at_the_third() -> None:
        begun.append(len(begun))
        if len(begun) == 3:
            raise Killed

    agents = agents_at(folder, plan)
    with_trainer(agents[0], dies_at_the_third)
    with pytest.raises(Killed):
        federate(agents, plan, folder)


def rounds_trained_by(again: PlatformAgent) -> int:
    """How many rounds an agent trains that goes on with what is on disk."""
    begun = []
    with_trainer(again, lambda: begun.append(len(begun)))
    assert again.wait_built().state == "built"
    return len(begun)


def test_a_platform_killed_while_it_trains_goes_on_to_the_same_model(exact: Run, tmp_path: Path) -> None:
    plan = exact[1][0].agent.plan  # type: ignore[attr-defined]
    killed_at_the_third_round(tmp_path, plan)
    again = agents_at(tmp_path, plan)[0]
    assert rounds_trained_by(again) == ROUNDS - 2, "two rounds were on disk"
    kept, expected = again.store.load().towers, exact[1][0].agent.store.load().towers  # type: ignore[attr-defined]
    assert kept is not None
    assert all(np.array_equal(kept.values[name], expected.values[name]) for name in expected.values)


def test_as_many_other_users_take_up_nobodys_embeddings(exact: Run, tmp_path: Path) -> None:
    plan = exact[1][0].agent.plan  # type: ignore[attr-defined]
    killed_at_the_third_round(tmp_path, plan)
    assert rounds_trained_by(agents_at(tmp_path, plan, renamed=True)[0]) == ROUNDS


def test_progress_of_an_older_version_is_taken_up(exact: Run, tmp_path: Path) -> None:
    plan = exact[1][0].agent.plan  # type: ignore[attr-defined]
    killed_at_the_third_round(tmp_path, plan)
    again = agents_at(tmp_path, plan)[0]
    progress = RunFile(again.store.root / TOWERS_FILE)
    kept = progress.newest(plan)
    assert kept is not None
    run_id, facts, arrays = kept
    del facts[USERS]
    progress.save(run_id, plan, facts, arrays)
    assert rounds_trained_by(again) == ROUNDS - 2


def test_broken_down_training_leaves_the_other_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def breaks_down() -> None:
        raise TrainingError("not a number")

    plan = home_plan(small_plan())
    agents = agents_at(tmp_path, plan)
    for agent in agents:
        with_trainer(agent, breaks_down)
    federate(agents, plan, tmp_path)
    assert agents[0].store.load().towers is None
    assert "the deep model at home, round 1: not a number" in caplog.text


def test_nothing_is_trained_where_nobody_could_judge_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = home_plan(small_plan())
    agents = agents_of(random_platforms(3, SIZES), plan, tmp_path)
    federate(agents, plan, tmp_path)
    assert agents[0].store.load().towers is None
    assert "no user has a validation item" in caplog.text


@pytest.mark.parametrize("told_by", ["environment", "file"])
def test_private_rounds_need_tensorflow_and_training_at_home_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    if told_by == "environment":
        monkeypatch.setenv("KERAS_BACKEND", "jax")
    else:
        monkeypatch.delenv("KERAS_BACKEND", raising=False)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    plan = home_plan()
    agents_at(tmp_path / "home", plan)
    towers = plan.model_dump()["towers"] | {"place": "federation"}
    towers["privacy"] |= {"noise_multiplier": 50.0}
    with pytest.raises(ConfigError, match=r"KERAS_BACKEND=jax: .*place: home"):
        agents_at(tmp_path / "federation", read_plan(plan.model_dump() | {"towers": towers}))
