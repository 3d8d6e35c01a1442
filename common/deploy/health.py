"""Whether a role is up, for the health check of a container: it connects to what the role listens on, and asks nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SECONDS: Final = 5.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 -- not listened on, but mapped to loopback


@dataclass(frozen=True)
class Listener:
    """Holds what a role listens on: a Unix socket, or a host and a port.

    Attributes:
        what: for the message.
        place: a path, or host and port.
    """

    what: str
    place: Path | tuple[str, int]

    def answers(self) -> bool:
        """Whether somebody takes a connection."""
        try:
            if isinstance(self.place, Path):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.settimeout(_SECONDS)
                    probe.connect(str(self.place.resolve()))
                return True
            host, port = self.place
            socket.create_connection((_ANY.get(host, host), port), timeout=_SECONDS).close()
        except OSError:
            return False
        return True


def unanswered(listeners: Iterable[Listener]) -> list[str]:
    """Return what does not answer, in words."""
    return [f"{each.what} does not answer at {_shown(each.place)}" for each in listeners if not each.answers()]


def _shown(place: Path | tuple[str, int]) -> str:
    return str(place) if isinstance(place, Path) else f"{place[0]}:{place[1]}"
