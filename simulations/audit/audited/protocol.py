"""An aggregator by hand: it takes a platform through a run, request by request, and keeps all that left it.

The parameters that it sends are its own choice, as a malicious one's would be, and the same in every world: what differs
between two worlds then comes from their users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.contributions.membership import Membership
from common.catalogue import Vocabulary
from common.config.federation import FederationPlan
from common.contributions.broadcast import card_arrays, round_context, vocabulary_arrays
from common.contributions.cooccurrence_kind import EASE_INPUTS, EASE_TARGETS, EASE_WEIGHTS
from common.contributions.kind import masked_name
from common.contributions.masked_rounds import round_index, secure_rounds
from common.contributions.registry import all_kinds, kinds_by_wire_name
from common.contributions.run_plan import RunPlan
from common.contributions.tower_variables import initial_values
from common.privacy.contribution import Release
from common.privacy.secure_sum import Roster, SecureSumServer
from common.wire.exchange import OK, AgentReply, AgentRequest, Arrays, Json
from simulations.audit.audited.files import ITEMS, UNTOUCHED
from simulations.audit.audited.platforms import PLATFORMS, SECRET, TARGET, Audited, Draws, ReplayedNoise, partner_keys

_CONTRIBUTIONS = {name for kind in all_kinds() for name in (kind.name, masked_name(kind.name))}


@dataclass(frozen=True, eq=False)
class Answer:
    """Holds what left the platform in answer to one request.

    Attributes:
        label: what was asked, and in which round.
        reply: the answer.
        paid: what the ledger charged for it.
    """

    label: str
    reply: AgentReply
    paid: tuple[Release, ...]

    @property
    def is_contribution(self) -> bool:
        return _is_contribution(self.reply.kind)


@dataclass(eq=False)
class Transcript:
    """All that left a platform in one run.

    Attributes:
        answers: in order.
        released: what the aggregator learns from contributions, int64 grid steps by name and round; of masked arrays the
            sum over all platforms.
    """

    answers: list[Answer] = field(default_factory=list)
    released: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def paid_for(self, name: str) -> Release | None:
        """The release that the ledger charged for ``released[name]``."""
        kind, _, number = name.partition(" ")
        for answer in self.answers:
            same_round = not number or answer.label.endswith(f" {number}")
            for release in answer.paid:
                if same_round and release.kind == kind and answer.reply.code == OK:
                    return release
        return None


class ByHand:
    """One run of one platform.

    Args:
        plan: the federation's.
        target: the audited platform.
        partners: the others, under secure summation; by name.
        noise: of every platform by name, restarted before each contribution; None leaves the production source.
        run_id: a new one for each run.
    """

    def __init__(
        self,
        plan: FederationPlan,
        target: Audited,
        partners: Mapping[str, Audited],
        *,
        run_id: str,
        noise: Mapping[str, ReplayedNoise | Draws] | None = None,
    ) -> None:
        self.plan, self._run_id = plan, run_id
        self._platforms = {**partners, TARGET: target}
        self._noise = noise or {}
        self.vocabulary = Vocabulary.empty()
        self._server: SecureSumServer | None = None
        self.transcript = Transcript()

    def ask(self, kind: str, server_round: int = 0, *, label: str = "", **parts: Any) -> AgentReply:
        """Send the audited platform a request, and note what it answers."""
        request = self._request(kind, server_round, **parts)
        ledger = self._platforms[TARGET].outbox.ledger
        before = len(ledger.entries())
        reply = self._platforms[TARGET].agent.exchange(request)
        # A charge is an entry of the ledger; nearly all requests leave none.
        paid = self._newest_charge() if len(ledger.entries()) > before and _is_contribution(kind) else ()
        self.transcript.answers.append(Answer(label or f"{kind} {server_round}", reply, paid))
        return reply

    def join(self) -> None:
        """Greeting, vocabulary and, where sums are masked, the secure sum's enrolment."""
        question: dict[str, Json] = {"plan": self.plan.model_dump(mode="json")}
        catalogues = {name: SECRET.digests(partner_keys(name)) for name in PLATFORMS if name != TARGET}
        catalogues[TARGET] = self.ask("join", config=question).arrays["digests"]
        for name in self._others:
            self._tell(name, self._request("join", config=question))
        self.vocabulary = Vocabulary.empty().extended(catalogues)
        told = self._vocabulary_parts()
        self.ask("vocabulary", **told)
        for name in self._others:
            self._tell(name, self._request("vocabulary", **told))
        if self.plan.secure_sum:
            self._enrol()

    def contribute(self, kind: str, server_round: int = 0, *, label: str = "", **parts: Any) -> AgentReply:
        """Ask for a contribution, from all platforms where sums are masked; what is learned is in the transcript."""
        masked = masked_name(kind) if self.plan.secure_sum else kind
        for name, source in self._noise.items():
            if isinstance(source, ReplayedNoise):
                source.restart(f"{name} {kind} {server_round}", everybody=kind == "update")
            elif kind == "update":
                source.restart(np.zeros(self._platforms[name].data.train.n_users, dtype=np.uint64))
        reply = self.ask(masked, server_round, label=label, **parts)
        if reply.code == OK and not label:
            self._learn(kind, server_round, reply, self._request(masked, server_round, **parts))
        return reply

    def parameters(self, seed: int = 0) -> Arrays:
        """Item factors and counts of the aggregator's choice; some kept items are had by nobody."""
        m = len(self.vocabulary)
        factors = np.random.default_rng([seed, 7]).normal(size=(m, self.plan.row)) / np.sqrt(m)
        return {"item_parameters": factors.astype(np.float32), "item_counts": self.item_counts()}

    def item_counts(self) -> NDArray[np.float64]:
        """Float64 ``[m]``: the first items of the catalogue are most popular, and half of the untouched ones are kept."""
        by_column = 60.0 / (1 + np.arange(ITEMS))
        by_column[ITEMS - UNTOUCHED : ITEMS - UNTOUCHED // 2] = 9.0
        counts = np.full(len(self.vocabulary), 2.4)
        counts[self.membership.own_positions] = by_column
        return counts

    def tower_parameters(self) -> dict[str, NDArray[np.float32]]:
        """The deep model's shared variables of the aggregator's choice; none without one."""
        return initial_values(RunPlan.of(self.plan).tower_variables, len(self.vocabulary), self.plan.seed)

    def final(self, parameters: Arrays) -> Arrays:
        """The arrays of a finish with ``parameters``."""
        own = np.sort(self.membership.own_positions).astype(np.int64)[:3]
        others = np.sort(self.vocabulary.owners[PLATFORMS[0]]).astype(np.int64)
        linear: Arrays = {
            EASE_INPUTS: own,
            EASE_TARGETS: others,
            EASE_WEIGHTS: np.full((len(own), len(others)), 0.1, dtype=np.float32),
        }
        return {**parameters, **self.tower_parameters(), **linear}

    def gather(self) -> None:
        """Every paid contribution of the plan, in order."""
        self.contribute("counts")
        self.contribute("cooccurrence", arrays={"item_counts": self.item_counts()})
        for server_round in range(1, self.plan.server_rounds + 1):
            self.contribute("statistics", server_round, arrays=self.parameters(server_round))
        if self.plan.towers is not None:
            for tower_round in range(1, self.plan.towers.training.rounds + 1):
                self.contribute(
                    "update",
                    self.plan.server_rounds + tower_round,
                    arrays=self.tower_parameters(),
                    config={"tower_round": tower_round},
                )

    def wait_built(self) -> None:
        """Wait for the models that the platform builds after it has answered."""
        self._platforms[TARGET].agent.wait_built()

    @property
    def membership(self) -> Membership:
        """Return what the audited platform was told of the federation."""
        return self.membership_of(TARGET)

    def membership_of(self, name: str) -> Membership:
        """Return what a platform was told of the federation."""
        return Membership.of(name, PLATFORMS, self._vocabulary_parts()["arrays"], self._platforms[name].data, SECRET)

    @property
    def _others(self) -> Sequence[str]:
        return [name for name in self._platforms if name != TARGET]

    def _newest_charge(self) -> tuple[Release, ...]:
        runs = self._platforms[TARGET].outbox.ledger.spend().runs
        charges = [charge for run in runs if run.run_id == self._run_id for charge in run.charges]
        return charges[-1].releases if charges else ()

    def _request(self, kind: str, server_round: int = 0, **parts: Any) -> AgentRequest:
        return AgentRequest(kind=kind, run_id=self._run_id, server_round=server_round, **parts)

    def _tell(self, name: str, request: AgentRequest) -> AgentReply:
        reply = self._platforms[name].agent.exchange(request)
        if reply.code != OK:
            raise RuntimeError(
                f"audit: {name} answered {request.kind} with {reply.code}; this is a bug, please report it"
            )
        return reply

    def _vocabulary_parts(self) -> dict[str, Any]:
        arrays = vocabulary_arrays(self.vocabulary) | card_arrays([b""] * len(self.vocabulary))
        return {"config": {"platforms": list(PLATFORMS)}, "arrays": arrays}

    def _enrol(self) -> None:
        identities = {
            name: platform.agent.__dict__["_secure_member"].public_key.tobytes()
            for name, platform in self._platforms.items()
        }
        roster = Roster.agree(
            run_id=self._run_id,
            identities=identities,
            colluders=self.plan.privacy.colluders,
            dropouts=self.plan.privacy.dropouts,
            rounds=secure_rounds(self.plan, platforms=len(identities), n_items=len(self.vocabulary)),
        )
        self._server = SecureSumServer(roster)
        for name in self._platforms:
            self._server.add_advert(name, self._step(name, "advertise", roster.to_bytes()))
        for name in self._platforms:
            self._server.add_shares(name, self._step(name, "enrol", self._server.enrolment()))

    def _step(self, name: str, step: str, message: bytes) -> bytes:
        parts: dict[str, Any] = {
            "config": {"step": step},
            "arrays": {"message": np.frombuffer(message, dtype=np.uint8)},
        }
        if name == TARGET:
            reply = self.ask("secure_sum", label=f"secure_sum {step}", **parts)
        else:
            reply = self._tell(name, self._request("secure_sum", **parts))
        return bytes(reply.arrays["message"].tobytes())

    def _learn(self, kind: str, server_round: int, reply: AgentReply, request: AgentRequest) -> None:
        """Note what the aggregator can compute of the answers to ``request``."""
        of_round = f" {server_round}" if server_round else ""
        for name, array in reply.arrays.items():
            if name != "masked":
                self.transcript.released[f"{name}{of_round}"] = array.astype(np.int64)
        if self._server is None:
            return
        found = kinds_by_wire_name(self.plan)[request.kind]
        index, length = (
            round_index(self.plan, found, server_round),
            found.masked_length(self.plan, len(self.vocabulary)),
        )
        context = round_context(request, self.membership.digest)
        current = self._server.open_round(index, length, context)
        current.add_masked(TARGET, reply.arrays["masked"].tobytes())
        for name in self._others:
            current.add_masked(name, self._tell(name, request).arrays["masked"].tobytes())
        name = "item_vectors" if kind == "statistics" else kind
        self.transcript.released[f"{name}{of_round}"] = current.sum()


def _is_contribution(kind: str) -> bool:
    return kind in _CONTRIBUTIONS
