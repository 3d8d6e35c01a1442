"""Tiny platforms, agents and federations for tests, and connections that misbehave. No network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from client.agent import PlatformAgent
from client.app import make_courier
from client.contributions.contributor import Contributor
from client.contributions.membership import Membership
from client.data.dataset import ItemTable, UserItemMatrix
from client.data.report import CleaningReport
from client.data.split import EvaluationSlice
from client.data.training import TrainingData
from common.catalogue import FederationSecret
from common.config.data import DataConfig, InteractionsConfig
from common.config.federation import FederationPlan
from common.config.model import FactorizationConfig
from common.config.platform import PersonalizationConfig
from common.privacy.contribution import PrivatizedContribution
from common.wire.exchange import AgentConnection, AgentReply, AgentRequest
from server.federation.exchange import SilentObserver
from server.federation.state import RoundRecord
from simulations.engine.datasets import SimulatedPlatform
from simulations.engine.federate import FederationOutcome, build_models, make_agents, run_federation, simulation_secret
from simulations.engine.grid import InlineGrid
from simulations.scenarios.scenario import Scenario
from simulations.scenarios.sources import PartitionSource

SEED = 5
NO_REPORT = CleaningReport(source="-", rows_read=0, rows_kept=0, dropped=(), users=0, items=0)
SECRET: FederationSecret = simulation_secret(SEED)
FAST = PersonalizationConfig(tuning_candidates=1, anchored=False, blend_weights=(1.0,), seed=SEED)
MODEL = FactorizationConfig(dimension=4, regularization=2.0, unobserved_weight=0.3)


def small_plan(**changes: Any) -> FederationPlan:
    """Three rounds of four dimensions, exact sums, no early stop."""
    model = MODEL.model_copy(update=changes.pop("model", {}))
    return FederationPlan(**{"rounds": 3, "tolerance": 0.0, "model": model, "privacy": {"mode": "none"}} | changes)


def matrix(rows: Sequence[Mapping[int, float] | Iterable[int]], n_items: int) -> UserItemMatrix:
    """One row a user: column → value, or the columns alone, which then count 1. Order is order in time."""
    entries = [
        (user, item, value)
        for user, row in enumerate(rows)
        for item, value in (row.items() if isinstance(row, Mapping) else ((item, 1.0) for item in row))
    ]
    users, items, values = (np.array([entry[part] for entry in entries]) for part in range(3))
    return UserItemMatrix.from_entries(
        users.astype(np.int64),
        items.astype(np.int64),
        values.astype(np.float64),
        np.arange(len(entries)),
        n_users=len(rows),
        n_items=n_items,
    )


def item_table(keys: Sequence[str]) -> ItemTable:
    return ItemTable(
        keys=tuple(keys),
        titles=tuple(f"Title of {key}" for key in keys),
        genres=tuple(("Drama",) if index % 2 else ("Comedy", "War") for index, _ in enumerate(keys)),
        attributes=pl.DataFrame({"key": list(keys)}),
    )


def no_slice(train: UserItemMatrix) -> EvaluationSlice:
    """A slice that nobody is in."""
    return EvaluationSlice(np.zeros(0, dtype=np.int64), train, train.select_entries(np.zeros(train.nnz, dtype=bool)))


def training_data(
    keys: Sequence[str],
    train: UserItemMatrix,
    *,
    validation: EvaluationSlice | None = None,
    shared: NDArray[np.bool_] | None = None,
    user_prefix: str = "user",
) -> TrainingData:
    return TrainingData(
        user_ids=tuple(f"{user_prefix}-{row}" for row in range(train.n_users)),
        items=item_table(keys),
        train=train,
        validation=no_slice(train) if validation is None else validation,
        shared=np.ones(len(keys), dtype=np.bool_) if shared is None else shared,
    )


def random_matrix(
    rng: np.random.Generator, n_users: int, n_items: int, *, explicit: bool = False, longest: int | None = None
) -> UserItemMatrix:
    """Histories of very different length; some users and some items may have nothing."""
    longest = min(n_items, longest or n_items)
    rows: list[dict[int, float]] = []
    for _ in range(n_users):
        length = min(longest, int(rng.geometric(2.5 / max(longest, 3))))
        items = rng.permutation(n_items)[:length]
        values = rng.integers(1, 6, len(items)) if explicit else np.ones(len(items))
        rows.append(dict(zip(items.tolist(), values.astype(float).tolist(), strict=True)))
    return matrix(rows, n_items)


def random_platforms(
    seed: int, sizes: Sequence[int], *, n_items: int = 24, explicit: bool = False, validated: bool = False
) -> dict[str, TrainingData]:
    """Platforms of the given numbers of users with catalogues that overlap in part, each in an order of its own."""
    rng = np.random.default_rng(seed)
    platforms = {}
    for index, n_users in enumerate(sizes):
        common = np.arange(n_items // 3)
        rest = np.arange(n_items // 3, n_items)
        own = rng.permutation(np.concatenate([common, rest[rng.random(len(rest)) < 0.6]]))
        train = random_matrix(rng, n_users, len(own), explicit=explicit)
        keys = [f"imdb:{item:07d}" for item in own]
        validation = held_out_last(train) if validated else None
        platforms[f"platform-{index}"] = training_data(
            keys,
            train if validation is None else validation.history,
            validation=validation,
            user_prefix=f"person-{index}",
        )
    return platforms


def held_out_last(everything: UserItemMatrix) -> EvaluationSlice:
    """Each user's last entry as truth, the others as history (users with one entry keep it)."""
    last = np.zeros(everything.nnz, dtype=bool)
    last[(everything.indptr[1:] - 1)[everything.row_lengths > 1]] = True
    truth = everything.select_entries(last)
    return EvaluationSlice(np.flatnonzero(truth.row_lengths), everything.select_entries(~last), truth)


def agents_of(
    platforms: Mapping[str, TrainingData],
    plan: FederationPlan,
    folder: Path,
    *,
    seed: int = SEED,
    personalization: PersonalizationConfig = FAST,
) -> list[PlatformAgent]:
    """One agent a platform, made as the simulator makes them; ``seed`` decides the federation secret."""
    scenario = Scenario(
        name="test",
        seed=seed,
        partition=PartitionSource(
            data=DataConfig(interactions=InteractionsConfig(path=Path("-")), feedback=plan.model.feedback),
            equal_platforms=1,
        ),
        plan=plan,
        personalization=personalization,
    )
    simulated = [
        SimulatedPlatform(name=name, training=data, test=no_slice(data.train), hidden=None, report=NO_REPORT)
        for name, data in platforms.items()
    ]
    return make_agents(simulated, scenario, folder / "platforms", {})


def contributor_of(agent: PlatformAgent, name: str) -> Any:
    """An agent's half of the kind of contribution ``name``; whether it leaves masked makes no difference."""
    return next(half for half in agent.contributors.values() if half.kind.name == name)


Make = Callable[[Contributor, AgentRequest, Membership], PrivatizedContribution]


class StandIn(Contributor):
    """Makes contributions by ``make``, which is given the real half, too."""

    def __init__(self, real: Contributor, make: Make) -> None:
        super().__init__(real.kind, real.context)
        self._real, self._make = real, make

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        return self._make(self._real, request, membership)


def stand_in(agent: PlatformAgent, name: str, make: Make) -> None:
    """Let ``make`` make an agent's contributions of the kind ``name``."""
    for wire_name, half in agent.contributors.items():
        if half.kind.name == name:
            agent.contributors[wire_name] = StandIn(half, make)


def federate(
    agents: Sequence[AgentConnection], plan: FederationPlan, folder: Path, **options: Any
) -> FederationOutcome:
    """Run the strategy over ``agents``, which may be stand-ins for real ones; the models of all are built."""
    outcome = run_federation(agents, plan, folder / "aggregator", **options)  # type: ignore[arg-type]
    build_models([agent for agent in map(agent_behind, agents) if agent is not None])
    return outcome


def agent_behind(connection: Any) -> PlatformAgent | None:
    """The real agent of a stand-in, where it has one in this process."""
    while connection is not None and not isinstance(connection, PlatformAgent):
        connection = getattr(connection, "agent", None) or getattr(connection, "_agent", None)
    return connection


def run_platforms(
    platforms: Mapping[str, TrainingData], plan: FederationPlan, folder: Path, **options: Any
) -> FederationOutcome:
    """A whole federation of healthy platforms."""
    return federate(agents_of(platforms, plan, folder), plan, folder, **options)


def flower_message(content: RecordDict, server_round: int = 0, kind: str = "train") -> Message:
    """A message as a grid would deliver it; Flower makes messages only in processes that have a task."""
    InlineGrid(make_courier(lambda context: pytest.fail("no agent is here")), {})
    return Message(content, dst_node_id=1, message_type=kind, group_id=str(server_round))


Tamper = Callable[[AgentRequest, AgentReply], AgentReply]


class Recorder:
    """Passes everything on and keeps requests and replies."""

    def __init__(self, agent: AgentConnection) -> None:
        self.agent = agent
        self.seen: list[tuple[AgentRequest, AgentReply]] = []

    def exchange(self, request: AgentRequest) -> AgentReply:
        reply = self.agent.exchange(request)
        self.seen.append((request, reply))
        return reply

    def requests(self, kind: str) -> list[AgentRequest]:
        return [request for request, _ in self.seen if request.kind == kind]

    def replies(self, kind: str) -> list[AgentReply]:
        return [reply for request, reply in self.seen if request.kind == kind]


class Tampered:
    """Answers of ``kind`` (in ``rounds``, by default all) are changed on their way to the aggregator."""

    def __init__(self, agent: AgentConnection, kind: str, tamper: Tamper, rounds: Iterable[int] | None = None) -> None:
        self._agent = agent
        self._kind = kind
        self._tamper = tamper
        self._rounds = None if rounds is None else set(rounds)

    def exchange(self, request: AgentRequest) -> AgentReply:
        reply = self._agent.exchange(request)
        if request.kind == self._kind and (self._rounds is None or request.server_round in self._rounds):
            return self._tamper(request, reply)
        return reply


def with_array(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Tamper:
    """Replace one array of a reply by what ``change`` makes of it."""

    def tamper(_: AgentRequest, reply: AgentReply) -> AgentReply:
        return replace(reply, arrays=dict(reply.arrays) | {name: change(np.array(reply.arrays[name]))})

    return tamper


def failing(message: str = "the platform broke down") -> Tamper:
    """Raise what no platform should, with a text that must stay at home."""

    def tamper(_: AgentRequest, __: AgentReply) -> AgentReply:
        raise RuntimeError(message)

    return tamper


class Watch(SilentObserver):
    """Remembers what the aggregator tells its observer."""

    def __init__(self) -> None:
        self.failures: list[tuple[int, str, str]] = []
        self.rounds: list[RoundRecord] = []

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        if code != "ok":
            self.failures.append((server_round, platform, code))

    def on_round(self, record: RoundRecord) -> None:
        self.rounds.append(record)


def factors_by_key(outcome: FederationOutcome, platforms: Mapping[str, TrainingData]) -> dict[str, NDArray[np.float32]]:
    """The aggregator's item parameters by item key, which it never knew."""
    keys = sorted({key for data in platforms.values() for key in data.items.keys})
    rows = {digest.tobytes(): position for position, digest in enumerate(outcome.state.vocabulary.digests)}
    found = [(key, rows.get(SECRET.digests([key])[0].tobytes())) for key in keys]
    return {key: outcome.state.item_parameters[row] for key, row in found if row is not None}
