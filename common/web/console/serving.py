"""Serves a console on loopback until SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.deploy.console import say
from common.deploy.signals import SignalQueue
from common.errors import ConfigError
from common.web.console.app import Console


class QuietProtocol(H11Protocol):
    """uvicorn's own, which logs no address that was asked for."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # uvicorn asks its logger's handlers, whatever its configuration says.
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
        self._socket = _bound(port)
        self.port = int(self._socket.getsockname()[1])
        self.console = make(self.port)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.console.app,
                http=QuietProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=5,
                limit_concurrency=64,
            )
        )
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> ConsoleServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


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


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        made.listen()
    except OSError as error:
        made.close()
        raise ConfigError(
            f"--port {port}: 127.0.0.1:{port} cannot be opened ({error.strerror}); is another console running?"
        ) from error
    return made
