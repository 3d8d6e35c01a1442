"""Runs the HTTP gateway in a thread of its own: its port, its TLS, callers who are slow, and an orderly end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from client.service.http_gateway import HttpGateway
from common.config.serving import HttpConfig, ServingConfig
from common.errors import ConfigError
from common.web.server import WebServer, bound

_MOST_HEAD_BYTES: Final = 1 << 16
_IDLE_CONNECTIONS: Final = 256
"""That may be open beside those whose requests wait."""


class HttpServer:
    """A running gateway. :meth:`stop` ends it.

    Args:
        gateway: answers.
        config: limits, host and drain.
        http: port and times.
        certificate: PEM file; None: no TLS. Read anew for a connection once they have changed.
        key: of the certificate, likewise.

    Raises:
        ConfigError: the port is taken, or the certificate cannot be read.
    """

    def __init__(
        self,
        gateway: HttpGateway,
        config: ServingConfig,
        http: HttpConfig,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._gateway = gateway
        self._server = WebServer(
            gateway.app,
            bound(config.host, http.port, "recommender.http.port", "is it taken?"),
            protocol=type("PatientProtocol", (PatientProtocol,), {"head_seconds": http.request_seconds}),
            name="recommender-http",
            limit_concurrency=config.max_waiting + _IDLE_CONNECTIONS,
            timeout_keep_alive=max(1, round(http.idle_seconds)),
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
        )
        self.port = self._server.port
        settings = self._server.config
        settings.load()
        if certificate is not None and key is not None:
            try:
                settings.ssl = _renewing_context(certificate, key)
            except (OSError, ssl.SSLError) as error:
                self._server.stop()
                raise ConfigError(f"serving.tls: {certificate} or {key} cannot be used ({error})") from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """Take no more requests, finish those under way."""
        self._server.stop()
        self._gateway.close()


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's own, with an end to waiting for a request's head, and to its size."""

    head_seconds: ClassVar[float] = 10.0
    """How long a caller may take."""
    _head_bytes = 0
    """Received of the head; −1 while a body is."""
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.access_log = False
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
            if self._waiting is None:
                self._wait()
        super().data_received(data)
        if self._head_bytes > _MOST_HEAD_BYTES:
            self.transport.close()

    def on_headers_complete(self) -> None:
        # Counted no further: the body has limits of its own.
        self._head_bytes = -1
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self._head_bytes = 0
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def _renewing_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context whose connections begin with the files as they are then; while they cannot be read, with those before."""

    def loaded() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        return context

    first = loaded()
    stamp, current = _stamp(certificate, key), first

    def renew(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        nonlocal stamp, current
        with suppress(OSError, ssl.SSLError):
            found = _stamp(certificate, key)
            if found != stamp:
                current, stamp = loaded(), found
        if current is not first:
            connection.context = current

    choose: Callable[..., None] = renew
    first.sni_callback = choose
    return first


def _stamp(*paths: Path) -> tuple[tuple[int, int], ...]:
    return tuple((found.st_ino, found.st_mtime_ns) for found in (path.stat() for path in paths))
