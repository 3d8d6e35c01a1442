"""Solves user factors, which stay, and sums over users, which a mechanism releases."""

from __future__ import annotations

from logging import getLogger
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from client.contributions.contributor import Contributor, PlatformContext
from client.contributions.factor_sums import PlainCounts, PlainStatistics, PrivateCounts, PrivateStatistics
from client.contributions.membership import Membership
from client.training.engine import Engine
from common.config.federation import FederationPlan
from common.contributions.factors import PlainMechanism, UserLevelMechanism
from common.contributions.kind import ContributionKind
from common.contributions.race_kind import plan_asked
from common.contributions.run_plan import RunPlan
from common.errors import PrivacyError
from common.privacy.contribution import PrivatizedContribution
from common.privacy.postprocess import item_weights
from common.wire.exchange import AgentRequest, value_mean_of

_log = getLogger(__name__)


class FactorContributor(Protocol):
    """Makes one platform's counts and statistics."""

    def counts(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        """How many users have each shared item, and how many users there are."""

    def statistics(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        """One server round's sums over users at the request's item parameters."""


class PlainContributor:
    """``mode: none``: exact sums. The result of the federation is then that of pooled training.

    Args:
        plan: public parameters.
        engine: sums over the platform's users.
    """

    def __init__(self, plan: FederationPlan, engine: Engine) -> None:
        self._plan = plan
        self._engine = engine
        self._mechanism = PlainMechanism()

    def counts(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        return self._mechanism.release("counts", request.server_round, self._engine.sum(PlainCounts()))

    def statistics(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        measured = self._plan.model.feedback == "implicit" and self._plan.evaluate_rounds
        sums = PlainStatistics(
            plan_asked(self._plan, request).training,
            value_mean_of(request),
            request.arrays["item_parameters"][membership.shared_positions],
            metrics=("recall@20",) if measured else (),
        )
        return self._mechanism.release("statistics", request.server_round, self._engine.sum(sums))


class PrivateContributor:
    """``mode: user``: what one user changes in a sum is bounded, and noise hides it.

    Everything a user contributes depends on that user's history, released values and public parameters alone. Nothing is
    refused here for what the users are, nor for how many they are (:mod:`client.privacy.declared_users`). A platform that
    shares no item has no user as far as the federation is concerned; under secure summation it adds its noise to the others'.

    Args:
        plan: public parameters, from the platform's own configuration.
        engine: sums over the platform's users.
        mechanism: holds the run's releases and their noise.

    Raises:
        PrivacyError: δ is too large for the public bound on users.
        ConfigError: the engine cannot solve users one by one.
    """

    def __init__(self, plan: FederationPlan, engine: Engine, mechanism: UserLevelMechanism) -> None:
        if max(plan.delta, mechanism.plan.delta) > 1 / plan.privacy.user_bound:
            raise PrivacyError("privacy.delta: is above 1/user_bound; agree on a smaller one")
        self._plan = plan
        self._engine = engine
        self._mechanism = mechanism
        _log.info("users are solved one by one by the %s kernels", engine.solver(plan.training))

    def counts(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        return self._mechanism.release_counts(
            self._engine.sum(PrivateCounts(self._mechanism, *self._columns(membership)))
        )

    def statistics(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        parameters = self._mechanism.plan.parameters
        weights = item_weights(
            request.arrays["item_counts"],
            kept_items=parameters.kept_items,
            popularity_exponent=parameters.popularity_exponent,
        )
        shared = membership.shared_positions
        sums = PrivateStatistics(
            self._mechanism,
            *self._columns(membership),
            request.server_round,
            self._plan.training,
            request.arrays["item_parameters"][shared],
            weights if self._dense else weights[shared],
        )
        return self._mechanism.release_statistics(request.server_round, self._engine.sum(sums))

    @property
    def _dense(self) -> bool:
        # Under secure summation every platform adds noise to every item, so that who contributed to one does not show.
        return self._plan.secure_sum

    def _columns(self, membership: Membership) -> tuple[NDArray[np.int32] | None, int]:
        """Sums are in columns of the vocabulary, or of the own shared items where each platform adds all noise."""
        shared = membership.shared_positions
        return (shared, len(membership.owners)) if self._dense else (None, len(shared))


def make_contributor(plan: FederationPlan, engine: Engine) -> FactorContributor:
    """The contributor for the plan's mode of privacy."""
    if plan.private:
        return PrivateContributor(plan, engine, UserLevelMechanism(RunPlan.of(plan).release_plan()))
    return PlainContributor(plan, engine)


def factor_contributor(context: PlatformContext) -> FactorContributor:
    """The platform's, which counts and statistics share."""
    return make_contributor(context.plan, context.engine)


class CountsContributor(Contributor):
    """The platform's half of ``counts``."""

    def __init__(self, kind: ContributionKind, context: PlatformContext) -> None:
        super().__init__(kind, context)
        self._factors = context.once(factor_contributor)

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        return self._factors.counts(request, membership)


class StatisticsContributor(Contributor):
    """The platform's half of ``statistics``."""

    def __init__(self, kind: ContributionKind, context: PlatformContext) -> None:
        super().__init__(kind, context)
        self._factors = context.once(factor_contributor)

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        return self._factors.statistics(request, membership)
