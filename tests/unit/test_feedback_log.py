from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.dataset import UserItemMatrix
from client.recommend import feedback as feedback_module
from client.recommend.feedback import Event, FeedbackLog, Interactions, fold_into, read_interactions
from common.errors import ContractError, StoreError


def pairs(events: Interactions) -> list[tuple[str, str, float, int]]:
    return list(zip(events.user_ids, events.item_keys, events.values.tolist(), events.times.tolist(), strict=True))


def test_events_are_there_after_a_restart_in_order(tmp_path: Path):
    with FeedbackLog(tmp_path / "log") as log:
        assert log.record("e1", "anna", "imdb:1", 1.0, 10) == (1, False)
        assert log.record("e2", "anna", "imdb:2", 2.5, 20) == (2, False)
        assert log.record("e3", 'böse\n"user"', "imdb:1", 1.0, 5) == (3, False)
        before = log.events_of("anna")
    with FeedbackLog(tmp_path / "log") as log:
        assert log.events_of("anna") == before == (Event("imdb:1", 1.0, 10), Event("imdb:2", 2.5, 20))
        assert log.record("e4", "bert", "imdb:3", 1.0, 30) == (4, False)
        assert [event[0] for event in pairs(log.interactions())] == ["anna", "anna", 'böse\n"user"', "bert"]
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_the_same_id_is_recorded_once_also_after_a_restart(tmp_path: Path):
    with FeedbackLog(tmp_path / "log") as log:
        log.record("e1", "anna", "imdb:1", 1.0, 10)
        assert log.record("e1", "anna", "imdb:1", 1.0, 99) == (1, True)
    with FeedbackLog(tmp_path / "log") as log:
        assert log.record("e1", "anna", "imdb:1", 1.0, 99) == (1, True)
        assert len(log) == 1
        with pytest.raises(ContractError, match="event_id"):
            log.record("e1", "anna", "imdb:2", 1.0, 10)


def test_an_event_is_on_disk_before_record_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[bytes] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append((tmp_path / "log").read_bytes())

    with FeedbackLog(tmp_path / "log") as log:
        monkeypatch.setattr(feedback_module.os, "fsync", fsync)
        log.record("event-7", "anna", "imdb:1", 1.0, 10)
    assert b"event-7" in synced[-1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000), noise=st.binary(max_size=20))
def test_a_crash_in_a_write_loses_nothing_that_was_acknowledged(tmp_path: Path, cut: int, noise: bytes):
    path = tmp_path / "log"
    path.unlink(missing_ok=True)
    with FeedbackLog(path) as log:
        for number in range(3):
            log.record(f"e{number}", "anna", f"imdb:{number}", 1.0, number)
        acknowledged = path.read_bytes()
        log.record("torn", "anna", "imdb:9", 1.0, 9)
    last = path.read_bytes()[len(acknowledged) :]
    path.write_bytes(acknowledged + last[: cut % len(last)] + noise.replace(b"\n", b""))
    assert len(read_interactions(path).user_ids) == 3
    with FeedbackLog(path) as log:
        assert [event.item_key for event in log.events_of("anna")] == ["imdb:0", "imdb:1", "imdb:2"]
        assert log.record("again", "anna", "imdb:9", 1.0, 9)[0] == 4
    assert len(read_interactions(path).user_ids) == 4


def test_damage_before_the_last_line_is_reported_with_its_line(tmp_path: Path):
    with FeedbackLog(tmp_path / "log") as log:
        for number in range(3):
            log.record(f"e{number}", "anna", "imdb:1", 1.0, number)
    content = (tmp_path / "log").read_bytes().replace(b'"e1"', b'"eX"')
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(StoreError, match="line 3 is damaged") as caught:
        FeedbackLog(tmp_path / "log")
    assert "anna" not in str(caught.value)
    (tmp_path / "log").write_bytes(b"something else\n")
    with pytest.raises(StoreError, match="is not a feedback log"):
        FeedbackLog(tmp_path / "log")


def test_only_one_process_writes(tmp_path: Path):
    with FeedbackLog(tmp_path / "log"), pytest.raises(StoreError, match="another process"):
        FeedbackLog(tmp_path / "log")
    FeedbackLog(tmp_path / "log").close()


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_records_nothing_and_later_events_are_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
):
    real_write = os.write

    def full_disk(descriptor: int, data: bytes = b"") -> int:
        if failing == "write" and len(data) > 5:
            return real_write(descriptor, data[:5])
        raise OSError(28, "No space left on device")

    with FeedbackLog(tmp_path / "log") as log:
        log.record("e1", "anna", "imdb:1", 1.0, 1)
        monkeypatch.setattr(feedback_module.os, failing, full_disk)
        with pytest.raises(StoreError, match=r"not recorded .*No space"):
            log.record("e2", "anna", "imdb:2", 1.0, 2)
        assert log.events_of("anna") == (Event("imdb:1", 1.0, 1),)
        monkeypatch.undo()
        assert log.record("e2", "anna", "imdb:2", 1.0, 2)[1] is False
    assert [event[1] for event in pairs(read_interactions(tmp_path / "log"))] == ["imdb:1", "imdb:2"]


def test_many_threads_lose_and_double_nothing(tmp_path: Path):
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for place in range(50):
            # Each event is sent by two threads, as after a retry.
            log.record(f"{number // 2}-{place}", f"user-{number // 2}", f"imdb:{place}", 1.0, place)

    with FeedbackLog(tmp_path / "log") as log:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(log) == 200
        assert sorted({event.item_key for event in log.events_of("user-3")}) == sorted(f"imdb:{i}" for i in range(50))
    kept = read_interactions(tmp_path / "log")
    assert len(kept.user_ids) == 200
    assert kept.through == 200


def test_events_that_arrive_during_a_write_share_the_next_and_a_retry_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, syncs = os.fsync, []
    writing, retrying, go_on = threading.Event(), threading.Event(), threading.Event()

    def slow_fsync(descriptor: int) -> None:
        writing.set()
        assert go_on.wait(30)
        real(descriptor)
        syncs.append(descriptor)

    def send_again() -> tuple[tuple[int, bool], list[str]]:
        retrying.set()
        receipt = log.record("e0", "anna", "imdb:0", 1.0, 9)
        return receipt, [event.item_key for event in log.events_of("anna")]

    with FeedbackLog(tmp_path / "log") as log, ThreadPoolExecutor(8) as pool:
        monkeypatch.setattr(feedback_module.os, "fsync", slow_fsync)
        first = pool.submit(log.record, "e0", "anna", "imdb:0", 1.0, 0)
        assert writing.wait(30)
        others = [pool.submit(log.record, f"e{i}", "anna", f"imdb:{i}", 1.0, i) for i in range(1, 5)]
        retry = pool.submit(send_again)
        assert retrying.wait(30)
        while len(log._pending) < 5:
            assert not any(call.done() for call in (first, retry, *others))
        assert log.events_of("anna") == ()
        go_on.set()
        assert first.result() == (1, False)
        receipt, durable = retry.result()
        assert receipt == (1, True)
        assert "imdb:0" in durable
        assert not any(call.result()[1] for call in others)
        assert len(log.events_of("anna")) == 5
    assert len(syncs) == 2


def test_pruning_and_forgetting_survive_a_restart_and_never_give_a_number_twice(tmp_path: Path):
    with FeedbackLog(tmp_path / "log") as log:
        for number in range(4):
            log.record(f"e{number}", "anna" if number % 2 else "bert", f"imdb:{number}", 1.0, number)
        log.prune(log.interactions().through - 2)
        log.forget("anna")
        assert log.events_of("anna") == ()
    assert b"anna" not in (tmp_path / "log").read_bytes()
    with FeedbackLog(tmp_path / "log") as log:
        assert pairs(log.interactions()) == [("bert", "imdb:2", 1.0, 2)]
        assert log.record("new", "anna", "imdb:9", 1.0, 9) == (5, False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_a_value_that_is_no_number(tmp_path: Path, value: float):
    with FeedbackLog(tmp_path / "log") as log, pytest.raises(ContractError, match="value"):
        log.record("e1", "anna", "imdb:1", value, 1)


def test_folding_into_training_data_adds_users_and_keeps_the_newest_entry_of_a_pair():
    matrix = UserItemMatrix.from_entries(
        np.array([0, 0, 1]),
        np.array([0, 1, 1]),
        np.array([3.0, 4.0, 5.0]),
        np.array([10, 20, 30]),
        n_users=2,
        n_items=3,
    )
    feedback = Interactions(
        ("bert", "anna", "carl", "anna", "carl"),
        ("k1", "k0", "k2", "unknown", "k2"),
        np.array([1.0, 2.0, 3.0, 4.0, 5.0], dtype=np.float32),
        np.array([40, 50, 60, 70, 55]),
        through=5,
    )
    users, folded = fold_into(["anna", "bert"], ["k0", "k1", "k2"], matrix, feedback)
    assert users == ("anna", "bert", "carl")
    assert [folded.row(row).tolist() for row in range(3)] == [[1, 0], [1], [2]]
    np.testing.assert_array_equal(folded.values, [4.0, 2.0, 1.0, 3.0])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), max_size=20))
def test_folding_the_same_feedback_in_twice_changes_nothing(events: list[tuple[int, int, int]]):
    empty = UserItemMatrix.from_entries(*(np.empty(0, dtype=np.int64) for _ in range(4)), n_users=0, n_items=4)
    columns = [f"k{i}" for i in range(4)]
    feedback = Interactions(
        tuple(f"u{user}" for user, _, _ in events),
        tuple(columns[item] for _, item, _ in events),
        np.arange(len(events), dtype=np.float32),
        np.array([when for _, _, when in events], dtype=np.int64),
        through=len(events),
    )
    users, once = fold_into([], columns, empty, feedback)
    again, twice = fold_into(users, columns, once, feedback)
    assert users == again
    for name in ("indptr", "indices", "values", "times"):
        np.testing.assert_array_equal(getattr(once, name), getattr(twice, name))
