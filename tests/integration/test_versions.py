"""Versions of a model while a service runs: back and forth, split, in a shadow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.personalization.store import PlatformStore
from client.recommend.recommender import Recommender
from client.service.client import RecommenderClient
from client.service.metrics_export import ServingMetrics
from client.service.server import RecommenderServer, serve_recommender
from client.versions.outcomes import read_shown
from common.config.serving import ServingConfig
from common.errors import StoreError
from common.proto import recommender_pb2 as pb
from simulations.engine.random_model import random_platform_model
from tests.support.waiting import until

USERS = [f"user-{number}" for number in range(20)]


@pytest.fixture
def store(tmp_path: Path) -> PlatformStore:
    store = PlatformStore(tmp_path / "store", keep=3)
    for seed in range(3):
        store.commit(random_platform_model(np.random.default_rng(seed)))
    return store


def by_version(store: PlatformStore, k: int = 5) -> dict[int, dict[str, list[str]]]:
    found = {}
    for version in store.versions():
        recommender = Recommender(store.load(version))
        found[version] = {user: [one.key for one in recommender.recommend(user, k)] for user in USERS}
    return found


def asked(server: RecommenderServer, client: RecommenderClient, user: str) -> pb.RecommendReply:
    return client._stub.Recommend(pb.RecommendRequest(user_id=user, k=5), timeout=30)


def test_a_running_service_follows_back_and_forth(store):
    expected = by_version(store)
    with (
        serve_recommender(store.root, config=ServingConfig(poll_seconds=0.01)) as server,
        RecommenderClient(server.target) as client,
    ):
        for version in (1, 3, 2):
            store.serve(version)
            until(lambda version=version: server.model.snapshot().version == version)
            assert [one.key for one in client.recommend("user-3", 5)] == expected[version]["user-3"]
    assert store.current() == 2
    with pytest.raises(StoreError, match="there is no version 9"):
        store.serve(9)
    (store.root / "versions" / "000001" / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        store.serve(1)
    assert store.current() == 2


def test_training_serves_anew_and_keeps_what_is_compared(store):
    store.experiments.begin("split", 1, 0.5)
    store.serve(2)
    for seed in (7, 8, 9):
        store.commit(random_platform_model(np.random.default_rng(seed)))
    assert (store.current(), store.versions()) == (6, [1, 4, 5, 6])
    store.experiments.end()
    store.commit(random_platform_model(np.random.default_rng(10)))
    assert store.versions() == [5, 6, 7]
    assert set(store.told(7)) == {"server_round", "verdict", "cross", "recency", "written"}


def test_users_are_split_the_same_in_answers_reasons_and_feedback(store):
    expected = by_version(store)
    experiment = store.experiments.begin("split", 1, 0.5)
    with serve_recommender(store.root) as server, RecommenderClient(server.target) as client:
        variants = set()
        for user in USERS:
            reply = asked(server, client, user)
            version = 1 if experiment.variant(user) == "challenger" else 3
            assert (reply.variant, reply.model.version) == (experiment.variant(user), version)
            assert [one.key for one in reply.items] == expected[version][user]
            receipt = client.record_feedback(user, "imdb:0000001")
            assert receipt.variant == reply.variant
            variants.add(reply.variant)
        assert variants == {"current", "challenger"}
        assert client._stub.RecommendForHistory(pb.RecommendForHistoryRequest(), timeout=30).variant == ""
        noted = read_shown(store.experiments.shown_path)
        assert len(noted) == len(USERS)
        assert {variant for variant, _, _ in noted} == variants
        store.experiments.end()
        server.model.reload()
        reply = asked(server, client, USERS[0])
        assert (reply.variant, reply.model.version) == ("", 3)


def test_a_challenger_that_cannot_be_read_shows_nobody_anything(store, caplog):
    store.experiments.begin("split", 1, 0.5)
    (store.root / "versions" / "000001" / "arrays.npz").write_bytes(b"")
    with serve_recommender(store.root) as server, RecommenderClient(server.target) as client:
        assert {asked(server, client, user).model.version for user in USERS} == {3}
        assert any("challenger" in problem for problem in server.model.problems)


def test_a_shadow_is_compared_and_shown_to_nobody(store):
    expected = by_version(store)
    store.experiments.begin("shadow", 1, 1.0)
    metrics = ServingMetrics()
    value = metrics.registry.get_sample_value
    with serve_recommender(store.root, metrics=metrics) as server, RecommenderClient(server.target) as client:
        for user in USERS:
            reply = asked(server, client, user)
            assert (reply.variant, reply.model.version) == ("", 3)
            assert [one.key for one in reply.items] == expected[3][user]
        until(lambda: value("crossfed_shadow_overlap_count") == len(USERS))
        common = sum(len(set(expected[3][user]) & set(expected[1][user])) / 5 for user in USERS)
        assert value("crossfed_shadow_overlap_sum") == pytest.approx(common)
        assert not store.experiments.shown_path.exists()
        # What breaks in a shadow is counted, and nobody else's trouble.
        server.model.shadow.recommender.recommend_for = None
        assert asked(server, client, USERS[0]).items
        until(lambda: value("crossfed_shadow_failures_total") == 1)
