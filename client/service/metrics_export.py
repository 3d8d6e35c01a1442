"""Exports what Prometheus may know of the recommender: counts, times and versions; never a user, an item or a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from common.deploy.tls import certificate_days
from common.tracing import Tracing

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0)

_NO_FAULT = ("OK", "NOT_FOUND", "INVALID_ARGUMENT")
"""Statuses that say nothing against the service."""


class ServingMetrics:
    """The recommender's metrics.

    Args:
        registry: where they are registered; a new one unless given.
        tracing: where a span of each request goes; None: nowhere.
    """

    def __init__(self, registry: CollectorRegistry | None = None, tracing: Tracing | None = None) -> None:
        self._tracing = tracing
        self.registry = CollectorRegistry() if registry is None else registry
        self._requests = Counter(
            "crossfed_requests",
            "Requests answered, by method and gRPC status.",
            ("method", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "crossfed_request_seconds",
            "Time from the start of an answer to its end.",
            ("method",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._version = Gauge("crossfed_model_version", "Store version that serves; 0: none.", registry=self.registry)
        self._round = Gauge("crossfed_model_server_round", "Server round of its parameters.", registry=self.registry)
        self._age = Gauge("crossfed_model_age_seconds", "Time since it was loaded.", registry=self.registry)
        self._recall = Gauge(
            "crossfed_index_recall",
            "Share of the exact best items that approximate search finds; no value where search is exact.",
            ("scope",),
            registry=self.registry,
        )
        self._reload_failures = Counter(
            "crossfed_model_reload_failures", "Store versions that could not be served.", registry=self.registry
        )
        self._store_problems = Gauge(
            "crossfed_store_problems",
            "Versions of the model, or names of one, that are damaged; the log and the doctor name them.",
            registry=self.registry,
        )
        self._shadow = Histogram(
            "crossfed_shadow_overlap",
            "Share of a list that the shadow's list has, too.",
            buckets=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
            registry=self.registry,
        )
        self._shadow_failures = Counter(
            "crossfed_shadow_failures", "Shadow lists that could not be made.", registry=self.registry
        )
        self._feedback = Counter("crossfed_feedback_events", "Feedback events made durable.", registry=self.registry)

    def answered(self, method: str, code: str, seconds: float) -> None:
        """Count one request, whatever became of it."""
        self._requests.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)
        if self._tracing is not None:
            self._tracing.took("request", seconds, {"method": method, "code": code}, failed=code not in _NO_FAULT)

    def serves(self, version: int, server_round: int, loaded_at: float, index_recall: Mapping[str, float]) -> None:
        """A model version was swapped in."""
        self._recall.clear()
        for scope, recall in index_recall.items():
            self._recall.labels(scope).set(recall)
        self._version.set(version)
        self._round.set(server_round)
        self._age.set_function(lambda: time.time() - loaded_at)

    def reload_failed(self) -> None:
        self._reload_failures.inc()

    def certificate(self, path: Path) -> None:
        """Watch the recommender's certificate; one that cannot be read has no days left."""
        days = Gauge(
            "crossfed_recommender_certificate_days_left",
            "Days until the certificate that applications see expires.",
            registry=self.registry,
        )
        days.set_function(lambda: certificate_days(path))

    def store_problems(self, count: int) -> None:
        """So many things are wrong with the model store."""
        self._store_problems.set(count)

    def shadowed(self, overlap: float) -> None:
        """A shadow list had so much in common with the one that was shown."""
        self._shadow.observe(overlap)

    def shadow_failed(self) -> None:
        self._shadow_failures.inc()

    def feedback_recorded(self) -> None:
        self._feedback.inc()


def expose_metrics(
    registry: CollectorRegistry, *, port: int, host: str = "127.0.0.1"
) -> tuple[int, Callable[[], None]]:
    """Serve ``registry`` over HTTP at ``/metrics``; returns the port (a free one for 0) and what stops it."""
    server, thread = start_http_server(port, host, registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop
