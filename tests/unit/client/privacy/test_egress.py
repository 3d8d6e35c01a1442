from __future__ import annotations

import math
import shutil
import sqlite3
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client.privacy.egress import EgressContract, EgressGuard, FieldSpec, ReplySpec
from client.privacy.journal import EgressJournal, pack, unpack
from client.privacy.ledger import BudgetLedger, Receipt
from client.privacy.secure_sum.masking import MaskedContribution, mask_contribution
from common.errors import BudgetExceededError, ContractError, DataError, EgressRefusedError, LedgerError, PrivacyError
from common.privacy.contribution import PrivatizedContribution, Release
from common.privacy.lifetime import BudgetPolicy
from common.privacy.minting import mint
from common.wire.contract import ArraySpec, MessageSpec

DELTA = 1e-5
SIZES = {"items": 4, "dimension": 2, "masked_bytes": 40}
STATISTICS = (ArraySpec("item_vectors", "int64", ("items", "dimension")), ArraySpec("user_gram", "int64", (3,)))
CONTRACT = EgressContract(
    contributions=(
        MessageSpec("statistics", STATISTICS),
        MessageSpec("counts", (ArraySpec("counts", "float32", ("items",)),)),
        MessageSpec("masked_statistics", (ArraySpec("masked", "uint8", ("masked_bytes",)), STATISTICS[1])),
    ),
    replies=(
        ReplySpec(
            MessageSpec("join", (ArraySpec("digests", "uint8", ("items", 32)),)),
            (
                FieldSpec("key", "text", 8),
                FieldSpec("items", "int"),
                FieldSpec("rate", "float"),
                FieldSpec("ok", "bool"),
            ),
        ),
    ),
)
GAUSSIAN = Release(kind="item_vectors", mechanism="gaussian", noise_multiplier=10.0)
EXACT = Release(kind="counts", mechanism="none", noise_multiplier=0.0)


def digest(number: int) -> str:
    return f"{number:064x}"


def statistics(fill: int = 1, **changes: Any) -> PrivatizedContribution:
    arrays = {"item_vectors": np.full((4, 2), fill, np.int64), "user_gram": np.full(3, fill, np.int64)}
    parts: dict[str, Any] = {
        "kind": "statistics",
        "server_round": 1,
        "private": True,
        "arrays": arrays,
        "grid_steps": dict.fromkeys(arrays, 1e-6),
        "masked": frozenset(),
        "releases": (GAUSSIAN,),
    }
    return mint(**{**parts, **changes})


class Platform:
    """Ledger, journal and guard of one platform, as after a restart each time it is built."""

    def __init__(self, directory: Path, *, epsilon: float | None = 3.0, keep_bytes: int = 1 << 30) -> None:
        self.ledger = BudgetLedger.open(directory, BudgetPolicy(epsilon=epsilon, delta=DELTA))
        self.journal = EgressJournal(directory, self.ledger, keep_bytes=keep_bytes)
        self.guard = EgressGuard(CONTRACT, self.journal, self.ledger)
        release = EXACT if epsilon is None else GAUSSIAN
        self.ledger.reserve("run", [release] * 5, epsilon=epsilon, delta=DELTA)

    def charge(self, server_round: int = 1, request: int = 1) -> Receipt:
        return self.ledger.charge("run", server_round, [GAUSSIAN], digest(request))

    def sent(self) -> int:
        return sum(entry.content["event"] == "sent" for entry in self.journal.entries())


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def test_a_mechanisms_output_leaves_unchanged_after_the_journal(platform: Platform) -> None:
    contribution, receipt = statistics(7), platform.charge()
    arrays = platform.guard.send(contribution, kind="statistics", sizes=SIZES, receipt=receipt)
    assert set(arrays) == set(contribution.arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, contribution.arrays[name])
        assert array.dtype == np.int64
        assert not np.shares_memory(array, contribution.arrays[name])
    content = platform.journal.entries()[-1].content
    assert content["arrays"] == [["item_vectors", "int64", [4, 2]], ["user_gram", "int64", [3]]]
    assert content["bytes"] == 88
    assert content["receipt"] == {"sequence": receipt.sequence, "mac": receipt.mac}
    assert content["ledger"]["sequence"] == platform.ledger.head().sequence
    assert (content["mu"], content["run_id"], content["round"]) == (0.1, "run", 1)
    assert "norm" not in content
    assert platform.journal.verify() == 2


def test_what_left_is_no_longer_anybodys_to_change(platform: Platform) -> None:
    """Not even through a view from before the contribution was made."""
    values = np.full(3, 7, np.int64)
    old_view = values[:]
    contribution = statistics(7, arrays={"item_vectors": np.full((4, 2), 7, np.int64), "user_gram": values})
    receipt = platform.charge()
    arrays = platform.guard.send(contribution, kind="statistics", sizes=SIZES, receipt=receipt)
    old_view[:] = 8
    for array in (*arrays.values(), *platform.guard.replay(receipt).values()):
        assert np.all(array == 7)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    assert platform.journal.verify() == 2


def test_content_that_an_earlier_version_packed_is_still_read() -> None:
    header = b'[["a", "<i8", [2]], ["b", "|b1", []]]'
    assert (len(header) + 4) % 8, "the numbers lie where no int64 may"
    packed = len(header).to_bytes(4, "little") + header + np.array([3, -1]).tobytes() + b"\x01"
    again = unpack(packed)
    assert (again["a"].tolist(), again["b"].tolist()) == ([3, -1], True)
    assert all(array.flags.aligned for array in again.values())


@pytest.mark.parametrize(
    "thing",
    [
        None,
        {"item_vectors": np.ones((4, 2), np.int64), "user_gram": np.ones(3, np.int64)},
        np.ones(3),
        "statistics",
        PrivatizedContribution,
        object.__new__(PrivatizedContribution),
    ],
)
def test_only_what_a_mechanism_made_gets_out_as_a_contribution(platform: Platform, thing: object) -> None:
    with pytest.raises(EgressRefusedError, match="privacy mechanism"):
        platform.guard.send(thing, kind="statistics", sizes=SIZES, receipt=platform.charge())  # type: ignore[arg-type]
    assert platform.sent() == 0


def test_a_look_alike_is_refused(platform: Platform) -> None:
    class LookAlike(MaskedContribution):
        def __post_init__(self) -> None:
            pass

    arrays = MappingProxyType({"item_vectors": np.ones((4, 2), np.int64), "user_gram": np.ones(3, np.int64)})
    fake = LookAlike(kind="statistics", server_round=1, private=True, arrays=arrays, releases=(GAUSSIAN,))
    with pytest.raises(EgressRefusedError, match="not LookAlike"):
        platform.guard.send(fake, kind="statistics", sizes=SIZES, receipt=platform.charge())


@pytest.mark.parametrize(
    ("changes", "kind", "wrong"),
    [
        ({"arrays": {"item_vectors": np.ones((4, 2), np.int64)}}, "statistics", "'user_gram': missing"),
        ({"arrays": {"user_factors": np.ones(2, np.int64)}}, "statistics", "'user_factors': not declared"),
        (
            {"arrays": {"item_vectors": np.ones((4, 2)), "user_gram": np.ones(3, np.int64)}},
            "statistics",
            "'item_vectors'",
        ),
        (
            {"arrays": {"item_vectors": np.ones((5, 2), np.int64), "user_gram": np.ones(3, np.int64)}},
            "statistics",
            "shape",
        ),
        ({"kind": "counts", "arrays": {"counts": np.full(4, np.nan, np.float32)}}, "counts", "NaN"),
        ({"kind": "update"}, "update", "not declared as a contribution"),
        ({}, "counts", "of another kind"),
        ({}, "join", "not declared as a contribution"),
        ({}, None, "not text"),
        ({"masked": frozenset({"item_vectors"})}, "statistics", "item_vectors carry a share of the noise only"),
    ],
)
def test_what_the_contract_does_not_declare_is_refused_by_name(
    platform: Platform, changes: dict[str, Any], kind: Any, wrong: str
) -> None:
    with pytest.raises(EgressRefusedError, match=wrong):
        platform.guard.send(statistics(**changes), kind=kind, sizes=SIZES, receipt=platform.charge())
    assert platform.sent() == 0


def test_nothing_leaves_without_a_receipt_for_exactly_its_releases(platform: Platform) -> None:
    receipt = platform.charge()
    cheaper = Release(kind="item_vectors", mechanism="gaussian", noise_multiplier=5.0)
    forged = Receipt("run", 1, (GAUSSIAN,), digest(1), receipt.sequence, "00" * 32)
    cases: list[tuple[PrivatizedContribution, Any, type[Exception]]] = [
        (statistics(), None, EgressRefusedError),
        (statistics(releases=(cheaper,)), receipt, EgressRefusedError),
        (statistics(releases=(GAUSSIAN, GAUSSIAN)), receipt, EgressRefusedError),
        (statistics(releases=()), receipt, EgressRefusedError),
        (statistics(server_round=2), receipt, EgressRefusedError),
        (statistics(), forged, LedgerError),
    ]
    for contribution, shown, error in cases:
        with pytest.raises(error):
            platform.guard.send(contribution, kind="statistics", sizes=SIZES, receipt=shown)
    platform.ledger.close("run")
    with pytest.raises(LedgerError, match="closed"):
        platform.guard.send(statistics(), kind="statistics", sizes=SIZES, receipt=receipt)
    assert platform.sent() == 0


def test_a_receipt_lets_out_one_set_of_bytes_however_often_shown(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    first = platform.guard.send(statistics(7), kind="statistics", sizes=SIZES, receipt=platform.charge())
    for _ in range(2):
        platform = Platform(tmp_path)
        receipt = platform.charge()
        replayed = platform.guard.replay(receipt)
        assert replayed is not None
        again = platform.guard.send(statistics(8), kind="statistics", sizes=SIZES, receipt=receipt)
        for arrays in (replayed, again):
            assert pack(arrays) == pack(first)
    assert platform.sent() == 1
    assert platform.ledger.spend().mu == pytest.approx(0.1)
    other = platform.charge(request=2)
    assert platform.guard.replay(other) is None
    fresh = platform.guard.send(statistics(8), kind="statistics", sizes=SIZES, receipt=other)
    assert fresh["user_gram"][0] == 8


def test_a_retry_is_refused_once_its_bytes_are_no_longer_kept(tmp_path: Path) -> None:
    platform = Platform(tmp_path, keep_bytes=400)
    receipts = [platform.charge(request=n) for n in range(5)]
    for number, receipt in enumerate(receipts):
        platform.guard.send(statistics(number), kind="statistics", sizes=SIZES, receipt=receipt)
    kept = list((tmp_path / "egress").iterdir())
    assert sum(file.stat().st_size for file in kept) <= 400
    assert {file.stat().st_mode & 0o777 for file in kept} == {0o600}
    with pytest.raises(EgressRefusedError, match="no longer kept"):
        platform.guard.send(statistics(9), kind="statistics", sizes=SIZES, receipt=receipts[0])
    newest = platform.guard.replay(receipts[-1])
    assert newest is not None
    assert newest["user_gram"][0] == 4
    assert platform.journal.verify() == 6


def test_no_refusal_depends_on_how_large_a_value_is(platform: Platform) -> None:
    for number, fill in enumerate((0, 1, 2**62, -(2**63))):
        receipt = platform.charge(request=number)
        platform.guard.send(statistics(fill), kind="statistics", sizes=SIZES, receipt=receipt)
    assert platform.sent() == 4


@pytest.mark.parametrize(("value", "norm"), [(2.0, 4.0), (3e38, 6e38), (0.0, 0.0)])
def test_without_privacy_the_norm_is_journaled_with_a_receipt(tmp_path: Path, value: float, norm: float) -> None:
    platform = Platform(tmp_path, epsilon=None)
    arrays = {"counts": np.full(4, value, np.float32)}
    exact = statistics(kind="counts", private=False, arrays=arrays, releases=(EXACT,))
    with pytest.raises(EgressRefusedError, match="receipt"):
        platform.guard.send(exact, kind="counts", sizes=SIZES, receipt=None)  # type: ignore[arg-type]
    receipt = platform.ledger.charge("run", 1, [EXACT], digest(1))
    platform.guard.send(exact, kind="counts", sizes=SIZES, receipt=receipt)
    assert platform.journal.entries()[-1].content["norm"] == pytest.approx(norm)
    assert platform.ledger.spend().epsilon is None


def test_after_the_budget_is_spent_nothing_leaves(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    platform.ledger.close("run")
    loud = Release(kind="item_vectors", mechanism="gaussian", noise_multiplier=1.4)
    platform.ledger.reserve("last", [loud], epsilon=3.0, delta=DELTA)
    receipt = platform.ledger.charge("last", 1, [loud], digest(1))
    platform.guard.send(statistics(releases=(loud,)), kind="statistics", sizes=SIZES, receipt=receipt)
    with pytest.raises(BudgetExceededError) as refusal:
        platform.ledger.charge("last", 2, [loud], digest(2))
    assert platform.guard.refusal("statistics", refusal.value) == "budget-exceeded"
    assert platform.sent() == 1
    assert platform.journal.entries()[-1].content["code"] == "budget-exceeded"


GOOD_FIELDS = {"key": "ab", "items": 4, "rate": 0.5, "ok": True}


def test_a_declared_reply_leaves_and_is_journaled(platform: Platform) -> None:
    digests = np.arange(128, dtype=np.uint8).reshape(4, 32)
    arrays, fields = platform.guard.reply("join", {"digests": digests}, GOOD_FIELDS, SIZES)
    np.testing.assert_array_equal(arrays["digests"], digests)
    assert not np.shares_memory(arrays["digests"], digests)
    assert fields == GOOD_FIELDS
    assert platform.journal.entries()[-1].content["fields"] == ["items", "key", "ok", "rate"]
    assert platform.ledger.spend().mu == 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        None,
        {**GOOD_FIELDS, "objective": 0.3},
        {**GOOD_FIELDS, "key": "a" * 9},
        {**GOOD_FIELDS, "key": 3},
        {**GOOD_FIELDS, "items": True},
        {**GOOD_FIELDS, "items": 2**70},
        {**GOOD_FIELDS, "items": 4.0},
        {**GOOD_FIELDS, "rate": math.nan},
        {**GOOD_FIELDS, "rate": np.float64(0.5)},
        {**GOOD_FIELDS, "ok": 1},
        {**GOOD_FIELDS, "key": ["ab"]},
        {**GOOD_FIELDS, 4: "x"},
    ],
)
def test_undeclared_and_mistyped_fields_are_refused(platform: Platform, fields: Any) -> None:
    with pytest.raises(EgressRefusedError):
        platform.guard.reply("join", {"digests": np.zeros((4, 32), np.uint8)}, fields, SIZES)
    assert len(platform.journal.entries()) == 1


@pytest.mark.parametrize("kind", ["statistics", "counts", "objective", "", None, 7, ["join"]])
def test_data_does_not_leave_dressed_up_as_a_reply(platform: Platform, kind: Any) -> None:
    with pytest.raises(EgressRefusedError, match="not declared as a reply"):
        platform.guard.reply(kind, {"counts": np.zeros(4, np.float32)}, {}, SIZES)


def test_a_kind_cannot_be_declared_as_contribution_and_reply_at_once() -> None:
    with pytest.raises(ContractError, match="twice"):
        EgressContract((MessageSpec("counts", ()),), (ReplySpec(MessageSpec("counts", ())),))


def test_an_error_leaves_as_its_code_alone(platform: Platform) -> None:
    secret = "user 4711 bought item 12"
    assert platform.guard.refusal("statistics", DataError(secret)) == "data"
    platform.guard.refusal(secret, DataError(secret))
    assert secret not in str([entry.content for entry in platform.journal.entries()])


class _FakeSecureSum:
    def mask(self, round_index: int, units: np.ndarray, *, noise_std: float, context: bytes) -> bytes:
        assert (round_index, noise_std, context) == (0, 2.0**16, b"told")
        return bytes(8) + (units ^ 0x5555).tobytes()


def test_shares_of_noise_leave_only_masked(platform: Platform) -> None:
    shares = statistics(5, masked=frozenset({"user_gram"}))
    vectors = statistics(5, masked=frozenset({"item_vectors"}))
    masked = mask_contribution(vectors, _FakeSecureSum(), 0, b"told")  # type: ignore[arg-type]
    assert set(masked.arrays) == {"masked", "user_gram"}
    receipt = platform.charge()
    with pytest.raises(EgressRefusedError, match="user_gram carry a share"):
        platform.guard.send(shares, kind="statistics", sizes=SIZES, receipt=receipt)
    sizes = {**SIZES, "masked_bytes": masked.arrays["masked"].size}
    sent = platform.guard.send(masked, kind="masked_statistics", sizes=sizes, receipt=receipt)
    np.testing.assert_array_equal(sent["masked"], masked.arrays["masked"])
    with pytest.raises(PrivacyError, match="nothing to mask"):
        mask_contribution(statistics(), _FakeSecureSum(), 0, b"told")  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="mask_contribution only"):
        MaskedContribution(kind="masked_statistics", server_round=1, private=True, arrays={}, releases=())


def _two_sent(directory: Path) -> Platform:
    platform = Platform(directory)
    for number in (1, 2):
        receipt = platform.charge(request=number)
        platform.guard.send(statistics(number), kind="statistics", sizes=SIZES, receipt=receipt)
    return platform


def test_kept_bytes_that_were_altered_are_not_sent_again(tmp_path: Path) -> None:
    platform = _two_sent(tmp_path)
    entry = platform.journal.entries()[1]
    file = tmp_path / "egress" / entry.content["digest"]
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    for use in (platform.journal.verify, lambda: platform.guard.replay(platform.charge(request=1))):
        with pytest.raises(LedgerError, match="entry 2 were altered"):
            use()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE entry SET text = replace(text, 'int64', 'int32') WHERE sequence = 2", "entry 2 was edited"),
        ("DELETE FROM entry WHERE sequence = 3", "ends with entry 2 and lacks entry 3"),
        ("DELETE FROM entry WHERE sequence = 2", "entry 3 was edited, or one before"),
    ],
)
def test_editing_the_journal_shows_and_stops_the_platform(tmp_path: Path, statement: str, found: str) -> None:
    platform = _two_sent(tmp_path)
    connection = sqlite3.connect(tmp_path / "egress.db")
    connection.executescript(f"DROP TRIGGER entry_update; DROP TRIGGER entry_delete; {statement}")
    connection.close()
    with pytest.raises(LedgerError, match=found):
        platform.journal.verify()
    with pytest.raises(LedgerError, match=found):
        platform.guard.send(statistics(), kind="statistics", sizes=SIZES, receipt=platform.charge(request=3))


def test_a_ledger_without_the_charges_the_journal_names_shows(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    old = {name: (tmp_path / name).read_bytes() for name in ("ledger.db", "ledger.head")}
    receipt = platform.charge()
    platform.guard.send(statistics(), kind="statistics", sizes=SIZES, receipt=receipt)
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    # Old ledger and old head agree with each other; the journal knows better.
    assert platform.ledger.verify() == 2
    with pytest.raises(LedgerError, match="entry 2 names a charge the ledger lacks"):
        platform.journal.verify()


def test_restored_logs_let_no_receipt_be_used_twice(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "now")
    shutil.copytree(tmp_path / "now", tmp_path / "backup")
    receipt = platform.charge()
    platform.guard.send(statistics(1), kind="statistics", sizes=SIZES, receipt=receipt)
    for name in ("ledger.db", "egress.db"):
        shutil.copy(tmp_path / "backup" / name, tmp_path / "now" / name)
    ledger = BudgetLedger.restore(tmp_path / "now", BudgetPolicy(epsilon=3.0, delta=DELTA))
    with pytest.raises(LedgerError, match="lacks entry 2"):
        EgressJournal(tmp_path / "now", ledger)
    journal = EgressJournal.restore(tmp_path / "now", ledger)
    assert journal.verify() == 2
    assert ledger.spend().mu >= 0.1
    with pytest.raises(LedgerError):
        EgressGuard(CONTRACT, journal, ledger).send(statistics(2), kind="statistics", sizes=SIZES, receipt=receipt)


@given(
    st.dictionaries(
        st.text("abcdef_", min_size=1, max_size=5),
        hnp.arrays(
            st.sampled_from(["bool", "int8", "uint64", "int32", "float16", "float64"]),
            hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
        ),
        max_size=4,
    )
)
@settings(max_examples=50, deadline=None)
def test_packing_gives_back_the_same_bits(arrays: dict[str, np.ndarray]) -> None:
    again = unpack(pack(arrays))
    assert all(array.flags.aligned and not array.flags.writeable for array in again.values())
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        assert (again[name].dtype, again[name].shape) == (array.dtype, array.shape)
        assert again[name].tobytes() == array.tobytes()
