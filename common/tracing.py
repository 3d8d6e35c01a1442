"""Traces for an operator's own collector (OpenTelemetry, OTLP over HTTP); off unless a configuration names one.

A span is a name, a start, a duration and public facts: what kind of round or request, which code, how many bytes. It never
holds an id, an item or a text, and no trace is carried from one party to another.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from common.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Fact = str | int | float
_FLUSH_MILLISECONDS: Final = 5_000


class Tracing:
    """Spans, each by itself or under one root. Use it as a context manager: its end hands over what is left, within seconds.

    Args:
        exporter: takes the spans.
        service: the role, ``service.name``.
        root: name of the span that all others are under; None: each is a trace of its own.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """

    def __init__(self, exporter: SpanExporter, service: str, root: str | None = None) -> None:
        sdk, export, resources = (
            _module(f"opentelemetry.sdk.{part}") for part in ("trace", "trace.export", "resources")
        )
        self._api = _module("opentelemetry.trace")
        self._provider = sdk.TracerProvider(resource=resources.Resource({"service.name": service}))
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("crossfed")
        self._root = None if root is None else self._tracer.start_span(root)
        self._under_root = None if self._root is None else self._api.set_span_in_context(self._root)

    def took(self, name: str, seconds: float, facts: Mapping[str, Fact], *, failed: bool = False) -> None:
        """Record that something has just ended that took so long."""
        ended = time.time_ns()
        started = ended - int(seconds * 1e9)
        span = self._tracer.start_span(name, self._under_root, attributes=dict(facts), start_time=started)
        if failed:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(ended)

    def close(self) -> None:
        if self._root is not None:
            self._root.end()
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()

    def __enter__(self) -> Tracing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def tracing_to(endpoint: str, service: str, root: str | None = None) -> Tracing:
    """Tracing to a collector; arguments as of :class:`Tracing`.

    Args:
        endpoint: of the collector's traces, as ``http://127.0.0.1:4318/v1/traces``.
        service: the role.
        root: name of the span that all others are under.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    exporter = _module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter(endpoint=endpoint)
    return Tracing(exporter, service, root)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ConfigError("traces: OpenTelemetry is not installed; pip install 'crossfed[traces]'") from None
