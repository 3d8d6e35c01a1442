"""When a phase of a run is over: all its rounds are done, or it has stopped getting better."""

from __future__ import annotations

from common.config.federation import FederationPlan
from server.federation.state import FederationState


def factors_settled(plan: FederationPlan, state: FederationState) -> bool:
    """Whether the factorisation has had its last round. Under privacy there is no objective, so all rounds are run."""
    if state.server_round >= plan.server_rounds or state.tower_round > 0:
        return True
    rounds = [record for record in state.history if record.phase == "factors"]
    if len(rounds) < 2 or plan.tolerance == 0:
        return False
    before, last = rounds[-2:]
    # Objectives over different platforms do not compare: one that was left out for a round is no progress.
    if before.objective is None or last.objective is None or before.platforms != last.platforms:
        return False
    return before.objective - last.objective < plan.tolerance * abs(before.objective)


def towers_settled(plan: FederationPlan, state: FederationState) -> bool:
    """Whether the deep model has had its last round: all, or ``patience`` rounds without a lower loss."""
    if plan.towers is None or state.tower_round >= plan.towers.training.rounds:
        return True
    patience = plan.towers.training.patience
    losses = [r.objective for r in state.history if r.phase == "towers" and r.objective is not None]
    if patience == 0 or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
