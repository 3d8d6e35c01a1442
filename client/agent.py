"""The platform agent: owns the data, the private factors, the budget and the only way out.

A request of the aggregator passes through these steps, and nothing else leaves:

    1  admit      the request is one that the contract declares, of a plan that this platform agreed to, and in order: so far
                  everything is decided from public facts
    2  charge     the budget ledger, durably, before anything is computed
    3  train      user factors are solved on the platform's own data; they never leave
    4  privatise  the mechanism makes the contribution: clipped and noised, or marked as exact under ``mode: none``
    5  send       through the egress guard, which checks, journals, and refuses what the contract does not declare
    6  finish     (after the last round) the final parameters are taken and acknowledged; the platform's own model is built,
                  judged and stored after that, and how it went is nobody else's business

An error crosses the wire as its code alone. The same object serves the simulator in process and the courier of a
deployment over a Unix socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import getLogger

import numpy as np
from pydantic import ValidationError

from client.contributions.cooccurrence import make_linear_contributor
from client.contributions.factors import Make, make_contributor
from client.contributions.membership import Membership
from client.contributions.run_file import RunFile
from client.contributions.towers import make_tower_contributor
from client.data.training import TrainingData
from client.personalization.finishing import Finisher
from client.personalization.model_builder import BuildOutcome, ModelBuilder
from client.personalization.personalize import Personalizer
from client.personalization.store import PlatformStore
from client.privacy.card import PlatformSpend
from client.privacy.masking import MaskedContribution
from client.privacy.outbox import Outbox
from client.privacy.protocol_state import ProtocolState
from client.privacy.secure_member import SecureMember
from common.catalogue import FederationSecret, pack_blobs
from common.config.federation import FederationPlan
from common.config.platform import PersonalizationConfig
from common.contributions.broadcast import round_context
from common.contributions.protocol import IDENTITY_BYTES, open_sizes, plan_sizes, request_contract, spec_of
from common.contributions.run_plan import read_plan
from common.errors import (
    ContractError,
    CrossfedError,
    FailedContributionError,
    InternalError,
    OrderError,
    PlanMismatchError,
    PrivacyError,
    StoreError,
)
from common.privacy.attributes import public_attributes
from common.privacy.contribution import PrivatizedContribution, Release
from common.wire.exchange import OK, AgentReply, AgentRequest, Arrays, Json

_log = getLogger(__name__)

Fields = Mapping[str, Json]
Answer = tuple[Arrays, Fields]
Charged = Callable[[AgentRequest], tuple[Release, ...]]


class PlatformAgent:
    """One platform's side of a federation.

    Args:
        name: the platform's, unique in the federation.
        plan: the public parameters, from the platform's own configuration.
        secret: shared by the platforms, unknown to the aggregator.
        data: the platform's catalogue, training interactions and validation slice.
        outbox: budget ledger and egress guard, the only way out.
        store: where the finished model goes.
        personalization: how the platform's own model is built.
        secure_member: its part in the secure sum, where the plan has one.
        builder: builds the platform's own model; in the caller of :meth:`wait_built` unless given.
    """

    def __init__(
        self,
        name: str,
        plan: FederationPlan,
        secret: FederationSecret,
        data: TrainingData,
        *,
        outbox: Outbox,
        store: PlatformStore,
        personalization: PersonalizationConfig,
        secure_member: SecureMember | None = None,
        builder: ModelBuilder | None = None,
    ) -> None:
        self.name = name
        self.plan = plan
        self.data = data
        self.store = store
        self._secret = secret
        self._outbox = outbox
        self._secure_member = secure_member
        self._contributor = make_contributor(plan, data)
        self._linear = make_linear_contributor(name, plan, data)
        self._towers = make_tower_contributor(name, plan, data, RunFile(store.root / "towers.npz"))
        personalizer = Personalizer(name, data, plan.model, personalization)
        self._finisher = Finisher(plan, outbox, builder or ModelBuilder(store), personalizer, self._towers)
        self._requests = request_contract(plan)
        self._protocol = ProtocolState(plan)
        self._told: tuple[str, Membership] | None = None
        self._vocabulary_file = RunFile(store.root / "vocabulary.npz")
        self._steps: Mapping[str, Callable[[AgentRequest], Answer]] = {
            "join": self._join,
            "vocabulary": self._take_vocabulary,
            "secure_sum": self._take_part_in_secure_sum,
            "counts": lambda request: self._contribute(request, self._contributor.counts),
            "masked_counts": lambda request: self._contribute(request, self._contributor.counts),
            "cooccurrence": self._cooccurrence,
            "masked_cooccurrence": self._cooccurrence,
            "statistics": lambda request: self._contribute(request, self._contributor.statistics),
            "masked_statistics": lambda request: self._contribute(request, self._contributor.statistics),
            "update": lambda request: self._contribute(request, self._towers.update, self._towers.releases),
            "masked_update": lambda request: self._contribute(request, self._towers.update, self._towers.releases),
            "finish": self._finish,
        }

    def exchange(self, request: AgentRequest) -> AgentReply:
        """Answer one request of the aggregator; whatever goes wrong, the answer says no more than a code."""
        try:
            self._admit(request)
            arrays, fields = self._steps[request.kind](request)
        except FailedContributionError as error:
            _log.error(
                "%s: %s of round %d failed: %s",
                self.name,
                request.kind,
                request.server_round,
                error,
                exc_info=error.__cause__,
            )
            return self._answer(request, code=self._outbox.refuse(request.kind, error))
        except CrossfedError as error:
            _log.warning("%s: %s of round %d refused: %s", self.name, request.kind, request.server_round, error)
            return self._answer(request, code=self._outbox.refuse(request.kind, error))
        except Exception as error:
            # This is the wire's edge: a traceback could carry values of users' data to the aggregator.
            _log.exception("%s: %s of round %d failed", self.name, request.kind, request.server_round)
            return self._answer(request, code=self._outbox.refuse(request.kind, InternalError(str(error))))
        return self._answer(request, arrays=arrays, fields=fields)

    def spend(self) -> PlatformSpend:
        """What this platform's ledger has charged and what its journal has seen leave."""
        return self._outbox.spend()

    def _admit(self, request: AgentRequest) -> None:
        """Refuse what the contract does not declare and what is not in order, before anything is charged or computed."""
        spec = spec_of(self._requests, request.kind)
        self._recall(request)
        handshake = request.kind in ("join", "vocabulary", "secure_sum")
        told = self._told is not None and self._told[0] == request.run_id
        if handshake or told:
            sizes = {} if handshake else self._sizes(request)
            spec.check(dict(request.arrays), open_sizes(request.arrays) | sizes)
        self._protocol.check(
            request,
            self._outbox.run(request.run_id),
            told=told,
            check_mask=lambda asked: self._member().check_open(asked),
        )

    def _recall(self, request: AgentRequest) -> None:
        """After a restart in the middle of a run: take the vocabulary from disk, as the aggregator told it."""
        if request.kind == "join" or (self._told is not None and self._told[0] == request.run_id):
            return
        kept = self._vocabulary_file.load(request.run_id, self.plan)
        if kept is not None:
            facts, arrays = kept
            self._told = request.run_id, self._member_of(tuple(facts["platforms"]), arrays)

    def _join(self, request: AgentRequest) -> Answer:
        """Compare plans, set the run's budget aside, and say which items this platform shares."""
        differences = self.plan.differences(_plan_in(request))
        if differences:
            raise PlanMismatchError(
                f"the aggregator's plan differs from this platform's in {', '.join(differences)}; agree on one of them"
            )
        releases = self._contributor.run_releases() + self._towers.run_releases()
        if self._linear is not None:
            self._linear.check_size(len(self.data.shared_columns), "this platform")
            releases += self._linear.releases()
        self._outbox.reserve(request.run_id, releases, self.plan)
        digests = self._secret.digests(self.data.items.keys[column] for column in self.data.shared_columns)
        cards, card_offsets = pack_blobs(self._secret.seal_cards(self.data.cards(), digests))
        member = self._secure_member
        identity = np.zeros(IDENTITY_BYTES, dtype=np.uint8) if member is None else member.public_key
        tokens, token_offsets = self._secret.feature_tokens(self._features())
        arrays: Arrays = {
            "digests": digests,
            "cards": cards,
            "card_offsets": card_offsets,
            "feature_tokens": tokens,
            "feature_offsets": token_offsets,
            "identity": identity,
        }
        fields: Fields = {"secret_fingerprint": self._secret.fingerprint}
        return self._outbox.reply("join", arrays, fields, self._sizes(request))

    def _features(self) -> list[tuple[str, ...]]:
        """Public attributes of the shared items. Sent under privacy only, where they make up for some of the noise."""
        columns = self.data.shared_columns
        if not (self.plan.private and self.plan.privacy.item_features):
            return [()] * len(columns)
        items = self.data.items
        return [public_attributes(items.titles[column], items.genres[column]) for column in columns]

    def _take_vocabulary(self, request: AgentRequest) -> Answer:
        """Find the own items in the vocabulary and open the others' cards."""
        names = request.config.get("platforms")
        if not isinstance(names, list):
            raise ContractError("the vocabulary message does not list the platforms")
        platforms = tuple(str(name) for name in names)
        if self.plan.private and len(platforms) != self.plan.platforms:
            raise PrivacyError(
                f"{len(platforms)} platforms have joined, and noise was agreed for {self.plan.platforms}; wait for the "
                "others, or agree on another plan.platforms"
            )
        if self._linear is not None:
            self._linear.check_size(len(request.arrays["digests"]), "the vocabulary")
        membership = self._member_of(platforms, request.arrays)
        known = None if self._told is None or self._told[0] != request.run_id else self._told[1]
        may_change = self._protocol.may_replace_vocabulary(self._outbox.run(request.run_id))
        if known is not None and known.digest != membership.digest and not may_change:
            raise OrderError("the run has another vocabulary, which everything that was released in it rests on")
        self._told = request.run_id, membership
        self._vocabulary_file.save(request.run_id, self.plan, {"platforms": platforms}, request.arrays)
        return self._outbox.reply("vocabulary", {}, {}, self._sizes(request))

    def _take_part_in_secure_sum(self, request: AgentRequest) -> Answer:
        """Answer one step of the secure sum: keys, sealed shares, signatures; nothing that depends on interactions."""
        message = self._member().answer(request, len(self._joined(request).owners))
        return self._outbox.reply("secure_sum", {"message": message}, {}, self._sizes(request))

    def _cooccurrence(self, request: AgentRequest) -> Answer:
        """Contribute the item-item statistics, once a run."""
        linear = self._linear
        if linear is None:
            raise ContractError("this federation has no linear road")
        sizes = linear.sizes(request, self._joined(request))
        return self._contribute(request, linear.contribution, lambda _: linear.releases(), sizes)

    def _contribute(
        self,
        request: AgentRequest,
        make: Make,
        releases: Charged | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> Answer:
        """Charge, then compute and privatise, then mask where the noise is shared, then send."""

        def contribution() -> PrivatizedContribution | MaskedContribution:
            membership = self._joined(request)
            released = make(request, membership)
            if not released.masked:
                return released
            return self._member().mask(released, request.run_id, round_context(request, membership.digest))

        charged = (releases or self._contributor.releases)(request)
        return self._outbox.contribute(request, charged, contribution, {**self._sizes(request), **(sizes or {})}), {}

    def _finish(self, request: AgentRequest) -> Answer:
        """Take the final parameters, once a run, and say only that they are there."""
        if not self._finisher.has_taken(request.run_id):
            kept = self._vocabulary_file.load(request.run_id, self.plan)
            if kept is None:
                raise StoreError("the run's vocabulary is on disk no more; the aggregator must tell it again")
            self._finisher.take(request, self._joined(request), kept[1])
        return self._outbox.reply("finish", {}, {}, self._sizes(request))

    def resume_building(self) -> None:
        """Build the model of a finish that an earlier process acknowledged, if that did not come to it."""
        self._finisher.resume(lambda finish: self._member_of(finish.platforms, finish.vocabulary))

    def wait_built(self, timeout: float | None = None) -> BuildOutcome:
        """Come back once the models of all acknowledged finishes are in the store, or could not be built."""
        if self._finisher.idle:
            self.resume_building()
        return self._finisher.wait(timeout)

    @property
    def build_error(self) -> CrossfedError | None:
        """What the last build of this process failed with; for the operator alone."""
        return self._finisher.error

    def _member_of(self, platforms: tuple[str, ...], vocabulary: Arrays) -> Membership:
        return Membership.of(self.name, platforms, vocabulary, self.data, self._secret)

    def _joined(self, request: AgentRequest) -> Membership:
        if self._told is None or self._told[0] != request.run_id:
            raise OrderError("no vocabulary yet: the aggregator skipped the handshake")
        return self._told[1]

    def _member(self) -> SecureMember:
        if self._secure_member is None:
            raise ContractError("this platform has no part in a secure sum: privacy.noise is not secure_sum here")
        return self._secure_member

    def _sizes(self, request: AgentRequest) -> dict[str, int]:
        """The contract's named sizes, as this platform knows them in the request's run."""
        told = self._told is not None and self._told[0] == request.run_id
        vocabulary = len(self._joined(request).owners) if told else None
        return plan_sizes(self.plan, catalogue=len(self.data.shared_columns), vocabulary=vocabulary)

    def _answer(
        self, request: AgentRequest, *, code: str = OK, arrays: Arrays | None = None, fields: Fields | None = None
    ) -> AgentReply:
        return AgentReply(
            platform=self.name,
            kind=request.kind,
            server_round=request.server_round,
            code=code,
            config=fields or {},
            arrays=arrays or {},
        )


def _plan_in(request: AgentRequest) -> FederationPlan:
    try:
        return read_plan(request.config.get("plan"))
    except ValidationError:
        raise ContractError(
            "the aggregator's plan is none that this crossfed reads; do both run one version?"
        ) from None
