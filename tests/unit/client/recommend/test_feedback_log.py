from __future__ import annotations

import os
import stat
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.recorded import Event, EventRules, RecordedEvents
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FeedbackEvent, header, line_of, read_events
from client.recommend.quarantine import quarantine_of
from common.errors import ContractError, StoreError


def pairs(events: RecordedEvents) -> list[tuple[str, str, float, int]]:
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
        assert [event[0] for event in pairs(log.recorded())] == ["anna", "anna", 'böse\n"user"', "bert"]
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
        monkeypatch.setattr(os, "fsync", fsync)
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
    assert len(read_events(path, EventRules()).user_ids) == 3
    with FeedbackLog(path) as log:
        assert [event.item_key for event in log.events_of("anna")] == ["imdb:0", "imdb:1", "imdb:2"]
        assert log.record("again", "anna", "imdb:9", 1.0, 9)[0] == 4
    assert len(read_events(path, EventRules()).user_ids) == 4


def test_an_empty_file_is_an_empty_log_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "log").touch()
    assert pairs(read_events(tmp_path / "log", EventRules())) == []
    with FeedbackLog(tmp_path / "log") as log:
        assert "was empty" in caplog.text
        assert log.record("e1", "anna", "imdb:1", 1.0, 10) == (1, False)
    assert len(read_events(tmp_path / "log", EventRules()).user_ids) == 1


def test_a_damaged_line_is_set_aside_and_the_others_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "log"
    with FeedbackLog(path) as log:
        for number in range(3):
            log.record(f"e{number}", "anna", f"imdb:{number}", 1.0, number)
    damaged = path.read_bytes().replace(b'"e1"', b'"eX"')
    path.write_bytes(damaged)
    assert read_events(path, EventRules()).item_keys == ("imdb:0", "imdb:2")
    with FeedbackLog(path) as log:
        assert [event.item_key for event in log.events_of("anna")] == ["imdb:0", "imdb:2"]
        assert log.record("e3", "anna", "imdb:3", 1.0, 3)[0] == 4
    assert quarantine_of(path).read_bytes() == b"the line is damaged\t" + damaged.splitlines(keepends=True)[2]
    assert "line 3" in caplog.text
    assert "anna" not in caplog.text
    assert stat.S_IMODE(quarantine_of(path).stat().st_mode) == 0o600
    path.write_bytes(b"something else\n")
    with pytest.raises(StoreError, match="is not a feedback log"):
        FeedbackLog(path)


WEIGHTS = EventRules(meaning="weight")
BAD = [
    FeedbackEvent(2, "e2", "anna", "imdb:1", -5.0, 10),
    FeedbackEvent(3, "e3", "anna", "imdb:1", 0.0, 10),
    FeedbackEvent(4, "e4", "anna", "imdb:1", float("nan"), 10),
    FeedbackEvent(5, "e5", "anna", "imdb:1", 1e38, 10),
    FeedbackEvent(6, "e6", " NULL", "imdb:1", 1.0, 10),
    FeedbackEvent(7, "e7", "a" * 600, "imdb:1", 1.0, 10),
    FeedbackEvent(8, "e8", "anna", "no namespace", 1.0, 10),
    FeedbackEvent(9, "e9", "anna", "imdb:1", 1.0, -1),
    FeedbackEvent(10, "e10", "anna", "imdb:1", 10**400, 10),
    FeedbackEvent(11, "e11", "anna", "imdb:1", 1.0, 10**30),
]


def written(path: Path, events: list[FeedbackEvent]) -> Path:
    """A log as an earlier version wrote it, who looked at nothing."""
    path.write_bytes(header(1) + b"".join(line_of([event]) for event in events))
    return path


@pytest.mark.parametrize("bad", BAD, ids=lambda event: f"number {event.sequence}")
def test_one_bad_event_keeps_nobody_from_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: FeedbackEvent
):
    good = FeedbackEvent(1, "e1", "anna", "imdb:1", 1.0, 10), FeedbackEvent(99, "e99", "bert", "imdb:2", 2.0, 20)
    path = written(tmp_path / "log", [good[0], bad, good[1]])
    for _ in range(2):
        found = read_events(path, WEIGHTS)
        assert pairs(found) == [("anna", "imdb:1", 1.0, 10), ("bert", "imdb:2", 2.0, 20)]
        assert (found.sequences.tolist(), found.through) == ([1, 99], 99)
        assert path.read_bytes().count(b"\n") == 4, "reading changes nothing"
    assert f"1 entries are not used (number {bad.sequence})" in caplog.text
    with FeedbackLog(path, WEIGHTS) as log:
        assert pairs(log.recorded()) == pairs(found)
    reason, _, line = quarantine_of(path).read_bytes().partition(b"\t")
    assert line == line_of([bad])
    assert reason.decode().split(":")[0] in ("value", "user_id", "item_key", "time")
    caplog.clear()
    assert pairs(read_events(path, WEIGHTS)) == pairs(found)
    assert caplog.text == "", "what was set aside is no longer in the log"


def test_events_of_any_shape_are_set_aside(tmp_path: Path):
    texts = (
        b"{}",
        b"[1]",
        b'[[1,"e","u","imdb:1",1.0]]',
        b'[["1","e","u","imdb:1",1.0,1]]',
        b"[[1,2,3,4,5,6]]",
        b"\xff",
    )
    lines = b"".join(b"%08x %b\n" % (zlib.crc32(text), text) for text in texts)
    path = tmp_path / "log"
    path.write_bytes(header(1) + lines + line_of([FeedbackEvent(1, "e", "anna", "imdb:1", 1.0, 1)]))
    with FeedbackLog(path) as log:
        assert len(log) == 1
    assert len(quarantine_of(path).read_bytes().splitlines()) == len(texts)


def test_what_is_set_aside_is_safe_before_the_log_lets_go_of_it(tmp_path: Path):
    path = written(tmp_path / "log", BAD[:2])
    before = path.read_bytes()

    quarantine_of(path).mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        FeedbackLog(path, WEIGHTS)
    assert path.read_bytes() == before
    quarantine_of(path).rmdir()
    FeedbackLog(path, WEIGHTS).close()
    assert len(quarantine_of(path).read_bytes().splitlines()) == 2


def test_forgetting_a_user_forgets_what_was_set_aside_too(tmp_path: Path):
    bert = FeedbackEvent(50, "e50", "bert", "imdb:1", -1.0, 10)
    path = written(tmp_path / "log", [BAD[0], bert])
    path.write_bytes(path.read_bytes() + b"00000000 anna's, damaged\n")
    with FeedbackLog(path, WEIGHTS) as log:
        log.forget("anna ")
    assert quarantine_of(path).read_bytes().endswith(b"\t" + line_of([bert]))
    assert b"anna" not in quarantine_of(path).read_bytes() + path.read_bytes()


def test_spellings_of_one_id_are_one_user(tmp_path: Path):
    with FeedbackLog(tmp_path / "log") as log:
        log.record("e1", "T ", "imdb: 1", 1.0, 1)
        log.record("e2", "\ufeffT", "imdb:2.0", 1.0, 2)
        assert log.record("e1", "T", "imdb:1", 1.0, 1)[1], "the same event, spelt otherwise"
        assert log.events_of(" T") == (Event("imdb:1", 1.0, 1), Event("imdb:2", 1.0, 2))
        log.forget("T\n")
        assert log.events_of("T") == ()
    old = written(tmp_path / "old", [FeedbackEvent(1, "e1", "T ", "imdb:1", 1.0, 1_700_000_000_000)])
    assert pairs(read_events(old, EventRules())) == [("T", "imdb:1", 1.0, 1_700_000_000)], (
        "old logs hold them as they came"
    )


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
        monkeypatch.setattr(os, failing, full_disk)
        with pytest.raises(StoreError, match=r"not recorded .*No space"):
            log.record("e2", "anna", "imdb:2", 1.0, 2)
        assert log.events_of("anna") == (Event("imdb:1", 1.0, 1),)
        monkeypatch.undo()
        assert log.record("e2", "anna", "imdb:2", 1.0, 2)[1] is False
    assert [event[1] for event in pairs(read_events(tmp_path / "log", EventRules()))] == ["imdb:1", "imdb:2"]


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
    kept = read_events(tmp_path / "log", EventRules())
    assert len(kept.user_ids) == 200
    assert kept.through == 200


def test_events_during_a_write_share_the_next_and_retries_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
        monkeypatch.setattr(os, "fsync", slow_fsync)
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


def test_pruning_survives_a_restart_and_never_reuses_a_number(tmp_path: Path):
    with FeedbackLog(tmp_path / "log") as log:
        for number in range(4):
            log.record(f"e{number}", "anna" if number % 2 else "bert", f"imdb:{number}", 1.0, number)
        log.prune(log.recorded().through - 2)
        log.forget("anna")
        assert log.events_of("anna") == ()
    assert b"anna" not in (tmp_path / "log").read_bytes()
    with FeedbackLog(tmp_path / "log") as log:
        assert pairs(log.recorded()) == [("bert", "imdb:2", 1.0, 2)]
        assert log.record("new", "anna", "imdb:9", 1.0, 9) == (5, False)


@pytest.mark.parametrize(
    ("user", "key", "value", "time", "field"),
    [
        ("u", "imdb:1", float("nan"), 1, "value"),
        ("u", "imdb:1", float("inf"), 1, "value"),
        ("u", "imdb:1", 1e4, 1, "value"),
        ("u", "imdb:1", -0.01, 1, "value"),
        ("None", "imdb:1", 1.0, 1, "user_id"),
        ("u" * 513, "imdb:1", 1.0, 1, "user_id"),
        ("u", "imdb:nan", 1.0, 1, "item_key"),
        ("u", "imdb", 1.0, 1, "item_key"),
        ("u", "imdb:1", 1.0, -1, "time"),
    ],
)
def test_refuses_what_no_event_can_be(tmp_path: Path, user: str, key: str, value: float, time: int, field: str):
    with FeedbackLog(tmp_path / "log", WEIGHTS) as log:
        with pytest.raises(ContractError, match=f"^{field}: "):
            log.record("e1", user, key, value, time)
        assert len(log) == 0
