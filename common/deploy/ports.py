"""Ports that a role is about to open, checked before it starts what would fail on them again and again."""

from __future__ import annotations

import socket
import time
from typing import Final

from common.errors import ConfigError

PORT_PATIENCE: Final = 10.0
"""Seconds that a program which is ending may take to give up its port."""
_POLL_SECONDS = 0.2


def check_port_free(host: str, port: int, setting: str, *, patience: float = PORT_PATIENCE) -> None:
    """Refuse a port that another program has; one that was just given up is waited for.

    Args:
        host: address that it will be opened on.
        port: its number.
        setting: key path of the configuration, for the message.
        patience: seconds that a program which is ending may take.

    Raises:
        ConfigError: the port is taken, or cannot be opened on that address.
    """
    give_up = time.monotonic() + patience
    while (problem := _problem(host, port)) is not None:
        if time.monotonic() >= give_up:
            raise ConfigError(
                f"{setting}: {host}:{port} cannot be opened ({problem}); end the program that has it, or set another"
            )
        time.sleep(_POLL_SECONDS)


def _problem(host: str, port: int) -> str | None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or type(error).__name__
    return None
