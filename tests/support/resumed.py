"""Plans and platforms of runs that are cut off and resumed."""

from __future__ import annotations

from typing import Any

from common.config.federation import FederationPlan
from tests.support import (
    random_platforms,
    small_plan,
)

SIZES = (14, 6, 3)


CASES: dict[str, dict[str, Any]] = {
    "implicit": {},
    "explicit": {"feedback": "explicit"},
    "conjugate gradients": {"solver": "cg", "cg_steps": 2},
}


def plan_of(case: str) -> FederationPlan:
    return small_plan(rounds=4, model=CASES[case])


def platforms_of(case: str) -> dict[str, Any]:
    return random_platforms(6, SIZES, explicit=case == "explicit", validated=True)
