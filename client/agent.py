"""The platform agent: owns the data, the private factors, the budget and the only way out.

A request for a contribution passes through these steps, which :meth:`PlatformAgent.exchange` takes one by one:

    1  admit    the contract declares it, it is of a plan that this platform agreed to, and it is in order; all of that is
                decided from public facts
    2  charge   the budget ledger, durably, before anything is computed
    3  replay   what was charged and has left before leaves again, the same bytes; or else
    4  make     user factors are solved on the platform's own data and stay; a mechanism makes the contribution of sums:
                clipped and noised, or marked as exact under ``mode: none``
    5  mask     what carries a share of the noise alone
    6  send     through the egress guard, which checks, journals, and refuses what the contract does not declare

Answers to other requests hold nothing that is derived from interactions: ``join`` (under privacy), ``vocabulary``, the secure
sum's own steps, and ``finish``, which is acknowledged by a constant. The platform's own model is built, judged and stored
after that, and how it went is nobody else's business.

An error crosses the wire as its code alone. The same object serves the simulator in process and the courier of a
deployment over a Unix socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import ERROR, WARNING, getLogger

from pydantic import ValidationError

from client.contributions.contributor import PlatformContext, make_contributors
from client.contributions.membership import Membership, introduction
from client.contributions.run_file import VOCABULARY_FILE, RunFile
from client.contributions.towers import tower_contributor
from client.data.training import TrainingData
from client.personalization.described import TextVectors
from client.personalization.finishing import Finisher
from client.personalization.model_builder import BuildOutcome, ModelBuilder
from client.personalization.personalize import Personalizer
from client.personalization.store import PlatformStore
from client.privacy.card import PlatformSpend
from client.privacy.outbox import Outbox
from client.privacy.protocol_state import ProtocolState
from client.privacy.secure_sum.masking import MaskedContribution
from client.privacy.secure_sum.member import SecureMember
from client.training.engine import Engine, LocalEngine
from common.catalogue import FederationSecret
from common.config.federation import FederationPlan
from common.config.platform import PersonalizationConfig
from common.contributions.broadcast import round_context
from common.contributions.kind import ContributionKind
from common.contributions.protocol import open_sizes, plan_sizes, request_contract, spec_of
from common.contributions.race_kind import plan_asked
from common.contributions.registry import kinds_of
from common.contributions.run_plan import read_plan
from common.deploy.logs import one_line
from common.errors import (
    ContractError,
    CrossfedError,
    FailedContributionError,
    InternalError,
    OrderError,
    PlanMismatchError,
    PrivacyError,
    StoreError,
    told_of,
)
from common.privacy.contribution import PrivatizedContribution
from common.wire.exchange import OK, AgentReply, AgentRequest, Arrays, Json

_log = getLogger(__name__)

Fields = Mapping[str, Json]
Answer = tuple[Arrays, Fields]


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
        texts: turns titles and texts into vectors; None without a text encoder.
        engine: sums over the platform's users; those of ``data``, in this process, unless given.
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
        texts: TextVectors | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.name = name
        self.plan = plan
        self.data = data
        self.store = store
        self._secret = secret
        self._outbox = outbox
        self._secure_member = secure_member
        context = PlatformContext(name, plan, data, engine or LocalEngine(data), store.root, texts)
        self.contributors = make_contributors(context)
        """What makes the platform's contributions, by the names that their messages have."""
        personalizer = Personalizer(name, data, plan.model, personalization, texts)
        self._finisher = Finisher(
            plan, outbox, builder or ModelBuilder(store), personalizer, context.once(tower_contributor)
        )
        self._requests = request_contract(plan)
        self._protocol = ProtocolState(plan)
        self._told: tuple[str, Membership] | None = None
        self._vocabulary_file = RunFile(store.root / VOCABULARY_FILE)

    def exchange(self, request: AgentRequest) -> AgentReply:
        """Answer one request of the aggregator; whatever goes wrong, the answer says no more than a code.

        Admit; charge; replay, or else make, mask and send. The module's text says what each step is for.
        """
        try:
            self._admit(request)
            contributor = self.contributors.get(request.kind)
            if contributor is None:
                return self._answer(request, *self._answer_without_data(request))
            membership, sizes = self._joined(request), self._sizes(request, contributor.kind)
            releases = contributor.kind.releases(self.plan, request.server_round)
            receipt = self._outbox.charge(request, releases, membership.digest)
            arrays = self._outbox.replay(receipt)
            if arrays is None:
                with self._outbox.one_attempt(receipt):
                    contribution = contributor.make(request, membership)
                    leaving = self._mask(contribution, request, membership)
                    arrays = self._outbox.send(leaving, request.kind, sizes, receipt)
            return self._answer(request, arrays)
        except CrossfedError as error:
            return self._refuse(request, error)
        except Exception as error:
            # This is the wire's edge: a traceback could carry values of users' data to the aggregator.
            return self._refuse(request, InternalError(told_of(error)), cause=error)

    def spend(self) -> PlatformSpend:
        """Return what this platform's ledger has charged and what its journal has seen leave."""
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

    def _answer_without_data(self, request: AgentRequest) -> Answer:
        """The answer to a request that asks for nothing derived from interactions."""
        match request.kind:
            case "join":
                return self._join(request)
            case "vocabulary":
                return self._take_vocabulary(request)
            case "secure_sum":
                return self._take_part_in_secure_sum(request)
            case _:
                return self._finish(request)

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
        releases = [release for kind in kinds_of(self.plan) for release in kind.run_releases(self.plan)]
        self._check_size(len(self.data.shared_columns), "this platform")
        self._outbox.reserve(request.run_id, releases, self.plan)
        identity = None if self._secure_member is None else self._secure_member.public_key
        arrays = introduction(self.plan, self.data, self._secret, identity)
        fields: Fields = {"secret_fingerprint": self._secret.fingerprint}
        return self._outbox.reply("join", arrays, fields, self._sizes(request))

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
        self._check_size(len(request.arrays["digests"]), "the vocabulary")
        membership = self._member_of(platforms, request.arrays)
        known = None if self._told is None or self._told[0] != request.run_id else self._told[1].digest.hex()
        run = self._outbox.run(request.run_id)
        if self.plan.private and run is not None and run.vocabulary is not None:
            # The ledger remembers it when another run was told one between; of an older version's runs it keeps none.
            known = run.vocabulary
        may_change = self._protocol.may_replace_vocabulary(run)
        if known is not None and known != membership.digest.hex() and not may_change:
            raise OrderError("the run has another vocabulary, which everything that was released in it rests on")
        self._told = request.run_id, membership
        self._vocabulary_file.save(request.run_id, self.plan, {"platforms": platforms}, request.arrays)
        return self._outbox.reply("vocabulary", {}, {}, self._sizes(request))

    def _take_part_in_secure_sum(self, request: AgentRequest) -> Answer:
        """Answer one step of the secure sum: keys, sealed shares, signatures; nothing that depends on interactions."""
        message = self._member().answer(request, len(self._joined(request).owners))
        return self._outbox.reply("secure_sum", {"message": message}, {}, self._sizes(request))

    def _check_size(self, n_items: int, of: str) -> None:
        for contributor in self.contributors.values():
            contributor.check_size(n_items, of)

    def _mask(
        self, contribution: PrivatizedContribution, request: AgentRequest, membership: Membership
    ) -> PrivatizedContribution | MaskedContribution:
        """Mask what carries a share of the noise alone; what carries all of it, or none, leaves as it is."""
        if not contribution.masked:
            return contribution
        return self._member().mask(contribution, request.run_id, round_context(request, membership.digest))

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
        """Return what the last build of this process failed with; for the operator alone."""
        return self._finisher.error

    def _member_of(self, platforms: tuple[str, ...], vocabulary: Arrays) -> Membership:
        return Membership.of(self.name, platforms, vocabulary, self.data, self._secret, self.plan.attributes.kinds)

    def _joined(self, request: AgentRequest) -> Membership:
        if self._told is None or self._told[0] != request.run_id:
            raise OrderError("no vocabulary yet: the aggregator skipped the handshake")
        return self._told[1]

    def _member(self) -> SecureMember:
        if self._secure_member is None:
            raise ContractError("this platform has no part in a secure sum: privacy.noise is not secure_sum here")
        return self._secure_member

    def _sizes(self, request: AgentRequest, kind: ContributionKind | None = None) -> dict[str, int]:
        """The contract's named sizes, as this platform knows them in the request's run, and those of a contribution."""
        told = self._told is not None and self._told[0] == request.run_id
        vocabulary = len(self._joined(request).owners) if told else None
        sizes = plan_sizes(
            plan_asked(self.plan, request), catalogue=len(self.data.shared_columns), vocabulary=vocabulary
        )
        if kind is None:
            return sizes
        membership = self._joined(request)
        return sizes | kind.sizes(self.plan, request, lambda: membership.owners, membership.shared_positions)

    def _refuse(self, request: AgentRequest, error: CrossfedError, cause: Exception | None = None) -> AgentReply:
        """The error's code; the log has the rest, and of what nobody foresaw where it came from."""
        unforeseen = isinstance(error, FailedContributionError | InternalError)
        _log.log(
            ERROR if unforeseen else WARNING,
            "%s: %s of round %d %s: %s",
            self.name,
            # The aggregator's words, at whatever length it likes.
            one_line(request.kind, 64),
            request.server_round,
            "failed" if unforeseen else "refused",
            one_line(str(error), 1000),
            exc_info=(cause or error.__cause__) if unforeseen else None,
        )
        return self._answer(request, code=self._outbox.refuse(request.kind, error))

    def _answer(
        self, request: AgentRequest, arrays: Arrays | None = None, fields: Fields | None = None, *, code: str = OK
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
