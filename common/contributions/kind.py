"""Defines a kind of contribution: all that both ends of the wire must know of it alike.

A kind has three halves. The shared one, a subclass of :class:`ContributionKind`, says which arrays it has on the wire, what
a run charges for it, how it is masked and where it stands in a run. The client half makes a platform's contribution, the
server half turns contributions into the aggregator's next state. The shared half names the two others, so that one line in
:mod:`common.contributions.registry` adds a kind to the whole system (``docs/kinds.md``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.errors import ContractError
from common.privacy.contribution import Release
from common.privacy.plan import GaussianNoise
from common.wire.contract import ArraySpec
from common.wire.exchange import AgentRequest, Arrays

if TYPE_CHECKING:
    from common.config.federation import FederationPlan

MASKED = "masked"
"""Name of the array that holds a masked vector, and with an underscore the prefix of masked messages' names."""

LARGEST_VALUE = 1e6
"""Bound on every value that is broadcast: far above what training comes to, and its squares fit single precision."""

Owners = Callable[[], NDArray[np.bool_]]
"""Made only for a kind that asks: with many platforms it is large."""


def masked_name(name: str) -> str:
    """On the wire, the name of contributions of kind ``name`` that leave masked."""
    return f"{MASKED}_{name}"


class ContributionKind(ABC):
    """One kind of contribution; has no state of its own.

    Attributes:
        name: in messages, ledgers and journals; lower-case, unique.
        title: for people, as the privacy card says it: "item-item statistics".
        released: what its releases may be called in a ledger.
        client_half: ``module:name`` of the subclass of :class:`client.contributions.contributor.Contributor`.
        server_half: ``module:name`` of the subclass of :class:`server.aggregation.phase.Phase`.
        own_sizes: by array, the named size that is its first length; both sides learn it from the message.
        card_key: where its facts are in the privacy card's JSON; None where it has none of its own.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    released: ClassVar[tuple[str, ...]]
    client_half: ClassVar[str]
    server_half: ClassVar[str]
    own_sizes: ClassVar[Mapping[str, str]] = {}
    card_key: ClassVar[str | None] = None

    # Where it stands in a run.

    def takes_part(self, plan: FederationPlan) -> bool:
        """Whether runs of ``plan`` have this kind."""
        return True

    @abstractmethod
    def rounds(self, plan: FederationPlan) -> range:
        """The server rounds in which it is asked for: 0 before training, then those after all earlier kinds' rounds."""

    def may_stop_early(self, plan: FederationPlan) -> bool:
        """Whether a run of ``plan`` may end before the last of :meth:`rounds` where sums are exact."""
        return False

    def wire_name(self, plan: FederationPlan) -> str:
        """The name of its messages under ``plan``."""
        return masked_name(self.name) if plan.secure_sum else self.name

    # On the wire.

    def request(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        """The arrays of the request."""
        return ()

    @abstractmethod
    def exact(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        """The arrays of one platform's contribution under ``mode: none``."""

    @abstractmethod
    def noisy(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        """The arrays of one platform's contribution with all of its noise: int64 numbers of grid steps."""

    def unmasked_specs(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        """Return what leaves unmasked, with all of its noise, beside the masked vector."""
        return ()

    def final(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        """Return what the end of a run tells platforms of its result."""
        return ()

    def reply(self, plan: FederationPlan) -> tuple[ArraySpec, ...]:
        """The arrays of one platform's contribution under ``plan``: exact, noisy, or masked."""
        if not plan.private:
            return self.exact(plan)
        if not plan.secure_sum:
            return self.noisy(plan)
        return (ArraySpec(MASKED, "uint8", ("masked_bytes",)), *self.unmasked_specs(plan))

    def sizes(
        self, plan: FederationPlan, request: AgentRequest, owners: Owners, positions: NDArray[np.integer]
    ) -> dict[str, int]:
        """Named sizes of the reply to ``request`` that follow from what both sides know.

        Args:
            plan: of the run.
            request: as sent and received.
            owners: gives bool ``[m, P]``: who shares which item.
            positions: int ``[m_p]``: the items that this platform shares.
        """
        return {}

    def check_sums(
        self,
        plan: FederationPlan,
        arrays: Arrays,
        request: AgentRequest,
        owners: Owners,
        positions: NDArray[np.integer],
    ) -> None:
        """Refuse *exact* sums that no users can have, so that one platform's rubbish does not end the run for all.

        Raises:
            ContractError: names the array.
        """
        return

    # What it costs.

    def run_releases(self, plan: FederationPlan) -> tuple[Release, ...]:
        """All that a run releases of it: what a ledger sets aside before the first."""
        if not plan.private:
            return (Release(kind=self.name, mechanism="none", noise_multiplier=0.0),)
        return tuple(release for number in self.rounds(plan) for release in self.noisy_releases(plan, number))

    def releases(self, plan: FederationPlan, server_round: int) -> tuple[Release, ...]:
        """Return what the contribution to ``server_round`` releases, known before anything is computed.

        Raises:
            ContractError: the plan has no such round of this kind.
        """
        if server_round not in self.rounds(plan):
            raise ContractError(f"{self.name}: the plan has no such round as {server_round}")
        return self.noisy_releases(plan, server_round) if plan.private else self.run_releases(plan)

    @abstractmethod
    def noisy_releases(self, plan: FederationPlan, server_round: int) -> tuple[Release, ...]:
        """Return what one round releases under user-level privacy."""

    def share(self, plan: FederationPlan) -> float:
        """The share of a run's μ² that this kind takes; counts and statistics divide what is left."""
        return 0.0

    def check_plan(self, plan: FederationPlan) -> None:
        """Refuse a private plan under which this kind's sums could overflow.

        Raises:
            PrivacyError: names the setting and the mend.
        """
        return

    # How it is masked.

    @abstractmethod
    def noises(self, plan: FederationPlan, server_round: int) -> tuple[GaussianNoise, ...]:
        """The noise of every array that leaves masked in ``server_round``."""

    def checked_noises(self, plan: FederationPlan) -> tuple[tuple[GaussianNoise, ...], ...]:
        """As :meth:`noises`, of every round that a plan fixes when it is read."""
        return tuple(self.noises(plan, number) for number in self.rounds(plan))

    def label(self, plan: FederationPlan, server_round: int) -> str:
        """Return what the secure sum's roster calls the round; part of what platforms sign."""
        return self.name

    @abstractmethod
    def masked_length(self, plan: FederationPlan, n_items: int) -> int:
        """How many values a platform masks in a round, for a vocabulary of ``n_items``."""

    @abstractmethod
    def split(self, plan: FederationPlan, total: NDArray[np.int64], n_items: int) -> Arrays:
        """The arrays that were masked end to end, in order of their names, from their sum over platforms."""

    # What the privacy card says of it.

    def facts(self, plan: FederationPlan) -> dict[str, Any]:
        """Return what a private run's card holds under :attr:`card_key`."""
        return {}

    def paragraph(self, facts: Mapping[str, Any]) -> str:
        """The same in words: one list entry that ends with a newline, or nothing."""
        return ""

    def unaudited(self, plan: FederationPlan) -> tuple[str, ...]:
        """Return what of it under ``plan`` the audit does not measure, although the audit's own plan has the kind."""
        return ()
