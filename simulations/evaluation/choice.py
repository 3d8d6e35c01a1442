"""The part of ``result.json`` on a model that the plan left open: all that was tried, and the choice."""

from __future__ import annotations

from typing import Any

from common.config.federation import FederationPlan
from common.contributions.race_kind import stated
from server.federation.state import FederationState, Trial


def choice_of(plan: FederationPlan, state: FederationState) -> dict[str, Any] | None:
    """The choice of a run's model; None where the plan fixes it.

    Args:
        plan: as the platforms agreed on it.
        state: after its run.
    """
    if not plan.auto_model:
        return None
    if plan.private:
        return {"by": "table", "setting": plan.setting.model_dump(mode="json")}
    chosen = state.choice
    if chosen is None:
        return None
    trials = [_trial(trial) for trial in chosen.trials]
    return {
        "by": "race",
        "metric": "mean of recall@20 and ndcg@20",
        "setting": {**stated(chosen.model)["model"], "rounds": chosen.rounds},  # type: ignore[dict-item]
        "steps": state.race_steps,
        "trials": trials,
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {**stated(trial.model), "scores": list(trial.scores)}
