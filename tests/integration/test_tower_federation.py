"""Federations with a deep model from end to end: exact and private, what leaves, who is left out, what is charged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from client.agent import PlatformAgent
from client.data.training import TrainingData
from client.towers.scorer import TowerScorer
from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan, read_plan
from common.contributions.update_kind import ROW_POSITIONS
from common.errors import PrivacyError, TrainingError
from common.privacy.accounting import calibrate_subsampled
from common.wire.exchange import AgentReply, AgentRequest
from server.federation.exchange import SilentObserver
from server.federation.state import FederationState, RoundRecord
from simulations.engine.federate import FederationOutcome
from tests.private_support import charges_of, private_plan, private_platforms
from tests.support import (
    Recorder,
    Tampered,
    Watch,
    agents_of,
    contributor_of,
    federate,
    random_platforms,
    small_plan,
    with_array,
)
from tests.support.deep_plans import ROUNDS, D, towers_of

SIZES = (12, 8, 5)


def deep_plan(**changes: Any) -> FederationPlan:
    return read_plan(small_plan(rounds=2).model_dump() | {"towers": towers_of(**changes)})


@cache
def just_enough_noise() -> float:
    return calibrate_subsampled(0.5 * 3.0, 0.5, ROUNDS, 0.5 / 1000)


def deep_private_plan(
    noise: str = "secure_sum", *, privacy: dict[str, Any] | None = None, **changes: Any
) -> FederationPlan:
    plan = private_plan(3, noise=noise).model_dump()
    own = {"sampling_rate": 0.5, "share": 0.5, "noise_multiplier": just_enough_noise()} | (privacy or {})
    training = {"negatives": 4} | changes.pop("training", {})
    return read_plan(plan | {"towers": towers_of(training=training, privacy=own, **changes)})


def deep_rounds(state: FederationState) -> list[RoundRecord]:
    return [record for record in state.history if record.phase == "towers"]


def same_state(left: FederationState, right: FederationState) -> bool:
    pairs = [(left.towers, right.towers), (left.tower_slots, right.tower_slots)]
    return all(a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a) for a, b in pairs)


@pytest.fixture(scope="module")
def exact(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[FederationOutcome, list[Recorder], dict[str, TrainingData]]:
    """A healthy run without privacy; read-only."""
    plan, platforms = deep_plan(), random_platforms(1, SIZES, validated=True)
    folder = tmp_path_factory.mktemp("exact")
    recorders = [Recorder(agent) for agent in agents_of(platforms, plan, folder)]
    return federate(recorders, plan, folder), recorders, platforms


def test_a_run_trains_the_deep_model_and_every_platform_keeps_it(exact: Any) -> None:
    outcome, recorders, platforms = exact
    state = outcome.state
    assert [record.phase for record in state.history] == ["factors"] * 2 + ["towers"] * ROUNDS
    assert state.tower_round == ROUNDS
    losses = [record.objective for record in deep_rounds(state)]
    assert losses == sorted(losses, reverse=True)
    assert all(record.platforms == tuple(platforms) and not record.failed for record in state.history)
    for recorder in recorders:
        agent: Any = recorder.agent
        kept = agent.store.load()
        assert kept.towers is not None
        live = contributor_of(agent, "update")._towers._current[1]
        assert np.array_equal(kept.towers.item_vectors, np.asarray(live.item_vectors()))
        for name in state.towers:
            assert np.array_equal(np.asarray(live.shared[name]), state.towers[name]), "the final variables, as sent"
        users = np.arange(kept.histories.n_users)
        scores = kept.towers.on_own().scores(kept.histories, users)
        assert scores.shape == (len(users), len(agent.data.items))
        assert scores == pytest.approx(TowerScorer(live, kept.towers.own).scores(kept.histories, users), abs=1e-5)


class Restarted:
    """An agent whose process is started anew before the deep model's second round, and before the end."""

    def __init__(self, start: Callable[[], PlatformAgent]) -> None:
        self._start, self.agent = start, start()
        self.left = ["update of round 4", "finish"]

    def exchange(self, request: AgentRequest) -> AgentReply:
        step = request.kind if request.kind == "finish" else f"{request.kind} of round {request.server_round}"
        if step in self.left:
            self.left.remove(step)
            self.agent = self._start()
        return self.agent.exchange(request)


def test_a_restarted_agent_goes_on_to_the_identical_result(exact: Any, tmp_path: Path) -> None:
    outcome, recorders, platforms = exact

    def start(place: int) -> PlatformAgent:
        return agents_of(platforms, deep_plan(), tmp_path)[place]

    restarted = [Restarted(partial(start, place)) for place in range(len(platforms))]
    again = federate(restarted, deep_plan(), tmp_path)
    assert not any(one.left for one in restarted)
    assert same_state(again.state, outcome.state)
    for one, recorder in zip(restarted, recorders, strict=True):
        kept, expected = one.agent.store.load().towers, recorder.agent.store.load().towers
        assert kept is not None
        assert all(np.array_equal(kept.values[name], expected.values[name]) for name in expected.values)


def test_as_many_other_users_take_up_no_progress(exact: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, _, platforms = exact

    def start(place: int) -> PlatformAgent:
        return agents_of(others if restarts else platforms, deep_plan(), tmp_path)[place]

    others = {
        name: replace(data, user_ids=tuple(f"other-{user}" for user in data.user_ids))
        for name, data in platforms.items()
    }
    restarts = False
    restarted = [Restarted(partial(start, place)) for place in range(len(platforms))]
    restarts = True
    federate(restarted, deep_plan(), tmp_path)
    assert "the users are others than before" in caplog.text
    assert "other-" not in caplog.text


def test_nothing_private_and_no_row_of_another_catalogue_leaves(exact: Any) -> None:
    _, recorders, _ = exact
    declared = {variable.name for variable in RunPlan.of(recorders[0].agent.plan).tower_variables}
    for recorder in recorders:
        updates = recorder.replies("update")
        assert len(updates) == ROUNDS
        for reply in updates:
            assert reply.arrays.keys() == declared | {"example_weight", "loss", ROW_POSITIONS, "row_weights"}
            positions = reply.arrays[ROW_POSITIONS]
            assert len(np.unique(positions)) == len(positions) == len(reply.arrays["item_rows"])
            assert positions.max() < len(recorder.agent.data.shared_columns)


def test_an_upload_is_all_encoders_and_the_rows_that_were_trained(exact: Any) -> None:
    outcome, recorders, _ = exact
    towers = outcome.state.towers
    encoders = sum(value.nbytes for name, value in towers.items() if name != "item_rows")
    for recorder in recorders:
        for reply in recorder.replies("update"):
            trained = len(reply.arrays[ROW_POSITIONS])
            assert trained < len(towers["item_rows"])
            # A position and a weight go with each row, the number of users and the loss with all of it.
            assert sum(array.nbytes for array in reply.arrays.values()) == encoders + trained * (4 * D + 8 + 4) + 16


@pytest.mark.parametrize("noise", ["per_platform", "secure_sum"])
def test_a_private_run_charges_its_rounds_and_sends_noisy_sums_alone(tmp_path: Path, noise: str) -> None:
    plan = deep_private_plan(noise)
    recorders = [Recorder(agent) for agent in agents_of(private_platforms(3), plan, tmp_path)]
    state = federate(recorders, plan, tmp_path).state
    assert [record.phase for record in state.history] == ["factors"] * 2 + ["towers"] * ROUNDS
    assert [record.objective for record in state.history] == [None] * (2 + ROUNDS)
    updates = RunPlan.of(plan).update_plan()
    for recorder in recorders:
        agent: Any = recorder.agent
        charged = [r for charge in charges_of(agent) for r in charge["releases"] if r["kind"] == "update"]
        assert len(charged) == ROUNDS
        assert {(r["mechanism"], r["noise_multiplier"], r["sampling_rate"]) for r in charged} == {
            ("subsampled-gaussian", updates.noise.noise_multiplier, 0.5)
        }
        kind = "masked_update" if noise == "secure_sum" else "update"
        replies = recorder.replies(kind)
        assert len(replies) == ROUNDS
        for reply in replies:
            assert reply.arrays.keys() == {"masked" if noise == "secure_sum" else "update"}
        if noise == "per_platform":
            assert len(replies[0].arrays["update"]) == RunPlan.of(plan).update_layout(len(state.vocabulary)).size
        assert agent.store.load().towers is not None
    assert all(np.isfinite(value).all() for value in state.towers.values())


PLAIN = {"encoders": [], "user_embedding": False}
"""The smallest deep model, where only the federation is at stake."""


def test_a_platform_with_another_deep_model_is_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = deep_plan(**PLAIN, training={"rounds": 1})
    other = deep_plan(**PLAIN, sequence={"kind": "mean", "length": 7}, training={"rounds": 1, "loss": "bpr"})
    platforms = random_platforms(1, SIZES)
    odd = {"platform-1": platforms.pop("platform-1")}
    watch = Watch()
    agents = [*agents_of(platforms, plan, tmp_path), *agents_of(odd, other, tmp_path)]
    outcome = federate(agents, plan, tmp_path, observer=watch)
    assert [code for _, _, code in watch.failures] == ["plan-differs"]
    assert {record.platforms for record in outcome.state.history} == {("platform-0", "platform-2")}
    assert "towers.sequence.length" in caplog.text
    assert "towers.training.loss" in caplog.text


def not_a_number(value: np.ndarray) -> np.ndarray:
    value[0] = np.nan
    return value


@pytest.mark.parametrize("name", ["gru_kernel", "item_rows", "loss", "row_weights"])
def test_a_platform_that_sends_no_numbers_is_named_and_left_out(tmp_path: Path, name: str) -> None:
    plan = deep_plan(**PLAIN, sequence={"kind": "gru", "length": 4}, training={"rounds": 2})
    recorded, platforms = updates_of(plan, tmp_path)
    agents = [
        Tampered(agent, "update", with_array(name, not_a_number), [4]) if agent.name == "platform-1" else agent
        for agent in recorded
    ]
    state = federate(agents, plan, tmp_path).state
    first, second = deep_rounds(state)
    assert first.platforms == tuple(platforms)
    assert second.platforms == ("platform-0", "platform-2")
    assert list(second.failed) == ["platform-1"]
    assert all(np.isfinite(value).all() for value in state.towers.values())


def updates_of(plan: FederationPlan, folder: Path) -> tuple[list[PlatformAgent], dict[str, TrainingData]]:
    """Agents whose deep model makes up its updates, so that no test waits for TensorFlow."""
    platforms = random_platforms(1, SIZES)
    agents = agents_of(platforms, plan, folder)
    for agent in agents:
        made_up(agent)
    return agents, platforms


def made_up(agent: Any, loss: Callable[[int], float] = lambda tower_round: 1.0 / tower_round) -> None:
    towers = contributor_of(agent, "update")._towers

    def update(request: Any, membership: Any) -> Any:
        tower_round = request.server_round - agent.plan.server_rounds
        rng = np.random.default_rng([len(agent.data.user_ids), tower_round])
        rows = np.arange(len(membership.shared_positions))
        arrays = {
            n: (v + rng.normal(size=v.shape)).astype(np.float32) for n, v in request.arrays.items() if n != "item_rows"
        }
        before = request.arrays["item_rows"][membership.shared_positions]
        arrays |= {
            "item_rows": (before + 0.1 * rng.normal(size=before.shape)).astype(np.float32),
            "row_positions": rows.astype(np.int64),
            "row_weights": rng.random(len(rows)).astype(np.float32) + 0.1,
            "example_weight": np.array([float(len(agent.data.user_ids))]),
            "loss": np.array([loss(tower_round)]),
        }
        return towers._mechanism.release("update", request.server_round, arrays)

    towers.update = update
    contributor_of(agent, "update")._towers.model = lambda request, membership: None


def test_broken_down_training_sends_weights_of_zero_and_no_code(tmp_path: Path) -> None:
    plan = deep_plan(**PLAIN, training={"rounds": 2, "learning_rate": 5.0})
    agents, platforms = updates_of(plan, tmp_path)
    broken: Any = agents_of({"platform-1": platforms["platform-1"]}, plan, tmp_path / "other")[0]
    prepared = contributor_of(broken, "update")._towers.prepared

    def with_a_wild_rate(run_id: str, membership: Any) -> Any:
        model, trainer = prepared(run_id, membership)
        trainer._sound = lambda: False
        return model, trainer

    contributor_of(broken, "update")._towers.prepared = with_a_wild_rate
    contributor_of(broken, "update")._towers.model = lambda request, membership: None
    recorder, watch = Recorder(broken), Watch()
    taking_part = [recorder if agent.name == "platform-1" else agent for agent in agents]
    state = federate(taking_part, plan, tmp_path, observer=watch).state
    assert watch.failures == []
    for reply in recorder.replies("update"):
        assert (reply.arrays["example_weight"], reply.arrays["loss"]) == (0, 0)
        assert len(reply.arrays["row_positions"]) == 0
    assert [record.objective for record in deep_rounds(state)] == pytest.approx([1.0, 0.5]), "the others' losses alone"


def test_training_stops_when_the_loss_has_not_fallen_long_enough(tmp_path: Path) -> None:
    plan = deep_plan(**PLAIN, training={"rounds": 12, "patience": 2})
    agents, _ = updates_of(plan, tmp_path)
    losses = [5.0, 4.0, 3.0, 3.5, 2.9, 2.95, 2.9, 1.0, 0.5]
    for agent in agents:
        made_up(agent, lambda tower_round: losses[tower_round - 1])
    state = federate(agents, plan, tmp_path).state
    assert [record.objective for record in deep_rounds(state)] == pytest.approx(losses[:7])


class Killed(BaseException):
    """Ends a run from inside as a kill does: nothing catches it."""


class Killer(SilentObserver):
    """Dies when ``platform`` has answered a round of the deep model; of no platform: when the round is combined."""

    def __init__(self, server_round: int, platform: str | None) -> None:
        self._round, self._platform = server_round, platform

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        if (server_round, platform) == (self._round, self._platform) and kind.endswith("update"):
            raise Killed

    def on_round(self, record: RoundRecord) -> None:
        if record.round == self._round and self._platform is None:
            raise Killed


@pytest.mark.parametrize(("tower_round", "platform"), [(1, "platform-0"), (2, "platform-2"), (2, None), (3, None)])
def test_an_aggregator_killed_in_a_deep_round_ends_at_the_same_result(
    tmp_path: Path, tower_round: int, platform: str | None
) -> None:
    plan = deep_plan(**PLAIN, sequence={"kind": "gru", "length": 4}, training={"aggregation": "fedadam"})
    straight = federate(updates_of(plan, tmp_path / "straight")[0], plan, tmp_path / "straight").state
    folder = tmp_path / "killed"
    agents, _ = updates_of(plan, folder)
    with pytest.raises(Killed):
        federate(agents, plan, folder, observer=Killer(2 + tower_round, platform))
    resumed = federate(agents, plan, folder, run_id="another").state
    assert same_state(resumed, straight)
    assert [(r.round, r.objective, r.platforms) for r in resumed.history] == [
        (r.round, r.objective, r.platforms) for r in straight.history
    ]


def test_a_killed_private_round_is_asked_for_again_and_charged_once(tmp_path: Path) -> None:
    plan = deep_private_plan("per_platform", **PLAIN)
    platforms = private_platforms(3)
    agents: list[Any] = agents_of(platforms, plan, tmp_path)
    for agent in agents:
        noise_alone(agent)
    recorders = [Recorder(agent) for agent in agents]
    with pytest.raises(Killed):
        federate(recorders, plan, tmp_path, observer=Killer(4, "platform-1"))
    state = federate(recorders, plan, tmp_path, run_id="another").state
    assert [record.phase for record in state.history] == ["factors"] * 2 + ["towers"] * ROUNDS
    for recorder in recorders:
        charged = [r for charge in charges_of(recorder.agent) for r in charge["releases"] if r["kind"] == "update"]  # type: ignore[arg-type]
        assert len(charged) == ROUNDS
    asked_twice = [reply for reply in recorders[0].replies("update") if reply.server_round == 4]
    assert len(asked_twice) == 2
    assert np.array_equal(asked_twice[0].arrays["update"], asked_twice[1].arrays["update"]), "no fresh noise for free"


def noise_alone(agent: Any) -> None:
    """As a platform without shared items answers; TensorFlow stays out."""
    towers = contributor_of(agent, "update")._towers
    layout = RunPlan.of(agent.plan).update_layout
    towers.update = lambda request, membership: towers._mechanism.noise_alone(
        request.server_round, layout(len(membership.owners))
    )
    contributor_of(agent, "update")._towers.model = lambda request, membership: None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"training": {"aggregation": "median"}}, "aggregation: median needs each platform's own update"),
        ({"training": {"aggregation": "trimmed_mean"}}, "aggregation: trimmed_mean needs"),
        ({"training": {"loss": "squared"}}, "loss: squared is for ratings"),
        ({"sequence": {"kind": "none"}, "user_embedding": True}, "sequence.kind: none leaves"),
    ],
)
def test_a_private_plan_for_what_noisy_sums_cannot_give_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        deep_private_plan(**changes)


@pytest.mark.parametrize("loss", ["sampled_softmax", "bpr"])
def test_a_loss_that_does_not_fit_the_feedback_is_refused(loss: str) -> None:
    explicit = {"model": {"feedback": "explicit"}, "privacy": {"mode": "none"}}
    with pytest.raises(ValidationError, match=f"loss: {loss} learns who chose what"):
        read_plan({"towers": {"training": {"loss": loss}}, **explicit})
    with pytest.raises(ValidationError, match="loss: squared is for ratings"):
        read_plan({"towers": {"training": {"loss": "squared"}}})
    read_plan({"towers": {"training": {"loss": "squared"}}, **explicit})
    read_plan({"towers": {"training": {"loss": loss}}})


def test_deep_rounds_above_their_share_are_refused_before_sending(tmp_path: Path) -> None:
    enough = deep_private_plan()
    assert enough.towers is not None
    z = enough.towers.privacy.noise_multiplier
    assert z is not None
    agents_of(private_platforms(3), enough, tmp_path / "enough")
    with pytest.raises(
        PrivacyError, match=r"platform-0: plan\.towers\.privacy: 3 rounds.*raise noise_multiplier or take fewer"
    ):
        agents_of(private_platforms(3), deep_private_plan(privacy={"noise_multiplier": 0.97 * z}), tmp_path / "less")
    with pytest.raises(PrivacyError, match="noise_multiplier: under privacy it is part of the plan"):
        agents_of(private_platforms(3), deep_private_plan(privacy={"noise_multiplier": None}), tmp_path / "none")


def test_broken_down_private_training_keeps_the_shared_variables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = deep_plan(encoders=[], training={"rounds": 1})
    agents = agents_of(random_platforms(1, SIZES[:1]), plan, tmp_path)
    towers_of_agent = contributor_of(agents[0], "update")._towers
    prepared = towers_of_agent.prepared

    def breaks_down() -> None:
        raise TrainingError("not a number")

    def with_a_broken_trainer(run_id: str, membership: Any) -> Any:
        model, trainer = prepared(run_id, membership)
        trainer.train_private = breaks_down
        return model, trainer

    towers_of_agent.prepared = with_a_broken_trainer
    state = federate(agents, plan, tmp_path).state
    towers = agents[0].store.load().towers
    assert towers is not None
    assert np.array_equal(towers.item_vectors[: towers.n_shared], state.towers["item_rows"])
    assert "private variables stay as they were" in caplog.text
