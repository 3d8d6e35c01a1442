from __future__ import annotations

import gc
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.data.dataset import UserItemMatrix
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.feedback import Event, FeedbackLog
from client.recommend.process import collector_paused
from client.recommend.recommender import Recommender
from client.recommend.snapshot import ServingModel, approximate_recall
from client.service.health import STORE_HEALTH
from client.service.metrics_export import ServingMetrics
from client.service.recommending import RecommenderService
from client.service.server import serve_recommender
from client.service.servicer import RecommenderServicer
from common.config.serving import ServingConfig
from common.errors import StoreError
from common.proto import recommender_pb2 as pb
from simulations.engine.random_model import random_platform_model


class Aborted(Exception):
    pass


class Context:
    """A call whose deadline has passed while it waited for a thread."""

    def time_remaining(self) -> float:
        return -0.01

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Aborted(code)


@pytest.fixture
def serving(tmp_path: Path):
    store = PlatformStore(tmp_path / "store")
    store.commit(random_platform_model(np.random.default_rng(0)))
    with FeedbackLog(tmp_path / "log") as log:
        model = ServingModel(store, log, ServingConfig(cached_users=3))
        model.reload()
        yield model


def test_the_store_is_watched_on_after_whatever_went_wrong(tmp_path: Path) -> None:
    store, looks, served = PlatformStore(tmp_path / "store"), [], threading.Event()

    def change(_: object) -> None:
        looks.append(1)
        if len(looks) == 1:
            raise KeyError("anna")
        served.set()

    with FeedbackLog(tmp_path / "log") as log:
        model = ServingModel(store, log, ServingConfig(poll_seconds=0.01), on_change=change)
        model.start()
        try:
            while not served.wait(0.05):
                assert len(store.versions()) < 100
                store.commit(random_platform_model(np.random.default_rng(0)))
        finally:
            model.stop()


def test_an_items_newest_entry_counts_and_history_stays_in_order():
    model = random_platform_model(np.random.default_rng(0), users=1)
    histories = UserItemMatrix.from_entries(
        np.zeros(3, dtype=int), np.array([4, 5, 6]), np.ones(3), np.array([100, 200, 300]), n_users=1, n_items=60
    )
    recommender = Recommender(replace(model, histories=histories))
    key = model.own.keys
    events = [Event(key[4], 3.0, 400), Event(key[7], 1.0, 250), Event(key[4], 5.0, 350), Event(key[5], 2.0, 150)]
    history = recommender.history_of("user-0", events)
    assert history.columns.tolist() == [5, 7, 6, 4]
    assert history.values.tolist() == [1.0, 1.0, 1.0, 3.0]


def test_a_request_past_its_deadline_costs_no_answer_and_no_event(serving):
    servicer = RecommenderServicer(RecommenderService(serving, ServingConfig(), ServingMetrics()))
    with pytest.raises(Aborted, match="DEADLINE_EXCEEDED"):
        servicer.Recommend(pb.RecommendRequest(user_id="user-1"), Context())
    event = pb.RecordFeedbackRequest(event_id="e", user_id="user-1", item_key="imdb:1")
    with pytest.raises(Aborted, match="DEADLINE_EXCEEDED"):
        servicer.RecordFeedback(event, Context())
    assert len(serving.feedback) == 0


def test_prepared_users_are_limited_and_renewed_by_feedback(serving):
    snapshot = serving.snapshot()
    first = serving.prepared(snapshot, "user-1")
    assert serving.prepared(snapshot, "user-1") is first
    serving.feedback.record("e", "user-1", snapshot.recommender.own.items.keys[0], 1.0, 2 * 10**9)
    renewed = serving.prepared(snapshot, "user-1")
    assert renewed is not first
    assert serving.prepared(snapshot, "user-1") is renewed
    for user in range(2, 7):
        serving.prepared(snapshot, f"user-{user}")
    assert len(snapshot._cache) == 3
    assert serving.prepared(snapshot, "user-1") is not renewed


def test_large_searches_are_approximate_with_a_measured_recall():
    model = random_platform_model(np.random.default_rng(0), own=1500, foreign=80, dimension=8)
    approximate, exact = Recommender(model, approximate_above=1000), Recommender(model)
    recall = approximate_recall(approximate, users=20)
    assert set(recall) == {"own"}
    assert 0.95 <= recall["own"] <= 1.0
    assert approximate_recall(exact) == {}
    listed, expected = (each.recommend("user-1", k=20) for each in (approximate, exact))
    assert len({item.key for item in listed} & {item.key for item in expected}) >= 18
    assert not {item.key for item in listed} & {model.own.keys[c] for c in model.histories.row(1)}


def test_without_a_model_there_is_a_clear_refusal(tmp_path):
    with FeedbackLog(tmp_path / "log") as log:
        model = ServingModel(PlatformStore(tmp_path / "store"), log, ServingConfig())
        with pytest.raises(StoreError, match="no model yet"):
            model.snapshot()
        assert not model.ready


def test_the_watcher_outlives_a_version_that_cannot_be_loaded(tmp_path):
    store = PlatformStore(tmp_path / "store")
    store.commit(random_platform_model(np.random.default_rng(0)))
    failed, swapped = threading.Event(), threading.Event()

    def changed(snapshot) -> None:
        if snapshot is None:
            failed.set()
        elif snapshot.version == 2:
            swapped.set()

    with FeedbackLog(tmp_path / "log") as log:
        model = ServingModel(store, log, ServingConfig(poll_seconds=0.01), on_change=changed)
        model.start()
        (store.root / "CURRENT").write_text("99\n")
        assert failed.wait(30)
        assert model.snapshot().version == 1
        store.commit(random_platform_model(np.random.default_rng(1)))
        assert swapped.wait(30)
        model.stop()


class NotingStore(PlatformStore):
    """Notes which versions are loaded, and whether the collector runs meanwhile."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: list[int | None] = []
        self.collecting: list[bool] = []

    def load(self, version: int | None = None) -> PlatformModel:
        self.read.append(version)
        self.collecting.append(gc.isenabled())
        return super().load(version)


def test_loading_pauses_the_collector_and_hands_it_back(tmp_path: Path) -> None:
    store = NotingStore(tmp_path / "store")
    store.commit(random_platform_model(np.random.default_rng(1)))
    with FeedbackLog(tmp_path / "log") as log:
        ServingModel(store, log, ServingConfig()).reload()
    assert store.collecting == [False]
    assert gc.isenabled()
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()
    gc.enable()


def test_serving_and_its_client_need_no_tensorflow():
    code = (
        "import sys, client.service.client, client.service.server\n"
        "print([name for name in ('tensorflow', 'keras', 'torch', 'opacus', 'numba', 'polars') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_library_needs_no_scipy():
    code = "import sys, client.service.client; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_recommender_takes_up_a_new_version_without_polling(tmp_path: Path) -> None:
    changed = threading.Event()
    with FeedbackLog(tmp_path / "log") as log:
        store = PlatformStore(tmp_path / "store")
        config = ServingConfig(poll_seconds=3600.0)
        model = ServingModel(store, log, config, on_change=lambda snapshot: changed.set() if snapshot else None)
        model.start()
        try:
            store.commit(random_platform_model(np.random.default_rng(0)))
            model.look()
            assert changed.wait(30)
            assert model.snapshot().version == 1
        finally:
            model.stop()


class Watching:
    """A serving model over a store of three versions, and all that it tells."""

    def __init__(self, folder: Path, log: FeedbackLog) -> None:
        self.store = NotingStore(folder)
        for seed in range(3):
            self.store.commit(random_platform_model(np.random.default_rng(seed)))
        self.failures = 0
        self.told: list[tuple[str, ...]] = []
        self.model = ServingModel(
            self.store,
            log,
            ServingConfig(),
            on_change=self.change,
            on_problems=lambda told: self.told.append(tuple(told)),
        )

    def change(self, snapshot: object) -> None:
        self.failures += snapshot is None

    def damage(self, version: int, content: bytes = b"") -> bytes:
        path = self.store.root / "versions" / f"{version:06d}" / "arrays.npz"
        before = path.read_bytes()
        path.write_bytes(content)
        return before


def test_the_newest_sound_version_serves_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FeedbackLog(tmp_path / "log") as log:
        watching = Watching(tmp_path / "store", log)
        before = watching.damage(3)
        assert watching.model.reload()
        assert watching.model.snapshot().version == 2
        assert not watching.model.reload(), "what is damaged is not read again until a file changes"
        assert watching.store.read == [3, 2]
        assert watching.failures == 1
        [[problem]] = watching.told
        assert "000003: damaged" in problem
        assert caplog.text.count("000003: damaged") == 1
        watching.damage(3, before)
        assert watching.model.reload()
        assert watching.model.snapshot().version == 3
        assert watching.told[-1] == ()


@pytest.mark.parametrize("content", ["", "three", "99"])
def test_a_garbled_current_does_not_say_no_model_yet(tmp_path: Path, content: str) -> None:
    with FeedbackLog(tmp_path / "log") as log:
        watching = Watching(tmp_path / "store", log)
        (watching.store.root / "CURRENT").write_text(content)
        assert watching.model.reload()
        assert watching.model.snapshot().version == 3
        assert "CURRENT: names no version" in watching.model.problems[0]


def test_a_version_that_does_not_hold_together_is_passed_over(tmp_path: Path) -> None:
    """The files are sound, and what they say is not."""
    with FeedbackLog(tmp_path / "log") as log:
        watching = Watching(tmp_path / "store", log)
        sound = watching.store.load(3)
        beyond = np.where(sound.own_positions >= 0, sound.own_positions + 1000, -1)
        watching.store.commit(replace(sound, own_positions=beyond.astype(np.int32)))
        watching.model.reload()
        assert watching.model.snapshot().version == 3
        assert "version 4 of the store does not hold together" in watching.model.problems[0]


def test_health_and_metrics_show_a_damaged_store(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path / "store")
    for seed in range(2):
        store.commit(random_platform_model(np.random.default_rng(seed)))
    (store.root / "versions" / "000002" / "manifest.json").write_text("{")
    metrics = ServingMetrics()
    with (
        serve_recommender(tmp_path / "store", port=0, metrics=metrics) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        said = {name: check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", STORE_HEALTH)}
    assert said == {
        "": health_pb2.HealthCheckResponse.SERVING,
        STORE_HEALTH: health_pb2.HealthCheckResponse.NOT_SERVING,
    }
    assert metrics.registry.get_sample_value("crossfed_store_problems") == 1.0
    assert metrics.registry.get_sample_value("crossfed_model_version") == 1.0
