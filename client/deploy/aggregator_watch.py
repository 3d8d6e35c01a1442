"""Looks at the aggregator as the doctor does, while the platform runs: what is wrong stands in the platform's own log.

The courier's side alone does this, which calls out anyway. It asks one thing, the same for every platform, so that nothing
of the platform's data can show in it.
"""

from __future__ import annotations

import math
import re
import threading
from logging import getLogger
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from client.deploy.launcher import refused_app
from common.deploy.doctor import Finding, Probe, probe_aggregator
from common.deploy.health import Listener
from common.deploy.logs import one_line
from common.deploy.roles import PlatformConfig

_log = getLogger(__name__)

_INTERVAL_SECONDS: Final = 300.0
_MEANINGS: Final = (
    (r"certificate has expired", "the aggregator's certificate has expired: its operator runs crossfed-server renew"),
    (
        r"certificate verify failed|CERTIFICATE_VERIFY_FAILED|self.signed certificate",
        "the aggregator's certificate is not of the authority in courier/ca.pem: ask its operator which is right",
    ),
    (
        r"Exit Code: 305",
        "the aggregator does not take this node: its key is not admitted or was revoked (crossfed-server admit), or it still "
        "counts as connected, which passes within a minute",
    ),
    (
        r"Invalid SuperNode authentication|401 Client Error|\b401\b.*Unauthorized|HTTP 401",
        "the aggregator refuses this node's signature: its clock is off, or its key is another's",
    ),
    (r"[Aa]ddress already in use", "the port of supernode.port is taken: another platform of this host has it"),
    (
        r"Connection refused|Name or service not known|Temporary failure in name resolution|No route to host|timed out",
        "the aggregator cannot be reached: is it running, and is its address right?",
    ),
)


def meaning_of(output: str) -> str | None:
    """Return what the end of a SuperNode's output means; None where it is nothing known."""
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, output):
            return meaning
    return None


class AggregatorWatch:
    """Probes the aggregator and the agent's socket now and then, and at once when a program has ended.

    Args:
        config: of the platform.
        registry: where its metrics are registered.
        interval: seconds between two looks.
    """

    def __init__(
        self, config: PlatformConfig, registry: CollectorRegistry, *, interval: float = _INTERVAL_SECONDS
    ) -> None:
        self._config = config
        self._interval = interval
        self._said: frozenset[Finding] = frozenset()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="aggregator-watch", daemon=True)
        self._exits = Counter(
            "crossfed_program_exits", "Unexpected ends of supervised programs.", ("program",), registry=registry
        )
        self._ahead = Gauge(
            "crossfed_clock_ahead_seconds",
            "By how much this host's clock is ahead of the aggregator's; NaN: it does not answer.",
            registry=registry,
        )
        self._reachable = Gauge(
            "crossfed_aggregator_reachable",
            "Whether the aggregator answers with a right certificate.",
            registry=registry,
        )
        self._agent = Gauge(
            "crossfed_agent_reachable",
            "Whether the agent's socket can be reached from the courier's side.",
            registry=registry,
        )
        self._days = Gauge(
            "crossfed_certificate_days_left", "Days until it expires.", ("certificate",), registry=registry
        )

    def start(self) -> None:
        self._thread.start()

    def program_ended(self, name: str, status: int) -> None:
        """Count an unexpected end of a supervised program, and look in the background for what may be its cause."""
        self._exits.labels(name).inc()
        self._wake.set()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def look_once(self) -> list[Finding]:
        """Probe, set the metrics, and say in the log what is wrong and was not said before; returns what is wrong."""
        probe = probe_aggregator(self._config.aggregator, self._config.ca)
        agent = Listener("agent", self._config.socket.path).answers()
        self._measure(probe, agent)
        wrong = [finding for finding in probe.findings if finding.level == "wrong"]
        if not agent:
            wrong.append(Finding("wrong", "agent", f"does not answer at {self._config.socket.path}; is it running?"))
        refused = refused_app(self._config.supernode)
        if refused is not None:
            wrong.append(refused)
        for finding in wrong:
            if not any(_same(finding, said) for said in self._said):
                _log.error("%s: %s", finding.what, one_line(finding.detail))
        if self._said and not wrong:
            _log.info("aggregator, clock and agent are right again")
        self._said = frozenset(wrong)
        return wrong

    def _measure(self, probe: Probe, agent: bool) -> None:
        self._ahead.set(math.nan if probe.clock_ahead is None else probe.clock_ahead)
        self._reachable.set(probe.clock_ahead is not None)
        self._agent.set(agent)
        if probe.certificate_days is not None:
            self._days.labels("aggregator").set(probe.certificate_days)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look_once()
            except Exception:
                _log.exception("looking at the aggregator failed")
            self._wake.wait(self._interval)
            self._wake.clear()


def _same(one: Finding, other: Finding) -> bool:
    """A clock that is one second further off is the same finding."""
    return one.what == other.what and re.sub(r"\d+", "", one.detail) == re.sub(r"\d+", "", other.detail)
