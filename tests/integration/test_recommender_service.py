"""The recommender's service over a real channel on loopback."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import signal
import subprocess
import sys
import threading
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from client.data.recorded import EventRules
from client.personalization.store import PlatformStore
from client.recommend.answers import ItemFilter
from client.recommend.recommender import Recommender
from client.service import request_fields
from client.service.client import RecommenderClient
from client.service.health import SERVICE
from client.service.metrics_export import ServingMetrics, expose_metrics
from client.service.server import RecommenderServer, TlsFiles, serve_recommender
from client.steering.hidden import HiddenItems
from client.steering.steering import Steering
from common.config.serving import ServingConfig
from common.errors import ConfigError, ContractError, DataError, PlatformError
from common.proto import recommender_pb2 as pb
from common.proto.recommender_pb2_grpc import RecommenderStub
from simulations.engine.random_model import random_platform_model
from tests.support.breaking import BreakingRules

TOKEN = "a secret token"


@pytest.fixture
def store(tmp_path: Path) -> PlatformStore:
    store = PlatformStore(tmp_path / "store")
    store.commit(random_platform_model(np.random.default_rng(0)))
    return store


@pytest.fixture
def server(store: PlatformStore):
    with serve_recommender(store.root, token=TOKEN) as running:
        yield running


@pytest.fixture
def client(server: RecommenderServer):
    with RecommenderClient(server.target, token=TOKEN) as asking:
        yield asking


@pytest.fixture
def stub(server: RecommenderServer):
    """Calls without the client library, for what it would not send; the token goes along."""
    with grpc.insecure_channel(server.target) as channel:
        yield RecommenderStub(channel), (("authorization", f"Bearer {TOKEN}"),)


def status_of(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_answers_what_the_recommender_answers_in_process(store, client):
    direct = Recommender(store.load())
    for scope in ("own", "cross", "all"):
        got, expected = client.recommend("user-1", k=7, scope=scope), direct.recommend("user-1", k=7, scope=scope)
        assert [(item.key, item.title, item.genres, item.platforms) for item in got] == [
            (item.key, item.title, item.genres, item.platforms) for item in expected
        ]
        np.testing.assert_allclose([item.score for item in got], [item.score for item in expected], rtol=1e-6)
    wanted = ItemFilter(any_genres=("Drama",), platforms=("there",))
    assert client.recommend("user-1", wanted=wanted) == direct.recommend("user-1", wanted=wanted)
    history = [(direct.own.items.keys[i], 1.0) for i in (3, 5, 8)]
    expected = direct.recommend_for(direct.prepare(direct.history_from(history)[0]), k=5)
    assert [item.key for item in client.recommend_for_history(history, k=5)] == [item.key for item in expected]
    key = direct.own.items.keys[3]
    assert [item.key for item in client.similar_items(key, k=5)] == [item.key for item in direct.similar(key, k=5)]
    assert client.explain("user-1", key, limit=3) == direct.explain(direct.history_of("user-1"), key, limit=3)
    assert client.explain_for_history(history, key).score == direct.explain(direct.history_from(history)[0], key).score
    assert len(client.recommend("user-1")) == 10


def test_feedback_is_in_the_next_recommendation(client):
    before = client.recommend("user-1", k=5, scope="own")
    receipt = client.record_feedback("user-1", before[0].key, event_id="event")
    assert (receipt.sequence, receipt.duplicate, receipt.reflected) == (1, False, True)
    after = client.recommend("user-1", k=5, scope="own")
    assert before[0].key not in {item.key for item in after}
    assert [item.score for item in after] != [item.score for item in before[1:]]  # the factor moved, too
    assert client.record_feedback("user-1", before[0].key, event_id="event").duplicate
    assert client.recommend("user-1", k=5, scope="own") == after


def test_feedback_makes_a_user_known_and_a_foreign_item_seen(client):
    with pytest.raises(DataError, match="does not know that user"):
        client.recommend("someone new")
    liked = client.recommend("user-1", k=2, scope="own")
    foreign = client.recommend("user-1", k=1, scope="cross")[0].key
    for key in (liked[0].key, foreign):
        client.record_feedback("someone new", key)
    listed = client.recommend("someone new", k=500)
    assert not {liked[0].key, foreign} & {item.key for item in listed}
    assert client.recommend("someone new", k=3, scope="own")[0].score > 0
    assert client.explain("someone new", liked[1].key).contributions[0].key == liked[0].key


RATED = EventRules(meaning="judged", threshold=4.0, value_range=(1.0, 5.0), one_weight=True)


def test_spellings_of_one_user_are_one_user_in_every_request(client):
    liked = client.recommend("user-1", k=3, scope="own")
    assert client.recommend(" user-1\ufeff", k=3, scope="own") == liked
    client.record_feedback("T ", liked[0].key)
    client.record_feedback("T", f" {liked[1].key} ")
    assert client.recommend("T", k=3, scope="own") == client.recommend("\tT", k=3, scope="own")
    assert client.explain("T ", f"{liked[2].key} ") == client.explain("T", liked[2].key)
    assert client.similar_items(f" {liked[2].key}") == client.similar_items(liked[2].key)
    assert {part.key for part in client.explain("T", liked[2].key).contributions} == {liked[0].key, liked[1].key}
    for nobody in ("NULL", " ", "nan"):
        with pytest.raises(ContractError, match=r"INVALID_ARGUMENT: user_id: "):
            client.recommend(nobody)
        with pytest.raises(ContractError, match=r"INVALID_ARGUMENT: user_id: "):
            client.record_feedback(nobody, liked[0].key)


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"value": -5.0}, "value"),
        ({"value": 0.0}, "value"),
        ({"value": float("nan")}, "value"),
        ({"user_id": "None"}, "user_id"),
        ({"user_id": "u" * 600}, "user_id"),
        ({"item_key": "imdb:NULL"}, "item_key"),
        ({"time": 1_700_000_000_000}, "time"),
        ({"time": -1}, "time"),
    ],
)
def test_a_wrong_value_is_refused_by_field_before_there_is_a_model(tmp_path, sent, field):
    """−5 before the first model was recorded, and kept every later run from finishing."""
    good = {"event_id": "e", "user_id": "user", "item_key": "imdb:1", "value": 1.0}
    rules = EventRules(meaning="weight")
    with serve_recommender(tmp_path / "store", rules=rules) as server, grpc.insecure_channel(server.target) as channel:
        stub = RecommenderStub(channel)
        status = status_of(lambda: stub.RecordFeedback(pb.RecordFeedbackRequest(**(good | sent))))
        assert (status[0], status[1].split(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert not server.model.feedback.recorded().user_ids
        assert stub.RecordFeedback(pb.RecordFeedbackRequest(**good)).sequence == 1


def test_ratings_count_by_the_platforms_threshold_in_training_too(store):
    with serve_recommender(store.root, rules=RATED) as server, RecommenderClient(server.target) as client:
        keys = [item.key for item in client.recommend("user-1", k=4, scope="own")]
        client.record_feedback("liker", keys[0], value=5.0)
        client.record_feedback("liker", keys[1], value=2.0)
        plain = client.explain_for_history([(keys[0], 4.0)], keys[2]).score
        assert client.explain("liker", keys[2]).score == pytest.approx(plain)
        with pytest.raises(ContractError, match=r"value: must lie between 1 and 5 .*value_range"):
            client.record_feedback("liker", keys[3], value=6.0)


def test_feedback_on_an_item_that_no_model_knows_is_kept_for_the_next(client, server):
    assert not client.record_feedback("user-1", "imdb:brand-new").reflected
    assert server.model.feedback.recorded().item_keys == ("imdb:brand-new",)


def test_feedback_is_there_after_a_restart(store):
    with serve_recommender(store.root) as server, RecommenderClient(server.target) as client:
        key = client.recommend("user-1", k=1, scope="own")[0].key
        client.record_feedback("user-1", key, event_id="event")
        expected = client.recommend("user-1", k=5)
    with serve_recommender(store.root) as server, RecommenderClient(server.target) as client:
        assert client.recommend("user-1", k=5) == expected
        assert client.record_feedback("user-1", key, event_id="event").duplicate


KILLED_BEFORE_THE_ANSWER = """
import os, signal, sys
from pathlib import Path
from client.recommend import feedback
from client.service.server import serve_recommender

real, server = os.fsync, serve_recommender(Path(sys.argv[1]))

def fsync_and_die(descriptor):
    real(descriptor)
    os.kill(os.getpid(), signal.SIGKILL)

feedback.os.fsync = fsync_and_die
print(server.target, flush=True)
signal.pause()
"""


def test_a_kill_around_a_feedback_write_loses_and_doubles_nothing(store):
    command = [sys.executable, "-c", KILLED_BEFORE_THE_ANSWER, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        target = process.stdout.readline().strip()
        with RecommenderClient(target, retry=False) as client:
            key = client.recommend("user-1", k=1, scope="own")[0].key
            with pytest.raises(PlatformError, match="UNAVAILABLE"):
                client.record_feedback("user-1", key, event_id="event")
        assert process.wait(30) == -signal.SIGKILL
    with serve_recommender(store.root) as server, RecommenderClient(server.target) as client:
        assert key not in {item.key for item in client.recommend("user-1", k=500)}
        assert client.record_feedback("user-1", key, event_id="event").duplicate
        assert len(server.model.feedback) == 1


def test_every_answer_is_of_one_version_while_models_are_swapped(store, server):
    versions = {1: store.load()}
    for seed in (1, 2):
        versions[seed + 1] = random_platform_model(np.random.default_rng(seed))
    expected = {
        number: [item.key for item in Recommender(model).recommend("user-3", k=5)] for number, model in versions.items()
    }
    stop = threading.Event()

    def ask(_: int) -> list[tuple[int, list[str]]]:
        answers = []
        with grpc.insecure_channel(server.target) as channel:
            stub = RecommenderStub(channel)
            request = pb.RecommendRequest(user_id="user-3", k=5)
            while not stop.is_set() or len(answers) < 100:
                reply = stub.Recommend(request, metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=30)
                answers.append((reply.model.version, [item.key for item in reply.items]))
        return answers

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, number) for number in range(3)]
        for number in (2, 3):
            store.commit(versions[number])
            assert server.model.reload()
        stop.set()
        answers = [answer for each in asking for answer in each.result()]
    assert len(answers) >= 300
    assert all(keys == expected[version] for version, keys in answers)
    assert answers[-1][0] == 3


def test_feedback_outlives_a_swap(store, server, client):
    key = client.recommend("user-1", k=1, scope="own")[0].key
    client.record_feedback("user-1", key)
    store.commit(random_platform_model(np.random.default_rng(0)))
    assert server.model.reload()
    assert key not in {item.key for item in client.recommend("user-1", k=500)}


def test_the_store_is_watched(tmp_path):
    store = PlatformStore(tmp_path / "store")
    with (
        serve_recommender(store.root, config=ServingConfig(poll_seconds=0.01)) as server,
        grpc.insecure_channel(server.target) as channel,
        RecommenderClient(server.target) as client,
    ):
        assert health_of(channel, SERVICE) == "NOT_SERVING"
        with pytest.raises(PlatformError, match="UNAVAILABLE: no model yet"):
            client.recommend("user-1")
        assert not client.record_feedback("user-1", "imdb:0000001").reflected  # durable all the same
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30)
        store.commit(random_platform_model(np.random.default_rng(0)))
        assert any(change.status == health_pb2.HealthCheckResponse.SERVING for change in watched)
        assert client.recommend("user-1")


def test_a_version_that_cannot_be_read_leaves_the_old_one_serving(store, server, client):
    number = store.commit(random_platform_model(np.random.default_rng(5)))
    (store.root / "versions" / f"{number:06d}" / "manifest.json").write_text("{")
    assert not server.model.reload()
    assert f"{number:06d}: damaged" in server.model.problems[0]
    assert client.recommend("user-1")
    model = random_platform_model(np.random.default_rng(6))
    store.commit(replace(model, own_positions=model.own_positions[:-2]))
    assert not server.model.reload()
    assert "does not hold together" in server.model.problems[0]
    assert server.model.snapshot().version < number
    assert client.recommend("user-1")


def test_without_the_token_nothing_is_answered_but_health(store, server):
    for token in (None, "wrong", TOKEN + " "):
        with RecommenderClient(server.target, token=token) as client, pytest.raises(ConfigError, match="API token"):
            client.recommend("user-1")
    with grpc.insecure_channel(server.target) as channel:
        assert health_of(channel) == "SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        twice = (("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other"))
        request = pb.RecommendRequest(user_id="user-1")
        assert (
            status_of(lambda: RecommenderStub(channel).Recommend(request, metadata=twice))[0].name == "UNAUTHENTICATED"
        )


def test_reflection_lists_the_service(store):
    with serve_recommender(store.root) as server, grpc.insecure_channel(server.target) as channel:
        assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_refused_request_is_explained_by_field_without_the_user(stub, caplog):
    calls, token = stub
    caplog.set_level(logging.DEBUG)
    user = "anna@example.org"
    history = [pb.HistoryItem(item_key="imdb:0000001", value=float("nan"))]
    wrong = [
        (calls.Recommend, pb.RecommendRequest(), "INVALID_ARGUMENT", "user_id"),
        (calls.Recommend, pb.RecommendRequest(user_id=user), "NOT_FOUND", "does not know that user"),
        (calls.Recommend, pb.RecommendRequest(user_id="user-1", k=-1), "INVALID_ARGUMENT", "k: must lie in 1 … 1000"),
        (calls.Recommend, pb.RecommendRequest(user_id="user-1", k=1001), "INVALID_ARGUMENT", "k: must lie in"),
        (calls.Recommend, pb.RecommendRequest(user_id="user-1", scope=9), "INVALID_ARGUMENT", "scope"),
        (
            calls.Recommend,
            pb.RecommendRequest(user_id="user-1", filter=pb.ItemFilter(platforms=["nowhere"])),
            "INVALID_ARGUMENT",
            r"filter.platforms: nowhere",
        ),
        (
            calls.Recommend,
            pb.RecommendRequest(user_id="user-1", filter=pb.ItemFilter(any_genres=["x"] * 101)),
            "INVALID_ARGUMENT",
            "filter: at most 100",
        ),
        (calls.RecommendForHistory, pb.RecommendForHistoryRequest(history=history), "INVALID_ARGUMENT", "value"),
        (
            calls.RecommendForHistory,
            pb.RecommendForHistoryRequest(history=[pb.HistoryItem(item_key="a:b")] * 10_001),
            "INVALID_ARGUMENT",
            "history: at most 10000",
        ),
        (calls.SimilarItems, pb.SimilarItemsRequest(item_key="imdb:none"), "NOT_FOUND", "imdb:none"),
        (calls.Explain, pb.ExplainRequest(item_key="imdb:1"), "INVALID_ARGUMENT", "user_id, history"),
        (calls.Explain, pb.ExplainRequest(user_id=user, item_key="imdb:1"), "NOT_FOUND", "does not know that user"),
        (calls.Explain, pb.ExplainRequest(user_id="user-1", item_key="x:y"), "NOT_FOUND", "x:y"),
        (
            calls.RecordFeedback,
            pb.RecordFeedbackRequest(user_id=user, item_key="imdb:1"),
            "INVALID_ARGUMENT",
            "event_id",
        ),
        (
            calls.RecordFeedback,
            pb.RecordFeedbackRequest(event_id="e", user_id=user, item_key="no namespace"),
            "INVALID_ARGUMENT",
            "namespace:id",
        ),
        (
            calls.RecordFeedback,
            pb.RecordFeedbackRequest(event_id="e", user_id=user, item_key="imdb:1", value=-1),
            "INVALID_ARGUMENT",
            "value",
        ),
    ]
    for call, request, code, text in wrong:
        got, details = status_of(lambda call=call, request=request: call(request, metadata=token))
        assert (got.name, text in details) == (code, True), (code, details)
        assert user not in details
    assert user not in caplog.text


@pytest.mark.parametrize("value", [0.0, -1.0, 1000.5, 1e30, 1e300, 1e-300, float("inf"), float("nan")])
def test_a_weight_out_of_bounds_is_refused_in_feedback_and_histories(stub, value):
    calls, token = stub
    feedback = pb.RecordFeedbackRequest(event_id="e", user_id="user-1", item_key="imdb:1", value=value)
    given = pb.RecommendForHistoryRequest(history=[pb.HistoryItem(item_key="imdb:0000001", value=value)])
    for call, request in ((calls.RecordFeedback, feedback), (calls.RecommendForHistory, given)):
        got, details = status_of(lambda call=call, request=request: call(request, metadata=token))
        assert got is grpc.StatusCode.INVALID_ARGUMENT
        assert details == "value: must be a weight above 0 and at most 1000"


@pytest.mark.parametrize(
    ("value", "refused"), [(-1000.0, False), (0.0, False), (1000.0, False), (1e30, True), (-1e4, True)]
)
def test_a_rating_may_be_any_number_of_a_size_that_can_be_trained_on(value, refused):
    item = pb.HistoryItem(item_key="imdb:0000001", value=value)
    if refused:
        with pytest.raises(ContractError, match="value: must be a number of an absolute value of at most 1000"):
            request_fields.value_of(item, EventRules(meaning="rating"))
    else:
        assert request_fields.value_of(item, EventRules(meaning="rating")) == value


def test_the_largest_weight_is_recorded(client):
    assert client.record_feedback("user-1", "imdb:0000001", value=1000.0).sequence > 0


def test_an_item_is_hidden_at_once_and_after_a_restart(store, server, client):
    key = client.recommend("user-1", k=1)[0].key
    assert key in {one.key for one in client.similar_items(client.recommend("user-1", k=2)[1].key, k=500)}
    HiddenItems(store.root).hide([key])
    assert key not in {one.key for one in client.recommend("user-1", k=500)}
    assert key not in {one.key for one in client.recommend_for_history([], k=500)}
    assert key not in {one.key for one in client.similar_items(client.recommend("user-1", k=2)[1].key, k=500)}
    assert client.recommend("user-1", steering=Steering(allow_keys=(key,))) == []
    server.stop()
    with serve_recommender(store.root) as again, RecommenderClient(again.target) as client:
        assert key not in {one.key for one in client.recommend("user-1", k=500)}
        HiddenItems(store.root).show([key])
        assert client.recommend("user-1", k=1)[0].key == key


def test_a_list_is_steered_as_asked_for_within_bounds(client, stub):
    plain = client.recommend("user-1", k=10)
    spread = client.recommend("user-1", k=10, steering=Steering(foreign_share=0.5, diversity=0.3))
    assert sum("here" not in one.platforms for one in spread) == 5
    assert client.recommend("user-1", k=3, steering=Steering(deny_keys=(plain[0].key,))) == plain[1:4]
    calls, token = stub
    for name in ("foreign_share", "diversity", "novelty"):
        for value in (-0.1, 1.1, float("nan"), float("inf")):
            request = pb.RecommendRequest(user_id="user-1", steering=pb.Steering(**{name: value}))
            got, details = status_of(lambda request=request: calls.Recommend(request, metadata=token))
            assert (got.name, details) == ("INVALID_ARGUMENT", f"steering.{name}: must lie in 0 … 1")
    request = pb.RecommendRequest(user_id="user-1", steering=pb.Steering(deny_keys=["x:y"] * 10_001))
    assert "steering.deny_keys: at most" in status_of(lambda: calls.Recommend(request, metadata=token))[1]


def test_an_event_id_is_good_for_one_event(client):
    event = str(uuid.uuid4())
    client.record_feedback("user-1", "imdb:0000001", event_id=event)
    with pytest.raises(ContractError, match="event_id"):
        client.record_feedback("user-1", "imdb:0000002", event_id=event)


def test_a_defect_is_answered_without_its_text(store, caplog):
    with (
        serve_recommender(
            store.root, feedback=store.root / "other.log", rules=BreakingRules(meaning="weight")
        ) as broken,
        grpc.insecure_channel(broken.target) as channel,
    ):
        calls = RecommenderStub(channel)
        code, details = status_of(lambda: calls.Recommend(pb.RecommendRequest(user_id="user-1")))
    assert (code.name, "anna" in details, "anna" in caplog.text) == ("INTERNAL", False, False)
    assert "Recommend failed with KeyError" in caplog.text


def test_malformed_and_oversized_messages_are_refused(server):
    with grpc.insecure_channel(server.target, options=(("grpc.max_send_message_length", -1),)) as channel:
        raw = channel.unary_unary(f"/{SERVICE}/Recommend")
        token = (("authorization", f"Bearer {TOKEN}"),)
        assert status_of(lambda: raw(b"\xff\xff\xff not protobuf", metadata=token))[0].name == "INTERNAL"
        assert status_of(lambda: raw(b"\0" * (2 << 20), metadata=token))[0].name == "RESOURCE_EXHAUSTED"
        assert health_of(channel) == "SERVING"


def test_a_request_whose_deadline_passed_in_the_queue_is_not_answered(store):
    config = ServingConfig(workers=1)
    with serve_recommender(store.root, config=config) as server, grpc.insecure_channel(server.target) as channel:
        blocked, released = threading.Event(), threading.Event()
        recommender = server.model.snapshot().recommender
        original, asked = recommender.recommend_for, []

        def slow(*args, **kwargs):
            asked.append(1)
            blocked.set()
            released.wait(30)
            return original(*args, **kwargs)

        recommender.recommend_for = slow
        stub = RecommenderStub(channel)
        first = stub.Recommend.future(pb.RecommendRequest(user_id="user-1"), timeout=30)
        assert blocked.wait(30)
        late = stub.Recommend.future(pb.RecommendRequest(user_id="user-2"), timeout=0.05)
        assert late.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
        released.set()
        assert first.result().items
        assert stub.Recommend(pb.RecommendRequest(user_id="user-3"), timeout=30).items
        assert len(asked) == 2


def test_stopping_finishes_requests_under_way_and_takes_no_more(store):
    with serve_recommender(store.root) as server, grpc.insecure_channel(server.target) as channel:
        started, released = threading.Event(), threading.Event()
        recommender = server.model.snapshot().recommender
        original = recommender.recommend_for

        def slow(*args, **kwargs):
            started.set()
            released.wait(30)
            return original(*args, **kwargs)

        recommender.recommend_for = slow
        under_way = RecommenderStub(channel).Recommend.future(pb.RecommendRequest(user_id="user-1"), timeout=30)
        assert started.wait(30)
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refused = None
        while refused is None:
            request = pb.SimilarItemsRequest(item_key="imdb:0000001")
            refused = RecommenderStub(channel).SimilarItems.future(request, timeout=5).exception()
        # CANCELLED is the lot of a request that arrived in the very moment; the client library asks again after either.
        assert refused.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        released.set()
        assert under_way.result().items
        watched.cancel()
        stopping.join()


def test_metrics_count_requests_and_errors_and_show_no_user(store):
    metrics = ServingMetrics()
    port, stop = expose_metrics(metrics.registry, port=0)
    with serve_recommender(store.root, metrics=metrics) as server, RecommenderClient(server.target) as client:
        client.recommend("user-1")
        with pytest.raises(DataError):
            client.recommend("anna@example.org")
        client.record_feedback("user-1", "imdb:0000001")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    stop()
    assert 'crossfed_requests_total{code="OK",method="Recommend"} 1.0' in text
    assert 'crossfed_requests_total{code="NOT_FOUND",method="Recommend"} 1.0' in text
    assert 'crossfed_request_seconds_count{method="Recommend"} 2.0' in text
    assert "crossfed_model_version 1.0" in text
    assert "crossfed_model_age_seconds 0." in text
    assert "crossfed_feedback_events_total 1.0" in text
    assert "user" not in text.replace("user id", "")
    assert "anna" not in text


def test_metrics_and_log_tell_the_recall_of_approximate_search(store, caplog):
    metrics = ServingMetrics()
    with (
        caplog.at_level("INFO"),
        serve_recommender(store.root, config=ServingConfig(port=0, approximate_above=10), metrics=metrics),
    ):
        shown = {sample.labels["scope"]: sample.value for sample in _recalls(metrics)}
    assert shown.keys() == {"own", "cross"}
    assert all(0.9 <= recall <= 1.0 for recall in shown.values())
    assert "approximate search finds" in caplog.text
    exact = ServingMetrics()
    with serve_recommender(store.root, port=0, metrics=exact):
        assert _recalls(exact) == []


def _recalls(metrics):
    return [
        sample
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "crossfed_index_recall"
    ]


def test_tls_with_the_right_ca_and_with_a_wrong_one(store, tmp_path):
    ca, other = (make_certificate(tmp_path / name) for name in ("ours", "other"))
    config = ServingConfig(host="127.0.0.1")
    with serve_recommender(store.root, token=TOKEN, tls=ca, config=config) as server:
        target = f"localhost:{server.port}"
        with RecommenderClient(target, token=TOKEN, root_certificates=ca.certificate) as client:
            assert client.recommend("user-1")
        with (
            RecommenderClient(target, token=TOKEN, root_certificates=other.certificate, timeout=5) as client,
            pytest.raises(PlatformError, match=r"UNAVAILABLE|DEADLINE"),
        ):
            client.recommend("user-1")
        with (
            RecommenderClient(server.target, token=TOKEN, timeout=2) as client,
            pytest.raises(PlatformError, match=r"UNAVAILABLE|DEADLINE"),
        ):
            client.recommend("user-1")
        # Renewed files serve the next connection without a restart.
        ca.key.write_bytes(other.key.read_bytes())
        ca.certificate.write_bytes(other.certificate.read_bytes())
        with RecommenderClient(target, token=TOKEN, root_certificates=other.certificate) as client:
            assert client.recommend("user-1")


def test_refuses_to_be_reachable_without_tls_and_token(store, tmp_path):
    tls = make_certificate(tmp_path / "tls")
    for given in ({}, {"token": TOKEN}, {"tls": tls}):
        with pytest.raises(ConfigError, match="can be reached from other hosts"):
            serve_recommender(store.root, config=ServingConfig(host="0.0.0.0"), **given)
    with pytest.raises(ConfigError, match="unencrypted"):
        RecommenderClient("recommender.example.org:443", token=TOKEN)


def test_a_taken_port_and_missing_certificates_are_named(store, tmp_path):
    with serve_recommender(store.root) as server, pytest.raises(ConfigError, match="cannot be opened"):
        serve_recommender(store.root, port=server.port, feedback=tmp_path / "other.log")
    with pytest.raises(ConfigError, match=r"no\.pem"):
        serve_recommender(store.root, tls=TlsFiles(tmp_path / "no.pem", tmp_path / "no.pem"))
    serve_recommender(store.root).stop()  # the log was let go of


def health_of(channel: grpc.Channel, service: str = "") -> str:
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def make_certificate(folder: Path) -> TlsFiles:
    """A self-signed certificate of localhost."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
