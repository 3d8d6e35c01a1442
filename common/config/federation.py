"""What all platforms and the aggregator agree on before a run: the plan. Every party has its own copy and compares."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.config.base import FrozenModel
from common.config.model import FactorizationConfig
from common.config.privacy import PrivacyConfig


class FederationPlan(FrozenModel):
    """The public parameters of a federation run. An agent refuses a run whose plan differs from its own."""

    federation: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "federation"
    """Name of the federation; digests, runs and ledgers are kept apart by it."""
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Server rounds. Under differential privacy exactly this many; without, at most."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """Stop early once the objective falls by less than this share in a round; 0 never stops. Unused under privacy."""
    evaluate_rounds: bool = True
    """Whether platforms report their validation recall each round. Never under privacy: it would be a release."""
    min_platforms: Annotated[int, Field(ge=1)] = 1
    """Quorum: a round with fewer contributions is not counted."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds the initial item factors, nothing private."""
    model: FactorizationConfig = FactorizationConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @property
    def row(self) -> int:
        """Length of an item's row of shared parameters: d, and the item bias behind it for explicit feedback."""
        return self.model.dimension + (1 if self.model.feedback == "explicit" else 0)

    def differences(self, other: FederationPlan) -> list[str]:
        """Dotted names of the fields in which two plans differ; empty when they agree.

        >>> FederationPlan().differences(FederationPlan(rounds=3))
        ['rounds']
        """
        return _differences("", self.model_dump(mode="json"), other.model_dump(mode="json"))


def _differences(prefix: str, mine: object, theirs: object) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted(mine.keys() | theirs.keys())
        return [name for key in keys for name in _differences(f"{prefix}{key}.", mine.get(key), theirs.get(key))]
    return [] if mine == theirs else [prefix.rstrip(".")]
