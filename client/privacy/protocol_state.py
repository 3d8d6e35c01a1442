"""Whether a request of the aggregator is in order, decided from public facts before anything is charged or computed.

What is asked again is a fact too: the same request gets the same answer, whatever came between. Where a run stands is read
from the budget ledger alone (what was reserved, charged, closed and finished), so that it survives restarts and cannot
differ from what was paid for. Places of a run, in order:

    counts 0 → cooccurrence 0 → race 0 → statistics 1 … T → update T + 1 … T + R → finish

Under user-level privacy a place is paid for once, and none before one that was paid for. A run whose plan tolerates that a
platform misses a round may leave places out. With ``mode: none`` sums are exact, and a run that a platform joins late asks
its counts and rounds again.
"""

from __future__ import annotations

from collections.abc import Callable

from client.privacy.account import Charge, RunAccount
from common.config.federation import FederationPlan
from common.contributions.kind import ContributionKind
from common.contributions.registry import all_kinds, kind_of_release, kinds_by_wire_name, kinds_of
from common.errors import OrderError
from common.wire.exchange import AgentRequest, digest_of

Place = tuple[int, int]
"""A kind's number and a server round: places compare in the order of the protocol."""


class ProtocolState:
    """Says which requests are in order under one plan.

    Args:
        plan: the platform's own.
    """

    def __init__(self, plan: FederationPlan) -> None:
        self._plan = plan
        self._kinds = kinds_by_wire_name(plan)
        last = kinds_of(plan)[-1]
        self._last = _place(last, last.rounds(plan)[-1])

    def check(
        self,
        request: AgentRequest,
        run: RunAccount | None,
        *,
        told: bool,
        check_mask: Callable[[AgentRequest], None],
    ) -> None:
        """Refuse a request that is not in order.

        Args:
            request: of a kind that the contract declares.
            run: what the ledger has of the request's run.
            told: whether the run's vocabulary is known here.
            check_mask: raises where the secure sum could not mask a contribution to the request; asked for masked kinds
                that are to be charged.

        Raises:
            OrderError: the run, the round or the phase is wrong; nothing was charged.
            SecureSumError: of ``check_mask``.
        """
        if request.kind == "join":
            return
        if run is None:
            raise OrderError(f"run {request.run_id!r} is not joined; the handshake comes first")
        if request.kind == "vocabulary":
            # A run that has finished here may be resumed for platforms where it has not: it is told the same again.
            if run.finish is None:
                _check_open(run)
            return
        if request.kind == "finish" and run.finish is not None:
            if run.finish != digest_of(request):
                raise OrderError(f"run {run.run_id!r} has finished here, with other parameters")
            return
        if not told:
            raise OrderError("no vocabulary yet: the aggregator skipped the handshake")
        if request.kind == "finish":
            self._check_finish(request, run)
        elif request.kind == "secure_sum":
            _check_open(run)
        else:
            self._check_contribution(request, run, check_mask)

    def may_replace_vocabulary(self, run: RunAccount | None) -> bool:
        """Whether a run's vocabulary may change: under privacy never, else as long as platforms can join late."""
        return not self._plan.private and not (run is not None and run.closed)

    def _check_contribution(
        self, request: AgentRequest, run: RunAccount, check_mask: Callable[[AgentRequest], None]
    ) -> None:
        kind = self._kinds[request.kind]
        if request.server_round not in kind.rounds(self._plan):
            raise OrderError(f"{request.kind}: the run has no such round as {request.server_round}")
        _check_open(run)
        digest = digest_of(request)
        if any(charge.request_digest == digest for charge in run.charges):
            return
        place = _place(kind, request.server_round)
        if self._plan.private and run.charges:
            newest = max(map(place_of, run.charges))
            if place <= newest:
                raise OrderError(
                    f"{request.kind} of round {request.server_round}: the run has come to {_named(newest)} and a "
                    "round is paid for once"
                )
        if self._plan.secure_sum:
            check_mask(request)

    def _check_finish(self, request: AgentRequest, run: RunAccount) -> None:
        _check_open(run)
        places = {place_of(charge) for charge in run.charges}
        last = self._plan.server_rounds
        # Of the factorisation; the deep model's come after them.
        rounds = [server_round for _, server_round in places if 1 <= server_round <= last]
        trained = any(server_round >= 1 for _, server_round in places)
        # A round may take place without this platform only where the plan lets it; so may rounds be left out.
        complete = trained if self._may_miss_rounds or self._may_stop_early else self._last in places
        named = request.server_round == last
        if self._may_stop_early:
            named = max(rounds, default=1) <= request.server_round <= last
        if not (complete and named):
            raise OrderError("finish: the run's last round has not taken place")

    @property
    def _may_miss_rounds(self) -> bool:
        plan = self._plan
        if plan.secure_sum:
            return plan.privacy.dropouts > 0
        return plan.platforms is None or plan.min_platforms < plan.platforms

    @property
    def _may_stop_early(self) -> bool:
        plan = self._plan
        return not plan.private and any(kind.may_stop_early(plan) for kind in kinds_of(plan))


def place_of(charge: Charge) -> Place:
    """Where in its run a charge stands."""
    return _place(kind_of_release(charge.releases[0].kind), charge.server_round)


def _place(kind: ContributionKind, server_round: int) -> Place:
    return all_kinds().index(kind), server_round


def _check_open(run: RunAccount) -> None:
    if run.closed:
        raise OrderError(f"run {run.run_id!r} is closed; start a new one")


def _named(place: Place) -> str:
    return f"{all_kinds()[place[0]].name} of round {place[1]}"
