"""Measures what a federation has brought each platform: the blocks of ``result.json`` that the closing table is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from client.personalization.platform_model import PlatformModel, ranked_by
from common.catalogue import FederationSecret
from common.config.federation import FederationPlan
from server.federation.state import FederationState
from simulations.engine.datasets import HiddenItems, SimulatedPlatform
from simulations.engine.federate import FederationOutcome
from simulations.evaluation.measure import (
    Block,
    CrossPlatformTask,
    Evaluator,
    measure_cross,
    measure_own,
    measure_pooled,
    measure_shared,
    shared_model,
    train_ceiling,
)
from simulations.evaluation.paired import Measured
from simulations.evaluation.pooled import PlatformMatrix, train_pooled, without_privacy
from simulations.scenarios.scenario import Scenario


@dataclass(frozen=True, eq=False, kw_only=True)
class _Judge:
    """Measures platforms' models against the federation's and against pooled training.

    Attributes:
        scenario: as it was trained.
        platforms: all.
        state: of the federation at its end.
        pooled: of exact sums of all platforms' users, which tell what noise has cost.
        pooled_plan: what that was trained by.
        secret: the platforms'.
        evaluator: ranks and counts.
        kept: takes what each user has, for paired comparisons.
    """

    scenario: Scenario
    platforms: list[SimulatedPlatform]
    state: FederationState
    pooled: FederationState
    pooled_plan: FederationPlan
    secret: FederationSecret
    evaluator: Evaluator
    kept: Measured

    def measured(self, platform: SimulatedPlatform, model: PlatformModel, pooled: Block) -> Block:
        """A platform's block of ``result.json``; ``pooled`` is what pooled training's factors reach on its items."""
        block: Block = {
            "users": platform.training.train.n_users,
            "items": len(platform.training.items),
            "interactions": platform.interactions,
            "cleaning": platform.report.as_dict(),
            "verdict": _verdict(model),
            "recency": {name: asdict(one) for name, one in model.recencies.items()},
            "own": measure_own(self.evaluator, platform, model, self.kept),
            "cross": None if platform.hidden is None else self._cross(platform, platform.hidden, model),
        }
        if self.scenario.plan.private:
            # Exact sums make pooled training's factors, whoever adds them up.
            block["own"]["shared_without_noise"] = pooled
        return block

    def _cross(self, platform: SimulatedPlatform, hidden: HiddenItems, model: PlatformModel) -> Block:
        """On the others' items."""
        task = CrossPlatformTask.of(platform, hidden, self.state, self.secret)
        ceiling, half = (
            train_ceiling(self.platforms, task, self.state, self.scenario, self.secret)
            if self.scenario.cross.ceiling
            else (None, None)
        )
        cross = measure_cross(self.evaluator, task, model.shared, model.cross_scorer(), ceiling, half, self.kept)
        if self.scenario.plan.private:
            exact = CrossPlatformTask.of(platform, hidden, self.pooled, self.secret)
            shared = shared_model(self.pooled, self.pooled_plan)
            cross["shared_without_noise"] = measure_shared(self.evaluator, exact, shared)
        return cross | {
            "chosen": None if model.cross_verdict is None else asdict(model.cross_verdict),
            "weights": dict(model.cross.weights),
            "beta": model.cross.beta,
        }


def measure_platforms(
    scenario: Scenario,
    platforms: list[SimulatedPlatform],
    outcome: FederationOutcome,
    secret: FederationSecret,
    kept: Measured,
) -> tuple[dict[str, Block], dict[str, Block]]:
    """Blocks by platform: of the federation's models, and of pooled training.

    Args:
        scenario: as it was trained.
        platforms: all.
        outcome: of the federation.
        secret: the platforms'.
        kept: takes what each user has, for paired comparisons.
    """
    stores = {agent.name: agent.store for agent in outcome.agents}
    pool = {platform.name: PlatformMatrix.of(platform.training) for platform in platforms}
    same_rounds = None if scenario.plan.private else max(outcome.state.server_round, 1)
    plan = without_privacy(scenario.plan, rounds=same_rounds)
    judge = _Judge(
        scenario=scenario,
        platforms=platforms,
        state=outcome.state,
        pooled=train_pooled(pool, plan, secret),
        pooled_plan=plan,
        secret=secret,
        evaluator=Evaluator(scenario),
        kept=kept,
    )
    measured: dict[str, Block] = {}
    pooled: dict[str, Block] = {}
    for platform in platforms:
        model = stores[platform.name].load()
        # Folded in alike, so that the two differ by how their factors were made.
        pooled[platform.name] = measure_pooled(
            judge.evaluator, platform, judge.pooled, plan, secret, model.shared.recency
        )
        measured[platform.name] = judge.measured(platform, model, pooled[platform.name])
    return measured, pooled


def _verdict(model: PlatformModel) -> str:
    """The verdict with its weight, and whether a model of it weighs a user's latest interactions more."""
    name, weight = model.verdict.name, model.verdict.weight
    told = name if weight is None else f"{name} {weight:g}"
    return f"{told}, latest weigh more" if model.recencies.keys() & set(ranked_by(name)) else told
