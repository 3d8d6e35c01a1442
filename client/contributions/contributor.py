"""The platform's half of a kind of contribution: computes on the platform's own data, and lets a mechanism release sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from client.contributions.membership import Membership
from client.data.training import TrainingData
from client.training.engine import Engine
from common.config.federation import FederationPlan
from common.contributions.kind import ContributionKind
from common.contributions.registry import half, kinds_by_wire_name
from common.privacy.contribution import PrivatizedContribution
from common.wire.exchange import AgentRequest

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class PlatformContext:
    """Holds what contributors of one platform are made from.

    Attributes:
        platform: its name.
        plan: the public parameters, from the platform's own configuration.
        data: the platform's.
        engine: sums over its users.
        folder: where a contributor keeps what must outlive the process.
        texts: from public texts to vectors ``[n, d]``; None without a text encoder.
    """

    platform: str
    plan: FederationPlan
    data: TrainingData
    engine: Engine
    folder: Path
    texts: Callable[[Sequence[str]], NDArray[np.float32]] | None = None
    _made: dict[Callable[[PlatformContext], Any], Any] = field(default_factory=dict, repr=False)

    def once(self, make: Callable[[PlatformContext], Made]) -> Made:
        """Return what ``make`` makes of this platform, the same at every call: kinds may share a trainer or a matrix."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast("Made", self._made[make])


class Contributor(ABC):
    """Makes one platform's contributions of one kind.

    Args:
        kind: the shared half, which says what they hold and cost.
        context: the platform.

    Raises:
        PrivacyError: the platform cannot take part under this plan.
    """

    def __init__(self, kind: ContributionKind, context: PlatformContext) -> None:
        self.kind = kind
        self.context = context

    def check_size(self, n_items: int, of: str) -> None:
        """Refuse more items than this kind can handle, at the handshake, before anything is charged.

        Args:
            n_items: how many.
            of: whose they are, for the message.

        Raises:
            ConfigError: names the limit and the mend.
        """
        return

    @abstractmethod
    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        """The contribution to ``request``; computed after it was charged.

        Whether it can be made must not depend on a single user. What users add is a function of their own history, of
        released values and of public parameters.
        """


def make_contributors(context: PlatformContext) -> dict[str, Contributor]:
    """The contributors of the plan's kinds, by the names that their messages have."""
    return {
        name: half(kind.client_half, Contributor)(kind, context)
        for name, kind in kinds_by_wire_name(context.plan).items()
    }
