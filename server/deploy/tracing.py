"""Traces of a run: a span for each round and each answer, beside what the observer does anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.deploy.roles import TracesConfig
from common.tracing import Fact, Tracing, tracing_to
from common.wire.exchange import OK
from server.federation.exchange import Observer
from server.federation.state import RoundRecord


class TracedObserver:
    """Hands everything on to another observer and makes spans of it.

    Args:
        observer: of the run.
        tracing: where the spans go.
    """

    def __init__(self, observer: Observer, tracing: Tracing) -> None:
        self._observer = observer
        self._tracing = tracing

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        self._observer.on_reply(server_round, kind, platform, code, reply_bytes)
        facts: dict[str, Fact] = {
            "round": server_round,
            "kind": kind,
            "platform": platform,
            "code": code,
            "bytes": reply_bytes,
        }
        self._tracing.took("answer", 0.0, facts, failed=code != OK)

    def on_round(self, record: RoundRecord) -> None:
        self._observer.on_round(record)
        facts: dict[str, Fact] = {
            "round": record.round,
            "phase": record.phase,
            "platforms": len(record.platforms),
            "bytes_up": record.bytes_up,
            "bytes_down": record.bytes_down,
        }
        self._tracing.took("round", record.seconds, facts, failed=bool(record.failed))


@contextmanager
def traced(observer: Observer, config: TracesConfig | None, run: str) -> Iterator[Observer]:
    """The observer, traced where the configuration says so, until the run is over."""
    if config is None:
        yield observer
        return
    with tracing_to(config.endpoint, "crossfed-aggregator", root=f"run {run}") as tracing:
        yield TracedObserver(observer, tracing)
