"""Traces: what spans say, that they end up at the collector, and that without a setting nothing is loaded."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from client.service.metrics_export import ServingMetrics
from common import tracing
from common.deploy.roles import TracesConfig
from common.errors import ConfigError
from common.tracing import Tracing
from server.deploy.tracing import TracedObserver, traced
from server.federation.exchange import SilentObserver
from server.federation.state import RoundRecord

ROUND = RoundRecord(
    round=2, seconds=1.5, bytes_up=7, bytes_down=8, objective=None, recall=None, platforms=("a", "b"), failed={},
    phase="statistics",
)  # fmt: skip


def spans(root: str | None) -> tuple[Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return Tracing(exporter, "test", root), exporter


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def test_rounds_and_answers_are_spans_under_their_run() -> None:
    made, exporter = spans("run x")
    observer = TracedObserver(SilentObserver(), made)
    observer.on_reply(2, "statistics", "a", "budget-exceeded", 9)
    observer.on_round(ROUND)
    made.close()
    [root], [round_span], [answer] = named(exporter, "run x"), named(exporter, "round"), named(exporter, "answer")
    assert round_span.parent is not None
    assert round_span.parent.span_id == root.context.span_id
    assert round_span.end_time is not None
    assert round_span.start_time is not None
    assert round_span.end_time - round_span.start_time == pytest.approx(1.5e9, rel=1e-6)
    assert dict(round_span.attributes or {}) == {
        "round": 2, "phase": "statistics", "platforms": 2, "bytes_up": 7, "bytes_down": 8,
    }  # fmt: skip
    assert not answer.status.is_ok


def test_a_request_is_a_trace_of_method_and_code_alone() -> None:
    made, exporter = spans(None)
    metrics = ServingMetrics(tracing=made)
    metrics.answered("Recommend", "OK", 0.01)
    metrics.answered("Recommend", "INTERNAL", 0.01)
    made.close()
    first, second = named(exporter, "request")
    assert first.parent is None
    assert first.context.trace_id != second.context.trace_id
    assert dict(first.attributes or {}) == {"method": "Recommend", "code": "OK"}
    assert (first.status.is_ok, second.status.is_ok) == (True, False)


def test_spans_reach_a_collector_over_http() -> None:
    got: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = TracesConfig(endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces")
        with traced(SilentObserver(), endpoint, "x") as observer:
            observer.on_round(ROUND)
        server.shutdown()
        thread.join()
    sent = [ExportTraceServiceRequest.FromString(body) for body in got]
    names = {
        span.name
        for request in sent
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert names == {"run x", "round"}
    facts = {
        each.key for request in sent for resource in request.resource_spans for each in resource.resource.attributes
    }
    assert facts == {"service.name"}


def test_without_traces_the_observer_stays_and_nothing_is_loaded() -> None:
    observer = SilentObserver()
    with traced(observer, None, "x") as same:
        assert same is observer
    code = "import sys, server.app, client.service.server; assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_traces_without_the_extra_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"crossfed\[traces\]"):
        tracing.tracing_to("http://127.0.0.1:1/v1/traces", "test")
