"""Several recommenders on one store: they only read, follow new versions, and see what the one that records has recorded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from client.data.reading.exclusions import EXCLUSIONS_FILE, ExclusionBook
from client.personalization.store import PlatformStore
from client.recommend.feedback import FeedbackLog
from client.recommend.feedback_file import FEEDBACK_LOG, FeedbackReader
from client.service.server import serve_recommender
from common.config.serving import HttpConfig, ServingConfig
from common.errors import ContractError
from simulations.engine.random_model import random_platform_model
from tests.support.waiting import until

HTTP = ServingConfig(http=HttpConfig(port=0))


@pytest.fixture
def store(tmp_path: Path) -> PlatformStore:
    store = PlatformStore(tmp_path / "store")
    store.commit(random_platform_model(np.random.default_rng(0)))
    return store


@contextmanager
def reading_process(store: PlatformStore) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "client", "serve", "--store", str(store.root), "--read-only"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--http-port", "0"], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("HTTP at "))
        with httpx.Client(base_url=line.split()[2], timeout=60) as asked:
            yield asked
    finally:
        process.terminate()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def listed(asked: httpx.Client, user: str) -> tuple[int, list[str]]:
    answer = asked.post("/v1/recommend", json={"user_id": user, "k": 5}).raise_for_status().json()
    return int(answer["model"]["version"]), [item["key"] for item in answer["items"]]


def test_two_processes_read_one_store_and_follow_it(store: PlatformStore) -> None:
    user = store.load().user_ids[0]
    before = files_in(store.root)
    with reading_process(store) as one, reading_process(store) as other:
        assert listed(one, user) == listed(other, user)
        refused = one.post("/v1/feedback", json={"event_id": "e", "user_id": user, "item_key": "imdb:1"})
        assert (refused.status_code, "only reads" in refused.text) == (400, True)
        assert files_in(store.root) == before, "nothing was written"
        store.commit(random_platform_model(np.random.default_rng(1)))
        again = store.load().user_ids[0]
        until(lambda: listed(one, again)[0] == listed(other, again)[0] == 2)
        assert listed(one, again) == listed(other, again)


def test_a_reader_sees_what_another_records(store: PlatformStore) -> None:
    model = store.load()
    user, key = model.user_ids[0], model.own.keys[int(np.setdiff1d(np.arange(9), model.histories.row(0))[0])]
    with (
        serve_recommender(store.root, config=HTTP) as writing,
        serve_recommender(store.root, config=HTTP, read_only=True) as reading,
        httpx.Client(base_url=f"http://{writing.http_target}", timeout=60) as recorder,
        httpx.Client(base_url=f"http://{reading.http_target}", timeout=60) as reader,
    ):
        assert listed(reader, user) == listed(recorder, user)
        recorder.post("/v1/feedback", json={"event_id": "e", "user_id": user, "item_key": key}).raise_for_status()
        expected = listed(recorder, user)
        until(lambda: listed(reader, user) == expected)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_reader_looks_once_a_second_and_forgets_who_is_left_out(tmp_path: Path) -> None:
    clock = Clock()
    reader = FeedbackReader(tmp_path / FEEDBACK_LOG, clock=clock)
    assert reader.events_of("anna") == ()
    with FeedbackLog(tmp_path / FEEDBACK_LOG) as log:
        log.record("1", "anna", "imdb:1", 1.0, 5)
        assert reader.events_of("anna") == ()
        clock.now += 1
        seen = reader.events_of("anna")
        assert seen == log.events_of("anna") != ()
        log.record("2", "bert", "imdb:1", 1.0, 6)
        clock.now += 1
        assert reader.events_of("anna") is seen
        assert len(reader.events_of("bert")) == 1
    book = ExclusionBook(tmp_path)
    book.add({book.tag("anna"): "erased"})
    reader.forget_excluded()
    assert reader.events_of("anna") == ()
    (tmp_path / FEEDBACK_LOG).unlink()
    clock.now += 1
    assert reader.events_of("bert") == ()


def test_a_reader_keeps_what_it_knew_of_a_damaged_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with FeedbackLog(tmp_path / FEEDBACK_LOG) as log:
        log.record("1", "anna", "imdb:1", 1.0, 5)
    reader = FeedbackReader(tmp_path / FEEDBACK_LOG, clock=clock)
    seen = reader.events_of("anna")
    (tmp_path / FEEDBACK_LOG).write_bytes(b"anna was here\n")
    clock.now += 1
    assert reader.events_of("anna") == seen
    assert "anna" not in caplog.text.replace(str(tmp_path), "")
    with pytest.raises(ContractError, match="only reads"):
        reader.record("2", "anna", "imdb:1", 1.0, 5)


def test_a_reader_recovers_from_an_unreadable_list(tmp_path: Path) -> None:
    seconds = [0.0]
    reader = FeedbackReader(tmp_path / FEEDBACK_LOG, clock=lambda: seconds[0])
    with FeedbackLog(tmp_path / FEEDBACK_LOG) as log:
        log.record("e1", "anna", "imdb:1", 1.0, 1_700_000_000)
        log.record("e2", "bert", "imdb:1", 1.0, 1_700_000_000)
    book = ExclusionBook(tmp_path)
    book.add({book.tag("bert"): "erased"})
    path = tmp_path / EXCLUSIONS_FILE
    sound = path.read_bytes()
    path.write_bytes(b"{")
    assert reader.events_of("anna") == (), "nobody's data may be used while nobody can tell who is left out"
    path.write_bytes(sound)
    seconds[0] += 10
    assert len(reader.events_of("anna")) == 1
    assert reader.events_of("bert") == ()
