"""A running platform makes its next run without whoever was put on the exclusion list, and none at all where it cannot."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from client.data.reading.exclusions import ExclusionBook
from client.data.training import TrainingData
from client.deploy.agent_process import PlatformProcess, ReloadableAgent
from client.deploy.loading import load_training_data
from client.person.watch import ChangeWatch
from common.deploy.roles import PlatformConfig
from common.errors import DataError, StoreError
from common.wire.exchange import AgentReply, AgentRequest
from tests.support.persons import ANNA, BERND, platform_with_persons


class Answering:
    """An agent that says whose data it has."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    def exchange(self, request: AgentRequest) -> AgentReply:
        config = {"users": list(self.data.user_ids)}
        return AgentReply(platform="cinema", kind=request.kind, server_round=0, code="ok", config=config, arrays={})


@pytest.fixture
def platform(tmp_path: Path) -> PlatformConfig:
    return platform_with_persons(tmp_path)


@pytest.fixture
def process(platform: PlatformConfig) -> PlatformProcess:
    made = PlatformProcess(Path("unused"), make=lambda config, data, builder: Answering(data))
    data = load_training_data(platform)
    made._agent, made._used = ReloadableAgent(Answering(data)), (platform, data)
    return made


def users(process: PlatformProcess, kind: str) -> Any:
    assert process._agent is not None
    return process._agent.exchange(AgentRequest(kind=kind, run_id="r", server_round=0, config={}, arrays={})).config[
        "users"
    ]


def test_the_next_run_and_no_run_under_way_is_without_the_person(
    process: PlatformProcess, platform: PlatformConfig
) -> None:
    book = ExclusionBook(platform.state / "store")
    book.add({book.tag(ANNA): "erased"})
    process._leave_out()
    assert ANNA in users(process, "statistics")
    assert ANNA not in users(process, "join")
    assert {BERND, "a", "c"} == set(users(process, "statistics"))
    book.add({book.tag("a"): "objected"})
    process._leave_out()
    assert set(users(process, "join")) == {BERND, "c"}


def test_no_file_is_read_again_for_it(process: PlatformProcess, platform: PlatformConfig) -> None:
    platform.data.interactions.path.write_text("half written")
    book = ExclusionBook(platform.state / "store")
    book.add({book.tag(ANNA): "erased"})
    process._leave_out()
    assert ANNA not in users(process, "join")


def test_a_platform_of_nobody_ends(
    process: PlatformProcess, platform: PlatformConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    book = ExclusionBook(platform.state / "store")
    book.add({book.tag(user): "erased" for user in (ANNA, BERND, "a", "c")})
    with pytest.raises(DataError):
        load_training_data(platform)
    process._leave_out()
    assert sent == [signal.SIGTERM]


def test_a_run_that_begins_at_once_is_without_the_person(
    process: PlatformProcess, platform: PlatformConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is looked at once a second, and making the agent anew takes as long as the data are large."""
    assert process._used is not None
    book, data = ExclusionBook(platform.state / "store"), process._used[1]
    process._agent = ReloadableAgent(Answering(data), process._before_run)
    assert ANNA in users(process, "join")
    book.add({book.tag(ANNA): "erased"})
    assert ANNA in users(process, "statistics"), "of the run under way"
    assert ANNA not in users(process, "join")
    # Nor does one begin that cannot be without somebody.
    monkeypatch.setattr(os, "kill", lambda *_: None)
    book.add({book.tag(user): "erased" for user in (BERND, "a", "c")})
    with pytest.raises(StoreError, match="cannot be used without"):
        users(process, "join")


@pytest.mark.parametrize("error", [MemoryError(), KeyError(ANNA)])
def test_a_platform_that_cannot_leave_somebody_out_ends(
    platform: PlatformConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Whatever goes wrong: the run that follows would be with that person."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))

    def make(*_: Any) -> Any:
        raise error

    made, data = PlatformProcess(Path("unused"), make=make), load_training_data(platform)
    made._agent, made._used = ReloadableAgent(Answering(data)), (platform, data)
    book = ExclusionBook(platform.state / "store")
    book.add({book.tag(ANNA): "erased"})
    made._leave_out()
    assert sent == [signal.SIGTERM]
    assert ANNA not in caplog.text


def test_a_watch_goes_on_after_whatever_went_wrong(tmp_path: Path) -> None:
    book, taken_up, looks = ExclusionBook(tmp_path), threading.Event(), []

    def change() -> None:
        looks.append(1)
        if len(looks) == 1:
            raise KeyError("anna")
        taken_up.set()

    watch = ChangeWatch(book, change, poll_seconds=0.01)
    try:
        book.add({book.tag("anna"): "erased"})
        assert taken_up.wait(30)
    finally:
        watch.stop()


def test_the_list_is_watched(tmp_path: Path) -> None:
    book, changed = ExclusionBook(tmp_path), threading.Event()
    watch = ChangeWatch(book, changed.set, poll_seconds=0.01)
    try:
        book.add({book.tag("anna"): "erased"})
        assert changed.wait(30)
    finally:
        watch.stop()


def test_who_was_added_before_the_watch_began_is_not_missed(tmp_path: Path) -> None:
    book, changed = ExclusionBook(tmp_path), threading.Event()
    before = book.stamp()
    book.add({book.tag("anna"): "erased"})
    watch = ChangeWatch(book, changed.set, seen=before, poll_seconds=0.01)
    try:
        assert changed.wait(30)
    finally:
        watch.stop()
