from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import ContractError
from common.wire.exchange import AgentReply, AgentRequest, nbytes, value_mean_of
from common.wire.messages import array_record, kind_of, reply_content, reply_of, request_content, request_of
from tests.support import flower_message

names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
dtypes = st.sampled_from(["bool", "uint8", "int32", "int64", "float32", "float64"])
arrays = st.dictionaries(
    names, dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))), max_size=3
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(st.text(), json_values, max_size=4)
rounds = st.integers(0, 10_000)


def same(left: object, right: object) -> bool:
    assert isinstance(left, AgentRequest | AgentReply)
    assert isinstance(right, AgentRequest | AgentReply)
    equal = left.arrays.keys() == right.arrays.keys() and all(
        np.array_equal(left.arrays[name], right.arrays[name], equal_nan=array.dtype.kind == "f")
        and left.arrays[name].dtype == array.dtype
        and left.arrays[name].shape == array.shape
        for name, array in right.arrays.items()
    )
    return equal and left.config == right.config


@given(names, st.text(max_size=20), rounds, configs, arrays)
def test_a_request_crosses_flower_unchanged(kind, run_id, server_round, config, sent) -> None:
    request = AgentRequest(kind=kind, run_id=run_id, server_round=server_round, config=config, arrays=sent)
    received = request_of(flower_message(request_content(request)))
    assert (received.kind, received.run_id, received.server_round) == (kind, run_id, server_round)
    assert same(received, request)
    assert kind_of(flower_message(request_content(request))) == kind


@given(names, rounds, names, configs, arrays)
def test_a_reply_crosses_flower_unchanged(kind, server_round, code, config, sent) -> None:
    reply = AgentReply(platform="shop", kind=kind, server_round=server_round, code=code, config=config, arrays=sent)
    received = reply_of(flower_message(reply_content(reply)))
    assert (received.platform, received.kind, received.server_round, received.code) == (
        "shop",
        kind,
        server_round,
        code,
    )
    assert same(received, reply)
    assert received.nbytes == nbytes(sent)


def test_arrays_that_were_serialised_once_serve_many_messages() -> None:
    request = AgentRequest(kind="statistics", run_id="r", server_round=1, arrays={"x": np.arange(3)})
    record = array_record(request.arrays)
    first, second = (request_of(flower_message(request_content(request, record))) for _ in range(2))
    assert np.array_equal(first.arrays["x"], second.arrays["x"])


REPLY = AgentReply(platform="shop", kind="counts", server_round=0)


def with_header(**changes: object) -> RecordDict:
    content = reply_content(REPLY)
    for name, value in changes.items():
        content.config_records["crossfed"][name.replace("_", "-")] = value  # type: ignore[assignment]
    return content


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"text"', "1", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="header"):
        reply_of(flower_message(with_header(config=text)))
    request = AgentRequest(kind="join", run_id="r", server_round=0)
    content = request_content(request)
    content.config_records["crossfed"]["config"] = text
    with pytest.raises(ContractError, match="header"):
        request_of(flower_message(content))


@pytest.mark.parametrize("missing", ["platform", "kind", "server-round", "code", "config"])
def test_a_header_that_lacks_a_field_is_refused(missing: str) -> None:
    content = reply_content(REPLY)
    del content.config_records["crossfed"][missing]
    with pytest.raises(ContractError, match="header"):
        reply_of(flower_message(content))


@pytest.mark.parametrize("server_round", ["one", "", "1.5"])
def test_a_round_that_is_no_number_is_refused(server_round: str) -> None:
    with pytest.raises(ContractError, match="header"):
        reply_of(flower_message(with_header(server_round=server_round)))


def test_another_apps_message_is_refused() -> None:
    for content in (
        RecordDict(),
        RecordDict({"crossfed": ArrayRecord(), "arrays": ConfigRecord()}),
        RecordDict({"crossfed": ConfigRecord({"kind": "x"})}),
    ):
        with pytest.raises(ContractError, match="not one of crossfed's"):
            reply_of(flower_message(content))


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY", b"rubbish", b"PK\x03\x04", b"\x80\x04N.", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'"]
)
def test_an_array_that_cannot_be_read_is_refused(data: bytes) -> None:
    content = reply_content(REPLY)
    record = ArrayRecord({"x": Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=data)})
    content["arrays"] = record
    with pytest.raises(ContractError, match="cannot be read"):
        reply_of(flower_message(content))


def encoded(array: np.ndarray, end: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue() + end


@pytest.mark.parametrize(
    "data",
    [
        encoded(np.ones((2, 3), order="F")),
        encoded(np.ones(2), b"more"),
        encoded(np.ones(2))[:-1],
    ],
    ids=["column by column", "hidden bytes", "cut off"],
)
def test_an_array_in_a_form_that_crossfed_never_sends_is_refused(data: bytes) -> None:
    content = reply_content(REPLY)
    content["arrays"] = ArrayRecord({"x": Array(dtype="float64", shape=(2,), stype="numpy.ndarray", data=data)})
    with pytest.raises(ContractError, match="cannot be read"):
        reply_of(flower_message(content))


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 4), np.float32), np.array(2.5), np.arange(6).reshape(2, 3)[:, ::2], np.array([True])],
    ids=str,
)
def test_what_flower_reads_of_an_array_is_what_was_sent(array: np.ndarray) -> None:
    record = array_record({"x": array})["x"]
    theirs, ours = (
        record.numpy(),
        reply_of(flower_message(reply_content(replace(REPLY, arrays={"x": array})))).arrays["x"],
    )
    for read in (theirs, ours):
        assert (read.dtype, read.shape, read.tolist()) == (array.dtype, array.shape, array.tolist())
    assert record.data == Array(np.ascontiguousarray(array).reshape(array.shape)).data


def test_an_archive_in_place_of_an_array_is_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(2))
    content = reply_content(REPLY)
    content["arrays"] = ArrayRecord(
        {"x": Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=buffer.getvalue())}
    )
    with pytest.raises(ContractError, match="cannot be read"):
        reply_of(flower_message(content))


def test_an_array_that_claims_more_than_memory_holds_is_refused() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 60,)})
    content = reply_content(REPLY)
    content["arrays"] = ArrayRecord(
        {"x": Array(dtype="float64", shape=(1 << 60,), stype="numpy.ndarray", data=buffer.getvalue())}
    )
    with pytest.raises(ContractError, match="cannot be read"):
        reply_of(flower_message(content))


def test_an_array_of_python_objects_is_not_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    content = reply_content(REPLY)
    content["arrays"] = ArrayRecord(
        {"x": Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue())}
    )
    with pytest.raises(ContractError, match="cannot be read"):
        reply_of(flower_message(content))


@pytest.mark.parametrize("mean", ["3", True, None, float("inf"), float("nan"), [3.0]])
def test_a_mean_that_is_no_finite_number_is_refused(mean: object) -> None:
    request = AgentRequest(kind="statistics", run_id="r", server_round=1, config={"value_mean": mean})  # type: ignore[dict-item]
    with pytest.raises(ContractError, match="value_mean"):
        value_mean_of(request)


def test_a_mean_is_zero_unless_told() -> None:
    assert value_mean_of(AgentRequest(kind="statistics", run_id="r", server_round=1)) == 0.0
    assert value_mean_of(AgentRequest(kind="x", run_id="r", server_round=1, config={"value_mean": 3})) == 3.0
