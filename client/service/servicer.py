"""The recommender over gRPC: a platform's own applications ask, the serving model answers.

Every error is a gRPC status whose message names the field at fault. None holds a user id, a history or the text of an
exception that crossfed did not raise on purpose.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from logging import getLogger
from typing import TypeVar

import grpc

from client.data.reading.identifiers import LONGEST, required_identifier, required_key
from client.data.recorded import EventRules, problem_of_time
from client.passport.books import Receipt
from client.passport.envelope import armoured
from client.passport.serving import PassportServing
from client.recommend.answers import Explanation, ItemFilter, Recommendation, Scope
from client.recommend.recommender import PreparedHistory
from client.recommend.snapshot import ServingModel, Snapshot
from client.service.metrics_export import ServingMetrics
from common.catalogue import check_key
from common.config.serving import ServingConfig
from common.errors import CatalogueError, ContractError, CrossfedError, DataError, PassportError, StoreError
from common.proto import recommender_pb2 as pb
from common.proto import recommender_pb2_grpc

_log = getLogger(__name__)
_Answer = TypeVar("_Answer")

_DEFAULT_K = 10
_MAX_FILTER = 100
_SCOPES: dict[int, Scope] = {
    pb.SCOPE_UNSPECIFIED: "all",
    pb.SCOPE_OWN: "own",
    pb.SCOPE_CROSS: "cross",
    pb.SCOPE_ALL: "all",
}
_STATUS = {
    CatalogueError: grpc.StatusCode.INVALID_ARGUMENT,
    ContractError: grpc.StatusCode.INVALID_ARGUMENT,
    DataError: grpc.StatusCode.NOT_FOUND,
    PassportError: grpc.StatusCode.FAILED_PRECONDITION,
    StoreError: grpc.StatusCode.UNAVAILABLE,
}


class RecommenderServicer(recommender_pb2_grpc.RecommenderServicer):
    """Answers from whatever snapshot serves when a request starts.

    Args:
        model: the serving model and the feedback since.
        config: the limits of a request.
        metrics: where requests are counted.
        passports: issues and redeems; None: there are none.
    """

    def __init__(
        self,
        model: ServingModel,
        config: ServingConfig,
        metrics: ServingMetrics,
        passports: PassportServing | None = None,
    ) -> None:
        self._passports = passports
        self._model = model
        self._config = config
        self._metrics = metrics

    def Recommend(self, request: pb.RecommendRequest, context: grpc.ServicerContext) -> pb.RecommendReply:  # noqa: N802
        def answer() -> pb.RecommendReply:
            snapshot = self._model.snapshot()
            prepared = self._prepared(snapshot, request.user_id)
            return self._recommend(request, snapshot, prepared, ())

        return self._answer("Recommend", context, answer)

    def RecommendForHistory(  # noqa: N802
        self, request: pb.RecommendForHistoryRequest, context: grpc.ServicerContext
    ) -> pb.RecommendReply:
        def answer() -> pb.RecommendReply:
            snapshot = self._model.snapshot()
            prepared, ignored = self._given(request.history, snapshot)
            return self._recommend(request, snapshot, prepared, ignored)

        return self._answer("RecommendForHistory", context, answer)

    def SimilarItems(self, request: pb.SimilarItemsRequest, context: grpc.ServicerContext) -> pb.SimilarItemsReply:  # noqa: N802
        def answer() -> pb.SimilarItemsReply:
            snapshot = self._model.snapshot()
            found = snapshot.recommender.similar(
                _text("item_key", request.item_key), self._k(request.k), _scope(request.scope), wanted=_filter(request)
            )
            return pb.SimilarItemsReply(items=map(_listed, found), model=_version(snapshot))

        return self._answer("SimilarItems", context, answer)

    def Explain(self, request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.ExplainReply:  # noqa: N802
        def answer() -> pb.ExplainReply:
            snapshot = self._model.snapshot()
            if bool(request.user_id) == bool(request.history):
                raise ContractError("user_id, history: give one of them, not both or none")
            if request.user_id:
                prepared = self._prepared(snapshot, request.user_id)
            else:
                prepared, _ = self._given(request.history, snapshot)
            if request.limit < 0:
                raise ContractError("limit: must be at least 0 (0: all contributions)")
            key = _text("item_key", request.item_key)
            limit, recommender = request.limit or None, snapshot.recommender
            if prepared.brought is None:
                explanation = recommender.explain(prepared.history, key, limit=limit)
            else:
                explanation = recommender.explain_beside(prepared.history, prepared.brought, key, limit=limit)
            return _explained(explanation, snapshot)

        return self._answer("Explain", context, answer)

    def RecordFeedback(  # noqa: N802
        self, request: pb.RecordFeedbackRequest, context: grpc.ServicerContext
    ) -> pb.RecordFeedbackReply:
        def answer() -> pb.RecordFeedbackReply:
            recommender = self._model.snapshot().recommender if self._model.ready else None
            key = check_key(required_key("item_key", request.item_key))
            sequence, duplicate = self._model.feedback.record(
                _text("event_id", request.event_id),
                required_identifier("user_id", request.user_id),
                key,
                _value(request, self._model.rules),
                _time(request),
            )
            if not duplicate:
                self._metrics.feedback_recorded()
            reflected = recommender is not None and recommender.knows_item(key)
            return pb.RecordFeedbackReply(sequence=sequence, duplicate=duplicate, reflected=reflected)

        return self._answer("RecordFeedback", context, answer)

    def IssuePassport(self, request: pb.IssuePassportRequest, context: grpc.ServicerContext) -> pb.IssuePassportReply:  # noqa: N802
        def answer() -> pb.IssuePassportReply:
            user, receiver = required_identifier("user_id", request.user_id), _text("receiver", request.receiver)
            account = required_identifier("account", request.account) if request.HasField("account") else None
            passport, receipt = self._desk().issue(user, receiver, account)
            return pb.IssuePassportReply(
                passport=passport.encoded(), text=armoured(passport), receipt=_receipt(receipt)
            )

        return self._answer("IssuePassport", context, answer)

    def RedeemPassport(  # noqa: N802
        self, request: pb.RedeemPassportRequest, context: grpc.ServicerContext
    ) -> pb.RedeemPassportReply:
        def answer() -> pb.RedeemPassportReply:
            user = required_identifier("user_id", request.user_id)
            receipt, duplicate = self._desk().redeem(request.passport, user)
            return pb.RedeemPassportReply(receipt=_receipt(receipt), duplicate=duplicate)

        return self._answer("RedeemPassport", context, answer)

    def RecommendForPassport(  # noqa: N802
        self, request: pb.RecommendForPassportRequest, context: grpc.ServicerContext
    ) -> pb.RecommendReply:
        def answer() -> pb.RecommendReply:
            snapshot = self._model.snapshot()
            prepared = self._desk().visitor(snapshot, request.passport)
            plain = pb.RecommendRequest(k=request.k, scope=request.scope, filter=request.filter)
            return self._recommend(plain, snapshot, prepared, ())

        return self._answer("RecommendForPassport", context, answer)

    def _desk(self) -> PassportServing:
        if self._passports is None:
            raise PassportError("passport: this recommender neither issues nor redeems any; platform.yaml turns it on")
        return self._passports

    def _prepared(self, snapshot: Snapshot, user_id: str) -> PreparedHistory:
        user = required_identifier("user_id", user_id)
        known = self._model if self._passports is None else self._passports
        return known.prepared(snapshot, user)

    def _answer(self, method: str, context: grpc.ServicerContext, answer: Callable[[], _Answer]) -> _Answer:
        """Answer, or end the call with a status; count it either way."""
        started = time.perf_counter()
        status, message = grpc.StatusCode.OK, ""
        try:
            remaining = context.time_remaining()
            if remaining is None or remaining > 0:
                return answer()
            status, message = grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed while the request was waiting"
        except CrossfedError as error:
            status, message = _STATUS.get(type(error), grpc.StatusCode.INTERNAL), str(error)
        except Exception as error:
            # The wire's edge: gRPC would send the exception's text, which can hold values of a user's data.
            frames = traceback.extract_tb(error.__traceback__)
            where = " > ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
            _log.error("%s failed with %s at %s", method, type(error).__name__, where)
            status, message = grpc.StatusCode.INTERNAL, "internal error; the service's log says where"
        finally:
            self._metrics.answered(method, status.name, time.perf_counter() - started)
        return context.abort(status, message)

    def _recommend(
        self,
        request: pb.RecommendRequest | pb.RecommendForHistoryRequest,
        snapshot: Snapshot,
        prepared: PreparedHistory,
        ignored: Iterable[str],
    ) -> pb.RecommendReply:
        found = snapshot.recommender.recommend_for(
            prepared,
            self._k(request.k),
            _scope(request.scope),
            exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else True,
            wanted=_filter(request),
        )
        passports = () if prepared.brought is None else prepared.brought.platforms
        return pb.RecommendReply(
            items=map(_listed, found), model=_version(snapshot), ignored_keys=ignored, passports=passports
        )

    def _given(self, history: Iterable[pb.HistoryItem], snapshot: Snapshot) -> tuple[PreparedHistory, tuple[str, ...]]:
        """The history of a request, and its keys that the model does not know."""
        items = list(history)
        if len(items) > self._config.max_history:
            raise ContractError(f"history: at most {self._config.max_history} items")
        recommender = snapshot.recommender
        rules = self._model.rules
        given = [(_text("item_key", item.item_key), _value(item, rules)) for item in items]
        known, ignored = recommender.history_from(given, rules)
        return recommender.prepare(known), ignored

    def _k(self, k: int) -> int:
        if not 0 <= k <= self._config.max_k:
            raise ContractError(f"k: must lie in 1 … {self._config.max_k}")
        return k or _DEFAULT_K


def _text(name: str, text: str) -> str:
    if not text or len(text) > LONGEST:
        raise ContractError(f"{name}: must have 1 … {LONGEST} characters")
    return text


def _value(item: pb.HistoryItem | pb.RecordFeedbackRequest, rules: EventRules) -> float:
    return rules.value_of(item.value if item.HasField("value") else None)


def _time(request: pb.RecordFeedbackRequest) -> int:
    if not request.HasField("time"):
        return int(time.time())
    if problem := problem_of_time(request.time):
        raise ContractError(f"time: {problem}")
    return request.time


def _scope(scope: int) -> Scope:
    if scope not in _SCOPES:
        raise ContractError("scope: must be SCOPE_OWN, SCOPE_CROSS or SCOPE_ALL")
    return _SCOPES[scope]


def _filter(request: pb.RecommendRequest | pb.RecommendForHistoryRequest | pb.SimilarItemsRequest) -> ItemFilter:
    given = request.filter
    lists = [tuple(names) for names in (given.any_genres, given.no_genres, given.key_prefixes, given.platforms)]
    if sum(map(len, lists)) > _MAX_FILTER:
        raise ContractError(f"filter: at most {_MAX_FILTER} conditions in all")
    for names in lists:
        for name in names:
            _text("filter", name)
    return ItemFilter(*lists)


def _receipt(receipt: Receipt) -> pb.PassportReceipt:
    return pb.PassportReceipt(
        serial=receipt.serial, platform=receipt.platform, kinds=receipt.kinds, at=receipt.at, until=receipt.until
    )


def _version(snapshot: Snapshot) -> pb.ModelVersion:
    return pb.ModelVersion(version=snapshot.version, server_round=snapshot.recommender.model.server_round)


def _listed(item: Recommendation) -> pb.ListedItem:
    return pb.ListedItem(key=item.key, title=item.title, genres=item.genres, score=item.score, platforms=item.platforms)


def _explained(explanation: Explanation, snapshot: Snapshot) -> pb.ExplainReply:
    return pb.ExplainReply(
        item_key=explanation.key,
        title=explanation.title,
        score=explanation.score,
        contributions=[
            pb.Contribution(item_key=item.key, title=item.title, amount=item.amount)
            for item in explanation.contributions
        ],
        others=explanation.others,
        item_bias=explanation.item_bias,
        popularity=explanation.popularity,
        decided_by=explanation.decided_by,
        models=[
            pb.ModelShare(model=name, weight=share.weight, amount=share.amount)
            for name, share in explanation.models.items()
        ],
        model=_version(snapshot),
        attributes=explanation.attributes,
        passports=explanation.passports,
    )
