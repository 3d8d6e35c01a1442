"""How a platform's recommender serves: its limits, and where it listens."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.config.base import FrozenModel

EXACT_UP_TO = 1_000_000


class ServingLimits(FrozenModel):
    """``serving`` of ``platform.yaml``: sizes, intervals and limits of the recommender service."""

    workers: Annotated[int, Field(ge=1, le=64)] = 4
    """Threads that answer requests."""
    max_waiting: Annotated[int, Field(ge=1)] = 256
    """Requests at a time, waiting ones included; more are refused at once with RESOURCE_EXHAUSTED."""
    max_message_bytes: Annotated[int, Field(ge=1024, json_schema_extra={"unit": "bytes"})] = 1 << 20
    """Largest request, in bytes."""
    max_k: Annotated[int, Field(ge=1)] = 1000
    """Longest list that can be asked for."""
    max_history: Annotated[int, Field(ge=1)] = 10_000
    """Most items in the history of one request."""
    approximate_above: Annotated[int, Field(ge=1)] = EXACT_UP_TO
    """From how many items of a catalogue on search is approximate (usearch)."""
    cached_users: Annotated[int, Field(ge=0)] = 10_000
    """Users whose factors are kept; the others' are solved anew in well under a millisecond."""
    poll_seconds: Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})] = 2.0
    """How often the store is looked at for a version that another process wrote; the agent tells of its own at once."""
    drain_seconds: Annotated[float, Field(ge=0, json_schema_extra={"unit": "seconds"})] = 10.0
    """How long requests under way may take once the service is stopping."""


class HttpConfig(FrozenModel):
    """HTTP and JSON beside gRPC: the same host, token, certificate and limits."""

    port: Annotated[int, Field(ge=0, le=65535)] = 50062
    """Port to listen on; 0 takes a free one."""
    request_seconds: Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})] = 10.0
    """How long a caller may take to send a request's head, and again to send its body."""
    answer_seconds: Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})] = 10.0
    """How long a request may wait for its turn; gRPC's callers say so themselves."""
    idle_seconds: Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})] = 60.0
    """How long a connection without a request is kept open."""


class ServingConfig(ServingLimits):
    """The limits, and the address that ``recommender`` of ``platform.yaml`` names."""

    host: str = "127.0.0.1"
    """Address to listen on; one that others can reach needs TLS and a token."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 takes a free one."""
    http: HttpConfig | None = None
    """HTTP beside gRPC; null: none."""
