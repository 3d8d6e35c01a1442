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
from common.contributions.kind import MASKED
from common.contributions.masked_rounds import round_index, secure_rounds
from common.contributions.protocol import open_sizes, plan_sizes, reply_contract
from common.contributions.race_kind import plan_asked
from common.contributions.registry import kinds_by_wire_name
from common.errors import ContractError, FederationError, SecureSumError
from common.files import write_atomically
from common.privacy.secure_sum import Roster, SecureSumRound, SecureSumServer
from common.wire.exchange import AgentReply, AgentRequest, Arrays
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

    def enrol(self, exchange: PlatformExchange, state: FederationState, identities: Mapping[str, bytes]) -> None:
        """Prepare for a run, after the vocabulary is agreed."""

    def contributions(
        self, exchange: PlatformExchange, state: FederationState, request: AgentRequest, answers: Answers
    ) -> Iterator[Contribution]:
        """Return what the answers to ``request`` contribute; those that break the contract are named in ``exchange.failed`` and
        left out.
        """


class OpenCollector:
    """Every platform's contribution is seen by itself: exact, or with all of its noise.

    Args:
        plan: fixes the contract.
    """

    def __init__(self, plan: FederationPlan) -> None:
        self._plan = plan
        self._contract = reply_contract(plan)
        self._kinds = kinds_by_wire_name(plan)

    def enrol(self, exchange: PlatformExchange, state: FederationState, identities: Mapping[str, bytes]) -> None:
        """Nothing to prepare."""

    def contributions(
        self, exchange: PlatformExchange, state: FederationState, request: AgentRequest, answers: Answers
    ) -> Iterator[Contribution]:
        """One contribution a platform, as it arrives."""
        for _, reply in answers:
            if self.keeps_contract(exchange, state, request, reply):
                yield Contribution((reply.platform,), state.vocabulary.owners[reply.platform], reply.arrays)

    def keeps_contract(
        self, exchange: PlatformExchange, state: FederationState, request: AgentRequest, reply: AgentReply
    ) -> bool:
        """Check an answer's arrays; an answer that fails is named and left out."""
        positions, kind = state.vocabulary.owners[reply.platform], self._kinds.get(reply.kind)
        plan = plan_asked(self._plan, request)
        sizes = plan_sizes(plan, catalogue=len(positions), vocabulary=len(state.vocabulary))
        try:
            if kind is not None:
                sizes |= kind.sizes(self._plan, request, state.vocabulary.ownership, positions)
            self._contract[reply.kind].check(dict(reply.arrays), sizes | open_sizes(reply.arrays))
            if kind is not None and not self._plan.private:
                kind.check_sums(self._plan, reply.arrays, request, state.vocabulary.ownership, positions)
        except ContractError as error:
            exchange.reject(reply, error)
            return False
        return True


class SecureCollector:
    """Masked contributions in, their sum out; what each platform sent stays hidden.

    A round takes one message where the plan tolerates no dropout, else two, and three when a platform is missing.

    Args:
        plan: noise, colluders, dropouts.
        folder: where the enrolment is kept, for a run that is resumed.
    """

    def __init__(self, plan: FederationPlan, folder: Path) -> None:
        self._plan = plan
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
            rounds=secure_rounds(self._plan, platforms=len(identities), n_items=len(state.vocabulary)),
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
        """Yield what each platform sent in the open (its noisy Gram matrix), then the sum of what was masked.

        Raises:
            SecureSumError: too few platforms are left, or one sent rubbish; the round is void and nobody can be named.
        """
        if self._server is None:
            raise FederationError("the secure sum has no enrolment yet")
        kind, vocabulary = kinds_by_wire_name(self._plan)[request.kind], state.vocabulary
        told = vocabulary_digest(vocabulary.owners, vocabulary.digests, vocabulary.ownership().astype(np.uint8))
        index = round_index(self._plan, kind, request.server_round)
        length = kind.masked_length(self._plan, len(vocabulary))
        current = self._server.open_round(index, length, round_context(request, told))
        for _, reply in answers:
            if not self._open.keeps_contract(exchange, state, request, reply):
                continue
            try:
                current.add_masked(reply.platform, reply.arrays[MASKED].tobytes())
            except SecureSumError as error:
                exchange.reject(reply, ContractError(str(error)))
                continue
            in_the_open = {name: array for name, array in reply.arrays.items() if name != MASKED}
            yield Contribution((reply.platform,), state.vocabulary.owners[reply.platform], in_the_open)
        missing = exchange.failed
        if self._server.roster.dropouts:
            self._unmask(exchange, state, request.server_round, current)
        # The round's own failures stand, whatever happened while it was unmasked.
        exchange.failed = missing
        everything = np.arange(len(vocabulary), dtype=np.int32)
        yield Contribution(current.survivors, everything, kind.split(self._plan, current.sum(), len(vocabulary)))

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
        request = self._request(state, server_round, step, message)
        for _, reply in exchange.ask(request, wanted):
            if self._open.keeps_contract(exchange, state, request, reply):
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


def make_collector(plan: FederationPlan, folder: Path) -> Collector:
    """Open or secure, as the plan says."""
    return SecureCollector(plan, folder) if plan.secure_sum else OpenCollector(plan)
