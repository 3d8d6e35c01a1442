"""Computes what a plan comes to in a run: noise, releases, masked rounds, layouts; and checks a plan that is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter

from common.config.federation import FederationPlan
from common.contributions.cooccurrence import cooccurrence_noise
from common.contributions.tower_variables import SharedVariable, tower_variables
from common.contributions.updates import UpdateLayout, UpdatePlan
from common.errors import PrivacyError, SecureSumError
from common.privacy.lifetime import gaussian_mu
from common.privacy.plan import GaussianNoise, ReleasePlan, calibrate, noise_shares


def spends_on_depth(plan: FederationPlan) -> str:
    """Return why a private plan should not train its deep model together, and the mend; empty where it need not be said.

    >>> spends_on_depth(FederationPlan())
    ''
    """
    towers = plan.federated_towers
    if towers is None or not plan.private or towers.privacy.spend:
        return ""
    return (
        "plan.towers: ε that goes to a federated deep model buys little, and the factorisation lacks it (MovieLens-1M, four "
        "platforms: HR@10 .036 at ε = 10, the factorisation alone .085, a deep model that one platform trains at home .238 for "
        "nothing); set plan.towers.place=home, or say plan.towers.privacy.spend=true if it is to be spent all the same"
    )


@dataclass(frozen=True)
class RunPlan:
    """Holds what all parties compute alike from a plan and the vocabulary's size.

    >>> len(RunPlan.of(FederationPlan(platforms=3)).release_plan().rounds)
    2
    """

    plan: FederationPlan

    @classmethod
    def of(cls, plan: FederationPlan) -> RunPlan:
        """The run of ``plan``; each part is computed when it is asked for, and refused then if the plan has no such part."""
        return cls(plan)

    @property
    def gaussian_mu(self) -> float:
        """μ of all releases with full participation: those of the factorisation and the item-item statistics."""
        return gaussian_mu(self.plan)

    @property
    def tower_variables(self) -> tuple[SharedVariable, ...]:
        """The federated deep model's shared variables; none without one."""
        return () if self.plan.federated_towers is None else tower_variables(self.plan.federated_towers)

    def release_plan(self) -> ReleasePlan:
        """Every release of the factorisation that a platform makes in a run, with its noise.

        Of μ² it takes what the other kinds of contributions leave.

        Raises:
            PrivacyError: ``mode: none``, no number of platforms, or a combination that protects nobody.
        """
        from common.contributions.registry import kinds_of  # kinds are made of run plans

        plan = self.plan
        if plan.platforms is None:
            raise PrivacyError("plan.platforms: under privacy the number of platforms must be set")
        return _calibrated(plan, plan.platforms, 1 - sum(kind.share(plan) for kind in kinds_of(plan)))

    def item_item_noise(self) -> GaussianNoise:
        """The noise of the item-item statistics; of μ² they take ``linear.privacy.share``.

        Raises:
            PrivacyError: no item-item model or no number of platforms, or nobody's noise would protect the sum.
        """
        plan = self.plan
        if plan.linear is None or plan.platforms is None:
            raise PrivacyError("plan.linear, plan.platforms: both must be set for item-item statistics under privacy")
        shares, masked = noise_shares(plan.privacy, plan.platforms), plan.secure_sum
        return cooccurrence_noise(plan.linear, mu=self.gaussian_mu, shares=shares, masked=masked)

    def update_plan(self) -> UpdatePlan:
        """Every release of the deep model that a platform makes in a run, with its noise.

        Raises:
            PrivacyError: there is no federated deep model, no noise is stated, or nobody's noise would protect the sum.
        """
        plan, towers = self.plan, self.plan.federated_towers
        if towers is None or towers.privacy.noise_multiplier is None or plan.platforms is None:
            raise PrivacyError(
                "plan.towers.privacy.noise_multiplier: under privacy it is part of the plan, since the aggregator has no "
                "accountant; `crossfed-simulate noise PLAN` computes it for plan.privacy.epsilon"
            )
        own = towers.privacy
        return UpdatePlan.of(
            epsilon=own.share * plan.privacy.epsilon,
            delta=own.share * plan.delta,
            clip_norm=own.clip_norm,
            noise_multiplier=towers.privacy.noise_multiplier,
            sampling_rate=own.sampling_rate,
            rounds=towers.training.rounds,
            shares=noise_shares(plan.privacy, plan.platforms),
            masked=plan.secure_sum,
        )

    def update_layout(self, n_items: int) -> UpdateLayout:
        """Where each shared variable of the deep model is in a sum over a vocabulary of ``n_items``."""
        return UpdateLayout(self.tower_variables, n_items)

    def check(self) -> None:
        """Refuse what fits no ring, or no 64 bits, before anything is known of items and users.

        Without a number of platforms, or without privacy, there is nothing to refuse yet.

        Raises:
            PrivacyError: a combination that protects nobody, or noise so small that sums would overflow.
            SecureSumError: a sum fits no ring; the message names the setting to change.
        """
        from common.contributions.masked_rounds import check_sums_fit  # as above

        plan = self.plan
        if not plan.private or plan.platforms is None:
            return
        check_sums_fit(plan, platforms=plan.platforms)


@lru_cache(maxsize=8)
def _calibrated(plan: FederationPlan, platforms: int, share: float) -> ReleasePlan:
    """Of all rounds together, and asked for round by round."""
    return calibrate(
        plan.factor_privacy,
        n_users_bound=plan.privacy.user_bound,
        rounds=plan.server_rounds,
        platforms=platforms,
        share=share,
    )


def _checked(plan: FederationPlan) -> FederationPlan:
    try:
        RunPlan.of(plan).check()
    except (PrivacyError, SecureSumError) as error:
        raise ValueError(str(error)) from None
    return plan


CheckedPlan = Annotated[FederationPlan, AfterValidator(_checked)]
"""A plan as a file's or a message's model holds it: refused where it is read if no run of it could protect its users."""

_READER: TypeAdapter[FederationPlan] = TypeAdapter(CheckedPlan)


def read_plan(content: object) -> FederationPlan:
    """The plan that ``content`` (a mapping, as from YAML or JSON) says.

    Raises:
        pydantic.ValidationError: it is none, or no run of it could protect its users.
    """
    return _READER.validate_python(content)
