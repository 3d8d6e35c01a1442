"""When a phase of a run is over: all its rounds are done, or it has stopped getting better."""

from __future__ import annotations

from common.config.federation import FederationPlan
from server.federation.state import FederationState, RoundRecord


def factors_settled(plan: FederationPlan, state: FederationState) -> bool:
    """Whether the factorisation has had its last round. Under privacy there is no objective, so all rounds are run."""
    if state.server_round >= _most_rounds(plan, state) or state.tower_round > 0:
        return True
    rounds = _factor_rounds(state)
    return len(rounds) >= 2 and _converged(plan, rounds[-2], rounds[-1].objective, rounds[-1].platforms)


def factors_will_settle(
    plan: FederationPlan, state: FederationState, objective: float | None, platforms: tuple[str, ...]
) -> bool:
    """Whether a round that ``state`` does not have yet, with this objective and these platforms, is the last one."""
    if state.server_round + 1 >= _most_rounds(plan, state):
        return True
    rounds = _factor_rounds(state)
    return bool(rounds) and _converged(plan, rounds[-1], objective, platforms)


def _most_rounds(plan: FederationPlan, state: FederationState) -> int:
    """The plan's rounds, or those after which a model that was chosen in a race was best."""
    return plan.server_rounds if state.choice is None else min(state.choice.rounds, plan.server_rounds)


def _factor_rounds(state: FederationState) -> list[RoundRecord]:
    return [record for record in state.history if record.phase == "factors"]


def _converged(plan: FederationPlan, before: RoundRecord, objective: float | None, platforms: tuple[str, ...]) -> bool:
    # Objectives over different platforms do not compare: one that was left out for a round is no progress.
    if plan.tolerance == 0 or before.objective is None or objective is None or before.platforms != platforms:
        return False
    return before.objective - objective < plan.tolerance * abs(before.objective)


def towers_settled(plan: FederationPlan, state: FederationState) -> bool:
    """Whether the deep model has had its last round: all, or ``patience`` rounds without a lower loss."""
    towers = plan.federated_towers
    if towers is None or state.tower_round >= towers.training.rounds:
        return True
    patience = towers.training.patience
    losses = [r.objective for r in state.history if r.phase == "towers" and r.objective is not None]
    if patience == 0 or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
