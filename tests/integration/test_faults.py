"""Platforms that break down, answer rubbish or do not belong: named, left out, and the others go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.agent import PlatformAgent
from client.app import make_courier
from client.personalization.model_builder import read_outcome
from common.contributions.factors import PlainMechanism
from common.errors import FederationError, SecretMismatchError, StoreError, TrainingError
from common.wire.exchange import AgentReply, AgentRequest
from common.wire.messages import reply_of, request_content
from server.federation.checkpoint import CheckpointStore
from server.federation.state import RoundRecord
from server.strategy import FederatedFactorization
from simulations.engine.grid import InlineGrid
from tests.support import (
    Tamper,
    Tampered,
    Watch,
    agents_of,
    contributor_of,
    factors_by_key,
    federate,
    flower_message,
    matrix,
    random_platforms,
    run_platforms,
    small_plan,
    training_data,
    with_array,
)

PLAN = small_plan()
SIZES = (12, 8, 5)


def test_two_platforms_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    platforms = random_platforms(1, SIZES)
    twins = [
        *agents_of(platforms, PLAN, tmp_path),
        *agents_of({"platform-1": platforms["platform-0"]}, PLAN, tmp_path / "twin"),
    ]
    with pytest.raises(FederationError, match="'platform-1'"):
        federate(twins, PLAN, tmp_path)


def test_another_federation_secret_is_detected_and_its_holder_named(tmp_path: Path) -> None:
    platforms = random_platforms(1, SIZES)
    odd = {"platform-1": platforms.pop("platform-1")}
    agents = [*agents_of(platforms, PLAN, tmp_path), *agents_of(odd, PLAN, tmp_path, seed=99)]
    with pytest.raises(SecretMismatchError, match="of platform-1 were made with another federation secret"):
        federate(agents, PLAN, tmp_path)


def test_a_platform_with_another_plan_stays_out_and_the_others_go_on(tmp_path: Path) -> None:
    platforms = random_platforms(1, SIZES)
    odd = {"platform-1": platforms["platform-1"]}
    rest = {name: data for name, data in platforms.items() if name not in odd}
    watch = Watch()
    agents = [*agents_of(rest, PLAN, tmp_path), *agents_of(odd, small_plan(rounds=4), tmp_path)]
    outcome = federate(agents, PLAN, tmp_path, observer=watch)
    assert [code for _, _, code in watch.failures] == ["plan-differs"]
    assert {record.platforms for record in outcome.state.history} == {("platform-0", "platform-2")}


def breaking_down(agent: PlatformAgent, server_round: int) -> None:
    """The agent's own computation fails in that round, with a text that must stay at home."""
    contributor: Any = contributor_of(agent, "statistics")
    healthy = contributor.make

    def statistics(request: AgentRequest, membership: Any) -> Any:
        if request.server_round == server_round:
            raise ZeroDivisionError("history of person-1-3 in /srv/shop/ratings.csv")
        return healthy(request, membership)

    contributor.make = statistics


def test_a_platform_that_raises_in_a_round_is_left_out_of_it_alone(tmp_path: Path) -> None:
    platforms = random_platforms(2, SIZES)
    agents = agents_of(platforms, PLAN, tmp_path)
    breaking_down(agents[1], server_round=2)
    watch = Watch()
    outcome = federate(agents, PLAN, tmp_path, observer=watch)
    records = outcome.state.history
    assert [record.failed for record in records] == [{}, {"platform-1": "internal"}, {}]
    assert [len(record.platforms) for record in records] == [3, 2, 3]
    assert watch.failures == [(2, "platform-1", "internal")]


def test_items_of_a_failed_platform_alone_keep_their_factors(tmp_path: Path) -> None:
    platforms = random_platforms(2, SIZES)
    agents = agents_of(platforms, PLAN, tmp_path)
    breaking_down(agents[1], server_round=3)
    failed = factors_by_key(federate(agents, PLAN, tmp_path), platforms)
    two_rounds = small_plan(rounds=2)
    before = factors_by_key(run_platforms(platforms, two_rounds, tmp_path / "before"), platforms)
    others = set(platforms["platform-0"].items.keys) | set(platforms["platform-2"].items.keys)
    alone = set(platforms["platform-1"].items.keys) - others
    assert alone
    for key in failed:
        assert np.array_equal(failed[key], before[key]) == (key in alone)


def test_the_quorum_ends_the_run_and_the_last_round_stays(tmp_path: Path) -> None:
    plan = small_plan(min_platforms=3)
    platforms = random_platforms(2, SIZES)
    agents = agents_of(platforms, plan, tmp_path)
    breaking_down(agents[2], server_round=2)
    with pytest.raises(FederationError, match=r"2 platforms contributed to round 2.*min_platforms\) is 3"):
        federate(agents, plan, tmp_path)
    state = CheckpointStore(tmp_path / "aggregator" / "checkpoints").latest(plan)
    assert state is not None
    assert state.server_round == 1


def test_a_platform_missing_for_a_round_does_not_stop_the_run_early(tmp_path: Path) -> None:
    """The objective without a platform is lower, and higher once it is back: neither says that training is done."""
    plan = small_plan(rounds=5, tolerance=1e-6)
    agents = agents_of(random_platforms(2, SIZES), plan, tmp_path)
    breaking_down(agents[0], server_round=2)
    assert federate(agents, plan, tmp_path).state.server_round == 5


def spoilt(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: arrays | {name: change(arrays[name])}


def first_to_nan(array: Any) -> Any:
    array = array.copy()
    array.flat[0] = np.nan
    return array


RUBBISH: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "NaN": spoilt("rhs", first_to_nan),
    "infinity": spoilt("user_gram", lambda array: np.full_like(array, np.inf)),
    "a row too few": spoilt("gram", lambda array: array[:-1]),
    "a column too many": spoilt("rhs", lambda array: np.column_stack([array, array[:, :1]])),
    "another dtype": spoilt("rhs", lambda array: array.astype(np.float64)),
    "an undeclared array": lambda arrays: arrays | {"user_factors": np.zeros(3, dtype=np.float32)},
    "an array missing": lambda arrays: {name: array for name, array in arrays.items() if name != "user_gram"},
    "nothing": lambda arrays: {},
}


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_the_aggregator_leaves_rubbish_out_by_name(tmp_path: Path, rubbish: str) -> None:
    agents: list[Any] = list(agents_of(random_platforms(3, SIZES), PLAN, tmp_path))
    change = RUBBISH[rubbish]
    agents[1] = Tampered(
        agents[1], "statistics", lambda _, reply: replace(reply, arrays=change(dict(reply.arrays))), [2]
    )
    watch = Watch()
    outcome = federate(agents, PLAN, tmp_path, observer=watch)
    assert watch.failures == [(2, "platform-1", "contract")]
    assert outcome.state.history[1].failed == {"platform-1": "contract"}
    assert outcome.state.history[1].platforms == ("platform-0", "platform-2")
    assert np.isfinite(outcome.state.item_parameters).all()


@pytest.mark.parametrize("rubbish", [name for name in RUBBISH if name != "nothing"])
def test_the_platform_itself_lets_no_rubbish_out(tmp_path: Path, rubbish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = agents_of(random_platforms(3, SIZES), PLAN, tmp_path)
    contributor: Any = contributor_of(agents[1], "statistics")
    healthy, change = contributor.make, RUBBISH[rubbish]

    def statistics(request: AgentRequest, membership: Any) -> Any:
        made = healthy(request, membership)
        return PlainMechanism().release("statistics", request.server_round, change(dict(made.arrays)))

    contributor.make = statistics
    watch = Watch()
    outcome = federate(agents, PLAN, tmp_path, observer=watch)
    assert {(name, code) for _, name, code in watch.failures} == {("platform-1", "internal")}
    assert [record.platforms for record in outcome.state.history] == [("platform-0", "platform-2")] * 3
    sent = agents[1]._outbox.journal.entries()
    assert not [
        entry for entry in sent if entry.content.get("kind") == "statistics" and entry.content["event"] == "sent"
    ]


HANDSHAKE: dict[str, Tamper] = {
    "no digests": lambda _, reply: replace(reply, arrays={}),
    "digests too short": with_array("digests", lambda array: array[:, :8]),
    "an item twice": with_array("digests", lambda array: np.concatenate([array[:1], array[:-1]])),
    "cards cut off": with_array("cards", lambda array: array[:-5]),
    "offsets that fall": with_array("card_offsets", lambda array: array[::-1].copy()),
    "a card too few": with_array("card_offsets", lambda array: np.delete(array, 1)),
    "no fingerprint": lambda _, reply: replace(reply, config={}),
    "an undeclared array": lambda _, reply: replace(
        reply, arrays=dict(reply.arrays) | {"users": np.zeros(2, dtype=np.int64)}
    ),
}


@pytest.mark.parametrize("rubbish", HANDSHAKE)
def test_a_malformed_join_is_left_out_by_name_and_the_others_go_on(tmp_path: Path, rubbish: str) -> None:
    agents: list[Any] = list(agents_of(random_platforms(3, SIZES), PLAN, tmp_path))
    agents[1] = Tampered(agents[1], "join", HANDSHAKE[rubbish])
    watch = Watch()
    outcome = federate(agents, PLAN, tmp_path, observer=watch)
    assert {(name, code) for _, name, code in watch.failures} <= {
        ("platform-1", "contract"),
        ("platform-1", "catalogue"),
    }
    assert watch.failures
    assert {record.platforms for record in outcome.state.history} == {("platform-0", "platform-2")}


def test_an_answer_in_another_platforms_name_is_not_taken(tmp_path: Path) -> None:
    agents: list[Any] = list(agents_of(random_platforms(3, SIZES), PLAN, tmp_path))
    agents[1] = Tampered(agents[1], "statistics", lambda _, reply: replace(reply, platform="platform-0"), [2])
    outcome = federate(agents, PLAN, tmp_path)
    assert outcome.state.history[1].failed == {"platform-1": "contract"}


def test_an_answer_of_another_round_is_not_taken(tmp_path: Path) -> None:
    agents: list[Any] = list(agents_of(random_platforms(3, SIZES), PLAN, tmp_path))
    agents[1] = Tampered(agents[1], "statistics", lambda _, reply: replace(reply, server_round=1), [2])
    outcome = federate(agents, PLAN, tmp_path)
    assert outcome.state.history[1].failed == {"platform-1": "contract"}


def test_counts_that_are_not_numbers_are_left_out(tmp_path: Path) -> None:
    agents: list[Any] = list(agents_of(random_platforms(3, SIZES), PLAN, tmp_path))
    agents[1] = Tampered(agents[1], "counts", with_array("item_counts", first_to_nan))
    watch = Watch()
    outcome = federate(agents, PLAN, tmp_path, observer=watch)
    assert watch.failures == [(0, "platform-1", "contract")]
    assert np.isfinite(outcome.state.item_counts).all()


def test_a_courier_answers_a_code_whatever_happens_to_its_agent() -> None:
    """Flower sends the text of an exception to the aggregator, so no exception may leave the courier."""
    secret = "person-1-3 in /srv/shop/ratings.csv"

    class Broken:
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def exchange(self, request: AgentRequest) -> AgentReply:
            raise ValueError(secret)

    courier = make_courier(lambda context: Broken())
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict({"state": ConfigRecord()}), run_config={})
    request = AgentRequest(kind="join", run_id="run", server_round=0)
    message = flower_message(request_content(request))
    answer = courier(message, context)
    reply = reply_of(answer)
    assert reply.code == "internal"
    assert secret not in repr(answer.content)


@pytest.mark.parametrize("record", ["nothing", "another header", "no JSON", "JSON but no object"])
def test_a_courier_answers_a_code_to_a_message_that_is_none_of_ours(record: str) -> None:
    request = AgentRequest(kind="join", run_id="run", server_round=0)
    content = request_content(request)
    if record == "nothing":
        content = RecordDict()
    elif record == "another header":
        content["crossfed"] = ConfigRecord({"kind": "join"})
    else:
        content.config_records["crossfed"]["config"] = "{" if record == "no JSON" else "[1]"
    courier = make_courier(lambda context: pytest.fail("the agent must not be asked"))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict({"state": ConfigRecord()}), run_config={})
    answer = courier(flower_message(content), context)
    assert reply_of(answer).code == "contract"


def test_no_reply_holds_the_text_of_an_error(tmp_path: Path) -> None:
    platforms = random_platforms(2, SIZES)
    agents = agents_of(platforms, PLAN, tmp_path)
    breaking_down(agents[1], server_round=2)
    by_node, seen = dict(enumerate(agents, start=1)), list[str]()
    courier = make_courier(lambda context: nullcontext(by_node[context.node_id]))

    def listened_to(message: Message, context: Context) -> Message:
        answer = courier(message, context)
        content = answer.content
        seen.append(repr({name: dict(record) for name, record in content.items() if name != "arrays"}))
        seen.append(repr([bytes(array.data) for array in content.array_records["arrays"].values()]))
        return answer

    strategy = FederatedFactorization(PLAN, CheckpointStore(tmp_path / "aggregator"), run_id="run")
    strategy.start(InlineGrid(listened_to, {node: {} for node in by_node}))
    assert len(seen) > 10
    for forbidden in ("person-1", "ratings.csv", str(tmp_path), "ZeroDivision"):
        assert not [text for text in seen if forbidden in text]


def test_a_full_disk_at_a_checkpoint_keeps_the_earlier_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan()
    agents = agents_of(random_platforms(2, SIZES), plan, tmp_path)

    class FullInRound2(Watch):
        def on_round(self, record: RoundRecord) -> None:
            if record.round == 2:
                monkeypatch.setattr("os.fsync", _no_space)

    with pytest.raises(StoreError, match=r"round-000002\.npz: cannot be written"):
        federate(agents, plan, tmp_path, observer=FullInRound2())
    monkeypatch.undo()
    store = CheckpointStore(tmp_path / "aggregator" / "checkpoints")
    state = store.latest(plan)
    assert state is not None
    assert state.server_round == 1
    assert sorted(path.name for path in store.folder.iterdir()) == ["round-000000.npz", "round-000001.npz"]


def _no_space(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_model_that_cannot_be_stored_is_the_operators_affair_alone(tmp_path: Path) -> None:
    agents = agents_of(random_platforms(2, SIZES), PLAN, tmp_path)
    # A file stands where the versions of the model go.
    versions = agents[0].store.root / "versions"
    versions.parent.mkdir(exist_ok=True)
    versions.write_text("")
    watch = Watch()
    with pytest.raises(TrainingError, match=r"platform platform-0: .* could not be built: .*cannot be written"):
        federate(agents, PLAN, tmp_path, observer=watch)
    assert watch.failures == [], "no code of it crosses the wire"
    assert agents[1].store.current() == 1
    with pytest.raises(StoreError, match="holds no model yet"):
        agents[0].store.load()
    outcome = read_outcome(agents[0].store.root)
    assert (outcome.state, outcome.attempts, outcome.run_id) == ("failed", 1, "simulation")
    versions.unlink()
    restarted = agents_of(random_platforms(2, SIZES), PLAN, tmp_path)[0]
    assert restarted.wait_built().state == "built", "what was acknowledged is built when the agent starts again"
    assert restarted.store.load().server_round == 3


EDGES = {
    "one user": ([[0, 1, 2]], 3),
    "one item": ([[0], [0], [0]], 1),
    "one user, one item": ([[0]], 1),
    "a user without anything": ([[0, 1], [], [1]], 2),
    "items that nobody has": ([[0, 1], [1]], 6),
}


@pytest.mark.parametrize("edge", EDGES)
def test_the_smallest_platforms_take_part(tmp_path: Path, edge: str) -> None:
    rows, n_items = EDGES[edge]
    platforms = random_platforms(4, (9,)) | {
        "small": training_data([f"imdb:{item:07d}" for item in range(n_items)], matrix(rows, n_items))
    }
    watch = Watch()
    outcome = run_platforms(platforms, PLAN, tmp_path, observer=watch)
    assert watch.failures == []
    model = next(agent for agent in outcome.agents if agent.name == "small").store.load()
    assert np.isfinite(model.shared.item_parameters).all()
    assert model.verdict.name == "local"


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_ratings_that_are_all_equal_are_learned_as_that_number(tmp_path: Path, exponent: float) -> None:
    plan = small_plan(model={"feedback": "explicit", "regularization_exponent": exponent})
    platforms = {
        name: training_data([f"imdb:{item}" for item in range(4)], matrix([{0: 4.0, 1: 4.0}, {2: 4.0, 3: 4.0}], 4))
        for name in ("a", "b")
    }
    outcome = run_platforms(platforms, plan, tmp_path)
    assert outcome.state.value_mean == 4.0
    assert np.allclose(outcome.state.item_parameters[:, -1], 0, atol=1e-5)
    model = outcome.agents[0].store.load()
    scores = model.own_scorer("shared").scores(model.histories, np.arange(2))
    assert scores == pytest.approx(4.0, abs=0.05)


def test_without_a_common_item_two_platforms_learn_what_each_would(tmp_path: Path) -> None:
    left = training_data(["shop:1", "shop:2", "shop:3"], matrix([[0, 1], [1, 2], [2]], 3))
    right = training_data(["site:1", "site:2"], matrix([[0], [0, 1]], 2))
    outcome = run_platforms({"left": left, "right": right}, PLAN, tmp_path)
    assert outcome.state.vocabulary.shared_items() == 0
    together = factors_by_key(outcome, {"left": left, "right": right})
    # Alone it starts elsewhere, but the objective splits in two: after many rounds both reach the same Gram matrix.
    assert set(together) == {"shop:1", "shop:2", "shop:3", "site:1", "site:2"}
    model = next(agent for agent in outcome.agents if agent.name == "left").store.load()
    assert [model.vocabulary.titles[position] for position in np.flatnonzero(model.foreign)] == [
        "Title of " + model.vocabulary.keys[position] for position in np.flatnonzero(model.foreign)
    ]
    assert model.foreign.sum() == 2


def test_a_tampered_card_costs_that_card_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agents: list[Any] = list(agents_of(random_platforms(3, SIZES), PLAN, tmp_path))
    agents[1] = Tampered(agents[1], "join", with_array("cards", lambda array: array ^ 1))
    federate(agents, PLAN, tmp_path)
    model = agents[0].store.load()
    told = np.array([bool(key) for key in model.vocabulary.keys])
    own, tampered, honest = model.owners.T
    assert not told[tampered & ~own & ~honest].any(), "what only the tampered cards describe stays undescribed"
    assert (tampered & ~own & ~honest).any()
    assert told[own | honest & ~tampered].all(), "own items and those of the honest platform alone are described"
    assert "item cards cannot be used" in caplog.text
