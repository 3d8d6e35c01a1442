"""A kind of contribution that crossfed has not: three halves and one registration carry it through a whole federation.

What this file defines is all that adding a kind takes: the shared half, the client half, the server half, and ``registered``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.contributions.contributor import Contributor
from client.contributions.membership import Membership
from client.data.training import TrainingData
from client.privacy.card import card_content, card_text
from common.config.federation import FederationPlan
from common.contributions import registry
from common.contributions.factors import PlainMechanism
from common.contributions.kind import ContributionKind
from common.contributions.run_plan import RunPlan
from common.privacy.contribution import PrivatizedContribution, Release
from common.privacy.minting import mint
from common.privacy.plan import LOG2_SHARE_STEPS, GaussianNoise, noise_shares
from common.privacy.quantise import SHRINK
from common.privacy.sampler import SystemNoise, discrete_gaussian
from common.wire.contract import ArraySpec
from common.wire.exchange import AgentRequest, Arrays
from server.aggregation.phase import Phase, Question, Step
from server.federation.checkpoint import CheckpointStore
from server.federation.collect import Contribution
from server.federation.state import FederationState
from tests.contracts.kind_contract import PLANS, KindContract
from tests.private_support import charges_of, private_plan, private_platforms, sent_by
from tests.support import Recorder, agents_of, federate, small_plan

BUCKETS, SHARE = 4, 0.1
EDGES = np.array([0, 2, 4, 8])


class LengthsKind(ContributionKind):
    """How many users have histories of which length, in four buckets; each user is in one, so the sensitivity is 1."""

    name = "lengths"
    title = "lengths of histories"
    released = ("lengths",)
    client_half = f"{__name__}:LengthsContributor"
    server_half = f"{__name__}:LengthsPhase"

    def rounds(self, plan: FederationPlan) -> range:
        return range(1)

    def exact(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ArraySpec("lengths", "float64", (BUCKETS,)),)

    def noisy(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ArraySpec("lengths", "int64", (BUCKETS,)),)

    def final(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        return (ArraySpec("users_by_length", "float64", (BUCKETS,)),)

    def share(self, plan: FederationPlan) -> float:
        return SHARE

    def noise(self, plan: FederationPlan) -> GaussianNoise:
        multiplier = (1 + 1e-12) / (RunPlan.of(plan).gaussian_mu * np.sqrt(SHARE))
        shares = noise_shares(plan.privacy, plan.platforms or 1)
        return GaussianNoise(sensitivity=1.0, noise_multiplier=multiplier, shares=shares, masked=plan.secure_sum)

    def noisy_releases(self, plan: FederationPlan, server_round: int) -> tuple[Release, ...]:
        multiplier = self.noise(plan).noise_multiplier
        return (Release(kind="lengths", mechanism="gaussian", noise_multiplier=multiplier),)

    def noises(self, plan: FederationPlan, server_round: int) -> tuple[GaussianNoise, ...]:
        return (self.noise(plan),)

    def masked_length(self, plan: FederationPlan, n_items: int) -> int:
        return BUCKETS

    def split(self, plan: FederationPlan, total: NDArray[np.int64], n_items: int) -> Arrays:
        return {"lengths": total}


class LengthsContributor(Contributor):
    """The platform's half, with a mechanism of its own."""

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        plan, counted = self.context.plan, by_length(self.context.data)
        if not plan.private:
            return PlainMechanism().release("lengths", 0, {"lengths": counted.astype(np.float64)})
        assert isinstance(self.kind, LengthsKind)
        noise = self.kind.noise(plan)
        sums = counted * int(SHRINK / noise.grid_step) + discrete_gaussian(BUCKETS, LOG2_SHARE_STEPS, SystemNoise())
        return mint(
            kind="lengths",
            server_round=0,
            private=True,
            arrays={"lengths": sums},
            grid_steps={"lengths": noise.grid_step},
            masked=frozenset({"lengths"} if noise.masked else ()),
            releases=self.kind.noisy_releases(plan, 0),
        )


class LengthsPhase(Phase):
    """The aggregator's half: adds up."""

    record = "lengths"

    def due(self, state: FederationState, present: Collection[str]) -> bool:
        return "lengths" not in state.results

    def question(self, state: FederationState) -> Question:
        return Question(server_round=0)

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Step:
        assert isinstance(self.kind, LengthsKind)
        unit = self.kind.noise(self.plan).grid_step if self.plan.private else 1.0
        total, platforms = np.zeros(BUCKETS), set[str]()
        for part in contributions:
            platforms.update(part.platforms)
            total += part.arrays.get("lengths", np.zeros(BUCKETS)) * unit
        after = replace(state, results={**state.results, "lengths": {"users_by_length": total}})
        return Step(state=after, platforms=tuple(sorted(platforms)))

    def did(self, question: Question) -> str:
        return "sent their lengths"

    def final(self, state: FederationState) -> Arrays:
        return state.results["lengths"]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> ContributionKind:
    """The one registration: after what else is gathered once, before training."""
    kind = LengthsKind()
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS[:2], kind, *registry.KINDS[2:]))
    return kind


class TestLengths(KindContract):
    @pytest.fixture
    def kind(self, registered: ContributionKind) -> ContributionKind:
        return registered


def by_length(data: TrainingData) -> NDArray[np.int64]:
    lengths = data.train.row_lengths
    return np.bincount(np.searchsorted(EDGES, lengths, side="right") - 1, minlength=BUCKETS)


MODES: Mapping[str, FederationPlan] = {
    "none": small_plan(rounds=2),
    "per platform": private_plan(noise="per_platform"),
    "secure sum": private_plan(),
    "dropouts": private_plan(4, dropouts=1),
}


@pytest.mark.parametrize("mode", MODES)
def test_an_added_kind_runs_through_a_whole_federation(tmp_path: Path, mode: str) -> None:
    plan = MODES[mode]
    name = f"masked_{LengthsKind.name}" if plan.secure_sum else LengthsKind.name
    platforms = private_platforms(plan.platforms or 3)
    agents = agents_of(platforms, plan, tmp_path)
    recorders = [Recorder(agent) for agent in agents]
    outcome = federate(recorders, plan, tmp_path)

    truth = np.sum([by_length(data) for data in platforms.values()], axis=0)
    found = outcome.state.results["lengths"]["users_by_length"]
    spread = LengthsKind().noise(plan).actual_sigma(len(platforms)) if plan.private else 0.0
    assert np.abs(found - truth).max() <= 7 * spread
    assert outcome.state.server_round == 2
    assert [record.phase for record in outcome.state.history] == ["lengths", "factors", "factors"]
    kept = CheckpointStore(tmp_path / "aggregator" / "checkpoints").latest(plan)
    assert kept is not None
    np.testing.assert_array_equal(kept.results["lengths"]["users_by_length"], found)

    for agent, recorder in zip(agents, recorders, strict=True):
        (asked,), (finish,) = recorder.replies(name), recorder.requests("finish")
        assert asked.arrays.keys() == {"masked" if plan.secure_sum else "lengths"}
        np.testing.assert_array_equal(finish.arrays["users_by_length"], found)
        assert [release["kind"] for charge in charges_of(agent) for release in charge["releases"]].count("lengths") == 1
        assert [entry["kind"] for entry in sent_by(agent)].count(name) == 1


def test_its_cost_is_part_of_the_run_and_its_name_on_the_card(tmp_path: Path) -> None:
    plan = MODES["per platform"]
    (agent, *_) = agents = agents_of(private_platforms(), plan, tmp_path)
    federate(agents, plan, tmp_path)
    spent = agent.spend()
    assert spent.spend.mu == pytest.approx(RunPlan.of(plan).gaussian_mu)
    text = card_text(plan, card_content(plan, {agent.name: spent}))
    assert LengthsKind.title in text


def test_a_platform_asked_twice_pays_and_answers_once(tmp_path: Path) -> None:
    plan = MODES["per platform"]
    recorders = [Recorder(agent) for agent in agents_of(private_platforms(), plan, tmp_path)]
    federate(recorders, plan, tmp_path)
    agent: Any = recorders[0].agent
    (asked,), before = recorders[0].requests("lengths"), charges_of(agent)
    assert agent.exchange(asked).code == "out-of-order", "the run is closed"
    assert charges_of(agent) == before


def test_plans_of_the_contract_have_it() -> None:
    for plan in PLANS.values():
        assert LengthsKind.name in [kind.name for kind in registry.kinds_of(plan)]
