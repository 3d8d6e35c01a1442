"""How a platform's recommender serves: its limits, where it listens, and how it steers its lists."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.config.attributes import AttributeRules
from common.config.base import FrozenModel

EXACT_UP_TO = 1_000_000
Share = Annotated[float, Field(ge=0, le=1)]


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
    keep_versions: Annotated[int, Field(ge=1, le=100)] = 3
    """How many of the newest versions of the model stay, to go back to; one that an experiment compares stays besides."""
    poll_seconds: Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})] = 0.5
    """How often the store is looked at for a version that another process wrote; the agent tells of its own at once."""
    drain_seconds: Annotated[float, Field(ge=0, json_schema_extra={"unit": "seconds"})] = 10.0
    """How long requests under way may take once the service is stopping."""


class NeverListed(FrozenModel):
    """Items that are never listed, whatever is asked for; one condition that holds is enough."""

    genres: tuple[str, ...] = ()
    """Items with one of these genres; letter case does not matter."""
    key_prefixes: tuple[str, ...] = ()
    """Items whose key begins with one of these (``imdb:``)."""
    platforms: tuple[str, ...] = ()
    """Items that only these platforms have."""
    where: AttributeRules = Field(default_factory=dict)
    """Items for whose described attribute one of these rules holds: ``{maker: {any_of: [Acme]}, year: {at_most: 1950}}``."""


class SteeringConfig(FrozenModel):
    """``steering`` of ``platform.yaml``. Requests may ask for other shares, diversity and novelty; never for what may not be
    listed.
    """

    never: NeverListed = NeverListed()
    """What is never listed, as a rule; single items are hidden with ``crossfed-client items hide``."""
    foreign_share: Share | None = None
    """Share of items that only other platforms have, in a list of both; null: as their scores have it."""
    diversity: Share = 0.0
    """1 − λ of maximal marginal relevance: 0 lists by score alone, 1 by being unlike what is listed already."""
    novelty: Share = 0.0
    """Weight of being little known beside the score: 0 has no say, 1 lists the least known of the best ``pool`` items."""
    pool: Annotated[int, Field(ge=10, le=2000)] = 200
    """How many of the best items diversity and novelty choose from."""
    exposure_cap: Annotated[float, Field(gt=0, le=1)] | None = None
    """Largest share of the last ``exposure_window`` lists that may hold one item; null: no cap. With a cap a list depends on
    what other users of this platform were shown."""
    exposure_window: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """How many lists a cap looks back on."""


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
    steering: SteeringConfig = SteeringConfig()
    """How lists are made beyond their order by score."""
