"""Runs on the aggregator's disk, when the next begins, and which is taken up again."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.loader import parse_model
from common.deploy.locks import held
from common.deploy.roles import AggregatorConfig, ScheduleConfig
from common.errors import ConfigError, FederationError, InUseError, NewerStoreError
from server.deploy.aggregator import AggregatorProcess, begin_run, wait_for_end
from server.deploy.runs import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    PENDING,
    RUNNING,
    RunFolder,
    RunStatus,
    list_runs,
    read_runs,
    run_going_on,
)
from server.deploy.schedule import Resumer, next_start
from server.federation.state import RoundRecord


def record(server_round: int) -> RoundRecord:
    return RoundRecord(
        round=server_round, seconds=1.0, bytes_up=1, bytes_down=1, objective=1.0, recall=None, platforms=("a",)
    )


NOON = datetime(2026, 10, 9, 12, tzinfo=UTC)


def begun(at: datetime, **parts: Any) -> RunStatus:
    return RunStatus(name="run", started=at.isoformat(), **parts)


def hold(state: Path, held: Event) -> None:
    with RunFolder(state, "r").recorded():
        held.set()
        multiprocessing.Event().wait()


def test_a_run_is_pending_running_and_finished(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "r")
    run.announce()
    assert run.status().state == PENDING
    with run.recorded():
        assert run.status().state == RUNNING
    assert run.status().state == FINISHED
    assert [status.name for status in list_runs(tmp_path)] == ["r"]


def test_a_failed_run_says_why_and_an_unforeseen_error_its_kind_alone(tmp_path: Path) -> None:
    with pytest.raises(FederationError), RunFolder(tmp_path, "r").recorded():
        raise FederationError("2 platforms joined; the quorum is 3")
    assert RunFolder(tmp_path, "r").status().error == "2 platforms joined; the quorum is 3"
    with pytest.raises(KeyError), RunFolder(tmp_path, "s").recorded():
        raise KeyError("something that a message held")
    assert "something" not in (RunFolder(tmp_path, "s").status().error or "")
    assert RunFolder(tmp_path, "s").status().state == FAILED


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_run_whose_process_was_killed_is_interrupted_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60)
    run = RunFolder(tmp_path, "r")
    assert run.status().state == RUNNING
    assert run.is_held()
    with pytest.raises(FederationError, match="already running"), run.recorded():
        pass
    process.kill()
    process.join()
    assert run.status().state == INTERRUPTED


def test_a_round_that_is_repeated_after_resuming_is_listed_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "r")
    run.announce()
    for server_round in (1, 2, 3, 2, 3):
        run.observer().on_round(record(server_round))
    assert [entry["round"] for entry in run.status().rounds] == [1, 2, 3]


def test_gathering_again_for_a_newcomer_keeps_the_rounds_listed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "r")
    run.announce()
    gathered = replace(record(0), phase="linear")
    for entry in (gathered, record(1), record(2), gathered, record(3)):
        run.observer().on_round(entry)
    assert [(entry["phase"], entry["round"]) for entry in run.status().rounds] == [
        ("factors", 1),
        ("factors", 2),
        ("linear", 0),
        ("factors", 3),
    ]


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 65, "a b"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="run name"):
        RunFolder(tmp_path, name)


MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2036, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


@given(MOMENTS, st.integers(0, 23), st.integers(0, 59))
def test_a_daily_run_is_due_within_a_day_and_after_the_last(moment: datetime, hour: int, minute: int) -> None:
    due = next_start(ScheduleConfig(at=f"{hour:02}:{minute:02}"), [begun(moment)], moment)
    assert due is not None
    assert moment < due <= moment + timedelta(days=1)
    assert (due.hour, due.minute) == (hour, minute)


@given(MOMENTS, st.floats(1, 1e6))
def test_a_run_every_so_often_is_due_that_long_after_the_last(moment: datetime, every: float) -> None:
    assert next_start(ScheduleConfig(every=every), [begun(moment)], moment) == moment + timedelta(seconds=every)
    assert next_start(ScheduleConfig(every=every), [], moment) == moment
    assert next_start(ScheduleConfig(), [begun(moment)], moment) is None


def test_a_schedule_ends_with_the_runs_that_are_paid_for() -> None:
    def due(*runs: RunStatus) -> bool:
        return next_start(ScheduleConfig(every=60, runs=2), runs, NOON) is not None

    finished = begun(NOON, state=FINISHED)
    answered = {kind: {"cinema": {"kind": kind, "code": "ok"}} for kind in ("join", "vocabulary", "masked_counts")}
    joined = [begun(NOON, state=FAILED, answers=answered[kind]) for kind in ("join", "vocabulary")]
    charged = begun(NOON, state=FAILED, answers=answered["masked_counts"])
    assert due(finished, *joined), "a run that failed while platforms joined has cost nothing"
    assert not due(finished, charged)
    assert not due(finished, finished)


def test_only_the_newest_lost_run_is_resumed_and_not_for_ever() -> None:
    lost = RunStatus(name="r", state=INTERRUPTED)
    assert Resumer().to_resume([RunStatus(name="q", state=INTERRUPTED), RunStatus(name="r", state=FINISHED)]) is None
    assert Resumer().to_resume([RunStatus(name="r", state=FAILED)]) is None
    resumer = Resumer()
    assert [resumer.to_resume([lost]) for _ in range(7)] == ["r"] * 5 + [None] * 2


def test_a_run_that_makes_progress_between_losses_is_resumed_again() -> None:
    resumer = Resumer()
    for rounds in range(20):
        lost = RunStatus(name="r", state=INTERRUPTED, rounds=[{"round": n + 1} for n in range(rounds)])
        assert resumer.to_resume([lost]) == "r"


DAMAGE = {
    "empty": "",
    "cut short": '{"name": "old", "state": "fin',
    "a list": "[]",
    "binary": "\0\0\0",
    "no start": '{"name": "old", "state": "finished"}',
    "no date": '{"name": "old", "state": "finished", "started": "yesterday"}',
    "a number for rounds": '{"name": "old", "state": "finished", "started": "2026-01-01T00:00:00+00:00", "rounds": 3}',
    "a round of nothing": '{"name": "old", "state": "finished", "started": "2026-01-01T00:00:00+00:00", "rounds": [{}]}',
    "an answer of nothing": (
        '{"name": "old", "state": "finished", "started": "2026-01-01T00:00:00+00:00", "answers": {"a": {}}}'
    ),
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """An aggregator's state with a finished run, beside which others are damaged."""
    with RunFolder(tmp_path, "new").recorded():
        pass
    RunFolder(tmp_path, "old").folder.mkdir()
    return tmp_path


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_status_is_skipped_by_name(state: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    (state / "runs" / "old" / "status.json").write_text(content)
    assert [run.name for run in list_runs(state)] == ["new"]
    assert [run.name for run in list_runs(state)] == ["new"]
    assert sum("run old is skipped" in record.message for record in caplog.records) == 1, "said once, not every 2 s"
    assert "status.json: damaged" in read_runs(state)[1]["old"]


@pytest.mark.parametrize(
    "content",
    [
        '{"format": 2, "everything": "else is new"}',
        '{"name": "old", "state": "paused", "started": "2026-01-01T00:00:00+00:00", "why": "a field of the future"}',
    ],
)
def test_a_status_of_a_newer_version_is_skipped_by_name(state: Path, content: str) -> None:
    (state / "runs" / "old" / "status.json").write_text(content)
    assert [run.name for run in list_runs(state)] == ["new"]
    assert "newer crossfed" in read_runs(state)[1]["old"]
    with pytest.raises(NewerStoreError, match="upgrade"):
        RunFolder(state, "old").announce()
    assert (state / "runs" / "old" / "status.json").read_text() == content


def test_a_status_of_version_0_1_is_read(state: Path) -> None:
    path = state / "runs" / "new" / "status.json"
    content = json.loads(path.read_text())
    del content["format"]
    path.write_text(json.dumps(content))
    assert [run.state for run in list_runs(state)] == [FINISHED]


def test_a_folder_of_a_run_that_never_began_blocks_nothing(state: Path) -> None:
    assert [run.name for run in list_runs(state)] == ["new"]


def test_a_run_whose_status_is_damaged_goes_on_with_a_new_one(state: Path) -> None:
    run = RunFolder(state, "old")
    (run.folder / "status.json").write_text("{")
    run.announce()
    assert run.status().state == PENDING
    [aside] = run.folder.glob("status.json.damaged-*")
    assert aside.read_text() == "{"


def test_a_status_damaged_in_the_middle_of_a_run_does_not_end_it(state: Path) -> None:
    run = RunFolder(state, "middle")
    with run.recorded():
        (run.folder / "status.json").write_text("")
        run.observer().on_reply(1, "counts", "a", "ok", 10)
        run.observer().on_round(record(1))
    assert run.status().state == FINISHED
    assert run.status().server_round == 1


class Started:
    """A SuperLink that takes every run on."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def begin(self, config: AggregatorConfig, name: str | None = None) -> str:
        return begin_run(config, name, start=lambda _, run: self.names.append(run))


@pytest.fixture
def started() -> Started:
    return Started()


def config_in(folder: Path, **changes: Any) -> AggregatorConfig:
    content = {"plan": {}, "address": "localhost:9443"} | changes
    return parse_model(content, AggregatorConfig, "test", base_directory=folder)


def test_a_run_that_goes_on_is_not_disturbed_by_a_second(tmp_path: Path, started: Started) -> None:
    config = config_in(tmp_path)
    with RunFolder(config.state, "older").recorded():
        RunFolder(config.state, "older").observer().on_round(record(1))
        with pytest.raises(InUseError, match=r"run older is going on \(1 rounds done\).*--wait"):
            started.begin(config)
        with pytest.raises(InUseError, match="run older is going on"):
            started.begin(config, "older")
    assert started.names == []
    assert [run.name for run in list_runs(config.state)] == ["older"]
    assert started.begin(config) == started.names[0]


def test_a_second_process_of_runs_fails_by_itself_and_names_the_older(tmp_path: Path) -> None:
    older, second = RunFolder(tmp_path, "older"), RunFolder(tmp_path, "second")
    with older.recorded():
        with pytest.raises(InUseError, match="in use by run older"), second.recorded():
            raise AssertionError("it has begun")
        assert second.status().state == FAILED
        assert "run older" in (second.status().error or "")
        assert older.status().state == RUNNING
    assert older.status().state == FINISHED


def test_two_runs_that_are_begun_at_once_are_one(tmp_path: Path, started: Started) -> None:
    config = config_in(tmp_path)
    first = started.begin(config)
    with pytest.raises(InUseError, match=f"run {first} is going on"):
        started.begin(config)


def test_a_run_whose_process_never_began_bars_no_other_for_ever(tmp_path: Path, started: Started) -> None:
    config = config_in(tmp_path)
    first = started.begin(config, "first")
    long_ago = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    os.utime(config.state / "runs" / first / "status.json", (long_ago, long_ago))
    assert run_going_on(config.state) is None
    started.begin(config, "second")
    assert started.names == ["first", "second"]


def test_who_waits_is_told_and_begins_when_the_older_has_ended(tmp_path: Path, started: Started) -> None:
    config, heard = config_in(tmp_path), list[str]()
    older = RunFolder(config.state, "older").recorded()
    older.__enter__()

    def tell(text: str) -> None:
        heard.append(text)
        older.__exit__(None, None, None)

    wait_for_end(config, tell)
    assert heard == ["run older is going on; waiting for its end"]
    started.begin(config)
    assert len(started.names) == 1


def test_a_second_aggregator_is_refused_before_it_touches_anything(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text('plan: {}\naddress: "localhost:9443"\n')
    state = config_in(tmp_path).state
    state.mkdir()
    with held(state / "aggregator.lock", "crossfed-server start", mend=""):
        said = rf"in use by crossfed-server start, process {os.getpid()} .*one aggregator at a time"
        with pytest.raises(InUseError, match=said):
            AggregatorProcess(path).run()
    assert [entry.name for entry in state.iterdir()] == ["aggregator.lock"]


def test_an_aggregator_whose_port_is_taken_does_not_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        path, port = tmp_path / "federation.yaml", other.getsockname()[1]
        path.write_text(f'plan: {{}}\naddress: "localhost:9443"\nsuperlink_port: {port}\n')
        with pytest.raises(
            ConfigError, match=rf"superlink_port: 127\.0\.0\.1:{port} cannot be opened \(Address already"
        ):
            AggregatorProcess(path, port_patience=0.0).run()
    assert sorted(entry.name for entry in config_in(tmp_path).state.iterdir()) == ["aggregator.lock"]
