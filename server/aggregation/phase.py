"""The aggregator's half of a kind of contribution: a phase of the run, whose rounds ask, collect, solve and record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.contributions.kind import ContributionKind
from common.contributions.registry import half, kinds_of
from common.wire.exchange import Arrays, Json
from server.federation.collect import Contribution
from server.federation.state import FederationState


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """Holds what a round asks, besides the run's own facts.

    Attributes:
        server_round: of the request.
        config: small public values.
        arrays: as the contract declares them.
        number: as the run's history counts it, where that is not ``server_round``.
    """

    server_round: int
    number: int | None = None
    config: Mapping[str, Json] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """Holds what a round's contributions came to.

    Attributes:
        state: after the round.
        platforms: who contributed.
        objective: as the round's record has it; None where there is none, or privacy forbids to know it.
        recall: likewise.
    """

    state: FederationState
    platforms: tuple[str, ...]
    objective: float | None = None
    recall: float | None = None


class Phase(ABC):
    """One kind's rounds at the aggregator.

    Attributes:
        record: what the run's history calls its rounds; None where they have no record.
        repeats: whether a kind of one round is asked again as long as it is due.

    Args:
        kind: the shared half.
        plan: the run's.
    """

    record: ClassVar[str | None]
    repeats: ClassVar[bool] = False

    def __init__(self, kind: ContributionKind, plan: FederationPlan) -> None:
        self.kind = kind
        self.plan = plan

    def check_vocabulary(self, n_items: int) -> None:
        """Refuse a vocabulary of ``n_items`` that this kind cannot handle. Raises: ConfigError."""
        return

    def describe(self, features: NDArray[np.float64]) -> None:
        """Take public attributes of the items: 0/1, float64 ``[m, a]``."""
        return

    @abstractmethod
    def due(self, state: FederationState, present: Collection[str]) -> bool:
        """Whether a round is to be asked for, of the platforms ``present``."""

    @abstractmethod
    def question(self, state: FederationState) -> Question:
        """Return what the next round asks of every platform."""

    @abstractmethod
    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Step:
        """Add up contributions as they come, and solve. All of it is post-processing of what was released."""

    def worth_keeping(self, before: FederationState, after: FederationState) -> bool:
        """Whether the state ``after`` a round gets a checkpoint; a run that is resumed asks again what got none."""
        return True

    @abstractmethod
    def did(self, question: Question) -> str:
        """Return what platforms did that contributed, for the message of a quorum that is not reached: "sent their counts"."""

    def final(self, state: FederationState) -> Arrays:
        """Return what all platforms are told of the result at the end of the run."""
        return {}

    def final_for(self, state: FederationState, platform: str) -> Arrays:
        """Return what one platform is told of it."""
        return {}


def phases_of(plan: FederationPlan) -> tuple[Phase, ...]:
    """The phases of runs of ``plan``, in order."""
    phases: list[Phase] = [half(kind.server_half, Phase)(kind, plan) for kind in kinds_of(plan)]
    return tuple(phases)
