"""Generated bad contributions: none gets out, none crashes the guard with anything but a refusal.

CROSSFED_FUZZ sets how many (100,000 in ``make faults``).
"""

from __future__ import annotations

import os
from collections import UserDict
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client.privacy.egress import EgressContract, EgressGuard, FieldSpec, ReplySpec
from client.privacy.journal import EgressJournal
from client.privacy.ledger import BudgetLedger, Receipt
from client.privacy.secure_sum.masking import MaskedContribution
from common.errors import ContractError, EgressRefusedError, LedgerError
from common.privacy.contribution import PrivatizedContribution, Release
from common.privacy.lifetime import BudgetPolicy
from common.privacy.minting import mint
from common.wire.contract import ArraySpec, MessageSpec

EXAMPLES = int(os.environ.get("CROSSFED_FUZZ", "2000"))
ITEMS = 3
SPEC = MessageSpec("statistics", (ArraySpec("b", "int64", ("items", 2)), ArraySpec("g", "float32", (2,))))
CONTRACT = EgressContract(
    (SPEC,), (ReplySpec(MessageSpec("join", (ArraySpec("digests", "uint8", ("items", 4)),)), (FieldSpec("n", "int"),)),)
)
RELEASE = Release(kind="b", mechanism="gaussian", noise_multiplier=50.0)


class Tagged(np.ndarray):
    """A subclass that could carry anything along."""


def good() -> dict[str, np.ndarray]:
    return {"b": np.ones((ITEMS, 2), np.int64), "g": np.ones(2, np.float32)}


def overlapping() -> np.ndarray:
    return np.lib.stride_tricks.as_strided(np.ones(4, np.int64), (ITEMS, 2), (8, 8))


odd_arrays = st.one_of(
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
    hnp.arrays(
        st.sampled_from(["<i8", ">i8", "<f4", ">f4", "<f8", "u1", "?"]),
        st.sampled_from([(ITEMS, 2), (2, ITEMS), (2,), (6,)]),
    ),
    st.builds(lambda v: np.full(2, v, np.float32), st.sampled_from([np.nan, np.inf, -np.inf])),
    st.builds(lambda: np.full((ITEMS, 2), None, object)),
    st.builds(lambda: np.ones((2, ITEMS), np.int64).T),
    st.builds(lambda: np.ones((ITEMS, 2), np.int64).view(Tagged)),
    st.builds(lambda: np.ma.masked_array(np.ones((ITEMS, 2), np.int64))),
    st.builds(lambda: np.broadcast_to(np.int64(1), (1 << 20, 1 << 20))),
    st.builds(lambda: np.ones((ITEMS, 2), np.dtype("<i8", metadata={"user": 1}))),
    st.builds(lambda: np.zeros(ITEMS, [("user", "i8"), ("item", "i8")])),
    st.builds(overlapping),
)
python_things = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["b", "g", "user_factors", "", "B", "masked", "\x00", "b "]) | st.text(max_size=3)
messages = st.dictionaries(names, odd_arrays | python_things | st.sampled_from(list(good().values())), max_size=4)
sizes = st.just({"items": ITEMS}) | st.dictionaries(st.just("items"), python_things, max_size=1) | python_things
mappings = st.one_of(
    messages,
    st.builds(lambda extra: {**good(), **extra}, messages),
    messages.map(UserDict),
    messages.map(MappingProxyType),
    messages.map(lambda m: {**m, 7: np.ones(1)}),
    python_things,
)


def _fits(arrays: Any, wanted: Any) -> bool:
    """An independent reading of the contract, from its definition in the architecture."""
    if type(arrays) not in (dict, MappingProxyType) or set(arrays) != {"b", "g"}:
        return False
    if type(wanted) is not dict or type(wanted.get("items")) is not int or wanted["items"] != len(arrays["b"]):
        return False
    b, g = arrays["b"], arrays["g"]
    plain = all(type(a) is np.ndarray and a.flags["C"] and a.dtype.metadata is None for a in (b, g))
    shaped = plain and b.shape == (wanted["items"], 2) and g.shape == (2,) and len(b) > 0
    return shaped and b.dtype.str == "<i8" and g.dtype.str == "<f4" and bool(np.isfinite(g).all())


GOOD_PARTS = {"kind": "statistics", "server_round": 1, "private": True, "releases": (RELEASE,), "masked": frozenset()}
one_spoilt = st.builds(
    lambda name, array: {**good(), name: array}, st.sampled_from(["b", "g"]), odd_arrays | python_things
)
one_missing = st.sampled_from(["b", "g"]).map(lambda name: {name: good()[name]})
one_off = st.one_of(one_spoilt, one_missing, mappings)
Call = dict[str, Any]


def contribution_of(arrays: Any, parts: Call, shape: str) -> object:
    """A contribution as careless or hostile code in the agent's process might hand over."""
    plain = type(arrays) is dict and all(type(a) is np.ndarray and a.nbytes < 1e6 for a in arrays.values())
    if shape == "minted" and plain:
        return mint(**{**parts, "arrays": arrays, "grid_steps": {}})
    if shape in ("minted", "forged", "forged mask"):
        forged = object.__new__(MaskedContribution if shape == "forged mask" else PrivatizedContribution)
        for name, value in {**parts, "arrays": arrays}.items():
            object.__setattr__(forged, name, value)
        return forged
    hollow = object.__new__(PrivatizedContribution)
    others = {"hollow": hollow, "namespace": SimpleNamespace(**parts, arrays=arrays), "class": PrivatizedContribution}
    return others.get(shape, arrays)


@st.composite
def calls(draw: Any, receipt: Receipt) -> Call:
    """Arguments of ``send``: in four of five draws good but for one of them, else anything at all."""
    bad: dict[str, Any] = {
        "arrays": one_off,
        "sizes": sizes,
        "shape": st.sampled_from(["forged", "forged mask", "hollow", "namespace", "arrays", "class"]),
        "receipt": st.sampled_from([None, "receipt", Receipt("run", 1, (RELEASE,), "", 9, "")]),
        "asked": st.sampled_from(["counts", "join", "", None, 3]),
        "kind": st.sampled_from(["counts", "join", "masked_statistics"]),
        "server_round": st.sampled_from([2, -1]),
        "releases": st.sampled_from([(), (RELEASE, RELEASE)]),
        "masked": st.just(frozenset({"b"})),
    }
    spoilt = {draw(st.sampled_from(["arrays", "arrays", "arrays", *bad]))} if draw(st.integers(0, 4)) else set(bad)
    call = {"arrays": good(), "sizes": {"items": ITEMS}, "shape": "minted", "receipt": receipt, "asked": "statistics"}
    return {name: draw(bad[name]) if name in spoilt else good_ for name, good_ in {**call, **GOOD_PARTS}.items()}


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> tuple[EgressGuard, EgressJournal, Receipt]:
    directory = tmp_path_factory.mktemp("books")
    ledger = BudgetLedger.open(directory, BudgetPolicy(epsilon=3.0, delta=1e-5))
    journal = EgressJournal(directory, ledger)
    ledger.reserve("run", [RELEASE] * 2, epsilon=3.0, delta=1e-5)
    receipt = ledger.charge("run", 1, [RELEASE], f"{1:064x}")
    return EgressGuard(CONTRACT, journal, ledger), journal, receipt


@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_bad_contribution_passes_and_none_crashes_the_guard(
    guard: tuple[EgressGuard, EgressJournal, Receipt], data: st.DataObject
) -> None:
    egress, _, receipt = guard
    call = data.draw(calls(receipt))
    thing = contribution_of(call["arrays"], {name: call[name] for name in GOOD_PARTS}, call["shape"])
    try:
        egress.send(thing, kind=call["asked"], sizes=call["sizes"], receipt=call["receipt"])  # type: ignore[arg-type]
    except (ContractError, LedgerError):
        return
    assert isinstance(thing, PrivatizedContribution | MaskedContribution)
    assert (call["asked"], thing.kind, thing.server_round) == ("statistics", "statistics", 1)
    assert call["receipt"] is receipt
    assert thing.releases == (RELEASE,)
    assert _fits(thing.arrays, call["sizes"])
    assert type(thing) is MaskedContribution or not call["masked"]


@given(
    mappings,
    python_things | st.fixed_dictionaries({"n": python_things}),
    sizes,
    st.sampled_from(["join", "statistics", None]),
)
@settings(max_examples=max(100, EXAMPLES // 10), deadline=None, suppress_health_check=list(HealthCheck))
def test_no_bad_reply_passes_and_none_crashes_the_guard(
    guard: tuple[EgressGuard, EgressJournal, Receipt], arrays: Any, fields: Any, wanted: Any, kind: Any
) -> None:
    with pytest.raises(EgressRefusedError):
        guard[0].reply(kind, arrays, fields, wanted)


def test_the_books_are_whole_after_all_that(guard: tuple[EgressGuard, EgressJournal, Receipt]) -> None:
    egress, journal, receipt = guard
    contribution = mint(
        kind="statistics",
        server_round=1,
        private=True,
        arrays=good(),
        grid_steps={},
        masked=frozenset(),
        releases=(RELEASE,),
    )
    egress.send(contribution, kind="statistics", sizes={"items": ITEMS}, receipt=receipt)
    assert journal.verify() == 2
