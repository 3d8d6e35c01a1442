"""Answers a platform's applications from the serving model, whatever carries it: gRPC or HTTP.

Requests and answers are the messages of ``recommender.proto``. Every refusal has the name of a gRPC status and a text that
names the field at fault. None holds a user id, a history or the text of an exception that crossfed did not raise on purpose.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from logging import getLogger
from typing import Final, Literal, TypeVar

from client.data.reading.identifiers import required_identifier, required_key
from client.passport.envelope import armoured
from client.passport.serving import PassportServing
from client.recommend.answers import Recommendation
from client.recommend.lists import ListMaker
from client.recommend.recommender import PreparedHistory
from client.recommend.snapshot import ServingModel, Snapshot
from client.service.metrics_export import ServingMetrics
from client.service.replies import explained, listed, receipt_of, version_of
from client.service.request_fields import filter_of, scope_of, steering_of, text_of, time_of, value_of
from client.service.shadow import Shadow
from common.catalogue import check_key
from common.config.serving import ServingConfig
from common.errors import CatalogueError, ContractError, CrossfedError, DataError, PassportError, StoreError
from common.proto import recommender_pb2 as pb

_log = getLogger(__name__)
_Answer = TypeVar("_Answer")

Status = Literal[
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
]
_DEFAULT_K = 10
_STATUS: Final[Mapping[type[CrossfedError], Status]] = {
    CatalogueError: "INVALID_ARGUMENT",
    ContractError: "INVALID_ARGUMENT",
    DataError: "NOT_FOUND",
    PassportError: "FAILED_PRECONDITION",
    StoreError: "UNAVAILABLE",
}


class RefusedRequestError(Exception):
    """A request that is not answered.

    Args:
        status: the name of a gRPC status.
        message: for the caller.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status: Status = status
        self.message = message


class RecommenderService:
    """Answers from whatever snapshot serves when a request starts. Call its methods through :meth:`answered`.

    Args:
        model: the serving model and the feedback since.
        config: the limits of a request.
        metrics: where requests are counted.
        passports: issues and redeems; None: there are none.
        lists: makes lists as the platform steers them; by the configuration alone unless given.
    """

    def __init__(
        self,
        model: ServingModel,
        config: ServingConfig,
        metrics: ServingMetrics,
        passports: PassportServing | None = None,
        lists: ListMaker | None = None,
    ) -> None:
        self._lists = ListMaker(config.steering) if lists is None else lists
        self._shadow = Shadow(metrics)
        self._passports = passports
        self._model = model
        self._config = config
        self._metrics = metrics

    def answered(self, method: str, answer: Callable[[], _Answer], *, remaining: float | None = None) -> _Answer:
        """Return what ``answer`` gives, counted.

        Args:
            method: its name in the metrics.
            answer: calls a method of this service.
            remaining: seconds that the caller still waits; None: for ever.

        Raises:
            RefusedRequestError: it gives none.
        """
        started, status = time.perf_counter(), "OK"
        try:
            if remaining is None or remaining > 0:
                return answer()
            raise RefusedRequestError("DEADLINE_EXCEEDED", "the deadline passed while the request was waiting")
        except Exception as error:
            refused = _refused(method, error)
            status = refused.status
            raise refused from None
        finally:
            self._metrics.answered(method, status, time.perf_counter() - started)

    def recommend(self, request: pb.RecommendRequest) -> pb.RecommendReply:
        snapshot, variant = self._model.snapshot_for(request.user_id)
        prepared = self._prepared(snapshot, request.user_id)
        reply = self._recommend(request, snapshot, prepared, ())
        reply.variant = variant
        if variant:
            self._model.shown(request.user_id)
        challenger = self._model.shadow
        if challenger is not None:
            self._shadow.compare(
                [item.key for item in reply.items],
                lambda: [item.key for item in self._shadow_list(request, challenger)],
            )
        return reply

    def recommend_for_history(self, request: pb.RecommendForHistoryRequest) -> pb.RecommendReply:
        snapshot = self._model.snapshot()
        prepared, ignored = self._given(request.history, snapshot)
        return self._recommend(request, snapshot, prepared, ignored)

    def similar_items(self, request: pb.SimilarItemsRequest) -> pb.SimilarItemsReply:
        snapshot = self._model.snapshot()
        found = self._lists.similar(
            snapshot.recommender,
            text_of("item_key", request.item_key),
            self._k(request.k),
            scope_of(request.scope),
            wanted=filter_of(request),
        )
        return pb.SimilarItemsReply(items=map(listed, found), model=version_of(snapshot))

    def explain(self, request: pb.ExplainRequest) -> pb.ExplainReply:
        if bool(request.user_id) == bool(request.history):
            raise ContractError("user_id, history: give one of them, not both or none")
        # Explained by what made the user's list.
        snapshot = self._model.snapshot_for(request.user_id)[0] if request.user_id else self._model.snapshot()
        if request.user_id:
            prepared = self._prepared(snapshot, request.user_id)
        else:
            prepared, _ = self._given(request.history, snapshot)
        if request.limit < 0:
            raise ContractError("limit: must be at least 0 (0: all contributions)")
        key = text_of("item_key", request.item_key)
        limit, recommender = request.limit or None, snapshot.recommender
        if prepared.brought is None:
            explanation = recommender.explain(prepared.history, key, limit=limit)
        else:
            explanation = recommender.explain_with(prepared.history, prepared.brought, key, limit=limit)
        return explained(explanation, snapshot)

    def record_feedback(self, request: pb.RecordFeedbackRequest) -> pb.RecordFeedbackReply:
        """Record an event, once for each ``event_id``; durable on return."""
        snapshot, variant = self._model.snapshot_for(request.user_id) if self._model.ready else (None, "")
        key = check_key(required_key("item_key", request.item_key))
        sequence, duplicate = self._model.feedback.record(
            text_of("event_id", request.event_id),
            required_identifier("user_id", request.user_id),
            key,
            value_of(request, self._model.rules),
            time_of(request),
        )
        if not duplicate:
            self._metrics.feedback_recorded()
        reflected = snapshot is not None and snapshot.recommender.knows_item(key)
        return pb.RecordFeedbackReply(sequence=sequence, duplicate=duplicate, reflected=reflected, variant=variant)

    def issue_passport(self, request: pb.IssuePassportRequest) -> pb.IssuePassportReply:
        user, receiver = required_identifier("user_id", request.user_id), text_of("receiver", request.receiver)
        account = required_identifier("account", request.account) if request.HasField("account") else None
        passport, receipt = self._desk().issue(user, receiver, account)
        return pb.IssuePassportReply(passport=passport.encoded(), text=armoured(passport), receipt=receipt_of(receipt))

    def redeem_passport(self, request: pb.RedeemPassportRequest) -> pb.RedeemPassportReply:
        user = required_identifier("user_id", request.user_id)
        receipt, duplicate = self._desk().redeem(request.passport, user)
        return pb.RedeemPassportReply(receipt=receipt_of(receipt), duplicate=duplicate)

    def recommend_for_passport(self, request: pb.RecommendForPassportRequest) -> pb.RecommendReply:
        snapshot = self._model.snapshot()
        prepared = self._desk().visitor(snapshot, request.passport)
        plain = pb.RecommendRequest(k=request.k, scope=request.scope, filter=request.filter, steering=request.steering)
        return self._recommend(plain, snapshot, prepared, ())

    def _desk(self) -> PassportServing:
        if self._passports is None:
            raise PassportError("passport: this recommender neither issues nor redeems any; platform.yaml turns it on")
        return self._passports

    def _prepared(self, snapshot: Snapshot, user_id: str) -> PreparedHistory:
        user = required_identifier("user_id", user_id)
        known = self._model if self._passports is None else self._passports
        return known.prepared(snapshot, user)

    def _recommend(
        self,
        request: pb.RecommendRequest | pb.RecommendForHistoryRequest,
        snapshot: Snapshot,
        prepared: PreparedHistory,
        ignored: Iterable[str],
    ) -> pb.RecommendReply:
        found = self._list(self._lists.recommend, request, snapshot, prepared)
        passports = () if prepared.brought is None else prepared.brought.platforms
        return pb.RecommendReply(
            items=map(listed, found), model=version_of(snapshot), ignored_keys=ignored, passports=passports
        )

    def _shadow_list(self, request: pb.RecommendRequest, challenger: Snapshot) -> list[Recommendation]:
        prepared = self._prepared(challenger, request.user_id)
        return self._list(self._lists.unnoted, request, challenger, prepared)

    def _list(
        self,
        make: Callable[..., list[Recommendation]],
        request: pb.RecommendRequest | pb.RecommendForHistoryRequest,
        snapshot: Snapshot,
        prepared: PreparedHistory,
    ) -> list[Recommendation]:
        """Return what ``make``, a method of the :class:`ListMaker`, gives for all that a request asks of its list."""
        return make(
            snapshot.recommender,
            prepared,
            self._k(request.k),
            scope_of(request.scope),
            exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else True,
            wanted=filter_of(request),
            asked=steering_of(request),
        )

    def close(self) -> None:
        """Let what is done beside the answers end."""
        self._shadow.close()

    def _given(self, history: Iterable[pb.HistoryItem], snapshot: Snapshot) -> tuple[PreparedHistory, tuple[str, ...]]:
        """The history of a request, and its keys that the model does not know."""
        items = list(history)
        if len(items) > self._config.max_history:
            raise ContractError(f"history: at most {self._config.max_history} items")
        recommender = snapshot.recommender
        rules = self._model.rules
        given = [(text_of("item_key", item.item_key), value_of(item, rules)) for item in items]
        known, ignored = recommender.history_from(given, rules)
        return recommender.prepare(known), ignored

    def _k(self, k: int) -> int:
        if not 0 <= k <= self._config.max_k:
            raise ContractError(f"k: must lie in 1 … {self._config.max_k}")
        return k or _DEFAULT_K


def _refused(method: str, error: Exception) -> RefusedRequestError:
    if isinstance(error, RefusedRequestError):
        return error
    if isinstance(error, CrossfedError):
        return RefusedRequestError(_STATUS.get(type(error), "INTERNAL"), str(error))
    # The wire's edge: an exception's text can hold values of a user's data.
    frames = traceback.extract_tb(error.__traceback__)
    where = " > ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
    _log.error("%s failed with %s at %s", method, type(error).__name__, where)
    return RefusedRequestError("INTERNAL", "internal error; the service's log says where")
