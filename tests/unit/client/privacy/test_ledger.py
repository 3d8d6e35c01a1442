from __future__ import annotations

import errno
import math
import multiprocessing
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.privacy.budget import SubsampledBudget
from client.privacy.ledger import BudgetLedger, Receipt
from common.errors import BudgetExceededError, LedgerError, PrivacyError, StoreError
from common.privacy.contribution import Release
from common.privacy.gdp import mu_from_epsilon
from common.privacy.lifetime import BudgetPolicy
from common.sealed.witness import FileWitness, Head

DELTA = 1e-5
POLICY = BudgetPolicy(epsilon=3.0, delta=DELTA)


def digest(number: int) -> str:
    return f"{number:064x}"


def gaussian(z: float, steps: int = 1) -> Release:
    return Release(kind="item_vectors", mechanism="gaussian", noise_multiplier=z, steps=steps)


def subsampled(steps: int) -> Release:
    return Release(
        kind="update", mechanism="subsampled-gaussian", noise_multiplier=1.1, sampling_rate=0.01, steps=steps
    )


EXACT = Release(kind="item_vectors", mechanism="none", noise_multiplier=0.0)


def z_for(epsilon: float, rounds: int, delta: float = DELTA) -> float:
    return math.sqrt(rounds) / mu_from_epsilon(epsilon, delta)


def delta_oracle(mu: float, epsilon: float) -> float:
    """Balle & Wang 2018, Theorem 8, in 50 digits."""
    with mpmath.workdps(50):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return float(mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m))


@pytest.fixture
def ledger(tmp_path: Path) -> BudgetLedger:
    return BudgetLedger.open(tmp_path, POLICY)


def test_a_run_spends_its_whole_budget_and_no_more(ledger: BudgetLedger) -> None:
    z = z_for(3.0, rounds=3)
    ledger.reserve("run", [gaussian(z)] * 3, epsilon=3.0, delta=DELTA)
    for server_round in (1, 2, 3):
        ledger.charge("run", server_round, [gaussian(z)], digest(server_round))
    spend = ledger.spend()
    assert spend.epsilon == pytest.approx(3.0, rel=1e-9)
    assert delta_oracle(spend.mu, 3.0) == pytest.approx(DELTA, rel=1e-6)
    assert spend.left.mu == pytest.approx(0, abs=1e-4)
    with pytest.raises(BudgetExceededError, match="run 'run' would reach"):
        ledger.charge("run", 3, [gaussian(z)], digest(4))
    with pytest.raises(BudgetExceededError, match="lifetime"):
        ledger.reserve("next", [gaussian(50.0)], epsilon=1.0, delta=DELTA)


@pytest.mark.parametrize("budget", [0.5, 3.0])
def test_a_plan_that_does_not_fit_is_refused_before_its_first_release(tmp_path: Path, budget: float) -> None:
    ledger = BudgetLedger.open(tmp_path, POLICY)
    with pytest.raises(BudgetExceededError):
        ledger.reserve("run", [gaussian(z_for(3.1, 4))] * 4, epsilon=budget if budget < 1 else 9.0, delta=DELTA)
    assert ledger.spend().runs == ()
    with pytest.raises(PrivacyError, match="reserved nothing"):
        ledger.charge("run", 1, [gaussian(9.0)], digest(1))


def test_an_open_runs_reservation_is_closed_to_others(ledger: BudgetLedger) -> None:
    plan = [gaussian(z_for(2.9, 2))] * 2
    ledger.reserve("first", plan, epsilon=3.0, delta=DELTA)
    ledger.charge("first", 1, plan[:1], digest(1))
    with pytest.raises(BudgetExceededError, match="lifetime"):
        ledger.reserve("second", plan[:1], epsilon=3.0, delta=DELTA)
    ledger.close("first")
    ledger.reserve("second", plan[:1], epsilon=3.0, delta=DELTA)
    with pytest.raises(PrivacyError, match="closed"):
        ledger.charge("first", 2, plan[:1], digest(2))


def test_an_identical_request_is_charged_once(ledger: BudgetLedger) -> None:
    plan = [gaussian(10.0)]
    ledger.reserve("run", plan * 3, epsilon=3.0, delta=DELTA)
    first = ledger.charge("run", 1, plan, digest(1))
    assert ledger.charge("run", 1, plan, digest(1)) == first
    assert ledger.spend().mu == pytest.approx(0.1)
    others = [ledger.charge("run", 1, plan, digest(2)), ledger.charge("run", 2, plan, digest(1))]
    others.append(ledger.charge("run", 1, [gaussian(11.0)], digest(1)))
    assert len({r.sequence for r in [first, *others]}) == 4
    assert ledger.spend().mu == pytest.approx(math.sqrt(3 / 100 + 1 / 121))


def test_spend_is_kept_across_restarts_and_federations(tmp_path: Path) -> None:
    for number in range(3):
        ledger = BudgetLedger.open(tmp_path, POLICY)
        ledger.reserve(f"federation-{number}:run", [gaussian(5.0)], epsilon=3.0, delta=DELTA)
        ledger.charge(f"federation-{number}:run", 1, [gaussian(5.0)], digest(7))
    assert BudgetLedger.open(tmp_path).spend().mu == pytest.approx(math.sqrt(3) / 5)


def test_reserving_again_changes_nothing_and_other_plans_are_refused(tmp_path: Path) -> None:
    for _ in range(2):
        BudgetLedger.open(tmp_path, POLICY).reserve("run", [gaussian(np.float64(5.0))], epsilon=2.0, delta=DELTA)
    ledger = BudgetLedger.open(tmp_path, POLICY)
    assert len(ledger.spend().runs) == 1
    with pytest.raises(PrivacyError, match="another plan"):
        ledger.reserve("run", [gaussian(6.0)], epsilon=2.0, delta=DELTA)


def test_both_families_compose_within_the_declared_split(tmp_path: Path) -> None:
    ledger = BudgetLedger.open(tmp_path, BudgetPolicy(epsilon=4.0, delta=DELTA, subsampled_share=0.25))
    deep = SubsampledBudget(0.6, 2e-6)
    ledger.reserve("deep", [subsampled(100), gaussian(20.0)], epsilon=1.5, delta=DELTA, subsampled=deep)
    ledger.charge("deep", 1, [subsampled(60)], digest(1))
    with pytest.raises(BudgetExceededError, match="more subsampled steps"):
        ledger.charge("deep", 2, [subsampled(41)], digest(2))
    with pytest.raises(BudgetExceededError, match="subsampled_epsilon"):
        ledger.reserve("deep2", [subsampled(9)], epsilon=1.5, delta=DELTA, subsampled=SubsampledBudget(0.5, 1e-7))
    with pytest.raises(BudgetExceededError, match="subsampled_delta"):
        ledger.reserve("deep2", [subsampled(9)], epsilon=1.5, delta=DELTA, subsampled=SubsampledBudget(0.1, 1e-6))
    with pytest.raises(BudgetExceededError, match="its subsampled releases, more than its own"):
        ledger.reserve("deep2", [subsampled(9)], epsilon=0.05, delta=DELTA, subsampled=SubsampledBudget(0.1, 1e-7))
    # All of the Gaussian family's share is there, whatever the subsampled one does: (3, 0.75 δ).
    full = gaussian(1 / mu_from_epsilon(3.0, 0.75 * DELTA))
    with pytest.raises(BudgetExceededError, match="lifetime"):
        ledger.reserve("shallow", [full], epsilon=9.0, delta=DELTA)
    ledger.close("deep")
    ledger.reserve("shallow", [full], epsilon=9.0, delta=DELTA)
    ledger.charge("shallow", 1, [full], digest(1))
    spend = ledger.spend()
    assert spend.epsilon is not None
    assert spend.epsilon == pytest.approx(3.6, rel=1e-9)
    assert delta_oracle(spend.mu, 3.0) + 2e-6 <= DELTA


def test_a_reservation_that_was_never_used_comes_back(tmp_path: Path) -> None:
    ledger = BudgetLedger.open(tmp_path, BudgetPolicy(epsilon=4.0, delta=DELTA, subsampled_share=1.0))
    for name in ("one", "two"):
        ledger.reserve(name, [subsampled(9)], epsilon=4.0, delta=DELTA, subsampled=SubsampledBudget(3.0, 5e-6))
        ledger.close(name)
    assert ledger.spend().epsilon == 0


def test_a_run_that_released_nothing_gives_way_to_the_next_that_joins(tmp_path: Path) -> None:
    plan = [gaussian(z_for(3.0, 2))] * 2
    ledger = BudgetLedger.open(tmp_path, POLICY)
    for name in ("one", "two", "three"):
        assert ledger.spend().left.runs in (None, 1), "a reservation without a release is there for the next run"
        ledger.reserve(name, plan, epsilon=3.0, delta=DELTA)
    again = BudgetLedger.open(tmp_path)
    assert [(run.run_id, run.closed, run.returned) for run in again.spend().runs] == [
        ("one", True, True),
        ("two", True, True),
        ("three", False, False),
    ]
    with pytest.raises(PrivacyError, match="gave its reservation back when another run joined; it must join again"):
        again.charge("one", 1, plan[:1], digest(1))
    again.charge("three", 1, plan[:1], digest(1))
    assert again.verify() == 7


def test_a_run_that_released_something_keeps_its_reservation(tmp_path: Path) -> None:
    plan = [gaussian(z_for(3.0, 2))] * 2
    ledger = BudgetLedger.open(tmp_path, POLICY)
    ledger.reserve("joined", plan, epsilon=3.0, delta=DELTA)
    ledger.reserve("first", plan, epsilon=3.0, delta=DELTA)
    ledger.charge("first", 1, plan[:1], digest(1))
    entries = ledger.verify()
    for name in ("second", "joined"):
        with pytest.raises(
            BudgetExceededError, match=r"run .first. holds .* `crossfed-client privacy close first`"
        ) as said:
            ledger.reserve(name, plan, epsilon=3.0, delta=DELTA)
        assert "'joined' holds" not in str(said.value)
        assert "or raise budget to ε = 4.4" in str(said.value), "two runs of ε = 3 at δ = 1e-5"
    assert ledger.verify() == entries, "a refusal changes nothing"
    ledger.charge("first", 2, plan[1:], digest(2))
    with pytest.raises(BudgetExceededError) as said:
        ledger.reserve("second", plan, epsilon=3.0, delta=DELTA)
    assert "privacy close" not in str(said.value), "nothing is left that closing could give back"


def test_a_run_that_gave_its_reservation_back_may_join_again(tmp_path: Path) -> None:
    plan = [gaussian(z_for(3.0, 1))]
    ledger = BudgetLedger.open(tmp_path, POLICY)
    for name in ("one", "two", "one"):
        ledger.reserve(name, plan, epsilon=3.0, delta=DELTA)
    ledger.charge("one", 1, plan, digest(1))
    assert {run.run_id: run.returned for run in ledger.spend().runs} == {"one": False, "two": True}
    with pytest.raises(BudgetExceededError, match="lifetime"):
        ledger.reserve("two", plan, epsilon=3.0, delta=DELTA)


def test_what_the_operator_closed_or_a_restore_ended_stays_closed(tmp_path: Path) -> None:
    plan = [gaussian(z_for(3.0, 1))]
    ledger = BudgetLedger.open(tmp_path, POLICY)
    for name in ("one", "two", "three"):
        ledger.reserve(name, plan, epsilon=3.0, delta=DELTA)
    ledger.close("one")
    restored = BudgetLedger.restore(tmp_path)
    for name in ("one", "two", "three"):
        restored.reserve(name, plan, epsilon=3.0, delta=DELTA)
        with pytest.raises(PrivacyError, match="is closed"):
            restored.charge(name, 1, plan, digest(1))
    assert restored.spend().mu_committed == pytest.approx(mu_from_epsilon(3.0, DELTA)), "the open run is forfeited"


def test_the_sub_budget_of_an_unused_run_is_given_back_too(tmp_path: Path) -> None:
    ledger = BudgetLedger.open(tmp_path, BudgetPolicy(epsilon=4.0, delta=DELTA, subsampled_share=0.5))
    deep = {"epsilon": 4.0, "delta": DELTA, "subsampled": SubsampledBudget(2.0, DELTA / 2)}
    for name in ("one", "two"):
        ledger.reserve(name, [gaussian(50.0), subsampled(9)], **deep)
    ledger.charge("two", 1, [gaussian(50.0)], digest(1))
    with pytest.raises(BudgetExceededError, match=r"subsampled_epsilon.*privacy close two.*raise budget to ε = 8"):
        ledger.reserve("three", [gaussian(50.0), subsampled(9)], **deep)
    assert ledger.spend().left.runs == 0


@given(st.lists(st.tuples(st.sampled_from(["reserve", "charge", "close"]), st.integers(0, 3)), max_size=25))
@settings(max_examples=30, deadline=None)
def test_no_order_of_joins_charges_and_closes_spends_more(steps: list[tuple[str, int]]) -> None:
    plan = [gaussian(z_for(1.5, 2))] * 2
    with tempfile.TemporaryDirectory() as folder:
        ledger = BudgetLedger.open(Path(folder), POLICY)
        for number, (step, run) in enumerate(steps):
            try:
                if step == "reserve":
                    ledger.reserve(f"run-{run}", plan, epsilon=1.5, delta=DELTA)
                elif step == "charge":
                    ledger.charge(f"run-{run}", 1, plan[:1], digest(number))
                else:
                    ledger.close(f"run-{run}")
            except PrivacyError:
                continue
        charges = [entry.content["run_id"] for entry in ledger.entries() if entry.content["event"] == "charged"]
        spent = math.sqrt(len(charges)) / plan[0].noise_multiplier
        assert spent <= POLICY.mu * (1 + 1e-9)
        assert max(map(charges.count, charges), default=0) <= 2
        spend = ledger.spend()
        assert spend.mu == pytest.approx(spent)
        assert spend.mu <= spend.mu_committed * (1 + 1e-12)
        assert spend.mu_committed <= POLICY.mu * (1 + 1e-9)


def test_data_released_without_noise_is_spent_without_bound(tmp_path: Path) -> None:
    with pytest.raises(BudgetExceededError, match="without privacy"):
        BudgetLedger.open(tmp_path / "finite", POLICY).reserve("run", [EXACT], epsilon=None, delta=DELTA)
    ledger = BudgetLedger.open(tmp_path, BudgetPolicy(epsilon=None, delta=DELTA))
    ledger.reserve("run", [EXACT] * 2, epsilon=None, delta=DELTA)
    ledger.charge("run", 1, [EXACT], digest(1))
    assert ledger.spend().epsilon is None
    private = BudgetLedger.open(tmp_path, POLICY)
    assert private.spend().left.mu == 0
    with pytest.raises(BudgetExceededError, match="without privacy"):
        private.reserve("later", [gaussian(100.0)], epsilon=1.0, delta=DELTA)


def test_only_a_run_without_privacy_is_warned_of_and_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exact = Release(kind="counts", mechanism="none", noise_multiplier=0.0)
    open_to_all = BudgetLedger.open(tmp_path / "open", BudgetPolicy(epsilon=None, delta=1e-5))
    for _ in range(2):
        open_to_all.reserve("exact", [exact], epsilon=None, delta=1e-5)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "run exact is NOT PRIVATE" in caplog.text
    caplog.clear()
    private = Release(kind="counts", mechanism="gaussian", noise_multiplier=12.5)
    BudgetLedger.open(tmp_path / "private", BudgetPolicy(epsilon=3.0, delta=1e-5)).reserve(
        "noisy", [private], epsilon=3.0, delta=1e-5
    )
    assert not caplog.records


def test_a_private_run_cannot_be_charged_for_an_exact_release(tmp_path: Path) -> None:
    ledger = BudgetLedger.open(tmp_path, BudgetPolicy(epsilon=None, delta=DELTA))
    ledger.reserve("run", [gaussian(5.0)], epsilon=3.0, delta=DELTA)
    with pytest.raises(BudgetExceededError, match="private releases only"):
        ledger.charge("run", 1, [EXACT], digest(1))


def test_a_lowered_budget_counts_at_once_and_stays_on_record(tmp_path: Path) -> None:
    ledger = BudgetLedger.open(tmp_path, POLICY)
    ledger.reserve("run", [gaussian(2.0)] * 2, epsilon=3.0, delta=DELTA)
    ledger.charge("run", 1, [gaussian(2.0)], digest(1))
    lowered = BudgetLedger.open(tmp_path, BudgetPolicy(epsilon=1.0, delta=DELTA))
    with pytest.raises(BudgetExceededError, match="lifetime"):
        lowered.charge("run", 2, [gaussian(2.0)], digest(2))
    assert [e.content["event"] for e in lowered.entries()] == ["opened", "reserved", "charged", "policy"]


def test_the_clock_does_not_matter(ledger: BudgetLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.reserve("run", [gaussian(10.0)] * 2, epsilon=3.0, delta=DELTA)
    first = ledger.charge("run", 1, [gaussian(10.0)], digest(1))

    monkeypatch.setattr(time, "time", lambda: 0.0)
    second = ledger.charge("run", 2, [gaussian(10.0)], digest(2))
    assert second.sequence > first.sequence
    assert ledger.charge("run", 1, [gaussian(10.0)], digest(1)) == first
    assert ledger.verify() == 4
    assert ledger.spend().runs[0].charges[1].time.startswith("1970")


@pytest.mark.parametrize(
    "bad",
    [
        lambda b: b.charge("run", 1, [gaussian(9.0)], "not a digest"),
        lambda b: b.charge("run", -1, [gaussian(9.0)], digest(1)),
        lambda b: b.charge("run", 1, [], digest(1)),
        lambda b: b.reserve("a b\n", [gaussian(9.0)], epsilon=1.0, delta=DELTA),
        lambda b: b.reserve("r", [], epsilon=1.0, delta=DELTA),
        lambda b: b.reserve("r", [gaussian(9.0)], epsilon=math.nan, delta=DELTA),
        lambda b: b.reserve("r", [gaussian(9.0)], epsilon=1.0, delta=0.0),
        lambda b: b.reserve("r", [subsampled(1)], epsilon=1.0, delta=DELTA),
        lambda b: BudgetPolicy(epsilon=math.inf, delta=DELTA),
        lambda b: BudgetPolicy(epsilon=1.0, delta=DELTA, subsampled_share=1.5),
        lambda b: SubsampledBudget(math.nan, DELTA),
        lambda b: b.close("unknown"),
    ],
)
def test_malformed_requests_are_refused(ledger: BudgetLedger, bad: Callable[[BudgetLedger], object]) -> None:
    with pytest.raises(PrivacyError):
        bad(ledger)
    assert ledger.verify() == 1


def _three_charges(directory: Path) -> BudgetLedger:
    ledger = BudgetLedger.open(directory, POLICY)
    ledger.reserve("run", [gaussian(10.0)] * 9, epsilon=3.0, delta=DELTA)
    for number in (1, 2, 3):
        ledger.charge("run", number, [gaussian(10.0)], digest(number))
    return ledger


def _tamper(directory: Path, statement: str) -> None:
    with sqlite3.connect(directory / "ledger.db") as connection:
        connection.executescript(f"DROP TRIGGER entry_update; DROP TRIGGER entry_delete; {statement}")
    connection.close()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE entry SET text = replace(text, '10.0', '99.0') WHERE sequence = 4", "entry 4 was edited"),
        ("UPDATE entry SET mac = zeroblob(32) WHERE sequence = 3", "entry 3 was edited"),
        ("DELETE FROM entry WHERE sequence = 4", "entry 5 was edited, or one before"),
        ("DELETE FROM entry WHERE sequence = 5", "ends with entry 4 and lacks entry 5"),
        ("DELETE FROM entry WHERE sequence > 1", "ends with entry 1 and lacks entry 5"),
        ("DELETE FROM entry", "entry 1 is missing"),
        ("UPDATE entry SET sequence = 99 WHERE sequence = 5", "entry 99 was edited"),
        ("UPDATE entry SET sequence = sequence - 7", "was edited"),
        ("INSERT INTO entry SELECT 6, text, mac FROM entry WHERE sequence = 5", "entry 6 was edited"),
        (
            "DROP TABLE entry; CREATE TABLE entry (sequence, text, mac); INSERT INTO entry VALUES (1, 2, 3)",
            "entry 1 was",
        ),
        ("DROP TABLE entry", "cannot be used"),
    ],
)
def test_editing_the_ledger_shows(tmp_path: Path, statement: str, found: str) -> None:
    ledger = _three_charges(tmp_path)
    _tamper(tmp_path, statement)
    for use in (ledger.verify, ledger.spend, lambda: BudgetLedger.open(tmp_path, POLICY)):
        with pytest.raises(LedgerError, match=found):
            use()
    with pytest.raises(LedgerError, match=found):
        ledger.charge("run", 4, [gaussian(10.0)], digest(4))


def test_the_database_itself_refuses_updates_and_deletions(tmp_path: Path) -> None:
    _three_charges(tmp_path)
    connection = sqlite3.connect(tmp_path / "ledger.db")
    for statement in ("UPDATE entry SET text = ''", "DELETE FROM entry WHERE sequence = 5"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_an_old_copy_put_back_shows_even_under_a_running_agent(tmp_path: Path) -> None:
    ledger = _three_charges(tmp_path)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old")
    ledger.charge("run", 4, [gaussian(10.0)], digest(4))
    (tmp_path / "old").replace(tmp_path / "ledger.db")
    for use in (lambda: ledger.charge("run", 5, [gaussian(10.0)], digest(5)), ledger.verify):
        with pytest.raises(LedgerError, match="ends with entry 5 and lacks entry 6"):
            use()


def test_a_ledger_put_back_with_its_head_shows_against_witnesses(tmp_path: Path) -> None:
    store = FileWitness(tmp_path / "store.head")
    home = tmp_path / "ledger"
    ledger = BudgetLedger.open(home, POLICY, witnesses=[store])
    ledger.reserve("run", [gaussian(10.0)] * 9, epsilon=3.0, delta=DELTA)
    shutil.copytree(home, tmp_path / "old")
    ledger.charge("run", 1, [gaussian(10.0)], digest(1))
    peer = Head.from_json(ledger.head().to_json())
    ledger.check_head(peer)
    shutil.rmtree(home)
    (tmp_path / "old").replace(home)
    with pytest.raises(LedgerError, match="lacks entry 3"):
        BudgetLedger.open(home, POLICY, witnesses=[store])
    alone = BudgetLedger.open(home, POLICY)
    with pytest.raises(LedgerError, match="lacks entry 3"):
        alone.check_head(peer)
    # Going on and reaching the same number does not help: the entry is another one.
    alone.charge("run", 1, [gaussian(10.0)], digest(77))
    with pytest.raises(LedgerError, match="lacks entry 3"):
        alone.check_head(peer)


@pytest.mark.parametrize("name", ["ledger.db", "ledger.head", "ledger.key"])
def test_a_deleted_file_shows(tmp_path: Path, name: str) -> None:
    ledger = _three_charges(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(LedgerError, match=r"missing|kept nowhere"):
        BudgetLedger.open(tmp_path, POLICY)
    if name != "ledger.key":
        with pytest.raises(LedgerError, match=r"missing|kept nowhere"):
            ledger.charge("run", 4, [gaussian(10.0)], digest(4))


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_no_damaged_file_is_taken_for_a_ledger(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        charged = _three_charges(directory).spend()
        file = directory / data.draw(st.sampled_from(["ledger.db", "ledger.head", "ledger.key"]))
        content = bytearray(file.read_bytes())
        if data.draw(st.booleans(), label="truncate"):
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        else:
            for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=200)):
                content[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        try:
            after = BudgetLedger.open(directory).spend()
        except LedgerError:
            return
        # Bytes of a database page that hold nothing may change unseen; what is spent may not.
        assert after == charged


def test_files_are_for_the_owner_alone_and_refused_otherwise(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        _three_charges(tmp_path / "ledger")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) == 0o700
    files = sorted((tmp_path / "ledger").iterdir())
    assert [f.name for f in files] == ["ledger.db", "ledger.head", "ledger.key"]
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    for file in files[::2]:
        file.chmod(0o640)
        with pytest.raises(LedgerError, match="chmod 600"):
            BudgetLedger.open(tmp_path / "ledger", POLICY)
        file.chmod(0o600)


def test_a_full_disk_stops_a_charge_and_a_retry_pays_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = _three_charges(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            ledger.charge("run", 4, [gaussian(10.0)], digest(4))
    receipt = ledger.charge("run", 4, [gaussian(10.0)], digest(4))
    assert receipt.sequence == ledger.verify() == 6
    assert ledger.spend().mu == pytest.approx(0.2)


def test_a_folder_that_cannot_be_written_is_a_ledger_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as broken:
        broken.setattr(os, "open", refused)
        with pytest.raises(LedgerError, match="cannot be read or made"):
            BudgetLedger.open(tmp_path, POLICY)


def test_a_head_that_a_stranger_made_is_refused(tmp_path: Path) -> None:
    ledger = _three_charges(tmp_path)
    head = ledger.head()
    with pytest.raises(LedgerError, match="edited"):
        ledger.check_head(Head(head.log_id, 2, head.mac, head.totals, head.seal))
    other = BudgetLedger.open(tmp_path / "other", POLICY)
    with pytest.raises(LedgerError):
        ledger.check_head(other.head())


def test_receipts_are_confirmed_by_the_ledger_that_gave_them(tmp_path: Path) -> None:
    ledger = _three_charges(tmp_path)
    receipt = ledger.charge("run", 4, [gaussian(10.0)], digest(4))
    ledger.confirm(receipt)
    cheaper = Receipt("run", 4, (gaussian(99.0),), digest(4), receipt.sequence, receipt.mac)
    for forged in (cheaper, Receipt("x", 4, receipt.releases, digest(4), receipt.sequence, receipt.mac)):
        with pytest.raises(LedgerError, match="not made"):
            ledger.confirm(forged)


def test_a_restored_copy_counts_what_the_kept_head_says_was_spent(tmp_path: Path) -> None:
    home, store = tmp_path / "ledger", FileWitness(tmp_path / "store.head")
    ledger = BudgetLedger.open(home, POLICY, witnesses=[store])
    ledger.reserve("one", [gaussian(10.0)] * 2, epsilon=3.0, delta=DELTA)
    ledger.charge("one", 1, [gaussian(10.0)], digest(1))
    shutil.copy(home / "ledger.db", tmp_path / "old")
    ledger.charge("one", 2, [gaussian(10.0)], digest(2))
    ledger.charge("one", 3, [gaussian(5.0)], digest(3))
    ledger.close("one")
    ledger.reserve("two", [gaussian(4.0)], epsilon=3.0, delta=DELTA)
    before, peer = ledger.spend(), ledger.head()
    for copy in (tmp_path / "old", None):
        (home / "ledger.db").unlink()
        if copy is not None:
            shutil.copy(copy, home / "ledger.db")
        restored = BudgetLedger.restore(home, POLICY, witnesses=[store])
        assert restored.spend().mu >= before.mu_committed * (1 - 1e-12)
        assert restored.spend().mu == pytest.approx(before.mu_committed)
        whole = gaussian(1 / math.sqrt(POLICY.mu**2 - before.mu_committed**2 * 0.99))
        with pytest.raises(BudgetExceededError, match="lifetime"):
            restored.reserve("all", [whole], epsilon=3.0, delta=DELTA)
        restored.check_head(peer)
        assert restored.head().sequence > peer.sequence
        for name in ("one", "two"):
            with pytest.raises(PrivacyError):
                restored.charge(name, 4, [gaussian(10.0)], digest(4))
        again = BudgetLedger.open(home, POLICY, witnesses=[store])
        again.reserve(f"after {copy is None}".replace(" ", "-"), [gaussian(1000.0)], epsilon=3.0, delta=DELTA)
        before, peer = again.spend(), again.head()


def test_restoring_an_edited_ledger_is_refused(tmp_path: Path) -> None:
    _three_charges(tmp_path)
    _tamper(tmp_path, "UPDATE entry SET text = replace(text, '10.0', '99.0') WHERE sequence = 4")
    with pytest.raises(LedgerError, match="entry 4 was edited"):
        BudgetLedger.restore(tmp_path, POLICY)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1.0, 40.0), st.integers(0, 3)), max_size=8))
@settings(max_examples=12, deadline=None)
def test_spend_never_shrinks_and_never_exceeds_the_budget(calls: list[tuple[int, float, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        ledger = BudgetLedger.open(Path(name), POLICY)
        accepted: dict[tuple[int, float, int], Receipt] = {}
        before = 0.0
        for call in calls:
            run, z, request = call
            try:
                ledger.reserve(f"run{run}", [gaussian(8.0)], epsilon=2.5, delta=DELTA)
                accepted[call] = ledger.charge(f"run{run}", request, [gaussian(z)], digest(request))
            except BudgetExceededError:
                pass
            spend = ledger.spend()
            assert spend.mu >= before
            before = spend.mu
        assert spend_of_requests(accepted) == pytest.approx(before)
        assert not accepted or delta_oracle(before, 3.0) <= DELTA * (1 + 1e-6)


def spend_of_requests(accepted: dict[tuple[int, float, int], Receipt]) -> float:
    return math.sqrt(sum(z**-2 for _, z, _ in accepted))


def _spend_greedily(directory: Path, name: str, barrier: object, counts: object) -> None:
    ledger = BudgetLedger.open(directory, POLICY)
    barrier.wait()  # type: ignore[attr-defined]
    accepted = 0
    for number in range(6):
        try:
            ledger.charge("run", number, [gaussian(z_for(3.0, 8))], digest(int(name) * 100 + number))
            accepted += 1
        except BudgetExceededError:
            break
    counts.put(accepted)  # type: ignore[attr-defined]


def test_two_processes_cannot_both_spend_the_last_of_the_budget(tmp_path: Path) -> None:
    ledger = BudgetLedger.open(tmp_path, POLICY)
    ledger.reserve("run", [gaussian(z_for(3.0, 8))] * 8, epsilon=3.0, delta=DELTA)
    context = multiprocessing.get_context("forkserver")
    barrier, counts = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_spend_greedily, args=(tmp_path, str(n), barrier, counts)) for n in (1, 2)]
    for worker in workers:
        worker.start()
    accepted = sum(counts.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert accepted == 8
    assert ledger.spend().epsilon == pytest.approx(3.0)
    assert ledger.verify() == 10


def test_two_processes_that_set_the_ledger_up_at_once_share_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    with context.Pool(4) as pool:
        ids = pool.starmap(_open_and_name, [(tmp_path,)] * 8)
    assert len(set(ids)) == 1


def _open_and_name(directory: Path) -> str:
    return BudgetLedger.open(directory, POLICY).head().log_id


def test_the_report_is_json_and_adds_up(tmp_path: Path) -> None:
    report = _three_charges(tmp_path).spend().to_dict()
    assert report["mu"] == pytest.approx(math.sqrt(3) / 10)
    assert report["mu_committed"] == pytest.approx(0.3)
    assert [c["server_round"] for c in report["runs"][0]["charges"]] == [1, 2, 3]
    assert report["left"]["mu"] == pytest.approx(math.sqrt(POLICY.mu**2 - 0.09))
