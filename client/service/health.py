"""Tells health checks of model, store and agent, over gRPC and over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2

from client.recommend.snapshot import Snapshot
from client.service.metrics_export import ServingMetrics
from common.proto import recommender_pb2

SERVICE = recommender_pb2.DESCRIPTOR.services_by_name["Recommender"].full_name
STORE_HEALTH = "crossfed.store"
"""Name in the health service that is NOT_SERVING while the store is damaged, whatever serves."""
AGENT_HEALTH = "crossfed.agent"
"""Name that is NOT_SERVING while the aggregator's requests do not reach the platform's agent."""


class ServiceHealth:
    """Holds what health checks and metrics are told, from what is known of model, store and agent.

    The recommender's own service serves as soon as there is a model; the process as a whole (the empty name) only while the
    platform's agent can be reached, too, where it runs one.
    """

    def __init__(self, metrics: ServingMetrics) -> None:
        self.statuses = health.HealthServicer()
        self._metrics = metrics
        self._has_model = False
        self._agent = True
        self._stopping = False
        self._lock = threading.Lock()
        self._say()
        self._set(STORE_HEALTH, serving=True)

    @property
    def serving(self) -> bool:
        """Whether the process as a whole serves."""
        return self._has_model and self._agent and not self._stopping

    def enter_shutdown(self) -> None:
        """Say from now on that nothing serves."""
        self._stopping = True
        self.statuses.enter_graceful_shutdown()

    def model_changed(self, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            self._metrics.reload_failed()
            return
        server_round = snapshot.recommender.model.server_round
        self._metrics.serves(snapshot.version, server_round, snapshot.loaded_at, snapshot.index_recall)
        with self._lock:
            self._has_model = True
            self._say()

    def store_problems(self, problems: Sequence[str]) -> None:
        """A store may be damaged while an older version serves."""
        self._metrics.store_problems(len(problems))
        self._set(STORE_HEALTH, serving=not problems)

    def agent_reachable(self, reachable: bool) -> None:
        with self._lock:
            self._agent = reachable
            self._say()
            self._set(AGENT_HEALTH, serving=reachable)

    def _say(self) -> None:
        self._set(SERVICE, serving=self._has_model)
        self._set("", serving=self._has_model and self._agent)

    def _set(self, name: str, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self.statuses.set(name, status.SERVING if serving else status.NOT_SERVING)
