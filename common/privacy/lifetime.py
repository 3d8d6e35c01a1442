"""A platform's lifetime budget, and how many runs of a plan it pays for.

Runs do not add up their ε. Of full participation (Gaussian releases) they add up μ², so that n runs of ε cost far less than
n·ε; of sampled users (the deep model) they add up ε and δ (basic composition). The budget is split between the two
families once and for all (:mod:`client.privacy.budget` says why), and the scarcer part says how many runs there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.config.federation import FederationPlan
from common.errors import PrivacyError
from common.privacy.gdp import epsilon_from_mu, mu_from_epsilon

ROUNDING = 1 + 1e-9
"""Room for the float error of calibrating z to a budget and adding 1/z² back up."""

# Without privacy nothing is claimed at any δ; the ledger's plan and policy have one all the same.
UNCLAIMED_DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class BudgetPolicy:
    """A platform's own limit over all runs, federations and restarts.

    Attributes:
        epsilon: lifetime ε of one user of this platform; None sets no limit, which ``mode: none`` needs.
        delta: lifetime δ.
        subsampled_share: s, the part of both that subsampled mechanisms (deep models) may use; 0 for factorisation
            alone, 1 for deep models alone.
    """

    epsilon: float | None
    delta: float
    subsampled_share: float = 0.0

    def __post_init__(self) -> None:
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise PrivacyError("privacy.budget must be a finite number above 0, or none for no limit")
        if not 0 < self.delta < 1:
            raise PrivacyError("the budget's delta must lie between 0 and 1")
        if not 0 <= self.subsampled_share <= 1:
            raise PrivacyError("subsampled_share must lie between 0 and 1")

    @property
    def gaussian_delta(self) -> float:
        return (1 - self.subsampled_share) * self.delta

    @property
    def mu(self) -> float:
        """Limit of μ for full participation; ∞ without a limit, 0 if all is set aside for subsampled mechanisms."""
        if self.epsilon is None:
            return math.inf
        return mu_within((1 - self.subsampled_share) * self.epsilon, self.gaussian_delta)

    @property
    def subsampled(self) -> tuple[float, float]:
        """Limit (ε, δ) of all subsampled reservations together."""
        if self.epsilon is None:
            return math.inf, math.inf
        return self.subsampled_share * self.epsilon, self.subsampled_share * self.delta

    @property
    def limit(self) -> Amounts:
        """The same in the units in which runs add up."""
        return Amounts(self.mu**2, *self.subsampled)


@dataclass(frozen=True)
class Amounts:
    """Holds what adds up over runs: a run's cost, a budget, or what is left of one. All three may be ∞."""

    mu_squared: float
    subsampled_epsilon: float = 0.0
    subsampled_delta: float = 0.0

    def pays_for(self, cost: Amounts) -> int | None:
        """How many runs that cost ``cost`` each; None for as many as one likes."""
        pairs = (
            (self.mu_squared, cost.mu_squared),
            (self.subsampled_epsilon, cost.subsampled_epsilon),
            (self.subsampled_delta, cost.subsampled_delta),
        )
        counts = [math.floor(have * ROUNDING / each) for have, each in pairs if each > 0 and have < math.inf]
        return min(counts) if counts else None


def budget_policy(plan: FederationPlan, budget: float | None = None) -> BudgetPolicy:
    """The platform's lifetime budget: ``budget`` (ε) or else what the plan names; without privacy no limit."""
    if not plan.private:
        return BudgetPolicy(epsilon=None, delta=UNCLAIMED_DELTA)
    privacy = plan.privacy
    epsilon = budget or privacy.budget or privacy.epsilon
    return BudgetPolicy(
        epsilon=epsilon, delta=privacy.budget_delta or plan.delta, subsampled_share=subsampled_share(plan)
    )


def subsampled_share(plan: FederationPlan) -> float:
    """The part of ε and δ that is kept for the deep model, whose releases sample users."""
    return 0.0 if plan.federated_towers is None else plan.federated_towers.privacy.share


def gaussian_mu(plan: FederationPlan) -> float:
    """μ of all releases with full participation: those of the factorisation and the item-item statistics."""
    own = plan.factor_privacy
    return mu_from_epsilon(own.epsilon, plan.delta if own.delta is None else own.delta)


def run_cost(plan: FederationPlan) -> Amounts:
    """Return what one run of a private plan takes of a lifetime budget."""
    share = subsampled_share(plan)
    return Amounts(gaussian_mu(plan) ** 2, share * plan.privacy.epsilon, share * plan.delta)


def runs_paid(plan: FederationPlan, budget: float | None = None) -> int | None:
    """How many runs of ``plan`` the lifetime budget pays for; None without a limit."""
    return None if not plan.private else budget_policy(plan, budget).limit.pays_for(run_cost(plan))


def budget_for(plan: FederationPlan, runs: int) -> float | None:
    """The smallest lifetime ε, in hundredths, that pays for ``runs`` of ``plan`` at its lifetime δ.

    None where no ε does: a deep model's runs add up their δ (:func:`delta_for`).
    """
    share, policy = subsampled_share(plan), budget_policy(plan)
    gaussian = epsilon_from_mu(math.sqrt(runs) * gaussian_mu(plan), policy.gaussian_delta) / (1 - share)
    wanted = gaussian if share == 0 else max(gaussian, runs * plan.privacy.epsilon)
    found = math.ceil(wanted * 100 - 1e-6) / 100
    paid = runs_paid(plan, found)
    return found if paid is not None and paid >= runs else None


def delta_for(plan: FederationPlan, runs: int) -> float:
    """The smallest lifetime δ at which ``runs`` of ``plan`` fit into some budget."""
    return plan.delta * (runs if plan.federated_towers is not None else 1)


def epsilon_for(plan: FederationPlan, runs: int) -> float | None:
    """The largest ε of a run, to two digits, of which the plan's lifetime budget pays for ``runs``; None for none."""
    policy, share = budget_policy(plan), subsampled_share(plan)
    if policy.epsilon is None or policy.delta * ROUNDING < delta_for(plan, runs):
        return None
    gaussian = epsilon_from_mu(policy.mu / math.sqrt(runs), (1 - share) * plan.delta) / (1 - share)
    least = gaussian if share == 0 else min(gaussian, policy.epsilon / runs)
    if least <= 0:
        return None
    unit = 10.0 ** (math.floor(math.log10(least)) - 1)
    return round(math.floor(least / unit + 1e-9) * unit, 12)


def mu_within(epsilon: float, delta: float) -> float:
    """μ of what may be spent within (ε, δ); 0 where one of them is used up."""
    return mu_from_epsilon(epsilon, delta) if epsilon > 0 and delta > 0 else 0.0
