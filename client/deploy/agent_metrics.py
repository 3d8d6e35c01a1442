"""Exports what Prometheus may know of the platform agent: requests of the aggregator, bytes, durations, and the budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from client.personalization.model_builder import read_outcome
from client.privacy.report import privacy_dict
from common.config.federation import FederationPlan
from common.errors import CrossfedError
from common.wire.exchange import AgentConnection, AgentReply, AgentRequest, nbytes

_BUCKETS = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)


class AgentMetrics:
    """The agent's metrics.

    Args:
        registry: where they are registered.
        state: the platform's private folder, whose ledger says what is spent.
        plan: whose runs are counted that are left.
    """

    def __init__(self, registry: CollectorRegistry, state: Path, plan: FederationPlan) -> None:
        self._exchanges = Counter(
            "crossfed_agent_exchanges",
            "Requests of the aggregator, by kind and code.",
            ("kind", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "crossfed_agent_exchange_seconds",
            "Time that an answer to the aggregator took.",
            ("kind",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._bytes = Counter(
            "crossfed_agent_bytes",
            "Array bytes from (in) and to (out) the aggregator.",
            ("direction",),
            registry=registry,
        )
        self._round = Gauge("crossfed_agent_server_round", "Server round of the last answer.", registry=registry)
        spent = Gauge(
            "crossfed_epsilon_spent", "Privacy budget spent at the policy's delta; infinite once data left exact.",
            registry=registry,
        )  # fmt: skip
        spent.set_function(lambda: _from_ledger(state, plan, lambda spend: spend["epsilon"]))
        left = Gauge(
            "crossfed_epsilon_left", "What one further run could spend; infinite: no limit.", registry=registry
        )
        left.set_function(lambda: _from_ledger(state, plan, lambda spend: spend["left"]["epsilon"]))
        runs = Gauge(
            "crossfed_runs_left", "Runs of the plan that the lifetime budget still pays for; infinite: no limit.",
            registry=registry,
        )  # fmt: skip
        runs.set_function(lambda: _from_ledger(state, plan, lambda spend: spend["left"]["runs"]))
        failed = Gauge(
            "crossfed_model_build_failed",
            "1: the own model of the last finished run could not be built, and the one before serves.",
            registry=registry,
        )
        failed.set_function(lambda: float(read_outcome(state / "store").state == "failed"))

    def answered(self, request: AgentRequest, reply: AgentReply, seconds: float) -> None:
        """Count one exchange."""
        # A kind that is not in the contract is the aggregator's text, and no label of ours.
        kind = request.kind if reply.code != "contract" else "refused"
        self._exchanges.labels(kind, reply.code).inc()
        self._seconds.labels(kind).observe(seconds)
        self._bytes.labels("in").inc(nbytes(request.arrays))
        self._bytes.labels("out").inc(reply.nbytes)
        self._round.set(reply.server_round)


class MeasuredAgent:
    """An agent whose exchanges are counted."""

    def __init__(self, agent: AgentConnection, metrics: AgentMetrics) -> None:
        self._agent = agent
        self._metrics = metrics

    def exchange(self, request: AgentRequest) -> AgentReply:
        """As the agent's."""
        started = time.perf_counter()
        reply = self._agent.exchange(request)
        self._metrics.answered(request, reply, time.perf_counter() - started)
        return reply


def _from_ledger(state: Path, plan: FederationPlan, choose: Callable[[dict[str, Any]], object]) -> float:
    """A number of the ledger's report; NaN where there is no ledger to read, infinity where it says None."""
    try:
        value = choose(privacy_dict(state, plan))
    except CrossfedError:
        return math.nan
    return math.inf if value is None else float(str(value))
