"""Budgets: how releases compose, and what a platform and a run may spend.

Two families of mechanisms are accounted apart:

- *Full participation.* A Gaussian release with noise multiplier z is 1/z-GDP; any sequence of them, each chosen after
  seeing the ones before, is μ-GDP with μ² = Σ 1/z² as long as that sum is held under a limit fixed in advance (Dong,
  Roth & Su 2022, Corollary 3.3; Smith & Thakurta 2022, "Fully adaptive composition for Gaussian differential
  privacy").
- *Subsampled.* A run reserves an (ε, δ) that the caller computed with a PRV accountant for its whole plan;
  reservations add up (basic composition, valid for adaptive choices: Rogers et al. 2016, "Privacy odometers and
  filters").

The lifetime budget (ε, δ) is split between the two once and for all by ``subsampled_share`` s: ((1−s)ε, (1−s)δ) bounds
the Gaussian family, (sε, sδ) the subsampled one, and basic composition of the two gives (ε, δ). The split is fixed
because a split chosen after seeing releases is not covered by the theorems. Within one run everything is declared
before its first release, so there the Gaussian part simply gets what the run's (ε, δ) leaves beside its reservation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import PrivacyError
from common.privacy.contribution import Release
from common.privacy.lifetime import mu_within


@dataclass(frozen=True)
class SubsampledBudget:
    """(ε, δ) of all subsampled releases that a run plans, from a PRV accountant."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise PrivacyError("a subsampled reservation needs a finite epsilon above 0 and a delta between 0 and 1")


@dataclass(frozen=True)
class Plan:
    """All that a run means to release, and the budget it is given for it; epsilon None: no limit of its own."""

    releases: tuple[Release, ...]
    epsilon: float | None
    delta: float
    subsampled: SubsampledBudget | None

    def __post_init__(self) -> None:
        if not self.releases:
            raise PrivacyError("a run's plan must name what it will release")
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise PrivacyError("a run's epsilon must be a finite number above 0, or none under mode none")
        if not 0 < self.delta < 1:
            raise PrivacyError("a run's delta must lie between 0 and 1")
        if any(map(is_subsampled, self.releases)) != (self.subsampled is not None):
            raise PrivacyError("a plan reserves a subsampled budget exactly when it has subsampled releases")

    @property
    def mu_squared_limit(self) -> float:
        if self.epsilon is None:
            return math.inf
        if self.subsampled is None:
            return mu_within(self.epsilon, self.delta) ** 2
        return mu_within(self.epsilon - self.subsampled.epsilon, self.delta - self.subsampled.delta) ** 2

    def agrees_with(self, other: Plan) -> bool:
        """Whether both set the same aside; in which order releases are named says nothing."""
        limits = [(plan.epsilon, plan.delta, plan.subsampled) for plan in (self, other)]
        return limits[0] == limits[1] and Counter(self.releases) == Counter(other.releases)

    def to_json(self) -> dict[str, Any]:
        return {
            "releases": [release_to_json(release) for release in self.releases],
            "epsilon": self.epsilon,
            "delta": self.delta,
            "subsampled": asdict(self.subsampled) if self.subsampled else None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        subsampled = content["subsampled"]
        return cls(
            releases_from_json(content["releases"]),
            content["epsilon"],
            content["delta"],
            SubsampledBudget(**subsampled) if subsampled else None,
        )


def release_to_json(release: Release) -> dict[str, Any]:
    """Plain Python numbers: a NumPy scalar has no JSON."""
    return {
        "kind": release.kind,
        "mechanism": release.mechanism,
        "noise_multiplier": float(release.noise_multiplier),
        "sampling_rate": float(release.sampling_rate),
        "steps": int(release.steps),
    }


def mu_squared(releases: Iterable[Release]) -> float:
    """Σ steps/z² over the Gaussian releases with full participation."""
    return math.fsum(r.steps / r.noise_multiplier**2 for r in releases if r.mechanism == "gaussian")


def is_subsampled(release: Release) -> bool:
    return release.mechanism == "subsampled-gaussian"


def releases_from_json(contents: Iterable[Mapping[str, Any]]) -> tuple[Release, ...]:
    return tuple(Release(**content) for content in contents)
