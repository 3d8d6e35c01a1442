"""Exchange objects to and from Flower messages.

One ``ArrayRecord`` named ``arrays`` and one ``ConfigRecord`` named ``crossfed`` make a message; the kind of request is
in the record and not in Flower's message type, so that a courier has nothing to decide.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.lib import format as npy
from numpy.typing import NDArray

from common.errors import ContractError
from common.wire.exchange import AgentReply, AgentRequest, Arrays, Json, octets

_ARRAYS: Final = "arrays"
_HEADER: Final = "crossfed"
_NUMPY: Final = "numpy.ndarray"
_LONGEST_HEADER: Final = 1 << 16
_USUAL_HEADER: Final = 256


def request_content(request: AgentRequest, arrays: ArrayRecord | None = None) -> RecordDict:
    """The content of the Flower message that carries ``request``.

    Args:
        arrays: ``request.arrays`` as made by :func:`array_record`, to serialise what goes to many platforms only once.
    """
    header = ConfigRecord(
        {
            "kind": request.kind,
            "run-id": request.run_id,
            "server-round": request.server_round,
            "config": json.dumps(dict(request.config)),
        }
    )
    return RecordDict({_HEADER: header, _ARRAYS: array_record(request.arrays) if arrays is None else arrays})


def request_of(message: Message) -> AgentRequest:
    """Raises: ContractError when the message is not a crossfed request."""
    header, arrays = _parts(message.content)
    try:
        return AgentRequest(
            kind=str(header["kind"]),
            run_id=str(header["run-id"]),
            server_round=int(str(header["server-round"])),
            config=_config(header),
            arrays=arrays,
        )
    except (KeyError, ValueError, RecursionError) as error:
        raise ContractError("the message's header is not that of a crossfed request") from error


def kind_of(message: Message) -> str:
    """The kind of request that a message of :func:`request_content` carries."""
    return str(message.content.config_records[_HEADER]["kind"])


def reply_content(reply: AgentReply) -> RecordDict:
    """The content of the Flower message that carries ``reply``."""
    header = ConfigRecord(
        {
            "platform": reply.platform,
            "kind": reply.kind,
            "server-round": reply.server_round,
            "code": reply.code,
            "config": json.dumps(dict(reply.config)),
        }
    )
    return RecordDict({_HEADER: header, _ARRAYS: array_record(reply.arrays)})


def reply_of(message: Message) -> AgentReply:
    """Raises: ContractError when the message is not a crossfed reply."""
    header, arrays = _parts(message.content)
    try:
        return AgentReply(
            platform=str(header["platform"]),
            kind=str(header["kind"]),
            server_round=int(str(header["server-round"])),
            code=str(header["code"]),
            config=_config(header),
            arrays=arrays,
        )
    except (KeyError, ValueError, RecursionError) as error:
        raise ContractError("the message's header is not that of a crossfed reply") from error


def array_record(arrays: Arrays) -> ArrayRecord:
    """Serialise arrays once; the record may go into many messages."""
    return ArrayRecord({name: _encoded(array) for name, array in arrays.items()})


def _encoded(array: NDArray[Any]) -> Array:
    """As Flower encodes an array, in NumPy's format, but copied once."""
    data = b"".join([_header_of(array.dtype, array.shape), octets(array)])
    return Array(dtype=str(array.dtype), shape=array.shape, stype=_NUMPY, data=data)


@lru_cache(maxsize=256)
def _header_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = BytesIO()
    npy.write_array_header_1_0(header, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return header.getvalue()


def _config(header: ConfigRecord) -> dict[str, Json]:
    config = json.loads(str(header["config"]))
    if not isinstance(config, dict):
        raise ValueError("not a JSON object")
    return config


def _parts(content: RecordDict) -> tuple[ConfigRecord, Arrays]:
    header, record = content.get(_HEADER), content.get(_ARRAYS)
    if not isinstance(header, ConfigRecord) or not isinstance(record, ArrayRecord):
        raise ContractError("the message is not one of crossfed's: it lacks its header or its arrays")
    return header, {name: _array(array) for name, array in record.items()}


def _array(array: Array) -> NDArray[Any]:
    """A read-only view of the message's own bytes."""
    try:
        length = len(npy.MAGIC_PREFIX) + 4 + int.from_bytes(array.data[8:10], "little")
        header = array.data[: min(length, _LONGEST_HEADER)]
        # Of many platforms most headers are alike.
        shape, dtype, start = (_read_header if len(header) <= _USUAL_HEADER else _read_header.__wrapped__)(header)
        if array.stype != _NUMPY:
            raise ValueError("not an array as crossfed encodes it")
        count = math.prod(shape)
        if count * dtype.itemsize != len(array.data) - start:
            raise ValueError("more or fewer values than the shape says")
        return np.frombuffer(array.data, dtype, count, start).reshape(shape)
    except (TypeError, ValueError, EOFError, OverflowError, MemoryError, RecursionError) as error:
        raise ContractError("an array of the message cannot be read") from error


@lru_cache(maxsize=1024)
def _read_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype and where the values begin, of an array in NumPy's first format. Raises: ValueError, whatever is wrong."""
    header = BytesIO(data)
    # NumPy would also open other versions, and an archive of several arrays, which is no array.
    if npy.read_magic(header) != (1, 0):
        raise ValueError("not in NumPy's first format")
    shape, fortran_order, dtype = npy.read_array_header_1_0(header)
    if fortran_order or dtype.hasobject:
        raise ValueError("not an array as crossfed encodes it")
    return shape, dtype, header.tell()
