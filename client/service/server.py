"""Starts and stops the recommender's servers, gRPC and HTTP: ports, TLS, token, health, reflection, draining."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from client.data.recorded import EventRules
from client.passport.desk import PassportDesk
from client.passport.serving import PassportServing
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG, FeedbackReader
from client.recommend.lists import ListMaker
from client.recommend.process import limit_blas_threads, prefer_short_waits
from client.recommend.snapshot import ServingModel
from client.service.health import SERVICE, ServiceHealth
from client.service.http_gateway import OPERATIONS, HttpGateway
from client.service.http_server import HttpServer
from client.service.metrics_export import ServingMetrics
from client.service.openapi import pages
from client.service.recommending import RecommenderService
from client.service.servicer import RecommenderServicer
from client.steering.hidden import HiddenItems
from client.tokens import FixedToken, Tokens
from common.config.serving import ServingConfig
from common.errors import ConfigError
from common.proto import recommender_pb2_grpc

_OPEN_TO_ALL = "/grpc.health.v1.Health/"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files; read anew for each connection, so that renewed certificates need no restart.

    Attributes:
        certificate: the server's, with its chain.
        key: its private key.
    """

    certificate: Path
    key: Path


class RecommenderServer:
    """A running recommender. Use it as a context manager, or call :meth:`stop`.

    Attributes:
        target: host:port that clients connect to.
        metrics: what it counts.
        model: what serves; ``model.reload()`` swaps at once what the store's watcher would find a little later.
        passports: what people brought, or None.
    """

    def __init__(
        self,
        server: grpc.Server,
        target: str,
        model: ServingModel,
        told: ServiceHealth,
        drain: float,
        passports: PassportServing | None = None,
        http: HttpServer | None = None,
        *,
        service: RecommenderService,
    ) -> None:
        self._service = service
        self.target = target
        self.model = model
        self.passports = passports
        self._server = server
        self._health = told
        self._drain = drain
        self._http = http

    @property
    def port(self) -> int:
        return int(self.target.rpartition(":")[2])

    @property
    def http_target(self) -> str | None:
        """host:port of HTTP; None without."""
        return None if self._http is None else f"{self.target.rpartition(':')[0]}:{self._http.port}"

    def agent_reachable(self, reachable: bool) -> None:
        """Tell health checks whether the platform's agent, which runs in this process, can be reached."""
        self._health.agent_reachable(reachable)

    def stop(self) -> None:
        """Report NOT_SERVING, take no more requests, finish those under way, close the log."""
        self._health.enter_shutdown()
        ended = self._server.stop(self._drain)
        if self._http is not None:
            self._http.stop()
        ended.wait()
        self._service.close()
        self.model.stop()
        self.model.feedback.close()
        if self.passports is not None:
            self.passports.close()

    def __enter__(self) -> RecommenderServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve_recommender(
    store_root: Path,
    *,
    port: int | None = None,
    token: str | Tokens | None = None,
    tls: TlsFiles | None = None,
    config: ServingConfig | None = None,
    feedback: Path | None = None,
    rules: EventRules | None = None,
    metrics: ServingMetrics | None = None,
    passports: PassportDesk | None = None,
    read_only: bool = False,
) -> RecommenderServer:
    """Serve the model in ``store_root``, now or as soon as there is one; the caller stops the server.

    Args:
        store_root: folder of the :class:`~client.personalization.store.PlatformStore`.
        port: overrides the configuration's.
        token: what callers must send as ``authorization: Bearer …``, or the tokens of a file; None asks for none.
        tls: certificate and key; None serves in the clear.
        config: limits and intervals.
        feedback: the feedback log; ``feedback.log`` in the store's folder unless given.
        rules: what recorded events must be; unless given, what the model that serves needs.
        metrics: where requests are counted.
        passports: issues and redeems passports; the server closes its books.
        read_only: write nothing in the store's folder and refuse feedback: one of several recommenders of one store, which
            sees what the one that records has recorded.

    Raises:
        ConfigError: the address can be reached from other hosts and TLS or the token is missing, the certificate
            cannot be read, or the port is taken.
        StoreError: the feedback log cannot be used.
    """
    settings = ServingConfig() if config is None else config
    counts = ServingMetrics() if metrics is None else metrics
    if not _is_loopback(settings.host) and (tls is None or not token):
        raise ConfigError(f"serving.host: {settings.host} can be reached from other hosts; set TLS files and a token")
    tokens = FixedToken(token) if isinstance(token, str) and token else (token or None)
    limit_blas_threads()
    prefer_short_waits()
    told = ServiceHealth(counts)
    path = store_root / FEEDBACK_LOG if feedback is None else feedback
    log = FeedbackReader(path, rules) if read_only else FeedbackLog(path, rules)
    model = ServingModel(
        PlatformStore(store_root), log, settings, on_change=told.model_changed, on_problems=told.store_problems
    )
    brought = None if passports is None else PassportServing(passports, model)
    lists = ListMaker(settings.steering, HiddenItems(store_root))
    service = RecommenderService(model, settings, counts, brought, lists)
    http = None
    try:
        http = _http_server(service, settings, tokens, tls, told)
        server, bound = _server(settings, settings.port if port is None else port, tokens, tls)
    except ConfigError:
        log.close()
        if http is not None:
            http.stop()
        raise
    if tls is not None:
        counts.certificate(tls.certificate)
    _add_services(server, service, told)
    model.start()
    server.start()
    if http is not None:
        http.start()
    return RecommenderServer(
        server, f"{settings.host}:{bound}", model, told, settings.drain_seconds, brought, http, service=service
    )


def _add_services(server: grpc.Server, service: RecommenderService, told: ServiceHealth) -> None:
    """The recommender, its health, and the list of both."""
    recommender_pb2_grpc.add_RecommenderServicer_to_server(RecommenderServicer(service), server)
    health_pb2_grpc.add_HealthServicer_to_server(told.statuses, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


def _http_server(
    service: RecommenderService,
    settings: ServingConfig,
    tokens: Tokens | None,
    tls: TlsFiles | None,
    told: ServiceHealth,
) -> HttpServer | None:
    if settings.http is None:
        return None
    gateway = HttpGateway(service, settings, settings.http, tokens, lambda: told.serving, pages(OPERATIONS))
    files = (None, None) if tls is None else (tls.certificate, tls.key)
    return HttpServer(gateway, settings, settings.http, *files)


def _server(settings: ServingConfig, port: int, tokens: Tokens | None, tls: TlsFiles | None) -> tuple[grpc.Server, int]:
    server = grpc.server(
        ThreadPoolExecutor(max_workers=settings.workers, thread_name_prefix="recommender"),
        interceptors=[_TokenCheck(tokens)] if tokens else [],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=settings.max_waiting,
    )
    address = f"[{settings.host}]:{port}" if ":" in settings.host else f"{settings.host}:{port}"
    try:
        if tls is None:
            return server, server.add_insecure_port(address)
        return server, server.add_secure_port(address, _credentials(tls))
    except RuntimeError as error:
        raise ConfigError(f"serving.port: {address} cannot be opened; is it taken, or not this host's?") from error


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    def configuration() -> Any:
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair])

    def renewed() -> Any:
        try:
            return configuration()
        except OSError:
            return None  # gRPC goes on with the pair it has

    try:
        return grpc.dynamic_ssl_server_credentials(configuration(), renewed)
    except OSError as error:
        raise ConfigError(f"serving.tls: {error.filename} cannot be read ({error.strerror})") from error


class _TokenCheck(grpc.ServerInterceptor):
    """Ends every call without the token, health checks excepted: probes have none."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._refusal: Any = grpc.unary_unary_rpc_method_handler(_refuse)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        given = [value for name, value in handler_call_details.invocation_metadata if name == "authorization"]
        sent = given[0] if len(given) == 1 else ""
        if self._tokens.accept(sent.encode() if isinstance(sent, str) else sent):
            return continuation(handler_call_details)
        if handler_call_details.method.startswith(_OPEN_TO_ALL):
            return continuation(handler_call_details)
        return self._refusal


def _refuse(request: object, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "send the API token as metadata: authorization: Bearer TOKEN")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
