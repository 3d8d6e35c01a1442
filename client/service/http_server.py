"""Runs the HTTP gateway in a thread of its own: its port, its TLS, callers who are slow, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from client.service.http_gateway import HttpGateway
from common.config.serving import HttpConfig, ServingConfig
from common.errors import ConfigError

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
        self._socket = _bound(config.host, http.port)
        self.port = int(self._socket.getsockname()[1])
        settings = uvicorn.Config(
            gateway.app,
            http=type("PatientProtocol", (PatientProtocol,), {"head_seconds": http.request_seconds}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=config.max_waiting + _IDLE_CONNECTIONS,
            timeout_keep_alive=max(1, round(http.idle_seconds)),
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
        )
        settings.load()
        if certificate is not None and key is not None:
            try:
                settings.ssl = _renewing_context(certificate, key)
            except (OSError, ssl.SSLError) as error:
                self._socket.close()
                raise ConfigError(f"serving.tls: {certificate} or {key} cannot be used ({error})") from error
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._run, name="recommender-http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, finish those under way."""
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()
        self._gateway.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"recommender.http.port: {host} cannot be listened on ({error.strerror})") from error
    try:
        # A port in TIME_WAIT is free; one that another process listens on is refused all the same.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()
    except OSError as error:
        made.close()
        raise ConfigError(
            f"recommender.http.port: {host}:{port} cannot be opened ({error.strerror}); is it taken?"
        ) from error
    return made


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's own, with an end to waiting for a request's head, and to its size."""

    head_seconds: ClassVar[float] = 10.0
    """How long a caller may take."""
    _head_bytes = 0
    """Received of the head; −1 while a body is."""
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # uvicorn asks its logger's handlers, whatever its configuration says; an address may hold what a caller put there.
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
