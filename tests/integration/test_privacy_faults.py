"""Faults and attacks on a private federation: none costs more budget than the ledger says, none shows a part of a sum."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import PlatformAgent
from client.privacy.ledger import BudgetLedger
from common.contributions.factors import PlainMechanism
from common.contributions.run_plan import RunPlan
from common.errors import FederationError, PrivacyError, SecureSumError
from common.privacy.lifetime import BudgetPolicy
from common.privacy.secure_sum import Roster, wire
from common.privacy.secure_sum.roster import Member
from common.privacy.secure_sum.wire import SurvivorList, split_frame
from common.wire.exchange import AgentReply, AgentRequest
from server.federation.checkpoint import CheckpointStore
from server.federation.state import RoundRecord
from tests.private_support import (
    HandMade,
    Tap,
    by_hand,
    charged_mu_squared,
    charges_of,
    lower_budget,
    outbox_of,
    private_plan,
    private_platforms,
    sent_by,
)
from tests.support import (
    Recorder,
    Tampered,
    Watch,
    agents_of,
    contributor_of,
    failing,
    federate,
    matrix,
    small_plan,
    training_data,
)

Act = Callable[[], object]
PER_PLATFORM = {"noise": "per_platform"}
DROPOUTS = {"dropouts": 1}


class Between(Watch):
    """Does something after a round."""

    def __init__(self, server_round: int, act: Act) -> None:
        super().__init__()
        self._round, self._act = server_round, act

    def on_round(self, record: RoundRecord) -> None:
        super().on_round(record)
        if record.round == self._round:
            self._act()


def rounds_charged(agent: PlatformAgent) -> list[int]:
    return [charge["round"] for charge in charges_of(agent)]


def rounds_sent(agent: PlatformAgent) -> list[int]:
    return [entry["round"] for entry in sent_by(agent) if entry["event"] == "sent"]


def assert_no_arrays(reply: AgentReply, code: str) -> None:
    assert (reply.code, dict(reply.arrays), dict(reply.config)) == (code, {}, {})


# Budget, clock and books.


@pytest.mark.parametrize(("platforms", "privacy"), [(3, PER_PLATFORM), (5, DROPOUTS)], ids=["per_platform", "dropouts"])
def test_a_platform_out_of_budget_stays_without_contributing(
    tmp_path: Path, platforms: int, privacy: dict[str, Any]
) -> None:
    plan = private_plan(platforms, **privacy)
    agents = agents_of(private_platforms(platforms), plan, tmp_path)
    watch = Between(1, lambda: lower_budget(agents[1], tmp_path, 0.5))
    state = federate(agents, plan, tmp_path, observer=watch).state
    others = tuple(agent.name for agent in agents if agent is not agents[1])
    assert [record.failed for record in state.history] == [{}, {"platform-1": "budget-exceeded"}]
    assert [record.platforms for record in state.history] == [tuple(a.name for a in agents), others]
    assert rounds_charged(agents[1]) == rounds_sent(agents[1]) == [0, 1]
    assert all(rounds_charged(agent) == [0, 1, 2] for agent in agents if agent is not agents[1])
    # It is there at the end, gets the final parameters, and serves.
    model = agents[1].store.load()
    assert np.array_equal(model.shared.item_parameters, state.item_parameters)
    assert ("finish", "ok") in [(entry["kind"], entry.get("code", "ok")) for entry in sent_by(agents[1])]


def test_a_spent_budget_ends_the_run_where_no_dropout_is_tolerated(tmp_path: Path) -> None:
    plan = private_plan()
    agents = agents_of(private_platforms(), plan, tmp_path)
    watch = Between(1, lambda: lower_budget(agents[1], tmp_path, 0.5))
    with pytest.raises(SecureSumError, match="platforms are missing and this roster tolerates no dropout"):
        federate(agents, plan, tmp_path, observer=watch)
    assert (2, "platform-1", "budget-exceeded") in watch.failures
    latest = CheckpointStore(tmp_path / "aggregator" / "checkpoints").latest(plan)
    assert latest is not None
    assert latest.server_round == 1


@pytest.mark.parametrize("privacy", [{}, PER_PLATFORM], ids=["secure_sum", "per_platform"])
def test_a_second_run_on_a_spent_ledger_is_refused_before_it_sends(tmp_path: Path, privacy: dict[str, Any]) -> None:
    plan, platforms = private_plan(**privacy), private_platforms()
    federate(agents_of(platforms, plan, tmp_path), plan, tmp_path)
    agents, watch = agents_of(platforms, plan, tmp_path), Watch()
    before = [charged_mu_squared(agent) for agent in agents]
    with pytest.raises(FederationError, match="0 platforms joined"):
        federate(agents, plan, tmp_path / "second", run_id="second", observer=watch)
    assert {code for _, _, code in watch.failures} == {"budget-exceeded"}
    assert [charged_mu_squared(agent) for agent in agents] == before


def test_a_budget_of_two_runs_lets_two_runs_through(tmp_path: Path) -> None:
    # Two runs of μ compose to √2·μ: more than ε, less than 2ε.
    plan, platforms = private_plan(noise="per_platform", budget=6.0), private_platforms()
    for number in ("one", "two"):
        agents = agents_of(platforms, plan, tmp_path)
        federate(agents, plan, tmp_path / number, run_id=number)
    spend = outbox_of(agents[0]).ledger.spend()
    assert charged_mu_squared(agents[0]) == pytest.approx(2 * RunPlan.of(plan).release_plan().mu ** 2)
    assert spend.epsilon is not None
    assert 3 < spend.epsilon < 6


def test_a_clock_that_moves_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = private_plan()
    agents = agents_of(private_platforms(), plan, tmp_path)
    watch = Between(1, lambda: monkeypatch.setattr(time, "time", lambda: 0.0))
    state = federate(agents, plan, tmp_path, observer=watch).state
    assert [record.failed for record in state.history] == [{}, {}]
    for agent in agents:
        assert rounds_charged(agent) == [0, 1, 2]
        assert charges_of(agent)[-1]["time"].startswith("1970")
        assert outbox_of(agent).ledger.verify()
        assert outbox_of(agent).journal.verify()


def edit(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "DROP TRIGGER entry_update; UPDATE entry SET text = replace(text, 'charged', 'chargef') WHERE sequence = 3"
        )
    connection.close()


@pytest.mark.parametrize("damage", [Path.unlink, edit], ids=["deleted", "edited"])
def test_a_ledger_edited_between_rounds_stops_its_platform(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    plan = private_plan(**PER_PLATFORM)
    agents = agents_of(private_platforms(), plan, tmp_path)
    path = tmp_path / "platforms" / "platform-1" / "ledger.db"
    recorder = Recorder(agents[1])
    watch = Between(1, lambda: damage(path))
    state = federate([agents[0], recorder, agents[2]], plan, tmp_path, observer=watch).state
    assert state.history[-1].failed == {"platform-1": "ledger"}
    assert_no_arrays(recorder.replies("statistics")[1], "ledger")
    with pytest.raises(PrivacyError):
        outbox_of(agents[1]).ledger.verify()
    assert rounds_sent(agents[0]) == [0, 1, 2]


# An aggregator that asks for more than was agreed.


def test_a_repeated_round_gets_the_same_bytes_and_one_charge(tmp_path: Path) -> None:
    asked = by_hand(private_platforms(), private_plan(**PER_PLATFORM), tmp_path)
    first = asked.ask("platform-0", "statistics", 1, arrays=asked.parameters())
    again = asked.ask("platform-0", "statistics", 1, arrays=asked.parameters())
    assert first.code == again.code == "ok"
    assert contents(first) == contents(again)
    assert rounds_charged(asked.agents["platform-0"]) == [1]


def test_under_secure_sum_too_a_repeated_round_repeats_its_bytes(tmp_path: Path) -> None:
    asked = by_hand(private_platforms(), private_plan(), tmp_path)
    asked.enrol()
    first = [asked.masked("platform-0", server_round) for server_round in (0, 1)]
    again = asked.masked("platform-0", 1)
    assert contents(first[1]) == contents(again)
    assert rounds_charged(asked.agents["platform-0"]) == [0, 1]


@pytest.mark.parametrize("privacy", [{}, PER_PLATFORM], ids=["secure_sum", "per_platform"])
def test_a_round_asked_differently_or_again_later_is_refused_and_free(tmp_path: Path, privacy: dict[str, Any]) -> None:
    plan = private_plan(**privacy)
    asked = by_hand(private_platforms(), plan, tmp_path)
    if not privacy:
        asked.enrol()
    agent = asked.agents["platform-0"]
    counts, statistics = ("counts", "statistics") if privacy else ("masked_counts", "masked_statistics")

    def ask(kind: str, server_round: int, seed: int = 0, **parts: Any) -> AgentReply:
        arrays = {} if kind == counts else {"arrays": asked.parameters(seed)}
        return asked.ask("platform-0", kind, server_round, **arrays, **parts)

    assert ask(counts, 0).code == "ok"
    first = ask(statistics, 1)
    for refused in (ask(statistics, 1, 1), ask(statistics, 1, config={"value_mean": 0.0}), ask(counts, 1)):
        assert_no_arrays(refused, "out-of-order")
    assert ask(statistics, 2).code == "ok"
    for refused in (ask(statistics, 1, 1), ask(statistics, 2, 1), ask(statistics, 3), ask(counts, 0, config={"x": 1})):
        assert_no_arrays(refused, "out-of-order")
    assert contents(ask(statistics, 1)) == contents(first), "what was paid for is sent again"
    assert rounds_sent(agent) == rounds_charged(agent) == [0, 1, 2]
    assert charged_mu_squared(agent) == pytest.approx(RunPlan.of(plan).release_plan().mu ** 2)


def test_masked_rounds_before_full_enrolment_are_refused_and_free(tmp_path: Path) -> None:
    asked = by_hand(private_platforms(), private_plan(), tmp_path)
    assert_no_arrays(asked.masked("platform-0", 0), "secure-sum")
    assert asked.step("platform-0", "advertise", asked.roster().to_bytes()).code == "ok"
    for server_round in (0, 1, 2):
        assert_no_arrays(asked.masked("platform-0", server_round), "secure-sum")
    assert charges_of(asked.agents["platform-0"]) == []


@pytest.mark.parametrize("privacy", [{}, PER_PLATFORM], ids=["secure_sum", "per_platform"])
def test_undeclared_requests_and_arrays_are_refused_and_cost_nothing(tmp_path: Path, privacy: dict[str, Any]) -> None:
    asked = by_hand(private_platforms(), private_plan(**privacy), tmp_path)
    kind = "statistics" if privacy else "masked_statistics"
    counts = "counts" if privacy else "masked_counts"
    good = dict(asked.parameters())
    bad: list[tuple[str, int, dict[str, Any]]] = [
        (kind, 1, good | {"user_factors": good["item_parameters"]}),
        (kind, 1, {"item_parameters": good["item_parameters"]}),
        (kind, 1, good | {"item_parameters": np.full_like(good["item_parameters"], np.nan)}),
        (kind, 3, good),
        (kind, 0, good),
        (kind, -1, good),
        (counts, 0, {"users": np.zeros(3)}),
        ("raw_interactions", 1, good),
        ("masked_statistics" if privacy else "statistics", 1, good),
        ("masked_counts" if privacy else "counts", 0, {}),
    ]
    for wrong, server_round, arrays in bad:
        code = "out-of-order" if arrays is good and server_round != 1 else "contract"
        assert_no_arrays(asked.ask("platform-0", wrong, server_round, arrays=arrays), code)
    assert charges_of(asked.agents["platform-0"]) == []


def test_counts_for_rounds_that_the_run_has_not_cost_nothing(tmp_path: Path) -> None:
    """An aggregator burnt 2.98 of a lifetime ε of 3 with them."""
    asked = by_hand(private_platforms(), private_plan(**PER_PLATFORM), tmp_path)
    for server_round in (1, 2, 3, 100):
        assert_no_arrays(asked.ask("platform-0", "counts", server_round), "out-of-order")
    assert charges_of(asked.agents["platform-0"]) == []
    assert asked.ask("platform-0", "counts", 0).code == "ok"
    assert rounds_sent(asked.agents["platform-0"]) == [0]


def told_differently(what: str, asked: HandMade) -> dict[str, Any]:
    """A request of round 1 that differs from the others' in one number."""
    arrays = {name: np.array(array) for name, array in asked.parameters().items()}
    if what in arrays:
        arrays[what].reshape(-1)[0] += 1
    return {"arrays": arrays} | ({"config": {"value_mean": 0.5}} if what == "config" else {})


def tell_another_vocabulary(asked: HandMade, name: str, what: str, code: str = "ok") -> None:
    """The platform's own items in their places, and one thing about the others' that only it is told."""
    parts = asked.vocabulary_parts()
    arrays = {key: np.array(array) for key, array in parts["arrays"].items()}
    own = parts["config"]["platforms"].index(name)
    foreign = np.flatnonzero(arrays["owners"][:, own] == 0)[0]
    if what == "owners":
        arrays["owners"][foreign, own - 1] ^= 1
    else:
        arrays["digests"][foreign, 0] ^= 1
    assert asked.ask(name, "vocabulary", config=parts["config"], arrays=arrays).code == code


def test_a_run_between_two_messages_brings_no_second_vocabulary(tmp_path: Path) -> None:
    """The file keeps the newest run's alone: the ledger says which one it was when something was released."""
    plan = private_plan(noise="per_platform", budget=9.0)
    asked = by_hand(private_platforms(), plan, tmp_path)
    name = "platform-1"
    assert asked.ask(name, "counts", 0).code == "ok"
    first = asked.run_id
    tell_another_vocabulary(asked, name, "digests", "out-of-order")
    asked.run_id = "between"
    assert asked.ask(name, "join", config={"plan": plan.model_dump(mode="json")}).code == "ok"
    assert asked.ask(name, "vocabulary", **asked.vocabulary_parts()).code == "ok"
    asked.run_id = first
    for what in ("digests", "owners"):
        tell_another_vocabulary(asked, name, what, "out-of-order")
    assert asked.ask(name, "vocabulary", **asked.vocabulary_parts()).code == "ok"


@pytest.mark.parametrize("what", ["item_counts", "item_parameters", "config", "owners", "digests"])
def test_an_aggregator_that_tells_one_platform_otherwise_gets_no_sum(tmp_path: Path, what: str) -> None:
    """Else it could have platforms' totals in rows that it chooses; whatever it says of the vector it was sent."""
    plan = private_plan()
    asked = by_hand(private_platforms(), plan, tmp_path, joined=False)
    victim = "platform-1"
    if what in ("owners", "digests"):
        asked.ask(victim, "join", config={"plan": plan.model_dump(mode="json")})
        tell_another_vocabulary(asked, victim, what)
    for name in asked.agents:
        asked.ask(name, "join", config={"plan": plan.model_dump(mode="json")})
        told = asked.ask(name, "vocabulary", **asked.vocabulary_parts())
        assert told.code == ("out-of-order" if name == victim and what in ("owners", "digests") else "ok")
    server = asked.enrol()
    for name in asked.agents:
        assert asked.masked(name, 0).code == "ok"
    current = server.open_round(1, len(asked.vocabulary) * plan.row, asked.context(1))
    for name in asked.agents:
        parts = told_differently(what, asked) if name == victim else {"arrays": asked.parameters()}
        data = asked.ask(name, "masked_statistics", 1, **parts).arrays["masked"].tobytes()
        if name == victim:
            with pytest.raises(SecureSumError, match="answers another request or vocabulary"):
                current.add_masked(name, data)
        text, payload = wire.split_frame(data)
        header = wire.MaskedVectorHeader.from_header(text).model_copy(update={"context": asked.context(1)})
        current.add_masked(name, wire.frame(header, bytes(payload)))
    with pytest.raises(SecureSumError, match="bound"):
        current.sum()


def unsafe(roster: Roster, **changes: Any) -> bytes:
    """A roster that its own class refuses to be."""
    return Roster.model_construct(**(dict(roster) | changes)).to_bytes()


@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_a_roster_of_fewer_platforms_than_agreed_is_refused(tmp_path: Path, members: int) -> None:
    asked = by_hand(private_platforms(5), private_plan(5), tmp_path)
    full = asked.roster()
    message = unsafe(full, members=full.members[:members], threshold=members)
    assert_no_arrays(asked.step("platform-0", "advertise", message), "secure-sum")
    assert_no_arrays(asked.masked("platform-0", 0), "secure-sum")
    assert rounds_sent(asked.agents["platform-0"]) == []


def test_a_roster_of_one_platform_under_several_names_is_refused(tmp_path: Path) -> None:
    """The aggregator fills the roster up with keys of its own."""
    asked = by_hand(private_platforms(), private_plan(), tmp_path)
    full = asked.roster()
    mine = tuple(
        member if member.name == "platform-0" else Member(name=member.name, identity=bytes([index]) * 32)
        for index, member in enumerate(full.members)
    )
    assert_no_arrays(asked.step("platform-0", "advertise", unsafe(full, members=mine)), "secure-sum")


def test_a_roster_with_less_noise_or_more_dropouts_is_refused(tmp_path: Path) -> None:
    asked = by_hand(private_platforms(5), private_plan(5, dropouts=1), tmp_path)
    full = asked.roster()
    quiet = tuple(spec.model_copy(update={"noise_std": spec.noise_std / 2}) for spec in full.rounds)
    for message in (
        unsafe(full, rounds=quiet),
        unsafe(full, rounds=full.rounds[:1]),
        unsafe(full, dropouts=2),
        unsafe(full, colluders=0),
        unsafe(full, run_id="another"),
    ):
        assert_no_arrays(asked.step("platform-0", "advertise", message), "secure-sum")


def test_a_second_roster_in_one_run_is_refused(tmp_path: Path) -> None:
    plan = private_plan(5, dropouts=1)
    asked = by_hand(private_platforms(5), plan, tmp_path)
    asked.enrol()
    other = asked.roster(colluders=2)
    assert_no_arrays(asked.step("platform-0", "advertise", other.to_bytes()), "secure-sum")
    assert asked.step("platform-0", "advertise", asked.roster().to_bytes()).code == "ok"


def test_a_vocabulary_for_too_few_platforms_is_refused_uncharged(tmp_path: Path) -> None:
    plan = private_plan(3)
    two = {name: data for name, data in private_platforms().items() if name != "platform-2"}
    agents, watch = agents_of(two, plan, tmp_path), Watch()
    with pytest.raises(FederationError, match="took the vocabulary"):
        federate_at_once(agents, plan, tmp_path, watch)
    assert list(watch.failures) == [(0, "platform-0", "privacy"), (0, "platform-1", "privacy")]
    assert all(charges_of(agent) == [] for agent in agents)


def federate_at_once(agents: list[PlatformAgent], plan: Any, folder: Path, watch: Watch) -> None:
    """As the engine, but it waits for nobody who has not come."""
    from server.strategy import FederatedFactorization
    from simulations.engine.federate import inline_grid

    store = CheckpointStore(folder / "aggregator")
    FederatedFactorization(plan, store, run_id="run", observer=watch, join_deadline=0.0).start(inline_grid(agents))


# Survivor lists.


def survivor_round(tmp_path: Path) -> tuple[HandMade, list[str], bytes, bytes]:
    """Counts of all five are masked; two lists of four, which overlap in three."""
    asked = by_hand(private_platforms(5), private_plan(5, dropouts=1), tmp_path)
    server = asked.enrol()
    names = list(asked.agents)
    asked.masked_round(server, 0, names)
    lists = [SurvivorList(round_index=0, survivors=tuple(part)).to_bytes() for part in (names[:4], names[1:])]
    return asked, names, lists[0], lists[1]


def test_two_overlapping_survivor_lists_are_refused(tmp_path: Path) -> None:
    asked, names, first, second = survivor_round(tmp_path)
    everybody = SurvivorList(round_index=0, survivors=tuple(names)).to_bytes()
    assert asked.step("platform-1", "survivors", first).code == "ok"
    assert_no_arrays(asked.step("platform-1", "survivors", second), "secure-sum")
    assert_no_arrays(asked.step("platform-1", "survivors", everybody), "secure-sum")
    # The same list again is no new list.
    assert asked.step("platform-1", "survivors", first).code == "ok"


def test_a_restarted_platform_remembers_the_survivors_it_accepted(tmp_path: Path) -> None:
    asked, _, first, second = survivor_round(tmp_path)
    assert asked.step("platform-1", "survivors", first).code == "ok"
    again = by_hand(private_platforms(5), asked.plan, tmp_path)
    assert_no_arrays(again.step("platform-1", "survivors", second), "secure-sum")
    assert again.step("platform-1", "survivors", first).code == "ok"


@pytest.mark.parametrize("survivors", [1, 2, 3])
def test_a_sum_over_too_few_survivors_is_refused(tmp_path: Path, survivors: int) -> None:
    asked, names, _, _ = survivor_round(tmp_path)
    message = SurvivorList(round_index=0, survivors=tuple(names[:survivors])).to_bytes()
    assert_no_arrays(asked.step("platform-0", "survivors", message), "secure-sum")


def test_unknown_or_early_steps_of_the_secure_sum_are_refused(tmp_path: Path) -> None:
    asked = by_hand(private_platforms(), private_plan(), tmp_path)
    for step in ("enrol", "receive", "survivors", "certificate", "unmask", ""):
        assert_no_arrays(asked.step("platform-0", step, b"x"), "secure-sum")
    assert_no_arrays(asked.masked("platform-0", 0), "secure-sum")
    assert rounds_sent(asked.agents["platform-0"]) == []


# Dropouts and rubbish.


@pytest.mark.parametrize("server_round", [0, 1])
def test_losing_a_platform_after_masking_leaves_the_others_exact_sum(tmp_path: Path, server_round: int) -> None:
    plan = private_plan(5, dropouts=1)
    agents = agents_of(private_platforms(5), plan, tmp_path)
    tap = Tap(plan, agents)
    kind = "masked_statistics" if server_round else "masked_counts"
    lost = Tampered(agents[2], kind, failing(), rounds=[server_round])
    state = federate([*agents[:2], lost, *agents[3:]], plan, tmp_path, phases=tap.phases).state
    others = [index for index in range(5) if index != 2]
    noise = RunPlan.of(plan).release_plan()
    if server_round == 0:
        parts = [tap.of_round(0)[index].arrays["counts"] for index in others]
        expected = np.maximum(np.sum(parts, axis=0) * noise.counts.grid_step, 1.0)
        assert np.array_equal(state.item_counts, expected[:-1])
        assert sum(state.user_counts.values()) == expected[-1]
    else:
        parts = [tap.of_round(1)[index].arrays["item_vectors"] for index in others]
        solved = tap.solved[0]
        assert np.array_equal(solved.item_vectors, np.sum(parts, axis=0) * noise.rounds[0].item_vectors.grid_step)
        assert solved.item_sigma == pytest.approx(noise.rounds[0].item_vectors.grid_step * 2**16 * 2)
        assert list(state.history[0].platforms) == [agents[index].name for index in others]
        assert state.history[0].failed.keys() == {"platform-2"}
    assert state.history[1].failed == {}, "it is back in the next round"
    assert all(rounds_charged(agent) == [0, 1, 2] for agent in agents)


def test_more_dropouts_than_agreed_void_the_round(tmp_path: Path) -> None:
    plan = private_plan(5, dropouts=1)
    agents = agents_of(private_platforms(5), plan, tmp_path)
    lost = [Tampered(agent, "masked_statistics", failing(), rounds=[2]) for agent in agents[:2]]
    with pytest.raises(SecureSumError, match="no sum over fewer than 4"):
        federate([*lost, *agents[2:]], plan, tmp_path)
    latest = CheckpointStore(tmp_path / "aggregator" / "checkpoints").latest(plan)
    assert latest is not None
    assert latest.server_round == 1


@pytest.mark.parametrize(("platforms", "privacy"), [(3, {}), (5, DROPOUTS)], ids=["no dropouts", "dropouts"])
def test_a_platform_that_sends_unmasked_values_voids_the_round(
    tmp_path: Path, platforms: int, privacy: dict[str, Any]
) -> None:
    def unmasked(_: AgentRequest, reply: AgentReply) -> AgentReply:
        message = reply.arrays["masked"].tobytes()
        payload = split_frame(message)[1]
        plain = message[: len(message) - len(payload)] + np.arange(len(payload) // 4, dtype="<i4").tobytes()
        return replace(reply, arrays=dict(reply.arrays) | {"masked": np.frombuffer(plain, dtype=np.uint8)})

    plan = private_plan(platforms, **privacy)
    agents = agents_of(private_platforms(platforms), plan, tmp_path)
    faulty = Tampered(agents[0], "masked_statistics", unmasked, rounds=[1])
    with pytest.raises(SecureSumError, match="one of them did not mask as agreed"):
        federate([faulty, *agents[1:]], plan, tmp_path)
    latest = CheckpointStore(tmp_path / "aggregator" / "checkpoints").latest(plan)
    assert latest is not None
    assert latest.server_round == 0


@pytest.mark.parametrize(
    "tamper",
    [
        lambda a: a[:-1].copy(),
        lambda a: np.zeros(0, dtype=np.uint8),
        np.zeros_like,
        lambda a: a[::-1].copy(),
    ],
    ids=["cut", "empty", "zeros", "reversed"],
)
def test_a_malformed_masked_vector_names_its_platform(tmp_path: Path, tamper: Callable[[Any], Any]) -> None:
    def spoilt(_: AgentRequest, reply: AgentReply) -> AgentReply:
        return replace(reply, arrays=dict(reply.arrays) | {"masked": tamper(np.array(reply.arrays["masked"]))})

    plan = private_plan(5, dropouts=1)
    agents = agents_of(private_platforms(5), plan, tmp_path)
    state = federate([Tampered(agents[0], "masked_statistics", spoilt, rounds=[1]), *agents[1:]], plan, tmp_path).state
    assert state.history[0].failed == {"platform-0": "contract"}
    assert state.history[0].platforms == tuple(agent.name for agent in agents[1:])


# Who may take part.


def ten_users() -> dict[str, Any]:
    rows = [[user % 3, 3 + user % 5] for user in range(10)]
    return {"small": training_data([f"imdb:{n}" for n in range(8)], matrix(rows, 8))}


def test_a_platform_of_ten_users_is_refused_with_the_reason(tmp_path: Path) -> None:
    platforms = private_platforms() | ten_users()
    said = r"platform small: .*fewer than privacy\.minimum_users = 50 users.*noise.*would drown"
    with pytest.raises(PrivacyError, match=said):
        agents_of(ten_users(), private_plan(4, minimum_users=50), tmp_path)
    assert agents_of(platforms, private_plan(4, minimum_users=5), tmp_path / "fine")


def test_a_platform_of_more_users_than_the_public_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"more users than privacy\.user_bound = 9;"):
        agents_of(ten_users(), private_plan(3, user_bound=9), tmp_path)


def test_another_plan_is_refused_by_code_and_named_in_the_own_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = by_hand(private_platforms(), private_plan(), tmp_path, joined=False)
    theirs = private_plan(epsilon=100.0, colluders=2)
    with caplog.at_level(logging.WARNING):
        reply = asked.ask("platform-0", "join", config={"plan": theirs.model_dump(mode="json")})
    assert_no_arrays(reply, "plan-differs")
    assert "differs from this platform's in privacy.colluders, privacy.epsilon" in caplog.text
    assert_no_arrays(asked.ask("platform-0", "masked_counts"), "out-of-order")
    assert charges_of(asked.agents["platform-0"]) == []


def test_a_charged_contribution_that_fails_ends_the_run_by_one_code(tmp_path: Path) -> None:
    """Whatever it failed of may lie in the data: that is told once a run that is paid for, and not once a request."""
    asked = by_hand(private_platforms(), private_plan(**PER_PLATFORM, budget=20.0), tmp_path, joined=False)
    agent = asked.agents["platform-0"]
    contributor = contributor_of(agent, "statistics")
    healthy = contributor.make

    def fails(*_: Any) -> Any:
        raise MemoryError("of the history of person-0-1")

    def spoils(*parts: Any) -> Any:
        return PlainMechanism().release("statistics", 1, dict(healthy(*parts).arrays))

    for failure in (fails, spoils):
        asked.run_id = failure.__name__
        asked.join()
        contributor.make = failure
        assert_no_arrays(asked.ask("platform-0", "statistics", 1, arrays=asked.parameters()), "internal")
        contributor.make = healthy
        for server_round, seed in ((1, 0), (1, 1), (2, 0)):
            again = asked.ask("platform-0", "statistics", server_round, arrays=asked.parameters(seed))
            assert_no_arrays(again, "out-of-order")


# Restarts.


class Restarting:
    """A platform whose agent process is replaced before every contribution."""

    def __init__(self, make: Callable[[], PlatformAgent], kinds: tuple[str, ...]) -> None:
        self._make, self._kinds = make, kinds
        self.agent = make()
        self.name = self.agent.name

    def exchange(self, request: AgentRequest) -> AgentReply:
        if request.kind in self._kinds:
            self.agent = self._make()
        return self.agent.exchange(request)


@pytest.mark.parametrize(
    ("platforms", "privacy"),
    [(3, {}), (3, PER_PLATFORM), (5, DROPOUTS)],
    ids=["secure_sum", "per_platform", "dropouts"],
)
def test_an_agent_that_is_restarted_between_rounds_goes_on(
    tmp_path: Path, platforms: int, privacy: dict[str, Any]
) -> None:
    plan, data = private_plan(platforms, **privacy), private_platforms(platforms)
    agents = agents_of(data, plan, tmp_path)
    kinds = ("counts", "masked_counts", "statistics", "masked_statistics", "secure_sum", "finish")
    restarting = Restarting(lambda: agents_of(data, plan, tmp_path)[1], kinds)
    state = federate([agents[0], restarting, *agents[2:]], plan, tmp_path).state
    assert [record.failed for record in state.history] == [{}, {}]
    assert rounds_charged(restarting.agent) == rounds_sent(restarting.agent) == [0, 1, 2]
    assert restarting.agent.store.load().server_round == 2


class Killed(BaseException):
    """Ends a run from inside as a kill does."""


class Killer(Watch):
    """Dies when the aggregator has heard ``kind`` of ``platform`` in a round."""

    def __init__(self, kind: str, server_round: int, platform: str) -> None:
        super().__init__()
        self._at = (kind, server_round, platform)

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        if (kind, server_round, platform) == self._at:
            raise Killed


@pytest.mark.parametrize(
    ("platforms", "privacy", "kind", "server_round"),
    [
        (3, PER_PLATFORM, "counts", 0),
        (3, PER_PLATFORM, "statistics", 2),
        (3, {}, "secure_sum", 0),
        (3, {}, "masked_counts", 0),
        (3, {}, "masked_statistics", 2),
        (5, DROPOUTS, "secure_sum", 0),
        (5, DROPOUTS, "masked_statistics", 1),
        (5, DROPOUTS, "secure_sum", 2),
    ],
)
@pytest.mark.parametrize("fresh_agents", [False, True], ids=["agents stay", "agents restart"])
def test_a_killed_aggregator_resumes_and_charges_nobody_twice(
    tmp_path: Path, platforms: int, privacy: dict[str, Any], kind: str, server_round: int, fresh_agents: bool
) -> None:
    plan, data = private_plan(platforms, **privacy), private_platforms(platforms)
    agents = agents_of(data, plan, tmp_path)
    first = [Recorder(agent) for agent in agents]
    with pytest.raises(Killed):
        federate(first, plan, tmp_path, observer=Killer(kind, server_round, "platform-1"), run_id="run")
    if fresh_agents:
        agents = agents_of(data, plan, tmp_path)
    second = [Recorder(agent) for agent in agents]
    state = federate(second, plan, tmp_path, run_id="another").state
    assert state.run_id == "run"
    assert [record.failed for record in state.history] == [{}, {}]
    releases = RunPlan.of(plan).release_plan()
    for before, after, agent in zip(first, second, agents, strict=True):
        assert rounds_charged(agent) == rounds_sent(agent) == [0, 1, 2]
        assert charged_mu_squared(agent) == pytest.approx(releases.mu**2, rel=1e-9)
        sent = [contents(r) for recorder in (before, after) for _, r in recorder.seen if r.kind.endswith(("s",))]
        assert len({repr(part) for part in sent}) == 3, "what was sent twice was the same bytes"


def contents(reply: AgentReply) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in sorted(reply.arrays.items())}


# Without privacy.


def test_mode_none_marks_data_as_spent_and_refuses_private_runs(tmp_path: Path) -> None:
    plan, data = private_plan(**PER_PLATFORM), private_platforms()
    exact = small_plan(platforms=3)
    agents = agents_of(data, exact, tmp_path)
    federate(agents, exact, tmp_path / "exact", run_id="exact")
    spend = agents[0].spend().spend
    assert spend.epsilon is None
    assert outbox_of(agents[0]).ledger.spend().runs[0].epsilon is None
    private, watch = agents_of(data, plan, tmp_path), Watch()
    with pytest.raises(FederationError, match="0 platforms joined"):
        federate(private, plan, tmp_path / "private", run_id="private", observer=watch)
    assert {code for _, _, code in watch.failures} == {"budget-exceeded"}
    assert BudgetLedger.open(tmp_path / "platforms" / "platform-0").spend().left.mu == 0


def test_an_exact_run_on_a_ledger_with_a_finite_budget_is_refused(tmp_path: Path) -> None:
    exact = small_plan(platforms=3)
    agents = agents_of(private_platforms(), exact, tmp_path)
    for agent in agents:
        BudgetLedger.open(tmp_path / "platforms" / agent.name, BudgetPolicy(epsilon=3.0, delta=1e-3))
    with pytest.raises(FederationError, match="0 platforms joined"):
        federate(agents, exact, tmp_path)
