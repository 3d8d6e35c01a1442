"""The recommender over HTTP and JSON: the same service as over gRPC, with its limits and its refusals.

The event loop reads heads and bodies and writes answers; everything else is the work of as many threads as gRPC has. A user id
is in bodies alone, so that no address, and no log of addresses, ever holds one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Final

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from client.service import http_messages as json
from client.service.recommending import RecommenderService, RefusedRequestError
from client.tokens import Tokens
from common.config.serving import HttpConfig, ServingConfig
from common.proto import recommender_pb2 as pb

_log = getLogger(__name__)
_CODES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_LOCAL: Final = ("localhost", "127.0.0.1", "[::1]")
_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked.

    Attributes:
        path: where.
        method: its name in metrics, as gRPC has it.
        asked, answer: the messages of JSON.
        message: what the service is asked with.
        call: the service's method.
    """

    path: str
    method: str
    asked: type[json.Message]
    answer: type[json.Answer]
    message: Callable[..., Any]
    call: Callable[[RecommenderService, Any], Any]


OPERATIONS: Final = (
    Operation(
        "/v1/recommend", "Recommend", json.RecommendRequest, json.RecommendReply,
        pb.RecommendRequest, RecommenderService.recommend,
    ),
    Operation(
        "/v1/recommend-for-history", "RecommendForHistory", json.RecommendForHistoryRequest, json.RecommendReply,
        pb.RecommendForHistoryRequest, RecommenderService.recommend_for_history,
    ),
    Operation(
        "/v1/similar", "SimilarItems", json.SimilarItemsRequest, json.SimilarItemsReply,
        pb.SimilarItemsRequest, RecommenderService.similar_items,
    ),
    Operation(
        "/v1/explain", "Explain", json.ExplainRequest, json.ExplainReply,
        pb.ExplainRequest, RecommenderService.explain,
    ),
    Operation(
        "/v1/feedback", "RecordFeedback", json.FeedbackRequest, json.FeedbackReply,
        pb.RecordFeedbackRequest, RecommenderService.record_feedback,
    ),
    Operation(
        "/v1/passport/issue", "IssuePassport", json.IssuePassportRequest, json.IssuePassportReply,
        pb.IssuePassportRequest, RecommenderService.issue_passport,
    ),
    Operation(
        "/v1/passport/redeem", "RedeemPassport", json.RedeemPassportRequest, json.RedeemPassportReply,
        pb.RedeemPassportRequest, RecommenderService.redeem_passport,
    ),
    Operation(
        "/v1/passport/recommend", "RecommendForPassport", json.RecommendForPassportRequest, json.RecommendReply,
        pb.RecommendForPassportRequest, RecommenderService.recommend_for_passport,
    ),
)  # fmt: skip


class HttpGateway:
    """Reads requests, asks the service in threads, writes answers.

    Args:
        service: answers.
        config: the limits of a request.
        http: what HTTP has of its own.
        tokens: what callers must send as ``Authorization: Bearer …``; None asks for none.
        serving: whether the process serves.
        pages: GET pages by path, each with its media type.
    """

    def __init__(
        self,
        service: RecommenderService,
        config: ServingConfig,
        http: HttpConfig,
        tokens: Tokens | None,
        serving: Callable[[], bool],
        pages: Mapping[str, tuple[str, bytes]],
    ) -> None:
        self._service, self._config, self._http, self._serving = service, config, http, serving
        self._tokens = tokens
        self._threads = ThreadPoolExecutor(max_workers=config.workers, thread_name_prefix="recommender-http")
        self._under_way = 0
        routes = [Route(operation.path, self._endpoint(operation), methods=["POST"]) for operation in OPERATIONS]
        routes += [Route(path, _page(*content)) for path, content in pages.items()]
        # Without a token a page of the Web could have its visitor's browser ask, under a name of its own for this address.
        checks = [Middleware(TrustedHostMiddleware, allowed_hosts=list(_LOCAL))] if tokens is None else []
        self.app = Starlette(
            routes=[*routes, Route("/health", self._health)],
            middleware=checks,
            exception_handlers={HTTPException: _not_routed},
        )

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=True)

    def _endpoint(self, operation: Operation) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            arrived = time.monotonic()
            try:
                self._check_token(request)
                if self._under_way >= self._config.max_waiting:
                    raise RefusedRequestError("RESOURCE_EXHAUSTED", "too many requests are waiting; try again later")
                self._under_way += 1
                try:
                    body = await self._body(request)
                    due = arrived + self._http.answer_seconds
                    work = asyncio.get_running_loop().run_in_executor(self._threads, self._answer, operation, body, due)
                    return _response(200, await work)
                finally:
                    self._under_way -= 1
            except RefusedRequestError as refused:
                return _refusal(_CODES[refused.status], refused.status, refused.message)
            except _BadTransfer as bad:
                return _refusal(bad.code, "INVALID_ARGUMENT", str(bad))

        return answer

    def _answer(self, operation: Operation, body: bytes, due: float) -> bytes:
        """In a thread: read the body, ask, write the answer."""

        def answer() -> bytes:
            try:
                asked = operation.asked.model_validate_json(body)
            except ValidationError as error:
                raise RefusedRequestError("INVALID_ARGUMENT", json.problem_of(error)) from None
            reply = operation.call(self._service, operation.message(**_with_bytes(asked.fields())))
            return operation.answer.model_validate(reply).model_dump_json().encode()

        return self._service.answered(operation.method, answer, remaining=due - time.monotonic())

    def _check_token(self, request: Request) -> None:
        if self._tokens is None:
            return
        given = request.headers.getlist("authorization")
        sent = given[0].encode("latin-1") if len(given) == 1 else b""
        if not self._tokens.accept(sent):
            raise RefusedRequestError("UNAUTHENTICATED", "send the API token as header: Authorization: Bearer TOKEN")

    async def _body(self, request: Request) -> bytes:
        """The whole body, within its limits of size and time."""
        # Of another type a browser would send a body across sites without asking.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _BadTransfer(415, "send a body of Content-Type: application/json")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise _BadTransfer(415, "send the body as it is, without Content-Encoding")
        most, parts, size = self._config.max_message_bytes, [], 0
        if int(request.headers.get("content-length", "0")) > most:
            raise _BadTransfer(413, f"a body has at most {most} bytes")
        try:
            async with asyncio.timeout(self._http.request_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise _BadTransfer(413, f"a body has at most {most} bytes")
                    parts.append(part)
        except TimeoutError:
            raise _BadTransfer(408, "the body did not arrive in time") from None
        except ClientDisconnect:
            raise _BadTransfer(408, "the body did not arrive") from None
        return b"".join(parts)

    def _health(self, request: Request) -> Response:
        serving = self._serving()
        return _response(200 if serving else 503, b'{"status":"SERVING"}' if serving else b'{"status":"NOT_SERVING"}')


class _BadTransfer(Exception):  # noqa: N818 -- carries a status of HTTP's own
    """A request that cannot be taken as it is sent.

    Args:
        code: of HTTP.
        message: for the caller.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _with_bytes(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"passport": fields["passport"].encode()} if "passport" in fields else fields


def _response(code: int, body: bytes, more: Mapping[str, str] | None = None) -> Response:
    return Response(body, code, {**_HEADERS, **(more or {})}, media_type="application/json")


def _refusal(code: int, status: str, message: str) -> Response:
    more = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}, 429: {"retry-after": "1"}}.get(code, {})
    # Whatever is left of a body that was not read must not be taken for the next request.
    more = more | ({"connection": "close"} if code in (408, 413, 415, 401, 429) else {})
    body = json.Refused(error=json.Refusal(code=status, message=message)).model_dump_json().encode()
    return _response(code, body, more)


def _not_routed(request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 404
    allow = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    said = "no such path; GET /docs lists what can be asked" if code == 404 else "ask with POST, and pages with GET"
    body = json.Refused(error=json.Refusal(code="NOT_FOUND", message=said)).model_dump_json().encode()
    return _response(code, body, allow)


def _page(media_type: str, content: bytes) -> Callable[[Request], Response]:
    def page(request: Request) -> Response:
        return Response(content, 200, _HEADERS, media_type=media_type)

    return page
