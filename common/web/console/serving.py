"""Serves a console on loopback until SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from common.deploy.console import say
from common.deploy.signals import SignalQueue
from common.web.console.app import Console
from common.web.server import WebServer, bound


class QuietProtocol(H11Protocol):
    """uvicorn's own, which logs no address that was asked for."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.access_log = False


class ConsoleServer:
    """A running console; use it as a context manager.

    Args:
        make: makes the console for the port that was bound.
        port: on loopback; 0 takes a free one.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, make: Callable[[int], Console], port: int = 0) -> None:
        taken = bound("127.0.0.1", port, f"--port {port}", "is another console running?")
        self.port = int(taken.getsockname()[1])
        self.console = make(self.port)
        self._server = WebServer(
            self.console.app,
            taken,
            protocol=QuietProtocol,
            name="console",
            timeout_graceful_shutdown=5,
            limit_concurrency=64,
        )

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{self._server.host}:{self.port}/"

    def __enter__(self) -> ConsoleServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def serve_console(make: Callable[[int], Console], port: int) -> None:
    """Serve until SIGTERM or SIGINT, and say where and with which token.

    Raises:
        ConfigError: the port is taken.
    """
    signals = SignalQueue(signal.SIGTERM, signal.SIGINT)
    with ConsoleServer(make, port) as server:
        say(f"console at {server.address}, for a browser on this machine; Ctrl-C ends it")
        say(f"token: {server.console.token}")
        signals.wait()
