"""Tells what plan, configuration and logs say, in a document's words: nothing is made up, and no person is in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from client.officer.together import spend_of_platform
from client.person.erasure import PERSONS_FOLDER
from client.privacy.spend import Spend
from common.config.data import DataConfig
from common.config.federation import FederationPlan
from common.deploy.provisioning import Pins
from common.deploy.roles import PlatformConfig
from common.errors import LedgerError
from common.privacy.gdp import mu_from_epsilon

FILL = "**[to be filled in]**"


@dataclass(frozen=True)
class Facts:
    """Of one platform.

    Attributes:
        config: the platform's.
        spend: of its ledger; None where nothing was spent yet.
    """

    config: PlatformConfig
    spend: Spend | None

    @classmethod
    def of(cls, config: PlatformConfig) -> Facts:
        """Raises: LedgerError: the books were tampered with."""
        return cls(config, spend_of_platform(config) if (config.state / "ledger.db").exists() else None)

    @property
    def plan(self) -> FederationPlan:
        return self.config.plan

    @property
    def others(self) -> str:
        """The platforms whose keys are pinned."""
        return ", ".join(sorted(Pins(self.config.pins).all())) or "none is pinned yet"

    def categories(self) -> list[str]:
        """Categories of personal data, by file."""
        data = self.config.data
        feedback = "ratings" if data.feedback == "explicit" else "events"
        found = [
            f"interactions of users with items ({feedback}, {_columns(data)}), from {data.interactions.path.name}, and the "
            "same "
            "as recorded by the platform's applications"
        ]
        if data.users is not None:
            named = data.users.attribute_columns
            which = "all columns of" if named is None else f"{', '.join(named)} of"
            found.append(f"profile attributes ({which} {data.users.path.name}), which stay on this platform")
        if self.config.passport.redeem:
            found.append("summaries of tastes that persons bring from other platforms (passports)")
        return found

    def legal_marks(self) -> list[str]:
        """Which rules of consent, objection and age are applied when data are read."""
        data, found = self.config.data, []
        for section, part in (("interactions", data.interactions), ("users", data.users)):
            if part is None:
                continue
            if part.consent is not None:
                found.append(
                    f"only rows of {section} with consent ({part.consent.column}: {', '.join(part.consent.values)})"
                )
            if part.opt_out is not None:
                found.append(f"nobody who objects ({section}, {part.opt_out.column}: {', '.join(part.opt_out.values)})")
        found.append("nobody on the exclusion list (erased, or objected by `crossfed-client person optout`)")
        return found

    def retention(self) -> str:
        """How long data are used."""
        days = self.config.data.retention_days
        used = (
            f"not longer than {days} days (data.retention_days)"
            if days
            else f"no limit is set (data.retention_days); {FILL}"
        )
        return (
            f"Interactions and recorded feedback are used {used}. A version of the model holds histories until three newer "
            "ones "
            "are there. What persons brought by passports is forgotten when it expires."
        )

    def what_leaves(self) -> list[str]:
        """The messages to the aggregator, in words."""
        plan, found = self.plan, []
        shared = {"all": "all items", "none": "no items", "filter": "items that the filter lets through"}[
            self.config.catalogue.share
        ]
        cards = (
            "titles and attributes of them, encrypted for the other platforms" if self.config.catalogue.cards else ""
        )
        found.append(f"pseudonyms of {shared} of the catalogue (digests under a secret of the platforms)")
        found += [cards] if cards else []
        kind = "exact, without noise" if not plan.private else "clipped for each user and noised"
        masked = ", masked so that the aggregator sees totals of all platforms alone" if plan.secure_sum else ""
        found.append(f"sums over all users (counts of items, statistics of the factorisation), {kind}{masked}")
        if plan.linear is not None:
            found.append(f"sums over users of pairs of items, {kind}")
        if plan.federated_towers is not None:
            found.append(f"updates of a deep model, {kind}")
        elif plan.towers is not None:
            found.append("nothing of the deep model, which is trained and stays here")
        return found

    def promise(self) -> str:
        """Return what a person is promised, and what somebody could learn at most."""
        plan = self.plan
        if not plan.private:
            return (
                "**None: plan.privacy.mode is none.** Exact sums over users leave; whoever sees them may tell whether a given "
                "person's history is among them. Fit for public data only."
            )
        advantage = membership_advantage(plan)
        return (
            f"User-level differential privacy, ε = {plan.privacy.epsilon:g}, δ = {plan.delta:.2g} for one run. Whoever sees "
            "all "
            "that leaves, the aggregator included, and knows everything else, can tell a person who takes part from one who "
            "does "
            f"not in at most {100 * (1 + advantage) / 2:.0f} of 100 even guesses (50 would be chance); with the budget of all "
            f"runs used up, {self._most()}."
        )

    def spent(self) -> str:
        """Return what the ledger says."""
        if self.spend is None:
            return "Nothing has been spent: this platform has taken part in no run yet."
        epsilon, policy = self.spend.epsilon, self.spend.policy
        said = "without bound" if epsilon is None else f"ε = {epsilon:.3g} at δ = {policy.delta:.2g}"
        limit = "no limit" if policy.epsilon is None else f"a lifetime budget of ε = {policy.epsilon:g}"
        runs = sum(bool(run.charges) for run in self.spend.runs)
        return (
            f"Spent up to now: {said}, of {limit}, in {runs} run{'' if runs == 1 else 's'} (`crossfed-client privacy`)."
        )

    def requests_of_persons(self) -> int:
        """How many erasures and objections were completed."""
        return len(list((self.config.state / PERSONS_FOLDER).glob("*.receipt.json")))

    def _most(self) -> str:
        budget = self.config.budget or self.plan.privacy.budget or self.plan.privacy.epsilon
        advantage = _advantage(
            budget, self.plan.privacy.budget_delta or self.plan.delta, deep=self.plan.federated_towers is not None
        )
        return f"at most {100 * (1 + advantage) / 2:.0f}"


def facts_of(config: PlatformConfig) -> Facts:
    """As :meth:`Facts.of`; an unreadable ledger is an error, a missing one is none."""
    try:
        return Facts.of(config)
    except LedgerError:
        if (config.state / "ledger.db").exists():
            raise
        return Facts(config, None)


def membership_advantage(plan: FederationPlan) -> float:
    """The largest (true positive rate − false positive rate) of any test whether a person is there, in one run."""
    return _advantage(plan.privacy.epsilon, plan.delta, deep=plan.federated_towers is not None)


def _advantage(epsilon: float, delta: float, *, deep: bool) -> float:
    general = (math.expm1(epsilon) + 2 * delta) / (math.exp(epsilon) + 1)
    # The general bound for (ε, δ) (Kairouz, Oh & Viswanath 2015); for Gaussian releases alone that of μ is smaller.
    return general if deep else min(general, 2 * NormalDist().cdf(mu_from_epsilon(epsilon, delta) / 2) - 1)


def _columns(data: DataConfig) -> str:
    return "positions, no times" if data.interactions.time_format == "order" else "with times where the file has them"
