from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.federation import FederationPlan
from common.contributions.registry import kinds_of
from common.errors import ContractError, FederationError, SecureSumError
from common.privacy.secure_sum import SecureSumServer
from common.wire.exchange import AgentReply, AgentRequest
from server.federation.collect import Contribution, OpenCollector, SecureCollector, make_collector
from server.federation.exchange import PlatformExchange
from server.federation.state import FederationState, fresh_state, with_vocabulary
from simulations.engine.federate import inline_grid
from tests.private_support import HandMade, by_hand, private_plan, private_platforms
from tests.support import Recorder, Tampered, Watch, failing, small_plan


class Ground:
    """Agents that have joined, and an exchange with them as the strategy would have it."""

    def __init__(self, plan: FederationPlan, folder: Path, *, replaced: dict[str, Any] | None = None) -> None:
        self.plan = plan
        self.asked: HandMade = by_hand(private_platforms(plan.platforms or 3), plan, folder)
        self.recorders = [Recorder(agent) for agent in self.asked.agents.values()]
        connections = [(replaced or {}).get(r.agent.name, lambda r: r)(r) for r in self.recorders]  # type: ignore[attr-defined]
        self.watch = Watch()
        self.exchange = PlatformExchange(inline_grid(connections), self.watch, deadline=60)
        self.exchange.nodes = dict(enumerate(self.asked.agents, start=1))
        self.state: FederationState = with_vocabulary(fresh_state("run", plan.row), self.asked.vocabulary, plan)
        self.folder = folder / "aggregator"
        self.folder.mkdir()

    def identities(self) -> dict[str, bytes]:
        return {name: agent._member().public_key.tobytes() for name, agent in self.asked.agents.items()}

    def enrolled(self, folder: Path | None = None) -> SecureCollector:
        collector = SecureCollector(self.plan, folder or self.folder)
        collector.enrol(self.exchange, self.state, self.identities())
        return collector

    def collect(self, collector: Any, server_round: int) -> list[Contribution]:
        counts, statistics = kinds_of(self.plan)
        kind, arrays = (statistics, self.asked.parameters()) if server_round else (counts, {})
        asked = AgentRequest(kind=kind.wire_name(self.plan), run_id="run", server_round=server_round, arrays=arrays)
        answers = self.exchange.ask(asked)
        return list(collector.contributions(self.exchange, self.state, asked, answers))

    def secure_steps(self) -> dict[str, int]:
        """How many messages of the secure sum each platform has had."""
        return {recorder.agent.name: len(recorder.requests("secure_sum")) for recorder in self.recorders}  # type: ignore[attr-defined]


def test_the_plan_decides_how_contributions_are_gathered(tmp_path: Path) -> None:
    assert type(make_collector(small_plan(), tmp_path)) is OpenCollector
    assert type(make_collector(private_plan(noise="per_platform"), tmp_path)) is OpenCollector
    assert type(make_collector(private_plan(), tmp_path)) is SecureCollector


def test_open_contributions_come_singly_with_their_positions(tmp_path: Path) -> None:
    ground = Ground(private_plan(noise="per_platform"), tmp_path)
    parts = ground.collect(OpenCollector(ground.plan), 1)
    assert [part.platforms for part in parts] == [(name,) for name in ground.asked.agents]
    for part in parts:
        assert np.array_equal(part.positions, ground.state.vocabulary.owners[part.platforms[0]])
        assert part.arrays["item_vectors"].shape == (len(part.positions), 3)


def test_a_secure_sum_comes_last_over_all_items_and_senders(tmp_path: Path) -> None:
    ground = Ground(private_plan(), tmp_path)
    collector = ground.enrolled()
    counts = ground.collect(collector, 0)
    assert [(part.platforms, sorted(part.arrays)) for part in counts[:-1]] == [((n,), []) for n in ground.asked.agents]
    assert counts[-1].platforms == tuple(ground.asked.agents)
    assert np.array_equal(counts[-1].positions, np.arange(len(ground.state.vocabulary)))
    assert {n: a.shape for n, a in counts[-1].arrays.items()} == {"counts": (len(ground.state.vocabulary) + 1,)}
    parts = ground.collect(collector, 1)
    assert [sorted(part.arrays) for part in parts] == [["user_gram"]] * 3 + [["item_vectors"]]


@pytest.mark.parametrize(
    ("platforms", "privacy", "enrolment", "a_round"), [(3, {}, 2, 0), (5, {"dropouts": 1}, 3, 1)], ids=["0", "1"]
)
def test_a_round_takes_as_many_messages_as_the_roster_says(
    tmp_path: Path, platforms: int, privacy: dict[str, Any], enrolment: int, a_round: int
) -> None:
    ground = Ground(private_plan(platforms, **privacy), tmp_path)
    collector = ground.enrolled()
    assert set(ground.secure_steps().values()) == {enrolment}
    ground.collect(collector, 0)
    assert set(ground.secure_steps().values()) == {enrolment + a_round}


def test_a_missing_platform_costs_a_certificate_more_and_stays_named(tmp_path: Path) -> None:
    lost = {"platform-2": lambda agent: Tampered(agent, "masked_counts", failing())}
    ground = Ground(private_plan(5, dropouts=1), tmp_path, replaced=lost)
    parts = ground.collect(ground.enrolled(), 0)
    assert parts[-1].platforms == ("platform-0", "platform-1", "platform-3", "platform-4")
    assert ground.exchange.failed == {"platform-2": "internal"}
    steps = ground.secure_steps()
    assert steps.pop("platform-2") == 3
    assert set(steps.values()) == {5}


def test_an_enrolment_is_kept_and_a_resumed_run_goes_on_with_it(tmp_path: Path) -> None:
    ground = Ground(private_plan(5, dropouts=1), tmp_path)
    first = ground.collect(ground.enrolled(), 0)[-1].arrays["counts"]
    before = ground.secure_steps()
    resumed = ground.enrolled()
    assert ground.secure_steps() == before, "nobody is asked again"
    assert np.array_equal(ground.collect(resumed, 0)[-1].arrays["counts"], first)


def test_an_enrolment_of_another_run_is_not_taken(tmp_path: Path) -> None:
    ground = Ground(private_plan(), tmp_path)
    ground.enrolled()
    before = ground.secure_steps()
    ground.state = replace(ground.state, run_id="next")
    for agent in ground.asked.agents.values():
        agent._outbox.ledger.close("run")
    ground.asked.run_id = "next"
    ground.asked.join()
    ground.enrolled()
    assert ground.secure_steps() == {name: steps + 2 for name, steps in before.items()}
    saved = SecureSumServer.from_state((ground.folder / "secure_sum.json").read_bytes())
    assert saved.roster.run_id == "next"


def test_an_aggregator_that_has_lost_its_enrolment_gets_the_same_one(tmp_path: Path) -> None:
    ground = Ground(private_plan(), tmp_path)
    ground.enrolled()
    kept = ground.folder / "secure_sum.json"
    first = kept.read_bytes()
    kept.unlink()
    ground.enrolled()
    assert kept.read_bytes() == first


def test_a_platform_that_refuses_to_enrol_is_named_with_its_code(tmp_path: Path) -> None:
    def refuse(_: AgentRequest, reply: AgentReply) -> AgentReply:
        return replace(reply, code="secure-sum", arrays={})

    ground = Ground(
        private_plan(), tmp_path, replaced={"platform-1": lambda agent: Tampered(agent, "secure_sum", refuse)}
    )
    with pytest.raises(SecureSumError, match=r"step 'advertise' of the secure sum failed at platform-1 \(secure-sum\)"):
        ground.enrolled()
    assert not (ground.folder / "secure_sum.json").exists()


def test_no_sum_without_an_enrolment(tmp_path: Path) -> None:
    ground = Ground(private_plan(), tmp_path)
    with pytest.raises(FederationError, match="no enrolment yet"):
        ground.collect(SecureCollector(ground.plan, ground.folder), 0)


def test_one_missing_platform_voids_a_round_without_dropouts(tmp_path: Path) -> None:
    lost = {"platform-0": lambda agent: Tampered(agent, "masked_counts", failing())}
    ground = Ground(private_plan(), tmp_path, replaced=lost)
    collector = ground.enrolled()
    with pytest.raises(SecureSumError, match="tolerates no dropout"):
        ground.collect(collector, 0)


def with_another(name: str, change: Any) -> Any:
    def tamper(_: AgentRequest, reply: AgentReply) -> AgentReply:
        return replace(reply, arrays=dict(reply.arrays) | {name: change(np.array(reply.arrays[name]))})

    return tamper


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("item_vectors", lambda a: a[:-1].copy()),
        ("item_vectors", lambda a: a.astype(np.float64)),
        ("user_gram", lambda a: a[:-1].copy()),
        ("raw_interactions", None),
    ],
)
def test_open_answers_outside_the_contract_are_left_out_and_named(tmp_path: Path, array: str, change: Any) -> None:
    def undeclared(_: AgentRequest, reply: AgentReply) -> AgentReply:
        return replace(reply, arrays=dict(reply.arrays) | {array: np.zeros(3)})

    tamper = undeclared if change is None else with_another(array, change)
    ground = Ground(
        private_plan(noise="per_platform"),
        tmp_path,
        replaced={"platform-1": lambda agent: Tampered(agent, "statistics", tamper)},
    )
    parts = ground.collect(OpenCollector(ground.plan), 1)
    assert [part.platforms for part in parts] == [("platform-0",), ("platform-2",)]
    assert ground.exchange.failed == {"platform-1": ContractError.code}


def test_a_misshapen_open_part_keeps_its_platform_out_of_the_sum(tmp_path: Path) -> None:
    """Else the sum would be of five and the Gram matrix of four."""
    bad = {
        "platform-1": lambda agent: Tampered(
            agent, "masked_statistics", with_another("user_gram", lambda a: a[:-1].copy())
        )
    }
    ground = Ground(private_plan(5, dropouts=1), tmp_path, replaced=bad)
    parts = ground.collect(ground.enrolled(), 1)
    senders: Iterable[str] = [part.platforms[0] for part in parts[:-1]]
    assert list(senders) == list(parts[-1].platforms) == ["platform-0", "platform-2", "platform-3", "platform-4"]
