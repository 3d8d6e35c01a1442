"""Bookkeeping: does everything that left a platform stand in its ledger?"""

from __future__ import annotations

from dataclasses import dataclass

from client.privacy.budget import mu_squared
from client.privacy.outbox import Outbox
from common.privacy.contribution import Release


@dataclass(frozen=True, kw_only=True)
class BookkeepingReport:
    """Σ 1/z² of what the aggregator received, against what the ledger charged.

    Attributes:
        received: contributions that the aggregator has of the platform.
        charged: entries of the ledger.
        mu_received, mu_charged: their composition.
        flags: what is wrong.
    """

    received: int
    charged: int
    mu_received: float
    mu_charged: float
    flags: tuple[str, ...]


def compare_bookkeeping(outbox: Outbox, received: list[tuple[Release, ...]]) -> BookkeepingReport:
    """Compare what came out at the other end with what was charged.

    Args:
        outbox: the platform's.
        received: the releases of every contribution that the aggregator has.
    """
    charges = [charge for run in outbox.ledger.spend().runs for charge in run.charges]
    mu_received = mu_squared(release for part in received for release in part) ** 0.5
    mu_charged = mu_squared(release for charge in charges for release in charge.releases) ** 0.5
    flags = []
    if mu_received > mu_charged * (1 + 1e-9) or len(received) > len(charges):
        flags.append(
            f"{len(received)} contributions with μ = {mu_received:.3g} left, the ledger charged {len(charges)} with "
            f"μ = {mu_charged:.3g}"
        )
    return BookkeepingReport(
        received=len(received),
        charged=len(charges),
        mu_received=mu_received,
        mu_charged=mu_charged,
        flags=tuple(flags),
    )
