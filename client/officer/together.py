"""ε over several federations of one platform, whose ledgers know nothing of one another.

The same person's history is behind all of them, so that what they spent composes. Full participation (Gaussian releases) of
all ledgers composes as one: μ² adds up (Dong et al. 2019), and the ε of the sum is far below the sum of the ε's. Sampled users
(deep models) are accounted run by run, by PRV, and their ε and δ are simply added, as within one ledger. Where one ledger has
data released without noise, there is no bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from client.privacy.ledger import BudgetLedger
from client.privacy.outbox import witnesses
from client.privacy.spend import Spend
from common.deploy.roles import PlatformConfig
from common.errors import ConfigError
from common.privacy.gdp import epsilon_from_mu


@dataclass(frozen=True, kw_only=True)
class Together:
    """Holds what one person's data are behind, over several federations.

    Attributes:
        federations: of each ledger, in the order given.
        spent: ε of each by itself; None without a bound.
        deltas: δ of each.
        mu: of all Gaussian releases together.
        subsampled_epsilon: what sampled users' releases add up to.
        epsilon: of all together; None where one has no bound.
        delta: at which: the sum of all δ.
        simple_sum: of the ε's, for comparison.
        most: ε of all together once every lifetime budget is used up; None where one has no limit.
    """

    federations: tuple[str, ...]
    spent: tuple[float | None, ...]
    deltas: tuple[float, ...]
    mu: float
    subsampled_epsilon: float
    epsilon: float | None
    delta: float
    simple_sum: float | None
    most: float | None


def spend_together(configs: Sequence[PlatformConfig]) -> Together:
    """Add up the ledgers of one platform's federations.

    Raises:
        ConfigError: two share a ledger.
        LedgerError: one has none, or it was tampered with.
    """
    folders = [config.state.resolve() for config in configs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"--config: {folder} was named twice; it would count twice")
    spends = [spend_of_platform(config) for config in configs]
    return together([config.plan.federation for config in configs], spends)


def spend_of_platform(config: PlatformConfig) -> Spend:
    """Return what a platform's ledger has charged; changes nothing.

    Raises:
        LedgerError: there is none, or it was tampered with.
    """
    store = config.state / "store"
    return BudgetLedger.open(config.state, witnesses=witnesses(store)[:1] if store.is_dir() else ()).spend()


def together(federations: Sequence[str], spends: Sequence[Spend]) -> Together:
    """Compose what each ledger says."""
    mu = math.sqrt(math.fsum(spend.mu**2 for spend in spends))
    subsampled = math.fsum(spend.head.totals["subsampled_epsilon"] for spend in spends)
    bounded = all(spend.epsilon is not None for spend in spends)
    limited = all(spend.policy.epsilon is not None for spend in spends)
    gaussian_delta = math.fsum(_gaussian_delta(spend) for spend in spends)
    most = None
    if limited:
        limit = math.sqrt(math.fsum(spend.policy.mu**2 for spend in spends))
        most = _epsilon(limit, gaussian_delta) + math.fsum(spend.policy.subsampled[0] for spend in spends)
    return Together(
        federations=tuple(federations),
        spent=tuple(spend.epsilon for spend in spends),
        deltas=tuple(spend.policy.delta for spend in spends),
        mu=mu,
        subsampled_epsilon=subsampled,
        epsilon=_epsilon(mu, gaussian_delta) + subsampled if bounded else None,
        delta=math.fsum(spend.policy.delta for spend in spends),
        simple_sum=math.fsum(spend.epsilon or 0.0 for spend in spends) if bounded else None,
        most=most,
    )


def _gaussian_delta(spend: Spend) -> float:
    # As in a ledger's own report: without a limit there is no split to keep to.
    return spend.policy.gaussian_delta if spend.policy.epsilon is not None else spend.policy.delta


def _epsilon(mu: float, delta: float) -> float:
    return epsilon_from_mu(mu, delta) if mu > 0 else 0.0
