"""The platform agent: owns the data, the private factors, the budget and the only way out.

A request of the aggregator passes through these steps, and nothing else leaves:

    1  admit      the request is one that the contract declares, of a plan that this platform agreed to
    2  train      user factors are solved on the platform's own data; they never leave
    3  privatise  the mechanism makes the contribution: clipped and noised, or marked as exact under ``mode: none``
    4  charge     the budget ledger, durably, before anything is released
    5  send       through the egress guard, which checks, journals, and refuses what the contract does not declare
    6  commit     (after the last round) the platform's own model is built, judged and stored

An error crosses the wire as its code alone. The same object serves the simulator in process and the courier of a
deployment over a Unix socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import getLogger

import numpy as np
from numpy.typing import NDArray

from client.data.split import EvaluationSlice
from client.data.training import TrainingData
from client.evaluation import evaluate
from client.membership import Membership
from client.outbox import Outbox
from client.personalize import FederationView, Personalizer
from client.platform_model import FactorModel
from client.recommend.scorer import SolvedFactorScorer
from client.store import PlatformStore
from client.training.als import rating_sum_and_count
from client.training.factory import make_trainer
from client.training.trainer import Trainer
from common.catalogue import FederationSecret, pack_blobs
from common.config.federation import FederationPlan
from common.config.platform import PersonalizationConfig
from common.errors import ContractError, CrossfedError, InternalError, PlanMismatchError
from common.exchange import OK, AgentReply, AgentRequest, Arrays, Json, value_mean_of
from common.linalg import packed_size
from common.privacy.contribution import PrivatizedContribution
from common.privacy.mechanism import PlainMechanism
from common.protocol import open_sizes, request_contract, spec_of

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
    ) -> None:
        self.name = name
        self.plan = plan
        self.data = data
        self.store = store
        self._secret = secret
        self._outbox = outbox
        self._mechanism = PlainMechanism()
        self._personalizer = Personalizer(name, data, plan.model, personalization)
        self._requests = request_contract()
        self._matrix = data.train.select_items(data.shared_columns)
        self._membership: Membership | None = None
        self._user_factors: NDArray[np.float32] | None = None
        self._steps: Mapping[str, Callable[[AgentRequest], Answer]] = {
            "join": self._join,
            "vocabulary": self._take_vocabulary,
            "counts": self._contribute_counts,
            "statistics": self._contribute_statistics,
            "finish": self._finish,
        }

    def exchange(self, request: AgentRequest) -> AgentReply:
        """Answer one request of the aggregator; whatever goes wrong, the answer says no more than a code."""
        try:
            self._admit(request)
            arrays, fields = self._steps[request.kind](request)
        except CrossfedError as error:
            _log.warning("%s: %s of round %d refused: %s", self.name, request.kind, request.server_round, error)
            return self._answer(request, code=self._outbox.refuse(request.kind, error))
        except Exception as error:
            # This is the wire's edge: a traceback could carry values of users' data to the aggregator.
            _log.exception("%s: %s of round %d failed", self.name, request.kind, request.server_round)
            return self._answer(request, code=self._outbox.refuse(request.kind, InternalError(str(error))))
        return self._answer(request, arrays=arrays, fields=fields)

    def _admit(self, request: AgentRequest) -> None:
        """Refuse what the contract does not declare, before anything is computed."""
        sizes = open_sizes(request.arrays) if request.kind == "vocabulary" else self._sizes()
        spec_of(self._requests, request.kind).check(dict(request.arrays), sizes)

    def _join(self, request: AgentRequest) -> Answer:
        """Compare plans, set the run's budget aside, and say which items this platform shares."""
        differences = self.plan.differences(FederationPlan.model_validate(request.config["plan"]))
        if differences:
            raise PlanMismatchError(
                f"the aggregator's plan differs from this platform's in {', '.join(differences)}; agree on one of them"
            )
        self._reserve(request.run_id)
        digests = self._secret.digests(self.data.items.keys[column] for column in self.data.shared_columns)
        cards, card_offsets = pack_blobs(self._secret.seal_cards(self.data.cards(), digests))
        arrays = {"digests": digests, "cards": cards, "card_offsets": card_offsets}
        fields: dict[str, Json] = {"secret_fingerprint": self._secret.fingerprint}
        return self._outbox.reply("join", arrays, fields, self._sizes() | open_sizes(arrays))

    def _take_vocabulary(self, request: AgentRequest) -> Answer:
        """Find the own items in the vocabulary and open the others' cards."""
        names = request.config.get("platforms")
        if not isinstance(names, list):
            raise ContractError("the vocabulary message does not list the platforms")
        platforms = tuple(str(name) for name in names)
        self._membership = Membership.of(self.name, platforms, request.arrays, self.data, self._secret)
        return self._outbox.reply("vocabulary", {}, {}, self._sizes())

    def _contribute_counts(self, request: AgentRequest) -> Answer:
        """How many users have each shared item, and the totals over them."""

        def make() -> PrivatizedContribution:
            value_sum, interactions = rating_sum_and_count(self._matrix)
            totals = np.array([self._matrix.n_users, interactions, value_sum], dtype=np.float64)
            arrays = {"item_counts": self._matrix.item_counts().astype(np.float64), "totals": totals}
            return self._mechanism.release("counts", request.server_round, arrays)

        return self._outbox.contribute(request, self._mechanism.releases("counts"), make, self._sizes()), {}

    def _contribute_statistics(self, request: AgentRequest) -> Answer:
        """One server round: solve the users at the current item parameters, contribute the sums over them."""

        def make() -> PrivatizedContribution:
            trainer = make_trainer(self.plan.model, global_mean=value_mean_of(request))
            items = request.arrays["item_parameters"][self._joined().shared_positions]
            users = trainer.solve_users(self._matrix, items, self._user_factors)
            self._user_factors = users
            statistics = trainer.item_statistics(self._matrix, users)
            arrays = {
                "gram": statistics.gram_packed,
                "rhs": statistics.rhs,
                "user_gram": statistics.user_gram,
                "objective": np.array([trainer.objective(self._matrix, users, items)]),
                "evaluation": self._validation_recall(trainer, items),
            }
            return self._mechanism.release("statistics", request.server_round, arrays)

        return self._outbox.contribute(request, self._mechanism.releases("statistics"), make, self._sizes()), {}

    def _finish(self, request: AgentRequest) -> Answer:
        """Build, judge and store the platform's own model; say only that it is done."""
        membership = self._joined()
        elsewhere = request.arrays["item_counts"].copy()
        elsewhere[membership.shared_positions] -= self._matrix.item_counts()
        view = FederationView(
            server_round=request.server_round,
            platforms=membership.platforms,
            vocabulary=membership.vocabulary,
            owners=membership.owners,
            own_positions=membership.own_positions,
            shared=FactorModel(
                item_parameters=request.arrays["item_parameters"],
                config=self.plan.model,
                value_mean=value_mean_of(request),
            ),
            elsewhere=elsewhere,
        )
        self.store.commit(self._personalizer.build(view))
        return self._outbox.reply("finish", {}, {}, self._sizes())

    def _reserve(self, run_id: str) -> None:
        self._outbox.reserve(run_id, self._mechanism.releases("counts"), epsilon=None, delta=1e-5)

    def _validation_recall(self, trainer: Trainer, items: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 ``[2]``: sum of Recall@20 over the validation users, on shared items, and how many they are."""
        if self.plan.model.feedback == "explicit" or not self.plan.evaluate_rounds:
            return np.zeros(2)
        columns, held_out = self.data.shared_columns, self.data.validation
        history = held_out.history.select_items(columns)
        users = trainer.solve_users(history, items)
        on_shared = EvaluationSlice(held_out.users, history, held_out.truth.select_items(columns))
        measured = evaluate(SolvedFactorScorer(users, items), on_shared, metrics=("recall@20",), depth=20)
        return np.array([measured.values["recall@20"].sum(), len(measured.users)])

    def _joined(self) -> Membership:
        if self._membership is None:
            raise ContractError("no vocabulary yet: the aggregator skipped the handshake")
        return self._membership

    def _sizes(self) -> dict[str, int]:
        """The contract's named sizes, as this platform knows them."""
        sizes = {
            "catalogue": len(self.data.shared_columns),
            "row": self.plan.row,
            "packed": packed_size(self.plan.row),
        }
        if self._membership is not None:
            sizes |= {"vocabulary": len(self._membership.owners), "platforms": len(self._membership.platforms)}
        return sizes

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
