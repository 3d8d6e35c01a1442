"""The end of a run at a platform: its final parameters are checked, kept and acknowledged; then a model is built of them.

1  check        by what is public of the request: refused before anything is kept
2  keep         on disk, so that a process that ends now builds the model when it is started again
3  close        the run's account, with the request's digest: no other finish is taken, and nothing more may leave
4  acknowledge  a constant
5  build        later: the platform's own models, the verdict, the store
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.contributions.membership import Membership
from client.contributions.towers import TowerContributor
from client.personalization.model_builder import BuildOutcome, Finish, ModelBuilder
from client.personalization.personalize import FederationView, Personalizer
from client.personalization.platform_model import PlatformModel
from client.privacy.outbox import Outbox
from client.scoring.described.released_counts import CountNoise
from client.scoring.ease import EasePart
from client.scoring.factors import FactorModel
from client.towers.stored import TowerModel
from common.config.federation import FederationPlan
from common.contributions.factor_kinds import PARAMETERS_WITHOUT
from common.contributions.race_kind import plan_asked
from common.errors import CrossfedError
from common.wire.exchange import AgentRequest, Arrays, digest_of, user_counts_of, value_mean_of


class Finisher:
    """Takes a platform's finishes, each run's once.

    Args:
        plan: the platform's own.
        outbox: whose ledger says which run has finished.
        builder: keeps finishes and builds models.
        personalizer: makes them.
        towers: gives the deep model, where there is one.
    """

    def __init__(
        self,
        plan: FederationPlan,
        outbox: Outbox,
        builder: ModelBuilder,
        personalizer: Personalizer,
        towers: TowerContributor,
    ) -> None:
        self._plan, self._outbox, self._builder = plan, outbox, builder
        self._personalizer, self._towers = personalizer, towers

    def has_taken(self, run_id: str) -> bool:
        """Whether the run has finished here: its finish was acknowledged, or was about to be."""
        run = self._outbox.run(run_id)
        return run is not None and run.finish is not None

    def take(self, request: AgentRequest, membership: Membership, vocabulary: Arrays) -> None:
        """Everything before the acknowledgement of a finish that was not taken yet.

        Args:
            request: in order, and in the form that the contract declares.
            membership: of the run.
            vocabulary: the arrays of the message that it was read from.

        Raises:
            ContractError: the request's mean, its numbers of users or its item-item weights cannot be used.
            StoreError, LedgerError: it cannot be kept, and must not be acknowledged.
        """
        value_mean_of(request)
        user_counts_of(request, len(membership.platforms))
        _ease_part(self._plan, request, membership)
        self._builder.keep(Finish(request, membership.platforms, vocabulary), self._plan)
        self._outbox.close(request.run_id, finish=digest_of(request))
        self._begin(request, lambda: membership)

    def resume(self, membership_of: Callable[[Finish], Membership]) -> None:
        """Build the model of a finish that an earlier process acknowledged, if that did not come to it."""
        finish = self._builder.unbuilt(self._plan)
        run = None if finish is None else self._outbox.run(finish.request.run_id)
        # What was never acknowledged the aggregator asks again, or does not.
        if finish is not None and run is not None and run.finish == finish.digest:
            self._begin(finish.request, lambda: membership_of(finish))

    def wait(self, timeout: float | None = None) -> BuildOutcome:
        """Come back once nothing is left to build."""
        return self._builder.wait(timeout)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being built."""
        return self._builder.idle

    @property
    def error(self) -> CrossfedError | None:
        """Return what the last build of this process failed with."""
        return self._builder.error

    def _begin(self, request: AgentRequest, membership_of: Callable[[], Membership]) -> None:
        def make() -> PlatformModel:
            membership = membership_of()
            view = _view(self._plan, request, membership, self._towers.model(request, membership))
            return self._personalizer.build(replace(view, home=self._towers.at_home(request, membership)))

        self._builder.begin(request.run_id, make)


def _view(
    plan: FederationPlan, request: AgentRequest, membership: Membership, towers: TowerModel | None
) -> FederationView:
    """Return what the federation has told this platform, from a finish that was checked."""
    shared = FactorModel(
        item_parameters=request.arrays["item_parameters"],
        config=plan_asked(plan, request).serving,
        value_mean=value_mean_of(request),
    )
    return FederationView(
        server_round=request.server_round,
        platforms=membership.platforms,
        vocabulary=membership.vocabulary,
        cards=membership.cards,
        owners=membership.owners,
        own_positions=membership.own_positions,
        shared=shared,
        foreign_popularity=request.arrays["item_counts"],
        towers=towers,
        linear=_ease_part(plan, request, membership),
        user_counts=user_counts_of(request, len(membership.platforms)),
        without_own=_without_own(request, membership, shared),
        count_noise=CountNoise.of(plan, membership.owners),
    )


def _without_own(request: AgentRequest, membership: Membership, shared: FactorModel) -> NDArray[np.float32] | None:
    """float32 ``[m, row]``: parameters, those of own items as the others alone have made them; None where it is not told."""
    told = request.arrays.get(PARAMETERS_WITHOUT)
    return None if told is None else shared.with_rows(membership.shared_positions, told)


def _ease_part(plan: FederationPlan, request: AgentRequest, membership: Membership) -> EasePart | None:
    if plan.linear is None:
        return None
    return EasePart.received(
        request.arrays, membership.shared_positions, membership.own_positions, len(membership.owners)
    )
