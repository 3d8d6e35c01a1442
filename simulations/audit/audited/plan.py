"""The plan of the audited federation: tiny, with every kind of contribution, and where weights and pruning matter."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from common.config.federation import FederationPlan
from common.contributions.run_plan import read_plan
from simulations.audit.audited.files import ITEMS
from simulations.audit.audited.platforms import PLATFORMS
from simulations.scenarios.noise import plan_with_noise

DIMENSION, ROUNDS, TOWER_ROUNDS = 4, 2, 2
KEPT_ITEMS = ITEMS - 10
SAMPLING_RATE = 0.5

_TOWERS: dict[str, Any] = {
    "dimension": DIMENSION,
    "encoders": [{"attribute": "genres", "kind": "multi_hot", "buckets": 8, "width": 4}],
    "sequence": {"kind": "mean", "length": 8},
    "training": {"rounds": TOWER_ROUNDS, "negatives": 6},
    "privacy": {"sampling_rate": SAMPLING_RATE, "clip_norm": 0.005, "share": 0.5},
}

# Items that a user does not have weigh little, so that whether a crafted system can be solved depends on who has the item.
_MODEL: dict[str, Any] = {
    "dimension": DIMENSION,
    "regularization": 0.1,
    "init_scale": 1.0,
    "unobserved_weight": 0.05,
    "backend": "numba",
}


@cache
def audit_plan(
    epsilon: float,
    delta: float,
    *,
    noise: Literal["secure_sum", "per_platform"] = "secure_sum",
    deep: bool = False,
) -> FederationPlan:
    """A private plan at ``epsilon`` under which a user with many items meets every bound.

    Args:
        epsilon: of the whole run.
        delta: of the whole run.
        noise: as ``privacy.noise``.
        deep: also a deep model, which takes half of ε and δ; its noise is computed by the accountant.
    """
    return plan_with_noise(
        read_plan(
            {
                "federation": "audit",
                "platforms": len(PLATFORMS),
                "min_platforms": len(PLATFORMS),
                "rounds": ROUNDS,
                "model": {
                    "dimension": DIMENSION,
                    "regularization": 0.1,
                    "init_scale": 1.0,
                    "unobserved_weight": 0.05,
                    "backend": "numba",
                },
                "linear": {"privacy": {"share": 0.2, "kept_items": KEPT_ITEMS}},
                "towers": _TOWERS if deep else None,
                "privacy": {
                    "mode": "user",
                    "epsilon": epsilon,
                    "delta": delta,
                    "user_bound": int(1 / delta),
                    "minimum_users": 1,
                    "noise": noise,
                    "tuned_training": False,
                    "clip_norm": 0.02,
                    "weight_total": 20.0,
                    "popularity_exponent": 0.4,
                    "max_count_contribution": 20.0,
                    "kept_items": KEPT_ITEMS,
                    "counts_share": 0.1,
                    "gram_share": 0.05,
                    "round_growth": 1.0,
                },
            }
        )
    )
