"""How applications ask a platform's recommender."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grpc

from client.recommend.answers import (
    NO_FILTER,
    Contribution,
    Explanation,
    FeedbackReceipt,
    ItemFilter,
    ModelShare,
    Reason,
    Recommendation,
    Scope,
)
from client.remote import Connection
from client.steering.steering import AS_CONFIGURED, Steering
from common.errors import ConfigError, ContractError, CrossfedError, DataError, PassportError, PlatformError
from common.proto import recommender_pb2 as pb
from common.proto.recommender_pb2_grpc import RecommenderStub

_SCOPES: Mapping[Scope, pb.Scope.ValueType] = {"own": pb.SCOPE_OWN, "cross": pb.SCOPE_CROSS, "all": pb.SCOPE_ALL}
# Every request may be sent again: reads change nothing, feedback carries an id, a passport is redeemed once however often it
# is sent, and one that is issued twice is two passports, each with its receipt.
_RETRY = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "crossfed.v1.Recommender"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    # A server that is shutting down cancels what it had just taken in.
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    }
)
_ERRORS: Mapping[grpc.StatusCode, type[CrossfedError]] = {
    grpc.StatusCode.NOT_FOUND: DataError,
    grpc.StatusCode.INVALID_ARGUMENT: ContractError,
    grpc.StatusCode.UNAUTHENTICATED: ConfigError,
    grpc.StatusCode.FAILED_PRECONDITION: PassportError,
}
_Reply = TypeVar("_Reply")


class RecommenderClient(Connection):
    """Asks a platform's recommender. Use it as a context manager; safe for threads.

    Every method raises DataError for an unknown user or item, ContractError for a request that is wrong in itself,
    ConfigError for a wrong token, and PlatformError where no answer came in time.

    Args:
        target: ``host:port``.
        token: the API token, where the recommender asks for one.
        root_certificates: PEM file of the CA that signed the recommender's certificate; None: no TLS.
        timeout: seconds to wait for one answer, retries included.
        retry: whether to ask again, up to three times, while the recommender is not available.

    Raises:
        ConfigError: a token would go to another host unencrypted, or the CA file cannot be read.

    Example::

        with RecommenderClient("localhost:8443", token=token, root_certificates=Path("ca.pem")) as recommender:
            for item in recommender.recommend("some user", k=5, scope="cross"):
                print(item.title, item.platforms)
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        root_certificates: Path | None = None,
        timeout: float = 5.0,
        retry: bool = True,
    ) -> None:
        super().__init__(_channel(target, token, root_certificates, retry=retry))
        self._stub = RecommenderStub(self._channel)
        self._timeout = timeout
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def recommend(
        self,
        user_id: str,
        k: int = 10,
        scope: Scope = "all",
        *,
        exclude_seen: bool = True,
        wanted: ItemFilter = NO_FILTER,
        steering: Steering = AS_CONFIGURED,
    ) -> list[Recommendation]:
        """The k best items for a known user, best first unless the list is steered."""
        request = pb.RecommendRequest(
            user_id=user_id,
            k=k,
            scope=_SCOPES[scope],
            exclude_seen=exclude_seen,
            filter=_filter(wanted),
            steering=_steering(steering),
        )
        return _items(self._call(self._stub.Recommend, request))

    def recommend_for_history(
        self,
        history: Iterable[tuple[str, float]],
        k: int = 10,
        scope: Scope = "all",
        *,
        exclude_seen: bool = True,
        wanted: ItemFilter = NO_FILTER,
        steering: Steering = AS_CONFIGURED,
    ) -> list[Recommendation]:
        """The same for item keys with their weights or ratings, oldest first: a new or anonymous user."""
        request = pb.RecommendForHistoryRequest(
            history=_history(history),
            k=k,
            scope=_SCOPES[scope],
            exclude_seen=exclude_seen,
            filter=_filter(wanted),
            steering=_steering(steering),
        )
        return _items(self._call(self._stub.RecommendForHistory, request))

    def similar_items(
        self, item_key: str, k: int = 10, scope: Scope = "all", *, wanted: ItemFilter = NO_FILTER
    ) -> list[Recommendation]:
        """The k items most like an item; their score is the cosine."""
        request = pb.SimilarItemsRequest(item_key=item_key, k=k, scope=_SCOPES[scope], filter=_filter(wanted))
        return _items(self._call(self._stub.SimilarItems, request))

    def explain(self, user_id: str, item_key: str, *, limit: int = 0) -> Explanation:
        """Which of a user's items carried an item's score; the ``limit`` largest, or all for 0."""
        request = pb.ExplainRequest(user_id=user_id, item_key=item_key, limit=limit)
        return _explanation(self._call(self._stub.Explain, request))

    def explain_for_history(
        self, history: Iterable[tuple[str, float]], item_key: str, *, limit: int = 0
    ) -> Explanation:
        """The same for a history."""
        request = pb.ExplainRequest(history=_history(history), item_key=item_key, limit=limit)
        return _explanation(self._call(self._stub.Explain, request))

    def record_feedback(
        self,
        user_id: str,
        item_key: str,
        *,
        value: float | None = None,
        at: int | None = None,
        event_id: str | None = None,
    ) -> FeedbackReceipt:
        """Record that a user had an item; durable on return, and part of the next recommendation.

        Args:
            value: weight of the event, or rating; where none is given, what an event without one is on this platform (a
                weight of 1, or the least rating that counts as one). Explicit feedback needs it.
            at: seconds since 1970; now unless given.
            event_id: the same id again is the same event; a random one unless given.
        """
        request = pb.RecordFeedbackRequest(
            event_id=event_id or uuid.uuid4().hex,
            user_id=user_id,
            item_key=item_key,
            value=value,
            time=int(time.time()) if at is None else at,
        )
        reply = self._call(self._stub.RecordFeedback, request)
        return FeedbackReceipt(reply.sequence, reply.duplicate, reply.reflected, reply.variant)

    def issue_passport(self, user_id: str, receiver: str, *, account: str | None = None) -> pb.IssuePassportReply:
        """A passport for a user to carry to the platform ``receiver``, as bytes and as text, with its receipt.

        Raises:
            PassportError: this platform issues none, not to that platform, or not so many a day.
        """
        request = pb.IssuePassportRequest(user_id=user_id, receiver=receiver, account=account)
        return self._call(self._stub.IssuePassport, request)

    def redeem_passport(self, user_id: str, passport: bytes) -> pb.RedeemPassportReply:
        """Redeem what a user brought, bytes or text; durable on return, and part of the next recommendation.

        Raises:
            PassportError: it is not for this platform or account, has expired, or was altered.
        """
        return self._call(self._stub.RedeemPassport, pb.RedeemPassportRequest(user_id=user_id, passport=passport))

    def recommend_for_passport(
        self, passport: bytes, k: int = 10, scope: Scope = "all", *, wanted: ItemFilter = NO_FILTER
    ) -> list[Recommendation]:
        """For a person without an account here, of whom nothing is kept.

        Raises:
            PassportError: it is not for this platform, or belongs to an account.
        """
        request = pb.RecommendForPassportRequest(passport=passport, k=k, scope=_SCOPES[scope], filter=_filter(wanted))
        return _items(self._call(self._stub.RecommendForPassport, request))

    def __enter__(self) -> RecommenderClient:
        return self

    def _call(self, method: Callable[..., _Reply], request: Any) -> _Reply:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            kind = _ERRORS.get(error.code(), PlatformError)
            raise kind(f"the recommender answered {error.code().name}: {error.details()}") from None


def _channel(target: str, token: str | None, root_certificates: Path | None, *, retry: bool) -> grpc.Channel:
    options = (("grpc.service_config", _RETRY), ("grpc.enable_retries", 1)) if retry else (("grpc.enable_retries", 0),)
    if root_certificates is not None:
        try:
            credentials = grpc.ssl_channel_credentials(root_certificates.read_bytes())
        except OSError as error:
            raise ConfigError(f"{root_certificates}: the CA cannot be read ({error.strerror})") from error
        return grpc.secure_channel(target, credentials, options=options)
    if token and not target.startswith(("localhost:", "127.", "[::1]:", "unix:")):
        raise ConfigError(f"{target}: the token would travel unencrypted; give the CA's certificate")
    return grpc.insecure_channel(target, options=options)


def _filter(wanted: ItemFilter) -> pb.ItemFilter:
    return pb.ItemFilter(
        any_genres=wanted.any_genres,
        no_genres=wanted.no_genres,
        key_prefixes=wanted.key_prefixes,
        platforms=wanted.platforms,
        attributes=[
            pb.AttributeCondition(
                attribute=one.attribute,
                any_of=one.any_of,
                none_of=one.none_of,
                at_least=one.at_least,
                at_most=one.at_most,
            )
            for one in wanted.attributes
        ],
    )


def _steering(asked: Steering) -> pb.Steering | None:
    if asked == AS_CONFIGURED:
        return None
    return pb.Steering(
        allow_keys=asked.allow_keys,
        deny_keys=asked.deny_keys,
        foreign_share=asked.foreign_share,
        diversity=asked.diversity,
        novelty=asked.novelty,
    )


def _history(items: Iterable[tuple[str, float]]) -> list[pb.HistoryItem]:
    return [pb.HistoryItem(item_key=key, value=value) for key, value in items]


def _items(reply: pb.RecommendReply | pb.SimilarItemsReply) -> list[Recommendation]:
    return [
        Recommendation(
            item.key, item.title, tuple(item.genres), item.score, tuple(item.platforms), _attributes(item.attributes)
        )
        for item in reply.items
    ]


def _attributes(told: Mapping[str, pb.AttributeValue]) -> dict[str, tuple[str, ...] | float]:
    return {
        name: value.number if value.HasField("number") else tuple(value.values) for name, value in sorted(told.items())
    }


def _explanation(reply: pb.ExplainReply) -> Explanation:
    return Explanation(
        key=reply.item_key,
        title=reply.title,
        score=reply.score,
        contributions=tuple(Contribution(part.item_key, part.title, part.amount) for part in reply.contributions),
        others=reply.others,
        item_bias=reply.item_bias,
        popularity=reply.popularity,
        decided_by=reply.decided_by,
        models={share.model: ModelShare(share.weight, share.amount) for share in reply.models},
        attributes=dict(reply.attributes),
        passports=tuple(reply.passports),
        reasons=tuple(Reason(one.attribute, one.value, one.count, one.of) for one in reply.reasons),
    )
