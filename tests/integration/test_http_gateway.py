"""The recommender over HTTP on loopback: what gRPC answers, and what a careless or hostile caller gets."""

from __future__ import annotations

import hmac
import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from client.personalization.store import PlatformStore
from client.service.client import RecommenderClient
from client.service.metrics_export import ServingMetrics
from client.service.server import RecommenderServer, TlsFiles, serve_recommender
from client.service.tls import issue_recommender_tls
from common.config.serving import HttpConfig, NeverListed, ServingConfig, SteeringConfig
from common.errors import ConfigError
from simulations.engine.random_model import random_platform_model
from tests.support.breaking import BreakingRules

TOKEN = "a secret token"
USER = "anna@example.org"
HTTP = HttpConfig(port=0)


@pytest.fixture
def store(tmp_path: Path) -> PlatformStore:
    store = PlatformStore(tmp_path / "store")
    store.commit(random_platform_model(np.random.default_rng(0)))
    return store


@pytest.fixture
def server(store: PlatformStore) -> Iterator[RecommenderServer]:
    with serve_recommender(store.root, token=TOKEN, config=ServingConfig(http=HTTP)) as running:
        yield running


@pytest.fixture
def web(server: RecommenderServer) -> Iterator[httpx.Client]:
    with asking(server) as client:
        yield client


def asking(server: RecommenderServer, token: str | None = TOKEN) -> httpx.Client:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"http://{server.http_target}", headers=headers, timeout=30)


def raw(server: RecommenderServer) -> socket.socket:
    host, _, port = server.http_target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def received(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_it_answers_what_grpc_answers(server, web):
    with RecommenderClient(server.target, token=TOKEN) as grpc:
        for scope in ("own", "cross", "all"):
            asked = {"user_id": "user-1", "k": 7, "scope": scope, "filter": {"any_genres": ["Drama"]}}
            got = web.post("/v1/recommend", json=asked).json()
            wanted = replace(http_gateway_filter(), any_genres=("Drama",))
            expected = grpc.recommend("user-1", k=7, scope=scope, wanted=wanted)
            assert [(one["key"], one["score"], one["platforms"]) for one in got["items"]] == [
                (one.key, one.score, list(one.platforms)) for one in expected
            ]
            assert got["model"] == {"version": 1, "server_round": 3}
        key = expected[0].key
        history = [{"item_key": one.key} for one in grpc.recommend("user-1", k=3, scope="own")]
        got = web.post("/v1/recommend-for-history", json={"history": [*history, {"item_key": "imdb:none"}]}).json()
        expected = grpc.recommend_for_history([(one["item_key"], 1.0) for one in history])
        assert [one["key"] for one in got["items"]] == [one.key for one in expected]
        assert got["ignored_keys"] == ["imdb:none"]
        got = web.post("/v1/similar", json={"item_key": key, "k": 4}).json()
        assert [one["key"] for one in got["items"]] == [one.key for one in grpc.similar_items(key, k=4)]
        got = web.post("/v1/explain", json={"item_key": key, "user_id": "user-1", "limit": 2}).json()
        why = grpc.explain("user-1", key, limit=2)
        assert (got["score"], got["decided_by"]) == (why.score, why.decided_by)
        assert [one["amount"] for one in got["contributions"]] == [one.amount for one in why.contributions]


def http_gateway_filter():
    from client.recommend.answers import NO_FILTER

    return NO_FILTER


def test_a_request_steers_its_own_list(web):
    def listed(**steering):
        asked = {"user_id": "user-1", "k": 10, "steering": steering}
        return web.post("/v1/recommend", json=asked).raise_for_status().json()["items"]

    plain = listed()
    first, second = (one["key"] for one in plain[:2])
    assert [one["key"] for one in listed(deny_keys=[first])][:9] == [one["key"] for one in plain[1:]]
    assert [one["key"] for one in listed(allow_keys=[second, "x:none"])] == [second]
    for share in (0.0, 0.5, 1.0):
        assert sum("here" not in one["platforms"] for one in listed(foreign_share=share)) == 10 * share
    for wish in ({"novelty": 1.0}, {"diversity": 0.9}):
        assert {one["key"] for one in listed(**wish)} != {one["key"] for one in plain}
    assert listed() == plain
    refused = web.post("/v1/recommend", json={"user_id": "user-1", "steering": {"diversity": 1.1}})
    assert refused.status_code == 400


def test_lists_are_steered_as_the_platform_says(store):
    rules = SteeringConfig(never=NeverListed(genres=("Drama",)), exposure_cap=0.25, exposure_window=100)
    ruled = ServingConfig(http=HTTP, steering=rules)
    with serve_recommender(store.root, token=TOKEN, config=ruled) as running, asking(running) as web:
        asked = {"history": [], "k": 3}
        lists = [web.post("/v1/recommend-for-history", json=asked).json()["items"] for _ in range(100)]
        everything = web.post("/v1/recommend", json={"user_id": "user-1", "k": 500}).json()["items"]
    shown = [one["key"] for items in lists for one in items]
    assert max(map(shown.count, shown)) == 25
    assert everything
    assert not [one for one in everything if "Drama" in one.get("genres", [])]
    steered = ServingConfig(http=HTTP, steering=SteeringConfig(diversity=0.9))
    with serve_recommender(store.root, token=TOKEN, config=steered) as running, asking(running) as web:
        by_platform = web.post("/v1/recommend", json={"user_id": "user-1"}).json()["items"]
        by_request = web.post("/v1/recommend", json={"user_id": "user-1", "steering": {"diversity": 0.0}}).json()
    assert {one["key"] for one in by_platform} != {one["key"] for one in by_request["items"]}


def test_feedback_is_one_event_by_its_id_over_either_way(server, web):
    with RecommenderClient(server.target, token=TOKEN) as grpc:
        key = grpc.recommend("user-1", k=1, scope="own")[0].key
        event = {"event_id": "order 1", "user_id": "user-1", "item_key": key}
        first = web.post("/v1/feedback", json=event).json()
        assert (first["duplicate"], first["reflected"]) == (False, True)
        assert web.post("/v1/feedback", json=event).json() == first | {"duplicate": True}
        assert grpc.record_feedback("user-1", key, event_id="order 1").duplicate
        assert len(server.model.feedback) == 1
        assert key not in {one.key for one in grpc.recommend("user-1", k=500)}
        other = web.post("/v1/feedback", json=event | {"item_key": "imdb:other"})
        assert (other.status_code, other.json()["error"]["code"]) == (400, "INVALID_ARGUMENT")


WRONG = [
    ("/v1/recommend", {}, 400, "user_id"),
    ("/v1/recommend", {"user_id": USER}, 404, "does not know that user"),
    ("/v1/recommend", {"user_id": "NULL"}, 400, "user_id"),
    ("/v1/recommend", {"user_id": 7}, 400, "user_id"),
    ("/v1/recommend", {"user_id": "user-1", "k": 1001}, 400, "k: must lie in 1 … 1000"),
    ("/v1/recommend", {"user_id": "user-1", "k": 10**12}, 400, "k"),
    ("/v1/recommend", {"user_id": "user-1", "k": "5"}, 400, "k"),
    ("/v1/recommend", {"user_id": "user-1", "k": 5.5}, 400, "k"),
    ("/v1/recommend", {"user_id": "user-1", "k": True}, 400, "k"),
    ("/v1/recommend", {"user_id": "user-1", "scope": "every"}, 400, "scope"),
    ("/v1/recommend", {"user_id": "user-1", "sccope": "own"}, 400, "sccope: there is no such field"),
    ("/v1/recommend", {"user_id": "user-1", USER: 1}, 400, "?: there is no such field"),
    ("/v1/recommend", {"user_id": "user-1", "filter": {"platforms": ["nowhere"]}}, 400, "filter.platforms"),
    ("/v1/recommend", {"user_id": "user-1", "filter": {"any_genres": ["x"] * 101}}, 400, "filter: at most 100"),
    ("/v1/recommend", [], 400, "body"),
    ("/v1/recommend", "text", 400, "body"),
    ("/v1/recommend-for-history", {"history": [{"item_key": "a:b"}] * 10_001}, 400, "history: at most 10000"),
    ("/v1/recommend-for-history", {"history": [{"item_key": "imdb:0000001", "value": -1.0}]}, 400, "value"),
    ("/v1/recommend-for-history", {"history": [{"item_key": "imdb:0000001", "value": 1e300}]}, 400, "value"),
    ("/v1/similar", {"item_key": "imdb:none"}, 404, "imdb:none"),
    ("/v1/similar", {"item_key": "x" * 600}, 400, "item_key"),
    ("/v1/explain", {"item_key": "imdb:1", "user_id": USER}, 404, "does not know that user"),
    ("/v1/explain", {"item_key": "imdb:1"}, 400, "user_id, history"),
    ("/v1/feedback", {"user_id": USER, "item_key": "imdb:1"}, 400, "event_id"),
    ("/v1/feedback", {"event_id": "e", "user_id": USER, "item_key": "imdb:1", "value": 0.0}, 400, "value"),
    ("/v1/feedback", {"event_id": "e", "user_id": USER, "item_key": "imdb:1", "time": 2**80}, 400, "time"),
    ("/v1/feedback", {"event_id": "e", "user_id": USER, "item_key": "imdb:1", "time": 1_700_000_000_000}, 400, "time"),
    ("/v1/passport/redeem", {"user_id": USER, "passport": "x"}, 409, "passport"),
]


def test_what_is_wrong_is_said_by_field_and_without_the_user(server, web, caplog):
    caplog.set_level(logging.DEBUG)
    for path, body, code, text in WRONG:
        answer = web.post(path, json=body)
        message = answer.json()["error"]["message"]
        assert (answer.status_code, text in message) == (code, True), (path, body, answer.text)
        assert USER not in message
    assert USER not in own_records(caplog)
    assert len(server.model.feedback) == 0


def own_records(caplog) -> str:
    """Return what the server logged; httpx logs on its own account what it sends."""
    return "\n".join(one.getMessage() for one in caplog.records if not one.name.startswith(("httpx", "httpcore")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"user_id": "\\ud800"}',
        b'{"user_id": "user-1", "k": ' + b"9" * 5000 + b"}",
        b'{"event_id": "e", "user_id": "u", "item_key": "imdb:1", "value": NaN}',
        b'{"event_id": "e", "user_id": "u", "item_key": "imdb:1", "value": Infinity}',
        b'{"event_id": "e", "user_id": "u", "item_key": "imdb:1", "value": 1e999}',
        b'{"event_id": "e", "user_id": "u", "item_key": "imdb:1", "value": "1"}',
    ],
)
def test_a_body_that_is_no_json_of_ours_is_refused(server, web, body):
    for path in ("/v1/feedback", "/v1/recommend"):
        answer = web.post(path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_ARGUMENT"), answer.text
    assert len(server.model.feedback) == 0


def test_a_body_too_large_is_refused_before_it_is_read(server, web):
    def without_end() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    good = {"content-type": "application/json"}
    assert web.post("/v1/recommend", content=b" " * (2 << 20), headers=good).status_code == 413
    with raw(server) as connection:
        head = f"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for part in without_end():
                connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert web.get("/health").status_code == 200


def test_a_browser_cannot_be_made_to_ask(store, server, web):
    """Another type needs no leave across sites; a name of the attacker's may lead to this host."""
    asked = json.dumps({"event_id": "e", "user_id": "u", "item_key": "imdb:1"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert web.post("/v1/feedback", content=asked, headers={"content-type": kind}).status_code == 415
    assert web.options("/v1/feedback").status_code == 405
    assert not [name for name in web.get("/health").headers if name.startswith("access-control")]
    open_config = ServingConfig(http=HTTP)
    with (
        serve_recommender(store.root, config=open_config, feedback=store.root / "other.log") as open_server,
        asking(open_server, token=None) as client,
    ):
        assert client.post("/v1/recommend", json={"user_id": "user-1"}).status_code == 200
        evil = client.post("/v1/recommend", json={"user_id": "user-1"}, headers={"host": "evil.example.org"})
        assert evil.status_code == 400
    assert len(server.model.feedback) == 0


def test_without_the_token_nothing_is_answered_but_public_pages(server, web, monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append(one) or real(one, other))
    body = json.dumps({"user_id": "user-1"}).encode()
    for given in ([], ["wrong"], [f"Bearer {TOKEN} "[:-2]], [f"Bearer {TOKEN}", "Bearer other"], ["Bearer ä"]):
        with httpx.Client(base_url=f"http://{server.http_target}") as client:
            headers = [("content-type", "application/json")]
            headers += [("authorization", one.encode("latin-1").decode("latin-1")) for one in given]
            raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            answer = client.post("/v1/recommend", content=body, headers=raw_headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
            assert answer.headers["www-authenticate"] == "Bearer"
            for page in ("/health", "/docs", "/openapi.json"):
                assert client.get(page).status_code == 200
    # Every one is compared whole, in a time that does not tell how much of it was right.
    assert len(compared) == 5
    assert web.post("/v1/recommend", json={"user_id": "user-1"}).status_code == 200


def test_no_user_is_ever_in_a_log(server, web, caplog):
    caplog.set_level(logging.DEBUG)
    for ask in (
        lambda: web.post("/v1/recommend", json={"user_id": USER}),
        lambda: web.post("/v1/feedback", json={"event_id": "e", "user_id": USER, "item_key": "imdb:1"}),
        lambda: web.get("/v1/recommend", params={"user_id": USER}),
        lambda: web.post(f"/v1/recommend/{USER}", json={}),
    ):
        ask()
    with raw(server) as connection:
        connection.sendall(f"nonsense {USER}\r\n\r\n".encode())
        received(connection)
    assert "anna" not in own_records(caplog)
    assert "uvicorn.access" not in {one.name for one in caplog.records}


def test_a_defect_is_answered_without_its_text(store, caplog):
    rules = BreakingRules(meaning="weight")
    with (
        serve_recommender(
            store.root, config=ServingConfig(http=HTTP), feedback=store.root / "other.log", rules=rules
        ) as broken,
        asking(broken, token=None) as web,
    ):
        answer = web.post("/v1/recommend", json={"user_id": "user-1"})
    assert (answer.status_code, "anna" in answer.text, "anna" in caplog.text) == (500, False, False)
    assert "Recommend failed with KeyError" in caplog.text


def test_who_sends_slowly_is_cut_off_and_others_are_answered(store):
    config = ServingConfig(http=HttpConfig(port=0, request_seconds=0.3, idle_seconds=1))
    with serve_recommender(store.root, config=config) as server, asking(server, token=None) as web:
        heads = [b"POST /v1/rec", b"", b"POST /v1/recommend HTTP/1.1\r\nX: " + b"a" * 70_000]
        slow = [raw(server) for _ in heads]
        for connection, head in zip(slow, heads, strict=True):
            connection.sendall(head)
        body = raw(server)
        body.sendall(b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        body.sendall(b"Content-Length: 100\r\n\r\n{")
        assert web.post("/v1/recommend", json={"user_id": "user-1"}).status_code == 200
        # Nothing but the server's patience ends these.
        for connection in slow:
            with connection:
                assert b"200" not in received(connection)
        with body:
            assert b" 408 " in received(body)
        again = raw(server)
        with again:
            again.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
            assert received(again).count(b" 200 ") == 1


def test_more_than_may_wait_are_refused_at_once(store):
    config = ServingConfig(workers=1, max_waiting=1, http=HTTP)
    with (
        serve_recommender(store.root, config=config) as server,
        asking(server, None) as one,
        asking(server, None) as two,
    ):
        blocked, released = hold(server)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(one.post, "/v1/recommend", json={"user_id": "user-1"})
            assert blocked.wait(30)
            refused = two.post("/v1/recommend", json={"user_id": "user-2"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "RESOURCE_EXHAUSTED")
            assert two.get("/health").status_code == 200
            released.set()
            assert first.result().status_code == 200


def test_a_request_that_waited_too_long_is_not_answered(store):
    metrics = ServingMetrics()
    config = ServingConfig(workers=1, http=HttpConfig(port=0, answer_seconds=0.05))
    with (
        serve_recommender(store.root, config=config, metrics=metrics) as server,
        asking(server, None) as one,
        asking(server, None) as two,
    ):
        blocked, released = hold(server)
        with ThreadPoolExecutor(2) as pool:
            pool.submit(one.post, "/v1/recommend", json={"user_id": "user-1"})
            assert blocked.wait(30)
            late = pool.submit(two.post, "/v1/recommend", json={"user_id": "user-2"})
            threading.Event().wait(0.2)
            released.set()
            assert late.result().status_code == 504


def hold(server: RecommenderServer) -> tuple[threading.Event, threading.Event]:
    """The first list waits until it is released."""
    blocked, released = threading.Event(), threading.Event()
    recommender = server.model.snapshot().recommender
    original = recommender.recommend_for

    def slow(*args, **kwargs):
        blocked.set()
        released.wait(30)
        return original(*args, **kwargs)

    recommender.recommend_for = slow
    return blocked, released


def test_stopping_finishes_what_is_under_way(store):
    with serve_recommender(store.root, config=ServingConfig(http=HTTP)) as server, asking(server, None) as web:
        blocked, released = hold(server)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(web.post, "/v1/recommend", json={"user_id": "user-1"})
            assert blocked.wait(30)
            stopping = pool.submit(server.stop)
            released.set()
            assert len(first.result().json()["items"]) == 10
            stopping.result()
        with pytest.raises(httpx.ConnectError), asking(server, None) as late:
            late.get("/health")


def test_health_says_whether_it_serves(tmp_path):
    store = PlatformStore(tmp_path / "store")
    with serve_recommender(store.root, config=ServingConfig(http=HTTP)) as server, asking(server, None) as web:
        assert (web.get("/health").status_code, web.get("/health").json()) == (503, {"status": "NOT_SERVING"})
        assert web.post("/v1/recommend", json={"user_id": "user-1"}).status_code == 503
        store.commit(random_platform_model(np.random.default_rng(0)))
        server.model.reload()
        assert (web.get("/health").status_code, web.get("/health").json()) == (200, {"status": "SERVING"})
        server.agent_reachable(False)
        assert web.get("/health").status_code == 503


def test_requests_are_counted_as_those_of_grpc(store):
    metrics = ServingMetrics()
    with (
        serve_recommender(store.root, config=ServingConfig(http=HTTP), metrics=metrics) as server,
        asking(server, None) as web,
    ):
        web.post("/v1/recommend", json={"user_id": "user-1"})
        web.post("/v1/recommend", json={"user_id": "nobody"})
    count = metrics.registry.get_sample_value
    assert count("crossfed_requests_total", {"method": "Recommend", "code": "OK"}) == 1
    assert count("crossfed_requests_total", {"method": "Recommend", "code": "NOT_FOUND"}) == 1


def test_tls_with_the_right_authority_alone_and_renewed_files(store, tmp_path):
    ours, other = (issue_recommender_tls(tmp_path / name, ["localhost"]) for name in ("ours", "other"))
    files = TlsFiles(ours.certificate, ours.key)
    asked = {"user_id": "user-1"}

    def trusting(made) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(made.authority))
        return httpx.Client(verify=context, headers={"authorization": f"Bearer {TOKEN}"})

    with serve_recommender(store.root, token=TOKEN, tls=files, config=ServingConfig(http=HTTP)) as server:
        address = f"https://localhost:{server.http_target.rpartition(':')[2]}/v1/recommend"
        with trusting(ours) as client:
            assert client.post(address, json=asked).status_code == 200
        with trusting(other) as client, pytest.raises(httpx.ConnectError):
            client.post(address, json=asked)
        with httpx.Client() as client, pytest.raises(httpx.TransportError):
            client.post(address.replace("https", "http"), json=asked)
        for mine, its in ((ours.key, other.key), (ours.certificate, other.certificate)):
            mine.write_bytes(its.read_bytes())
        with trusting(other) as client:
            assert client.post(address, json=asked).status_code == 200


def test_a_taken_port_is_named_and_leaves_nothing_open(store, tmp_path):
    with serve_recommender(store.root, config=ServingConfig(http=HTTP)) as server:
        taken = int(server.http_target.rpartition(":")[2])
        with pytest.raises(ConfigError, match=r"recommender\.http\.port: .*cannot be opened"):
            serve_recommender(
                store.root, feedback=tmp_path / "a.log", config=ServingConfig(http=HttpConfig(port=taken))
            )
        with pytest.raises(ConfigError, match="cannot be opened"):
            serve_recommender(
                store.root, port=server.port, feedback=tmp_path / "a.log", config=ServingConfig(http=HTTP)
            )
    with serve_recommender(store.root, config=ServingConfig(http=HttpConfig(port=taken))) as server:
        assert server.http_target.endswith(str(taken))


def test_there_is_no_http_unless_it_is_asked_for(store):
    with serve_recommender(store.root) as server:
        assert server.http_target is None
