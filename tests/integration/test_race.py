"""``model: auto`` without privacy: a race between settings, through agents, ledgers and checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import PlatformAgent
from common.config.federation import FederationPlan
from common.contributions.race_kind import stated
from common.wire.exchange import AgentReply, AgentRequest
from server.aggregation.halving import FIRST
from server.federation.state import RoundRecord, Trial
from tests.private_support import private_plan
from tests.support import Recorder, SilentObserver, agents_of, federate, random_platforms, run_platforms, small_plan

SIZES = (14, 6, 3)
PLAN = small_plan(rounds=7, model={"init_scale": 1.0}).model_copy(update={"auto_model": True})
Race = tuple[dict[str, Any], list[Recorder], Any]


class Killed(BaseException):
    """A kill as it looks from inside: nothing catches it."""


class Killer(SilentObserver):
    """Dies when the aggregator has solved a step of the race."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_round(self, record: RoundRecord) -> None:
        if (record.phase, record.round) == ("race", self._step):
            raise Killed


@pytest.fixture(scope="module")
def platforms() -> dict[str, Any]:
    return random_platforms(6, SIZES, validated=True)


@pytest.fixture(scope="module")
def race(platforms: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Recorder], Any]:
    folder = tmp_path_factory.mktemp("race")
    recorders = [Recorder(agent) for agent in agents_of(platforms, PLAN, folder)]
    return recorders, federate(recorders, PLAN, folder)


def asked(agent: PlatformAgent, race: tuple[list[Recorder], Any], kind: str, model: Any) -> AgentReply:
    """The agent's answer to a first request of ``kind`` like the race's own, which states ``model``."""
    recorder = next(one for one in race[0] if one.agent.name == agent.name)  # type: ignore[attr-defined]
    for handshake in ("join", "vocabulary", "counts"):
        agent.exchange(recorder.requests(handshake)[0])
    request = recorder.requests(kind)[0]
    config = {name: value for name, value in request.config.items() if name != "model"}
    return agent.exchange(replace(request, config=config if model is None else config | {"model": model}))


def test_the_result_is_that_of_a_plan_with_fixed_settings(
    platforms: dict[str, Any], race: tuple[list[Recorder], Any], tmp_path: Path
) -> None:
    state = race[1].state
    fixed = PLAN.with_model(state.choice.model).model_copy(update={"rounds": state.choice.rounds})
    again = run_platforms(platforms, fixed, tmp_path).state
    assert np.array_equal(again.item_parameters, state.item_parameters), "to the bit"
    assert state.server_round == state.choice.rounds


def test_the_best_by_validation_wins_and_all_trials_are_kept(race: tuple[list[Recorder], Any]) -> None:
    choice = race[1].state.choice
    assert len(choice.trials) > len(FIRST)
    (best,) = [trial for trial in choice.trials if trial.model == choice.model]

    def reached(trial: Trial) -> float:
        return max((sum(trial.scores[at - 2 : at]) / 2 for at in (6, 7) if len(trial.scores) >= at), default=0.0)

    assert reached(best) == max(map(reached, choice.trials))
    steps = [record for record in race[1].state.history if record.phase == "race"]
    assert [record.round for record in steps] == list(range(1, race[1].state.race_steps + 1))


def test_platforms_keep_the_model_that_was_chosen(race: tuple[list[Recorder], Any]) -> None:
    chosen = race[1].state.choice.model
    for recorder in race[0]:
        model = recorder.agent.store.load()  # type: ignore[attr-defined]
        assert model.shared.config == chosen
        assert model.shared.item_parameters.shape[1] == chosen.dimension


@pytest.mark.parametrize("step", [5, 31])
def test_a_killed_race_ends_where_it_would_have_ended(
    platforms: dict[str, Any], race: tuple[list[Recorder], Any], tmp_path: Path, step: int
) -> None:
    with pytest.raises(Killed):
        run_platforms(platforms, PLAN, tmp_path, observer=Killer(step))
    recorders = [Recorder(agent) for agent in agents_of(platforms, PLAN, tmp_path)]
    state = federate(recorders, PLAN, tmp_path).state
    assert state.choice == race[1].state.choice
    assert np.array_equal(state.item_parameters, race[1].state.item_parameters)
    repeated = step + len(recorders[0].requests("race")) - state.race_steps
    assert 0 <= repeated <= 7, "at most the turn in which it was killed is asked again"


@pytest.mark.parametrize(
    "model",
    [
        "auto",
        {"dimension": 4},
        stated(PLAN.model)["model"] | {"dimension": 1000},  # type: ignore[operator]
        stated(PLAN.model)["model"] | {"dimension": 2.5},  # type: ignore[operator]
        stated(PLAN.model)["model"] | {"regularization": float("nan")},  # type: ignore[operator]
        stated(PLAN.model)["model"] | {"regularization": -1.0},  # type: ignore[operator]
        stated(PLAN.model)["model"] | {"feedback": "explicit"},  # type: ignore[operator]
    ],
)
def test_bad_settings_are_refused_before_anything_is_charged(
    platforms: dict[str, Any], race: tuple[list[Recorder], Any], tmp_path: Path, model: Any
) -> None:
    agent = agents_of(platforms, PLAN, tmp_path)[0]
    assert asked(agent, race, "race", model).code == "contract"
    charged = [entry for entry in agent._outbox.ledger.entries() if entry.content["event"] == "charged"]
    assert len(charged) == 1, "the counts alone"


def test_a_plan_that_fixes_its_model_takes_no_other(
    platforms: dict[str, Any], race: tuple[list[Recorder], Any], tmp_path: Path
) -> None:
    fixed = PLAN.with_model(race[1].state.choice.model)
    other = stated(fixed.model.model_copy(update={"regularization": 77.0}))["model"]
    replies = []
    for folder, model in (("one", None), ("two", other)):
        agent = agents_of(platforms, fixed, tmp_path / folder)[0]
        join = AgentRequest(
            kind="join", run_id="simulation", server_round=0, config={"plan": fixed.model_dump(mode="json")}
        )
        assert agent.exchange(join).code == "ok"
        assert asked(agent, race, "race", model).code == "contract", "there is no race"
        replies.append(asked(agent, race, "statistics", model))
    assert {reply.code for reply in replies} == {"ok"}
    assert all(np.array_equal(replies[0].arrays[name], replies[1].arrays[name]) for name in replies[0].arrays)


def test_under_privacy_there_is_no_race(tmp_path: Path) -> None:
    plan = private_plan()
    private = FederationPlan.model_validate(plan.model_dump() | {"auto_model": True, "privacy": {
        **plan.privacy.model_dump(), "tuned_training": True}})  # fmt: skip
    small = random_platforms(6, (60, 55, 52), n_items=20, validated=True)
    agent = agents_of(small, private.model_copy(update={"platforms": 3}), tmp_path)[0]
    reply = agent.exchange(AgentRequest(kind="race", run_id="simulation", server_round=0, config=stated(plan.model)))
    assert (reply.code, dict(reply.arrays)) == ("contract", {})
