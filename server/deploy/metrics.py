"""Exports what Prometheus may know of the aggregator, from the runs' status: rounds, durations, bytes, platforms, programs."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from common.deploy.roles import AggregatorConfig
from common.deploy.tls import certificate_days
from common.errors import ConfigError
from server.deploy.admission import AdmissionBook
from server.deploy.runs import FAILED, FINISHED, INTERRUPTED, PENDING, RUNNING, RunStatus, read_runs


@dataclass(frozen=True)
class Family:
    """One metric.

    Attributes:
        name: of the metric.
        text: what it is.
        samples: number by label value.
        label: name of the label; empty: one number without a label.
    """

    name: str
    text: str
    samples: Mapping[str, float]
    label: str = ""


class AggregatorMetrics:
    """The aggregator's metrics; without ``metrics_port`` none.

    Raises:
        ConfigError: a port is configured and prometheus-client is not installed.
    """

    def __init__(self, config: AggregatorConfig) -> None:
        self._config = config
        self._exits: dict[str, int] = {}

    def program_ended(self, name: str, status: int) -> None:
        """Count an unexpected end of a supervised program."""
        self._exits[name] = self._exits.get(name, 0) + 1

    @contextmanager
    def exposed(self) -> Iterator[None]:
        """Serve the metrics while the body runs."""
        if self._config.metrics_port is None:
            yield
            return
        try:
            from prometheus_client import CollectorRegistry, start_http_server
            from prometheus_client.core import GaugeMetricFamily
        except ImportError:
            raise ConfigError("metrics_port: needs prometheus-client; pip install prometheus-client") from None

        metrics = self

        class Collector:
            def collect(self) -> Iterator[GaugeMetricFamily]:
                for family in metrics.families():
                    gauge = GaugeMetricFamily(family.name, family.text, labels=[family.label] if family.label else [])
                    for value, number in family.samples.items():
                        gauge.add_metric([value] if family.label else [], number)
                    yield gauge

        registry = CollectorRegistry()
        registry.register(Collector())
        server, thread = start_http_server(self._config.metrics_port, self._config.metrics_host, registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def families(self) -> Iterator[Family]:
        """Every metric, as of now."""
        runs, unreadable = read_runs(self._config.state)
        book = AdmissionBook(self._config.platforms).read()
        admitted = {name for name, entry in book[0].items() if not entry.revoked}
        states = (PENDING, RUNNING, FINISHED, FAILED, INTERRUPTED)
        counted = {state: float(sum(run.state == state for run in runs)) for state in states}
        yield Family("crossfed_runs", "Runs by state.", counted, "state")
        yield Family("crossfed_program_exits", "Unexpected ends of supervised programs.", self._exits, "program")
        damaged = {"runs": float(len(unreadable)), "platforms": float(len(book[1]))}
        yield Family("crossfed_damaged_files", "Files of state that are skipped; the doctor names them.", damaged, "of")
        yield Family("crossfed_certificate_days_left", "Days until it expires.", self._certificates(), "certificate")
        if runs:
            yield from _newest(runs[-1], admitted)

    def _certificates(self) -> dict[str, float]:
        tls = self._config.tls
        return {"authority": certificate_days(tls.ca), "server": certificate_days(tls.certificate)}


def _newest(run: RunStatus, admitted: Container[str]) -> Iterator[Family]:
    newest = {state: float(run.state == state) for state in (PENDING, RUNNING, FINISHED, FAILED, INTERRUPTED)}
    yield Family("crossfed_newest_run", "1 for the state of the newest run.", newest, "state")
    yield Family("crossfed_server_round", "Rounds completed in the newest run.", {"": run.server_round})
    if run.rounds:
        last = run.rounds[-1]
        traffic = {"up": last["bytes_up"], "down": last["bytes_down"]}
        yield Family("crossfed_round_seconds", "Duration of its last round.", {"": last["seconds"]})
        yield Family(
            "crossfed_round_bytes",
            "Array bytes of its last round, from (up) and to (down) platforms.",
            traffic,
            "direction",
        )
        yield Family("crossfed_round_platforms", "Platforms that contributed to it.", {"": len(last["platforms"])})
        if last["objective"] is not None:
            yield Family("crossfed_objective", "The federation's objective.", {"": last["objective"]})
    # Revoked platforms are nobody's concern any more.
    answers = {name: answer for name, answer in run.answers.items() if name in admitted}
    answered = {name: float(answer["code"] == "ok") for name, answer in answers.items()}
    yield Family("crossfed_platform_ok", "Whether a platform's last answer was one.", answered, "platform")
    heard = {name: answer["time"] for name, answer in answers.items()}
    yield Family("crossfed_platform_heard_timestamp_seconds", "When it came.", heard, "platform")
