"""Runs a web application in a thread of its own by uvicorn: bound before it starts, silent, and ended in order."""

from __future__ import annotations

import socket
import threading
from typing import Any

import uvicorn

from common.errors import ConfigError


class WebServer:
    """A server of one application. :meth:`start` and :meth:`stop` it; nothing is logged of requests.

    Args:
        app: ASGI.
        bound: listening socket, of :func:`bound`; closed with the server.
        protocol: uvicorn's, with an ``access_log`` that is off: uvicorn asks its logger's handlers, whatever its
            configuration says, and an address may hold what a caller put there.
        name: of the thread.
        settings: further ones of ``uvicorn.Config``.
    """

    def __init__(self, app: Any, bound: socket.socket, *, protocol: type, name: str, **settings: Any) -> None:
        self._socket = bound
        self.config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            **settings,
        )
        self._server = uvicorn.Server(self.config)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def host(self) -> str:
        """The address that is listened on."""
        return str(self._socket.getsockname()[0])

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, finish those under way, and close the socket."""
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


def bound(host: str, port: int, setting: str, hint: str) -> socket.socket:
    """A socket that listens on ``host``.

    Args:
        host: name or address.
        port: its number; 0 takes a free one.
        setting: what the port is set by, for the message.
        hint: how it may have come about, for the message.

    Raises:
        ConfigError: the host is unknown, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"{setting}: {host} cannot be listened on ({error.strerror})") from error
    try:
        # A port in TIME_WAIT is free; one that another process listens on is refused all the same.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()
    except OSError as error:
        made.close()
        raise ConfigError(f"{setting}: {host}:{port} cannot be opened ({error.strerror}); {hint}") from error
    return made
