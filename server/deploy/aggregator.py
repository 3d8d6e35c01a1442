"""The aggregator's long-lived process: Flower's programs supervised, nodes admitted, runs begun when they are due.

1  supervise  SuperLink, SuperExec, fleet proxy
2  admit      the SuperLink's node keys follow the folder of admitted platforms
3  run        on schedule, and again where a run's process was lost
4  wait       SIGTERM ends in reverse order; runs go on at the next start
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path

from common.config.loader import load_yaml_model
from common.deploy.locks import held
from common.deploy.ports import PORT_PATIENCE, check_port_free
from common.deploy.roles import AggregatorConfig
from common.deploy.signals import SignalQueue
from common.deploy.supervise import Supervisor
from common.errors import CrossfedError, FederationError, InUseError
from common.files import make_folder
from common.sealed.admin import AdminLog
from server.deploy.admission import AdmissionBook
from server.deploy.bundle import stage_app
from server.deploy.flower import FlowerControl
from server.deploy.metrics import AggregatorMetrics
from server.deploy.runs import INTERRUPTED, RunFolder, list_runs, new_run_name, run_going_on
from server.deploy.schedule import HOPELESS, Resumer, next_start
from server.deploy.superlink import aggregator_programs

_log = getLogger(__name__)
StartRun = Callable[[AggregatorConfig, str], None]

_TICK_SECONDS = 2.0
_WAIT_SECONDS = 0.5


def control_of(config: AggregatorConfig) -> FlowerControl:
    """The control API of this aggregator's SuperLink."""
    return FlowerControl(config.state / "control", config.superlink_port, config.tls.ca)


def start_on_superlink(config: AggregatorConfig, run_name: str) -> None:
    """Have the SuperLink start the run's ServerApp. Raises: FederationError, where it does not answer."""
    control_of(config).start_run(stage_app(config.state / "app"), run_name)


def begin_run(config: AggregatorConfig, name: str | None = None, *, start: StartRun = start_on_superlink) -> str:
    """Begin a run, or take a run up again from its last checkpoint; returns its name.

    Args:
        config: of the aggregator.
        name: of the run to take up again; None begins a new one.
        start: starts the run's process.

    Raises:
        InUseError: a run is going on; names it.
        FederationError: the SuperLink does not answer.
    """
    make_folder(config.state, mode=0o700)
    # Who looks and who announces must be one: two commands of the same second would both see that nothing is going on.
    with held(config.state / "begin.lock", "crossfed-server run", mend="try again in a moment"):
        if (other := run_going_on(config.state)) is not None:
            raise InUseError(
                f"run {other.name} is going on ({other.server_round} rounds done), and a second one would disturb it; "
                "crossfed-server status shows it, and crossfed-server run --wait begins after it"
            )
        run = RunFolder(config.state, name or new_run_name())
        AdminLog(config.state).record("run" if name is None else "run resumed", run=run.name)
        run.announce()
        try:
            start(config, run.name)
        except FederationError as error:
            run.give_up(str(error))
            raise
    return run.name


def wait_for_end(config: AggregatorConfig, tell: Callable[[str], None]) -> None:
    """Wait until no run is going on.

    Args:
        config: of the aggregator.
        tell: told of each run that is waited for.
    """
    told: set[str] = set()
    while (other := run_going_on(config.state)) is not None:
        if other.name not in told:
            told.add(other.name)
            tell(f"run {other.name} is going on; waiting for its end")
        time.sleep(_WAIT_SECONDS)


class AggregatorProcess:
    """Runs as ``crossfed-server start``.

    Args:
        config_path: of ``federation.yaml``.
        start: starts the process of a run.
        port_patience: seconds to wait for a port that a process before still holds.
    """

    def __init__(
        self, config_path: Path, *, start: StartRun = start_on_superlink, port_patience: float = PORT_PATIENCE
    ) -> None:
        self._path = config_path
        self._start = start
        self._port_patience = port_patience
        self._signals: SignalQueue
        self._stopping = False
        self._began = datetime.now(UTC)
        self._resumer = Resumer()
        self._seen: tuple[int, ...] = ()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            InUseError: another aggregator runs on this state.
        CrossfedError: the configuration, a certificate or a program is missing, or a port is taken; nothing is left running.
        """
        config = load_yaml_model(self._path, AggregatorConfig)
        make_folder(config.state, mode=0o700)
        mend = "one aggregator at a time: end that one first"
        with held(config.state / "aggregator.lock", "crossfed-server start", mend=mend):
            self._run(config)

    def _run(self, config: AggregatorConfig) -> None:
        check_port_free("127.0.0.1", config.superlink_port, "superlink_port", patience=self._port_patience)
        if config.proxy.enabled:
            check_port_free(config.proxy.host, config.proxy.port, "proxy.port", patience=self._port_patience)
        self._signals = SignalQueue(signal.SIGTERM, signal.SIGINT)
        metrics = AggregatorMetrics(config)
        supervisor = Supervisor(aggregator_programs(config, self._path), on_exit=metrics.program_ended)
        supervisor.start()
        try:
            self._admit(config, first=True)
            with metrics.exposed():
                _log.info("aggregator of %s is ready at %s", config.plan.federation, config.address)
                while not self._stops_within(_TICK_SECONDS):
                    self._tick(config)
        finally:
            supervisor.stop()
        _log.info("aggregator has stopped")

    def _tick(self, config: AggregatorConfig) -> None:
        try:
            self._admit(config)
            self._run_what_is_due(config)
        except (CrossfedError, OSError) as error:
            # What is wrong now (a SuperLink that restarts, a damaged card) may be mended while this process runs.
            _log.warning("%s", error)

    def _admit(self, config: AggregatorConfig, *, first: bool = False) -> None:
        """Follow the folder of admitted platforms; at the first start, once the SuperLink answers."""
        book = AdmissionBook(config.platforms)
        changed = tuple(path.stat().st_mtime_ns for path in sorted(config.platforms.glob("*.json")))
        if changed == self._seen and not first:
            return
        give_up = time.monotonic() + 120.0
        while True:
            try:
                for name, what in book.bring_in_line(control_of(config)).items():
                    _log.info("platform %s: %s", name, what)
                break
            except FederationError:
                if not first or time.monotonic() > give_up or self._stops_within(0.5):
                    raise
        self._seen = tuple(path.stat().st_mtime_ns for path in sorted(config.platforms.glob("*.json")))

    def _run_what_is_due(self, config: AggregatorConfig) -> None:
        runs = list_runs(config.state)
        lost = self._resumer.to_resume(runs)
        if lost is not None:
            self._resume(config, lost)
            return
        if runs and runs[-1].state == INTERRUPTED:
            _log.error("run %s: %s", runs[-1].name, HOPELESS)
            RunFolder(config.state, runs[-1].name).give_up(HOPELESS)
            return
        if run_going_on(config.state) is not None:
            return
        due = next_start(config.schedule, runs, self._began)
        if due is not None and due <= datetime.now(UTC):
            _log.info("scheduled run %s begins", begin_run(config, start=self._start))

    def _resume(self, config: AggregatorConfig, lost: str) -> None:
        _log.warning("run %s has lost its process; it goes on from its last checkpoint", lost)
        try:
            begin_run(config, lost, start=self._start)
        except FederationError:
            # The SuperLink may be restarting, too: the run is not given up for that, and tried again at the next tick.
            self._resumer.not_begun(lost)
            RunFolder(config.state, lost).interrupt()
            raise

    def _stops_within(self, seconds: float) -> bool:
        """Wait for a signal; whether there has been one."""
        self._stopping = self._stopping or self._signals.wait(seconds) is not None
        return self._stopping
