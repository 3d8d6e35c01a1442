from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import ContractError
from common.proto import agent_pb2
from common.proto.convert import reply_from_proto, reply_to_proto, request_from_proto, request_to_proto
from common.wire.exchange import AgentReply, AgentRequest

names = st.text(st.characters(codec="utf-8"), max_size=12)
dtypes = st.sampled_from(["bool", "uint8", ">i4", "int64", "float16", ">f4", "float64"])
arrays = st.dictionaries(
    names, dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))), max_size=3
)


def over_the_wire(sent):
    return type(sent).FromString(sent.SerializeToString())


@given(names, st.integers(0, 2**31 - 1), arrays, st.dictionaries(names, st.integers() | names, max_size=3))
def test_requests_and_replies_cross_protobuf_unchanged(kind, server_round, sent, config) -> None:
    request = AgentRequest(kind=kind, run_id="run", server_round=server_round, config=config, arrays=sent)
    reply = AgentReply(platform="shop", kind=kind, server_round=server_round, code="ok", config=config, arrays=sent)
    got_request = request_from_proto(over_the_wire(request_to_proto(request)))
    got_reply = reply_from_proto(over_the_wire(reply_to_proto(reply)))
    assert (got_request.kind, got_request.run_id, got_request.server_round, got_request.config) == (
        kind,
        "run",
        server_round,
        config,
    )
    assert (got_reply.platform, got_reply.kind, got_reply.code, got_reply.config) == ("shop", kind, "ok", config)
    for got in (got_request.arrays, got_reply.arrays):
        assert got.keys() == sent.keys()
        for name, array in sent.items():
            assert got[name].dtype == array.dtype.newbyteorder("<")
            assert got[name].shape == array.shape
            assert np.array_equal(got[name], array, equal_nan=array.dtype.kind == "f")


def array_message(**changes):
    return agent_pb2.NamedArray(**({"name": "x", "dtype": "<f4", "shape": [2], "data": b"\0" * 8} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "no such"},
        {"dtype": ""},
        {"dtype": "O"},
        {"dtype": "<U2"},
        {"dtype": "<c8"},
        {"dtype": "<M8[s]", "shape": [1]},
        {"dtype": "V8", "shape": [1]},
        {"dtype": "f4,f4", "shape": [1]},
        {"dtype": "(2,)f4", "shape": [1]},
        {"dtype": "(2,f4"},
        {"dtype": "\0"},
        {"shape": [3]},
        {"shape": [-2]},
        {"shape": [-1, -2]},
        {"shape": [1]},
        {"shape": []},
        {"shape": [2**62, 2**62, 0], "data": b""},
        {"shape": [0] * 70, "data": b""},
        {"data": b""},
        {"data": b"\0" * 9},
    ],
    ids=repr,
)
def test_a_malformed_array_is_a_contract_error(changes) -> None:
    message = agent_pb2.ExchangeRequest(kind="counts", arrays=[array_message(**changes)])
    with pytest.raises(ContractError, match="array 'x'"):
        request_from_proto(message)
    with pytest.raises(ContractError, match="array 'x'"):
        reply_from_proto(agent_pb2.ExchangeReply(kind="counts", arrays=[array_message(**changes)]))


@given(st.text(max_size=12), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4), st.binary(max_size=64))
def test_no_array_message_raises_anything_but_a_contract_error(dtype, shape, data) -> None:
    message = agent_pb2.ExchangeRequest(arrays=[array_message(dtype=dtype, shape=shape, data=data)])
    try:
        received = request_from_proto(message)
    except ContractError:
        return
    assert received.arrays["x"].nbytes == len(data)


def test_an_array_that_comes_twice_is_refused() -> None:
    message = agent_pb2.ExchangeRequest(kind="counts", arrays=[array_message(), array_message()])
    with pytest.raises(ContractError, match="twice"):
        request_from_proto(message)


@pytest.mark.parametrize("text", ["{", "[]", "1", "null", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_a_contract_error(text: str) -> None:
    with pytest.raises(ContractError, match="config"):
        request_from_proto(agent_pb2.ExchangeRequest(config_json=text))
    with pytest.raises(ContractError, match="config"):
        reply_from_proto(agent_pb2.ExchangeReply(config_json=text))
