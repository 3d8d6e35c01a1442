"""Tiny private federations for tests, and an aggregator whose every step a test can take by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.agent import PlatformAgent
from client.contributions.contributor import Contributor
from client.contributions.membership import Membership
from client.data.training import TrainingData
from client.privacy.budget import mu_squared
from client.privacy.ledger import BudgetLedger
from client.privacy.outbox import Outbox
from common.catalogue import Vocabulary
from common.config.federation import FederationPlan
from common.contributions.broadcast import card_arrays, round_context, vocabulary_arrays, vocabulary_digest
from common.contributions.kind import ContributionKind
from common.contributions.masked_rounds import secure_rounds
from common.contributions.run_plan import read_plan
from common.privacy.contribution import PrivatizedContribution
from common.privacy.lifetime import budget_policy
from common.privacy.postprocess import ReleasedSums, item_factors
from common.privacy.secure_sum import Roster, SecureSumRound, SecureSumServer
from common.wire.exchange import AgentReply, AgentRequest, Arrays
from server.aggregation.factor_phases import StatisticsPhase
from server.aggregation.phase import Step, phases_of
from server.aggregation.private_factors import SharedGramAggregation
from server.federation.collect import Contribution
from server.federation.state import FederationState
from simulations.scenarios.scenario import Scenario
from tests.support import agents_of, random_platforms, stand_in

SIZES = (20, 12, 8, 6, 5)
D = 3
DEEP = {
    "dimension": 4,
    "training": {"rounds": 2},
    "privacy": {"noise_multiplier": 50.0, "sampling_rate": 0.5, "share": 0.5},
}


def private_plan(platforms: int = 3, **privacy: Any) -> FederationPlan:
    """Two rounds of three dimensions; 16 of some 24 items are kept, and long histories are clipped."""
    settings = {
        "mode": "user",
        "minimum_users": 1,
        "user_bound": 100,
        "tuned_training": False,
        "clip_norm": 0.4,
        "weight_total": 4.0,
        "popularity_exponent": 0.3,
        "max_count_contribution": 3.0,
        "kept_items": 16,
    }
    return read_plan(
        {
            "federation": "test",
            "platforms": platforms,
            "rounds": 2,
            "model": {"dimension": D, "regularization": 0.3, "unobserved_weight": 0.2, "backend": "numba"},
            "privacy": settings | privacy,
        }
    )


def whole_plan(noise: str) -> FederationPlan:
    """A plan with all kinds of contributions."""
    plan = private_plan(noise=noise).model_dump()
    linear = {"max_items": 40, "privacy": {"kept_items": 8}}
    return read_plan(plan | {"linear": linear, "towers": DEEP})


def private_platforms(platforms: int = 3) -> dict[str, TrainingData]:
    return random_platforms(3, SIZES[:platforms])


def outbox_of(agent: PlatformAgent) -> Outbox:
    return agent._outbox


def charges_of(agent: PlatformAgent) -> list[dict[str, Any]]:
    entries = [entry.content for entry in outbox_of(agent).ledger.entries()]
    return [dict(entry) for entry in entries if entry["event"] == "charged"]


def charged_mu_squared(agent: PlatformAgent) -> float:
    return mu_squared(
        release for run in outbox_of(agent).ledger.spend().runs for charge in run.charges for release in charge.releases
    )


def sent_by(agent: PlatformAgent) -> list[dict[str, Any]]:
    """The journal's entries of what left."""
    entries = [dict(entry.content) for entry in outbox_of(agent).journal.entries()]
    return [entry for entry in entries if entry["event"] in ("sent", "replied")]


def lower_budget(agent: PlatformAgent, folder: Path, epsilon: float) -> None:
    """Another process of the platform opens the ledger under a smaller lifetime budget."""
    policy = budget_policy(agent.plan)
    lowered = type(policy)(epsilon=epsilon, delta=policy.delta)
    BudgetLedger.open(folder / "platforms" / agent.name, lowered)


class NotedStatistics(StatisticsPhase):
    """Notes of each round the state before it and what was added up."""

    def __init__(self, kind: ContributionKind, plan: FederationPlan) -> None:
        super().__init__(kind, plan)
        self.rounds: list[tuple[FederationState, list[Contribution]]] = []

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Step:
        self.rounds.append((state, list(contributions)))
        return super().solve(state, self.rounds[-1][1])


class Tap:
    """Notes what mechanisms of ``agents`` released before it was masked, and what the aggregator added up.

    A federation has to be given :attr:`phases`.
    """

    def __init__(self, plan: FederationPlan, agents: Sequence[PlatformAgent]) -> None:
        self._plan = plan
        self.released: list[PrivatizedContribution] = []
        self.phases = [
            NotedStatistics(one.kind, plan) if type(one) is StatisticsPhase else one for one in phases_of(plan)
        ]
        for agent in agents:
            for kind in ("counts", "statistics"):
                stand_in(agent, kind, self._release)

    def _release(self, real: Contributor, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        self.released.append(real.make(request, membership))
        return self.released[-1]

    @property
    def solved(self) -> list[ReleasedSums]:
        """Return what the solve of each round is given."""
        noted = next(one for one in self.phases if isinstance(one, NotedStatistics))
        return [self._sums(state, parts) for state, parts in noted.rounds]

    def _sums(self, state: FederationState, parts: Sequence[Contribution]) -> ReleasedSums:
        given: list[ReleasedSums] = []

        def solve(sums: ReleasedSums, *rest: Any) -> NDArray[np.float64]:
            given.append(sums)
            return item_factors(sums, *rest)

        SharedGramAggregation(self._plan, solve=solve).solve(state, parts)
        return given[0]

    def of_round(self, server_round: int) -> list[PrivatizedContribution]:
        """In order of platform name, as the inline grid asks."""
        return [part for part in self.released if part.server_round == server_round]


@dataclass
class HandMade:
    """An aggregator by hand: every request is a test's own."""

    agents: dict[str, PlatformAgent]
    plan: FederationPlan
    vocabulary: Vocabulary
    run_id: str = "run"

    def request(self, kind: str, server_round: int = 0, **parts: Any) -> AgentRequest:
        return AgentRequest(kind=kind, run_id=self.run_id, server_round=server_round, **parts)

    def ask(self, name: str, kind: str, server_round: int = 0, **parts: Any) -> AgentReply:
        return self.agents[name].exchange(self.request(kind, server_round, **parts))

    def parameters(self, seed: int = 0) -> Arrays:
        m = len(self.vocabulary)
        factors = np.random.default_rng(seed).normal(size=(m, self.plan.row)) / np.sqrt(m)
        return {"item_parameters": factors.astype(np.float32), "item_counts": np.arange(m, 0, -1, dtype=np.float64)}

    def join(self) -> None:
        """Greeting and vocabulary, as the strategy does both."""
        for name in self.agents:
            reply = self.ask(name, "join", config={"plan": self.plan.model_dump(mode="json")})
            assert reply.code == "ok", reply.code
        self.tell_vocabulary()

    def tell_vocabulary(self) -> None:
        for name in self.agents:
            reply = self.ask(name, "vocabulary", **self.vocabulary_parts())
            assert reply.code == "ok", reply.code

    def vocabulary_parts(self) -> dict[str, Any]:
        arrays = vocabulary_arrays(self.vocabulary) | card_arrays([b""] * len(self.vocabulary))
        return {"config": {"platforms": list(self.vocabulary.owners)}, "arrays": arrays}

    def roster(self, names: Sequence[str] | None = None, **changes: Any) -> Roster:
        members = list(self.agents if names is None else names)
        terms: dict[str, Any] = {
            "run_id": self.run_id,
            "identities": {name: self.agents[name]._member().public_key.tobytes() for name in members},
            "colluders": self.plan.privacy.colluders,
            "dropouts": self.plan.privacy.dropouts,
            "rounds": secure_rounds(self.plan, platforms=len(members), n_items=len(self.vocabulary)),
        }
        return Roster.agree(**(terms | changes))

    def step(self, name: str, step: str, message: bytes, server_round: int = 0) -> AgentReply:
        arrays = {"message": np.frombuffer(message, dtype=np.uint8)}
        return self.ask(name, "secure_sum", server_round, config={"step": step}, arrays=arrays)

    def enrol(self) -> SecureSumServer:
        roster = self.roster()
        server = SecureSumServer(roster)
        for name in self.agents:
            server.add_advert(name, bytes_of(self.step(name, "advertise", roster.to_bytes())))
        for name in self.agents:
            server.add_shares(name, bytes_of(self.step(name, "enrol", server.enrolment())))
        if roster.dropouts:
            for name in self.agents:
                assert bytes_of(self.step(name, "receive", server.mailbag(name))) == b"ok"
        return server

    def masked_round(self, server: SecureSumServer, server_round: int, names: Sequence[str]) -> SecureSumRound:
        """Ask ``names`` for their masked contributions; the round as the aggregator holds it then."""
        length = (len(self.vocabulary) + 1, *[len(self.vocabulary) * self.plan.row] * 2)[server_round]
        current = server.open_round(server_round, length, self.context(server_round))
        for name in names:
            current.add_masked(name, self.masked(name, server_round).arrays["masked"].tobytes())
        return current

    def context(self, server_round: int, seed: int = 0) -> bytes:
        """The digest of what :meth:`masked` asks, as the aggregator computes it from what it sends."""
        told = self.vocabulary_parts()
        digest = vocabulary_digest(told["config"]["platforms"], told["arrays"]["digests"], told["arrays"]["owners"])
        return round_context(self._masked_request(server_round, seed), digest)

    def masked(self, name: str, server_round: int, seed: int = 0) -> AgentReply:
        return self.agents[name].exchange(self._masked_request(server_round, seed))

    def _masked_request(self, server_round: int, seed: int) -> AgentRequest:
        if server_round == 0:
            return self.request("masked_counts", 0)
        return self.request("masked_statistics", server_round, arrays=self.parameters(seed))


def bytes_of(reply: AgentReply) -> bytes:
    assert reply.code == "ok", reply.code
    return reply.arrays["message"].tobytes()


def by_hand(
    platforms: Mapping[str, TrainingData], plan: FederationPlan, folder: Path, *, joined: bool = True
) -> HandMade:
    """Agents of ``platforms`` with an aggregator by hand."""
    agents = {agent.name: agent for agent in agents_of(platforms, plan, folder)}
    catalogues: dict[str, NDArray[np.uint8]] = {}
    for name, agent in agents.items():
        keys = [agent.data.items.keys[column] for column in agent.data.shared_columns]
        catalogues[name] = agent._secret.digests(keys)
    aggregator = HandMade(agents, plan, Vocabulary.empty().extended(catalogues))
    if joined:
        aggregator.join()
    return aggregator


def private_scenario(folder: Path, *, users: int = 60, items: int = 24, **parts: Any) -> Scenario:
    """Three platforms cut from files of users whose ids are easy to find again (``visitor-…@example.org``)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(4)
    rows = ["user_id,item_id,timestamp"]
    for user in range(users):
        # Two tastes, so that there is something to learn.
        weights = np.where((np.arange(items) + user) % 2, 5.0, 1.0)
        chosen = rng.choice(items, size=int(rng.integers(5, 10)), replace=False, p=weights / weights.sum())
        rows += [f"visitor-{user:03d}@example.org,{item},{time}" for time, item in enumerate(chosen)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    catalogue = ["item_id,imdb_id,title", *(f"{item},{9000 + item},Film {item}" for item in range(items))]
    (folder / "items.csv").write_text("\n".join(catalogue) + "\n")
    content: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "partition": {
            "data": {
                "interactions": {"path": str(folder / "interactions.csv")},
                "items": {"path": str(folder / "items.csv"), "namespace": "imdb"},
            },
            "equal_platforms": 3,
            "common_items": 0.5,
        },
        "plan": private_plan().model_dump(mode="json"),
        "personalization": {"tuning_candidates": 1, "anchored": False, "blend_weights": [1.0]},
        "cross": {"ceiling": False, "tune_beta": False},
    }
    return Scenario.model_validate(content | parts)
