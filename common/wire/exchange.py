"""Defines requests of the aggregator to a platform agent, and replies: plain data, whatever carries it.

In the simulator the courier hands these objects over in process; in deployment they cross a Unix socket
(``common/proto/agent.proto``) and Flower (``common/wire/messages.py``). An :class:`AgentReply` to a request that failed
carries the error's code and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ContractError

JsonScalar = str | int | float | bool | None
Json = JsonScalar | list["Json"] | dict[str, "Json"]
Arrays = Mapping[str, NDArray[Any]]

OK = "ok"
_LARGEST_MEAN = 1e6


@dataclass(frozen=True, eq=False, kw_only=True)
class AgentRequest:
    """One request of the aggregator.

    Attributes:
        kind: which step of the protocol.
        run_id: the federation run that it belongs to.
        server_round: 0 for the handshake, then 1, 2, …
        config: small public values.
        arrays: shared parameters, as the contract declares them.
    """

    kind: str
    run_id: str
    server_round: int
    config: Mapping[str, Json] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class AgentReply:
    """A platform's answer; ``code`` is :data:`OK` or the code of a :class:`~common.errors.CrossfedError`."""

    platform: str
    kind: str
    server_round: int
    code: str = OK
    config: Mapping[str, Json] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())


class AgentConnection(Protocol):
    """How a courier reaches its platform's agent."""

    def exchange(self, request: AgentRequest) -> AgentReply:
        """Hand over one request and wait for the answer."""
        ...


def nbytes(arrays: Arrays) -> int:
    """Bytes of all arrays."""
    return sum(np.asarray(array).nbytes for array in arrays.values())


def octets(array: NDArray[Any]) -> memoryview:
    """The bytes of an array's values, row by row; copied only where they do not lie that way."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def digest_of(request: AgentRequest) -> str:
    """SHA-256 of everything that a request says."""
    digest = hashlib.sha256()
    header = [request.kind, request.run_id, request.server_round, dict(request.config)]
    digest.update(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(request.arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(octets(array))
    return digest.hexdigest()


_MOST_USERS = 1e10


def user_counts_of(request: AgentRequest, platforms: int) -> tuple[float, ...] | None:
    """About how many users each platform has, in the order of the vocabulary's owners; None where it is not told.

    Raises:
        ContractError: these are not as many numbers of users as there are platforms.
    """
    told = request.config.get("user_counts")
    if told is None:
        return None
    if not isinstance(told, list) or len(told) != platforms:
        raise ContractError("user_counts must have a number for each platform")
    counts = [float(one) for one in told if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(counts) != platforms or not all(0 <= one <= _MOST_USERS for one in counts):
        raise ContractError(f"user_counts must be numbers from 0 to {_MOST_USERS:g}")
    return tuple(counts)


def value_mean_of(request: AgentRequest) -> float:
    """μ, the mean rating over all platforms, as the aggregator tells it; 0 for implicit feedback.

    Raises:
        ContractError: it is not a finite number, or no mean of any ratings.
    """
    mean = request.config.get("value_mean", 0.0)
    if isinstance(mean, bool) or not isinstance(mean, int | float) or not abs(mean) <= _LARGEST_MEAN:
        raise ContractError(f"value_mean must be a number within ±{_LARGEST_MEAN:g}")
    return float(mean)
