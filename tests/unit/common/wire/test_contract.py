from __future__ import annotations

import pickle
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import ContractError
from common.wire.contract import ArraySpec, MessageSpec, message_bytes

SPEC = MessageSpec(
    "statistics",
    (
        ArraySpec("b", "float32", ("items", "dimension")),
        ArraySpec("gram", "float64", (2, 2)),
        ArraySpec("scale", "float32", ()),
    ),
)
SIZES = {"items": 3, "dimension": 2}


def good() -> dict[str, np.ndarray]:
    return {"b": np.ones((3, 2), np.float32), "gram": np.eye(2), "scale": np.array(1.5, np.float32)}


def test_a_declared_message_is_accepted_and_left_untouched() -> None:
    arrays = good()
    before = pickle.dumps(arrays)
    SPEC.check(arrays, SIZES)
    assert pickle.dumps(arrays) == before
    assert message_bytes(SPEC, SIZES) == sum(a.nbytes for a in arrays.values())


def test_a_read_only_array_is_accepted() -> None:
    arrays = good()
    arrays["b"].setflags(write=False)
    SPEC.check(arrays, SIZES)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_numbers_are_no_infinities_and_infinities_never_cancel(dtype: str) -> None:
    spec, largest = MessageSpec("x", (ArraySpec("a", dtype, (3,)),)), np.finfo(dtype).max
    for values in ([largest, largest, 0], [-largest, -largest, largest]):
        spec.check({"a": np.array(values, dtype)}, {})
    for values in ([np.inf, -np.inf, 0], [largest, largest, np.nan], [0, 0, -np.inf]):
        with pytest.raises(ContractError, match="holds NaN or an infinity"):
            spec.check({"a": np.array(values, dtype)}, {})


def _with(name: str, value: object) -> dict[str, object]:
    return {**good(), name: value}


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize(
    ("arrays", "names", "wrong"),
    [
        (_with("user_factors", np.ones(3)), "user_factors", "not declared"),
        ({k: v for k, v in good().items() if k != "gram"}, "gram", "missing"),
        (_with("b", np.ones((3, 2))), "'b'", "dtype"),
        (_with("b", np.ones((3, 2), ">f4")), "'b'", "dtype"),
        (_with("b", np.ones((3, 2), np.dtype("f4", metadata={"user": 1}))), "'b'", "dtype"),
        (_with("b", np.ones((3, 2), object)), "'b'", "dtype"),
        (_with("b", np.ones((2, 3), np.float32)), "'b'", "shape"),
        (_with("b", np.ones(6, np.float32)), "'b'", "shape"),
        (_with("b", np.ones((0, 2), np.float32)), "'b'", "shape"),
        (_with("b", np.ones((2, 3), np.float32).T), "'b'", "contiguous"),
        (_with("b", np.full((3, 2), np.nan, np.float32)), "'b'", "NaN"),
        (_with("gram", np.array([[1.0, 0.0], [0.0, -np.inf]])), "gram", "NaN or an inf"),
        (_with("scale", np.float32(1.5)), "scale", "plain NumPy array"),
        (_with("scale", 1.5), "scale", "plain NumPy array"),
        (_with("b", np.ones((3, 2), np.float32).view(Subclass)), "'b'", "plain NumPy array"),
        (_with("b", np.ma.masked_array(np.ones((3, 2), np.float32))), "'b'", "plain NumPy array"),
        (_with("b", [[1.0, 1.0]] * 3), "'b'", "plain NumPy array"),
        (_with("b", None), "'b'", "plain NumPy array"),
        ({**good(), 3: np.ones(1)}, "statistics", "not text"),
        (UserDict(good()), "statistics", "plain dict"),
        (None, "statistics", "plain dict"),
        (list(good().items()), "statistics", "plain dict"),
    ],
)
def test_whatever_is_not_declared_is_refused_by_name(arrays: object, names: str, wrong: str) -> None:
    with pytest.raises(ContractError) as refusal:
        SPEC.check(arrays, SIZES)  # type: ignore[arg-type]
    assert names in str(refusal.value)
    assert wrong in str(refusal.value)


def test_a_memory_map_is_refused(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "b", np.float32, "w+", shape=(3, 2))
    with pytest.raises(ContractError, match="plain NumPy array, not memmap"):
        SPEC.check({**good(), "b": mapped}, SIZES)


@pytest.mark.parametrize(
    "sizes", [{}, {"items": 3}, {**SIZES, "items": 0}, {**SIZES, "items": True}, {**SIZES, "items": "3"}, None]
)
def test_a_missing_or_silly_size_is_refused(sizes: object) -> None:
    with pytest.raises(ContractError):
        SPEC.check(good(), sizes)  # type: ignore[arg-type]


def test_total_bytes_are_bounded_exactly() -> None:
    arrays = (ArraySpec("b", "float32", ("items",)), ArraySpec("c", "float32", ("items",)))
    message = {"b": np.ones(10, np.float32), "c": np.ones(10, np.float32)}
    MessageSpec("s", arrays, max_bytes=80).check(message, {"items": 10})
    with pytest.raises(ContractError, match="80 bytes in all, more than the 79"):
        MessageSpec("s", arrays, max_bytes=79).check(message, {"items": 10})


def test_bits_hidden_in_bools_are_refused() -> None:
    spec = MessageSpec("s", (ArraySpec("flags", "bool", (2,)),))
    spec.check({"flags": np.array([True, False])}, {})
    with pytest.raises(ContractError, match="neither 0 nor 1"):
        spec.check({"flags": np.array([1, 77], np.uint8).view(bool)}, {})


def test_nan_passes_only_where_declared() -> None:
    MessageSpec("s", (ArraySpec("x", "float32", (1,), finite=False),)).check({"x": np.array([np.nan], np.float32)}, {})


@pytest.mark.parametrize(
    "dtype", ["object", "O", "U8", "S8", "longdouble", "float128", "complex64", ">f4", "f4", "datetime64[s]", ""]
)
def test_only_plain_fixed_size_dtypes_can_be_declared(dtype: str) -> None:
    with pytest.raises(ContractError):
        ArraySpec("x", dtype, (1,))


@pytest.mark.parametrize(
    "declare",
    [
        lambda: ArraySpec("User Name", "float32", ()),
        lambda: ArraySpec("x", "float32", (0,)),
        lambda: ArraySpec("x", "float32", (-1,)),
        lambda: ArraySpec("x", "float32", (True,)),
        lambda: ArraySpec("x", "float32", ("m*d",)),
        lambda: ArraySpec("x", "float32", (1,) * 9),
        lambda: MessageSpec("s", (ArraySpec("x", "float32", ()), ArraySpec("x", "int32", ()))),
        lambda: MessageSpec("s", (), max_bytes=0),
    ],
)
def test_a_wrong_declaration_is_refused(declare: object) -> None:
    with pytest.raises(ContractError):
        declare()  # type: ignore[operator]


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
def test_only_the_declared_form_ever_passes(array: np.ndarray) -> None:
    message = MessageSpec("s", (ArraySpec("x", "float32", (2, "k")),))
    fits = array.dtype == np.dtype("<f4") and array.shape == (2, 3) and bool(np.isfinite(array).all())
    try:
        message.check({"x": array}, {"k": 3})
    except ContractError:
        assert not fits
    else:
        assert fits


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_no_python_object_passes_or_crashes(thing: object) -> None:
    for message in (thing, {"x": thing}):
        with pytest.raises(ContractError):
            MessageSpec("s", (ArraySpec("x", "float32", (2,)),)).check(message, {})  # type: ignore[arg-type]
