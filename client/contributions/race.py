"""The platform's half of a race between settings: sums at a setting's item parameters, and their worth on validation users."""

from __future__ import annotations

from client.contributions.contributor import Contributor
from client.contributions.factor_sums import PlainStatistics
from client.contributions.membership import Membership
from common.contributions.factors import PlainMechanism
from common.contributions.race_kind import RACE, plan_asked
from common.privacy.contribution import PrivatizedContribution
from common.wire.exchange import AgentRequest

_METRICS = ("recall@20", "ndcg@20")


class RaceContributor(Contributor):
    """Makes contributions to a race; there is none under privacy."""

    def make(self, request: AgentRequest, membership: Membership) -> PrivatizedContribution:
        sums = PlainStatistics(
            plan_asked(self.context.plan, request).training,
            0.0,
            request.arrays["item_parameters"][membership.shared_positions],
            metrics=_METRICS,
            objective=False,
        )
        return PlainMechanism().release(RACE, request.server_round, self.context.engine.sum(sums))
