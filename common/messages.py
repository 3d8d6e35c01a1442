"""Exchange objects to and from Flower messages.

One ``ArrayRecord`` named ``arrays`` and one ``ConfigRecord`` named ``crossfed`` make a message; the kind of request is
in the record and not in Flower's message type, so that a courier has nothing to decide.
"""

from __future__ import annotations

import json
from typing import Any, Final

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from common.errors import ContractError
from common.exchange import AgentReply, AgentRequest, Arrays, Json

_ARRAYS: Final = "arrays"
_HEADER: Final = "crossfed"
_NPY: Final = b"\x93NUMPY"


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
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


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
    try:
        # NumPy would also open an archive of several arrays, which is no array.
        if not array.data.startswith(_NPY):
            raise ValueError("not in NumPy's format")
        return array.numpy()
    except (TypeError, ValueError, EOFError, OverflowError, MemoryError, RecursionError) as error:
        raise ContractError("an array of the message cannot be read") from error
