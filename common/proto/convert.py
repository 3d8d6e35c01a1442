"""Exchange objects to and from their protobuf form (``agent.proto``)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.errors import ContractError
from common.proto import agent_pb2
from common.wire.exchange import AgentReply, AgentRequest, Arrays, Json

_NAMES: Final = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]
_DTYPES: Final = {dtype.str: dtype for dtype in (np.dtype(name).newbyteorder("<") for name in _NAMES)}


def request_to_proto(request: AgentRequest) -> agent_pb2.ExchangeRequest:
    return agent_pb2.ExchangeRequest(
        kind=request.kind,
        run_id=request.run_id,
        server_round=request.server_round,
        config_json=json.dumps(dict(request.config)),
        arrays=_arrays_to_proto(request.arrays),
    )


def request_from_proto(message: agent_pb2.ExchangeRequest) -> AgentRequest:
    """Raises: ContractError when an array or the config is malformed."""
    return AgentRequest(
        kind=message.kind,
        run_id=message.run_id,
        server_round=message.server_round,
        config=_config(message.config_json),
        arrays=_arrays(message.arrays),
    )


def reply_to_proto(reply: AgentReply) -> agent_pb2.ExchangeReply:
    return agent_pb2.ExchangeReply(
        platform=reply.platform,
        kind=reply.kind,
        server_round=reply.server_round,
        code=reply.code,
        config_json=json.dumps(dict(reply.config)),
        arrays=_arrays_to_proto(reply.arrays),
    )


def reply_from_proto(message: agent_pb2.ExchangeReply) -> AgentReply:
    """Raises: ContractError when an array or the config is malformed."""
    return AgentReply(
        platform=message.platform,
        kind=message.kind,
        server_round=message.server_round,
        code=message.code,
        config=_config(message.config_json),
        arrays=_arrays(message.arrays),
    )


def _config(text: str) -> dict[str, Json]:
    try:
        config = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ContractError("the config of a message is not JSON") from error
    if not isinstance(config, dict):
        raise ContractError("the config of a message is not a JSON object")
    return config


def _arrays_to_proto(arrays: Arrays) -> list[agent_pb2.NamedArray]:
    return [
        agent_pb2.NamedArray(
            name=name,
            dtype=array.dtype.newbyteorder("<").str,
            shape=array.shape,
            data=np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes(),
        )
        for name, array in arrays.items()
    ]


def _arrays(messages: Iterable[agent_pb2.NamedArray]) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for message in messages:
        if message.name in arrays:
            raise ContractError(f"array {message.name!r}: comes twice")
        arrays[message.name] = _array(message)
    return arrays


def _array(message: agent_pb2.NamedArray) -> NDArray[np.generic]:
    dtype, shape = _DTYPES.get(message.dtype), tuple(message.shape)
    if dtype is None or min(shape, default=0) < 0:
        raise ContractError(f"array {message.name!r}: dtype or shape is not allowed")
    if math.prod(shape) * dtype.itemsize != len(message.data):
        raise ContractError(f"array {message.name!r}: {len(message.data)} bytes do not make {dtype} {shape}")
    try:
        return np.frombuffer(message.data, dtype=dtype).reshape(shape)
    except ValueError as error:
        raise ContractError(f"array {message.name!r}: no array has the shape {shape}") from error
