"""From the platforms' answers to what may be added up: open contributions one by one, or one sum that hides its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.contributions.broadcast import round_context, vocabulary_digest
from common.contributions.cooccurrence import COOCCURRENCE, USERS
from common.contributions.masked_rounds import masked_lengths
from common.contributions.protocol import open_sizes, pair_sizes, plan_sizes, reply_contract
from common.contributions.run_plan import RunPlan
from common.contributions.updates import UPDATE
from common.errors import ContractError, FederationError, SecureSumError
from common.files import write_atomically
from common.privacy.secure_sum import Roster, SecureSumRound, SecureSumServer
from common.wire.exchange import AgentReply, AgentRequest, Arrays, Kind
from server.aggregation.ease import check_sums_of_products
from server.federation.exchange import PlatformExchange
from server.federation.state import FederationState

_log = getLogger(__name__)
Answers = Iterable[tuple[int, AgentReply]]


@dataclass(frozen=True, eq=False)
class Contribution:
    """Something to add to a sum.

    Attributes:
        platforms: whose it is; several for a secure sum over them.
        positions: int32, the items that the arrays' rows are about.
        arrays: as the contract declares them, or unmasked.
    """

    platforms: tuple[str, ...]
    positions: NDArray[np.int32]
    arrays: Arrays


class Collector(Protocol):
    """Gathers the contributions of a round."""

    counts_kind: Kind
    linear_kind: Kind
    statistics_kind: Kind
    update_kind: Kind

    def enrol(self, exchange: PlatformExchange, state: FederationState, identities: Mapping[str, bytes]) -> None:
        """Prepare for a run, after the vocabulary is agreed."""

    def contributions(
        self, exchange: PlatformExchange, state: FederationState, request: AgentRequest, answers: Answers
    ) -> Iterator[Contribution]:
        """What the answers to ``request`` contribute; those that break the contract are named in ``exchange.failed`` and
        left out.
        """


class OpenCollector:
    """Every platform's contribution is seen by itself: exact, or with all of its noise.

    Args:
        plan: fixes the contract.
    """

    counts_kind: Kind = "counts"
    linear_kind: Kind = "cooccurrence"
    statistics_kind: Kind = "statistics"
    update_kind: Kind = "update"

    def __init__(self, plan: FederationPlan) -> None:
        self._plan = plan
        self._contract = reply_contract(plan)

    def enrol(self, exchange: PlatformExchange, state: FederationState, identities: Mapping[str, bytes]) -> None:
        """Nothing to prepare."""

    def contributions(
        self, exchange: PlatformExchange, state: FederationState, request: AgentRequest, answers: Answers
    ) -> Iterator[Contribution]:
        """One contribution a platform, as it arrives."""
        for _, reply in answers:
            if self.keeps_contract(exchange, state, reply):
                yield Contribution((reply.platform,), state.vocabulary.owners[reply.platform], reply.arrays)

    def keeps_contract(self, exchange: PlatformExchange, state: FederationState, reply: AgentReply) -> bool:
        """Check an answer's arrays; an answer that fails is named and left out."""
        catalogue = len(state.vocabulary.owners[reply.platform])
        sizes = plan_sizes(self._plan, catalogue=catalogue, vocabulary=len(state.vocabulary))
        kept = self._kept_items(state, reply)
        try:
            self._contract[reply.kind].check(dict(reply.arrays), sizes | pair_sizes(kept) | open_sizes(reply.arrays))
            if reply.kind == "statistics" and not self._plan.private:
                check_sums_of_squares(reply.arrays)
            if reply.kind == COOCCURRENCE and self._plan.linear is not None and not self._plan.private:
                # Half of the regression's own ridge: sums of such statistics are then positive definite with it.
                ridge = self._plan.linear.regularization / (2 * len(state.vocabulary.owners))
                check_sums_of_products(reply.arrays[COOCCURRENCE], kept, ridge)
        except ContractError as error:
            exchange.reject(reply, error)
            return False
        return True

    def _kept_items(self, state: FederationState, reply: AgentReply) -> int:
        """Of how many items the platform was asked which go together; 0 in other answers."""
        if reply.kind != COOCCURRENCE or self._plan.linear is None:
            return 0
        ownership = state.vocabulary.ownership()
        kept = self._plan.linear.columns(state.item_counts, ownership, private=self._plan.private)
        return int(np.isin(kept, state.vocabulary.owners[reply.platform]).sum())


def check_sums_of_squares(arrays: Arrays) -> None:
    """Refuse exact statistics that no users can have: one platform's rubbish must not end the run for all.

    Raises:
        ContractError: the users' Gram matrix is not positive semidefinite, or an item's has a negative diagonal.
    """
    users = arrays["user_gram"]
    rows = np.arange(len(users))
    diagonal = rows * len(users) - rows * (rows - 1) // 2  # places of the diagonal in a packed upper triangle
    if np.linalg.eigvalsh(users).min(initial=0.0) < -1e-6 * max(float(np.trace(users)), 1.0):
        raise ContractError("user_gram is not positive semidefinite, so it is no sum over users")
    if arrays["gram"][:, diagonal].min(initial=0.0) < 0:
        raise ContractError("gram has a negative diagonal, so it is no sum over users")


class SecureCollector:
    """Masked contributions in, their sum out; what each platform sent stays hidden.

    A round takes one message where the plan tolerates no dropout, else two, and three when a platform is missing.

    Args:
        plan: noise, colluders, dropouts.
        folder: where the enrolment is kept, for a run that is resumed.
    """

    counts_kind: Kind = "masked_counts"
    linear_kind: Kind = "masked_cooccurrence"
    statistics_kind: Kind = "masked_statistics"
    update_kind: Kind = "masked_update"

    def __init__(self, plan: FederationPlan, folder: Path) -> None:
        self._plan, self._run = plan, RunPlan.of(plan)
        self._open = OpenCollector(plan)
        self._state_path = folder / "secure_sum.json"
        self._server: SecureSumServer | None = None

    def enrol(self, exchange: PlatformExchange, state: FederationState, identities: Mapping[str, bytes]) -> None:
        """Agree on a roster; exchange keys and sealed shares. Once a run; a resumed run goes on with the same ones.

        Raises:
            SecureSumError: a platform refused the terms, or did not answer.
        """
        if self._state_path.exists():
            server = SecureSumServer.from_state(self._state_path.read_bytes())
            if server.roster.run_id == state.run_id:
                self._server = server
                return
        roster = Roster.agree(
            run_id=state.run_id,
            identities=dict(identities),
            colluders=self._plan.privacy.colluders,
            dropouts=self._plan.privacy.dropouts,
            rounds=self._run.masked_rounds(len(identities), len(state.vocabulary)),
        )
        _log.info("%s", roster.describe())
        server = SecureSumServer(roster)
        for name, data in self._step(exchange, state, 0, "advertise", roster.to_bytes(), exchange.nodes):
            server.add_advert(name, data)
        enrolment = server.enrolment()
        for name, data in self._step(exchange, state, 0, "enrol", enrolment, exchange.nodes):
            server.add_shares(name, data)
        if roster.dropouts:
            bags = {node: server.mailbag(name) for node, name in exchange.nodes.items()}
            list(exchange.ask_each({node: self._request(state, 0, "receive", bag) for node, bag in bags.items()}))
        write_atomically(self._state_path, server.to_state())
        self._server = server

    def contributions(
        self, exchange: PlatformExchange, state: FederationState, request: AgentRequest, answers: Answers
    ) -> Iterator[Contribution]:
        """What each platform sent in the open (its noisy Gram matrix), then the sum of what was masked.

        Raises:
            SecureSumError: too few platforms are left, or one sent rubbish; the round is void and nobody can be named.
        """
        if self._server is None:
            raise FederationError("the secure sum has no enrolment yet")
        kind, vocabulary = request.kind, state.vocabulary
        told = vocabulary_digest(vocabulary.owners, vocabulary.digests, vocabulary.ownership().astype(np.uint8))
        index = self._run.masked_round(kind, request.server_round)
        length = self._masked_length(kind, len(vocabulary))
        current = self._server.open_round(index, length, round_context(request, told))
        for _, reply in answers:
            if not self._open.keeps_contract(exchange, state, reply):
                continue
            try:
                current.add_masked(reply.platform, reply.arrays["masked"].tobytes())
            except SecureSumError as error:
                exchange.reject(reply, ContractError(str(error)))
                continue
            in_the_open = {name: array for name, array in reply.arrays.items() if name != "masked"}
            yield Contribution((reply.platform,), state.vocabulary.owners[reply.platform], in_the_open)
        missing = exchange.failed
        if self._server.roster.dropouts:
            self._unmask(exchange, state, request.server_round, current)
        # The round's own failures stand, whatever happened while it was unmasked.
        exchange.failed = missing
        everything = np.arange(len(vocabulary), dtype=np.int32)
        yield Contribution(current.survivors, everything, self._split(kind, current.sum(), len(vocabulary)))

    def _unmask(
        self, exchange: PlatformExchange, state: FederationState, server_round: int, current: SecureSumRound
    ) -> None:
        survivors = [node for node, name in exchange.nodes.items() if name in current.survivors]
        for name, data in self._step(
            exchange, state, server_round, "survivors", current.survivor_list(), survivors, all_must=False
        ):
            current.add_survivor_reply(name, data)
        if current.needs_certificate:
            certificate = current.certificate()
            for name, data in self._step(
                exchange, state, server_round, "certificate", certificate, survivors, all_must=False
            ):
                current.add_survivor_reply(name, data)

    def _step(
        self,
        exchange: PlatformExchange,
        state: FederationState,
        server_round: int,
        step: str,
        message: bytes,
        nodes: Iterable[int],
        *,
        all_must: bool = True,
    ) -> Iterator[tuple[str, bytes]]:
        """One step with every platform: (name, answer) pairs."""
        wanted = list(nodes)
        answered = 0
        for _, reply in exchange.ask(self._request(state, server_round, step, message), wanted):
            if self._open.keeps_contract(exchange, state, reply):
                answered += 1
                yield reply.platform, reply.arrays["message"].tobytes()
        if all_must and answered < len(wanted):
            missing = ", ".join(f"{name} ({code})" for name, code in sorted(exchange.failed.items()))
            raise SecureSumError(
                f"step {step!r} of the secure sum failed at {missing}; start a new run when it is back"
            )

    def _request(self, state: FederationState, server_round: int, step: str, message: bytes) -> AgentRequest:
        return AgentRequest(
            kind="secure_sum",
            run_id=state.run_id,
            server_round=server_round,
            config={"step": step},
            arrays={"message": np.frombuffer(message, dtype=np.uint8)},
        )

    def _masked_length(self, kind: str, n_items: int) -> int:
        if kind == self.update_kind:
            return self._run.update_layout(n_items).size
        if kind == self.linear_kind:
            return self._run.linear_size(n_items)
        counts, *statistics = masked_lengths(self._run.release_plan(), n_items=n_items, row=self._plan.row)
        return counts if kind == self.counts_kind else statistics[0]

    def _split(self, kind: str, total: NDArray[np.int64], n_items: int) -> Arrays:
        """The arrays that were masked end to end, in order of their names."""
        if kind == self.counts_kind:
            return {"counts": total}
        if kind == self.update_kind:
            return {UPDATE: total}
        if kind == self.linear_kind:
            pairs = len(total) - (self._plan.platforms or 0)
            return {COOCCURRENCE: total[:pairs], USERS: total[pairs:]}
        row = self._plan.row
        vectors = total[-n_items * row :].reshape(n_items, row)
        grams = total[: -n_items * row]
        if len(grams) == 0:
            return {"item_vectors": vectors}
        return {"item_vectors": vectors, "item_grams": grams.reshape(n_items, -1)}


def make_collector(plan: FederationPlan, folder: Path) -> Collector:
    """Open or secure, as the plan says."""
    return SecureCollector(plan, folder) if plan.secure_sum else OpenCollector(plan)
