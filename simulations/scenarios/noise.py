"""The noise of a deep model's rounds, for a plan that states none: the aggregator has no accountant, a simulation has."""

from __future__ import annotations

from common.config.federation import FederationPlan
from common.config.towers import TowerConfig
from common.privacy.accounting import calibrate_subsampled


def with_noise(towers: TowerConfig, *, epsilon: float, delta: float) -> TowerConfig:
    """``towers`` with the smallest noise multiplier that keeps its rounds within its share of (ε, δ)."""
    own = towers.privacy
    multiplier = calibrate_subsampled(own.share * epsilon, own.sampling_rate, towers.training.rounds, own.share * delta)
    return towers.model_copy(update={"privacy": own.model_copy(update={"noise_multiplier": multiplier})})


def plan_with_noise(plan: FederationPlan) -> FederationPlan:
    """``plan``, its federated deep model's noise stated; unchanged without one, without privacy, or where it is stated."""
    shared = plan.federated_towers
    if shared is None or not plan.private or shared.privacy.noise_multiplier is not None:
        return plan
    towers = with_noise(shared, epsilon=plan.privacy.epsilon, delta=plan.delta)
    return plan.model_copy(update={"towers": towers})
