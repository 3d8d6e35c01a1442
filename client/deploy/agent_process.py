"""A platform's long-lived process: the agent on its socket, the recommender on its port, the courier's programs beside it.

0  lock       one agent and one courier a platform, before anything is touched
1  load       data, keys and books, once
2  serve      the agent to the courier, the recommender to applications, metrics to Prometheus
3  supervise  SuperNode and SuperExec, started again with back-off
4  wait       SIGHUP reloads configuration and data for the next run; SIGTERM ends in reverse order
"""

from __future__ import annotations

import grp
import os
import signal
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry

from client.agent import PlatformAgent
from client.data.reading.exclusions import ExclusionBook
from client.data.recorded import EventRules
from client.data.training import TrainingData, shared_items
from client.deploy.agent_metrics import AgentMetrics, MeasuredAgent
from client.deploy.aggregator_watch import AggregatorWatch
from client.deploy.loading import load_training_data, make_agent
from client.deploy.supernode import courier_programs
from client.keys import node_public_key
from client.passport.desk import PassportDesk
from client.person.erasure import Erasures
from client.person.watch import ChangeWatch, Days
from client.personalization.model_builder import ModelBuilder
from client.personalization.store import PlatformStore
from client.service.agent_service import SocketWatch, serve_agent
from client.service.metrics_export import ServingMetrics, expose_metrics
from client.service.server import RecommenderServer, TlsFiles, serve_recommender
from client.steering.hidden import HiddenItems
from client.tokens import CurrentTokens
from common.config.loader import load_yaml_model
from common.config.serving import ServingConfig
from common.deploy.guard import check_memory_limit
from common.deploy.health import Listener
from common.deploy.locks import held
from common.deploy.ports import check_port_free
from common.deploy.roles import PlatformConfig, SocketConfig
from common.deploy.signals import SignalQueue
from common.deploy.supervise import Supervisor
from common.errors import ConfigError, StoreError, told_of
from common.files import make_folder
from common.tracing import Tracing, tracing_to
from common.wire.exchange import AgentConnection, AgentReply, AgentRequest

_log = getLogger(__name__)

Part = Literal["all", "agent", "courier"]
MakeAgent = Callable[[PlatformConfig, TrainingData, ModelBuilder | None], PlatformAgent]


class ReloadableAgent:
    """Serves one agent until another is offered; a run that has begun ends with the agent that it began with.

    Args:
        agent: the first.
        before_run: called before a run begins; may offer another one, or raise.
    """

    def __init__(self, agent: AgentConnection, before_run: Callable[[], None] = lambda: None) -> None:
        self._agent = agent
        self._before_run = before_run
        self._next: Callable[[], AgentConnection] | None = None
        self._lock = threading.Lock()

    def offer(self, make: Callable[[], AgentConnection]) -> None:
        """Use what ``make`` makes from the next run on."""
        with self._lock:
            self._next = make

    def exchange(self, request: AgentRequest) -> AgentReply:
        """As the agent's; its successor takes over when a run begins."""
        if request.kind == "join":
            self._before_run()
        with self._lock:
            if request.kind == "join" and self._next is not None:
                self._take_over(self._next)
            return self._agent.exchange(request)

    def _take_over(self, make: Callable[[], AgentConnection]) -> None:
        self._next = None
        try:
            self._agent = make()
        except Exception as error:
            # The aggregator must not learn more than that this platform answers as before.
            _log.error("the reloaded configuration cannot be used, the one before stays: %s", told_of(error))


class PlatformProcess:
    """Runs as ``crossfed-client start``.

    Args:
        config_path: of ``platform.yaml``.
        part: ``agent`` and ``courier`` run the two halves under different users; ``all`` runs both under one.
        make: makes the agent of a configuration and its data.
    """

    def __init__(self, config_path: Path, part: Part = "all", *, make: MakeAgent = make_agent) -> None:
        self._path = config_path
        self._make = make
        self._part = part
        self._agent: ReloadableAgent | None = None
        self._builder: ModelBuilder | None = None
        self._recommender: RecommenderServer | None = None
        self._used: tuple[PlatformConfig, TrainingData] | None = None
        self._left_out: tuple[object, ...] = ()
        self._changing = threading.Lock()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            InUseError: this platform runs already; names the process.
            CrossfedError: configuration, data, keys or ports cannot be used; nothing is left running.
        """
        check_memory_limit()
        config = load_yaml_model(self._path, PlatformConfig)
        with ExitStack() as stack:
            self._lock(config, stack)
            signals = SignalQueue(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            registry = CollectorRegistry()
            if self._part != "courier":
                self._serve(config, registry, AgentMetrics(registry, config.state, config.plan), stack)
            if self._part != "agent":
                _supervise(config, registry, stack)
            port = config.supernode.metrics_port if self._part == "courier" else config.metrics_port
            if port is not None:
                _, stop = expose_metrics(registry, port=port, host=config.metrics_host)
                stack.callback(stop)
            _log.info("platform %s is ready", config.name)
            while signals.wait() == signal.SIGHUP:
                self._reload()
        _log.info("platform %s has stopped", config.name)

    def _lock(self, config: PlatformConfig, stack: ExitStack) -> None:
        """The agent's lock lies with its state; the courier's in its own folder, as its user cannot see the agent's."""
        me, mend = f"crossfed-client start --part {self._part}", "one at a time: end that one first"
        if self._part != "courier":
            make_folder(config.state, mode=0o700)
            stack.enter_context(held(config.state / "agent.lock", me, mend=mend))
        if self._part != "agent":
            courier = config.supernode.superexec_secret.parent
            make_folder(courier, mode=0o750)
            stack.enter_context(held(courier / "courier.lock", me, mend=mend))

    def _serve(
        self, config: PlatformConfig, registry: CollectorRegistry, metrics: AgentMetrics, stack: ExitStack
    ) -> None:
        self._builder = ModelBuilder(
            PlatformStore(config.state / "store", keep=config.serving.keep_versions),
            background=True,
            on_built=self._serve_newest,
        )
        stack.callback(self._builder.stop)
        try:
            Erasures(config).resume()
        except StoreError as error:
            _log.error("an erasure is not complete yet: %s", error)
        exclusions = ExclusionBook(config.state / "store")
        hidden = HiddenItems(config.state / "store")
        # Before the data are read: who is left out while they are, or what is hidden, must not be missed.
        excluded, concealed = exclusions.stamp(), hidden.stamp()
        data = load_training_data(config)
        agent = self._make(config, data, self._builder)
        self._agent, self._used = ReloadableAgent(agent, self._before_run), (config, data)
        self._left_out = excluded
        stack.callback(ChangeWatch(exclusions, self._leave_out, seen=excluded).stop)
        stack.callback(ChangeWatch(hidden, self._share_otherwise, seen=concealed).stop)
        if config.data.retention_days is not None:
            stack.callback(ChangeWatch(Days(), self._read_again, poll_seconds=60.0).stop)
        server = serve_agent(
            MeasuredAgent(self._agent, metrics), config.name, config.socket.path, mode=socket_mode(config.socket)
        )
        stack.callback(lambda: server.stop(grace=None).wait())
        give_to_group(config.socket)
        if config.recommender.enabled:
            traces = config.recommender.traces
            tracing = None
            if traces is not None:
                tracing = stack.enter_context(tracing_to(traces.endpoint, "crossfed-recommender"))
            self._recommender = serve_of_platform(config, registry, tracing)
            self._recommender.agent_reachable(True)
            stack.callback(self._recommender.stop)
            _log.info("recommender at %s", self._recommender.target)
            if self._recommender.http_target is not None:
                _log.info("recommender over HTTP at %s", self._recommender.http_target)
        agent.resume_building()
        stack.callback(SocketWatch(config.socket.path, self._tell_reachable).stop)

    def _tell_reachable(self, reachable: bool) -> None:
        if self._recommender is not None:
            self._recommender.agent_reachable(reachable)

    def _reload(self) -> None:
        """Read configuration and data again, for the next run; serve the newest model at once."""
        self._serve_newest()
        if self._agent is None:
            return
        with self._changing:
            try:
                config = load_yaml_model(self._path, PlatformConfig)
                self._offer(config, load_training_data(config))
            except Exception as error:
                # Whatever it was: what cannot be used must not end a platform that runs.
                _log.error("not reloaded, the configuration and data before stay: %s", told_of(error))
                return
        if self._recommender is not None:
            self._recommender.model.feedback.rules = EventRules.of(config.data)
        _log.info("reloaded; the next run uses it")

    def _leave_out(self) -> None:
        """Make the next run without whoever is on the exclusion list now; from what is in memory, so that no file can fail."""
        self._serve_newest()
        with self._changing:
            assert self._used is not None
            config, data = self._used
            book = ExclusionBook(config.state / "store")
            try:
                stamp = book.stamp()
                if stamp == self._left_out:
                    return
                self._offer(config, data.without(book.current()))
                self._left_out = stamp
            except Exception as error:
                # Going on would contribute what must not be used any more.
                _log.critical(
                    "the data cannot be used without who was erased or has objected, so this ends: %s", told_of(error)
                )
                os.kill(os.getpid(), signal.SIGTERM)
                return
        _log.info("the exclusion list has changed; the next run uses it")

    def _before_run(self) -> None:
        """A run that begins now begins without whoever is on the list now: a receipt may have said so a moment ago.

        Raises:
            StoreError: it cannot.
        """
        assert self._used is not None
        book = ExclusionBook(self._used[0].state / "store")
        if book.stamp() != self._left_out:
            self._leave_out()
            if book.stamp() != self._left_out:
                raise StoreError("somebody was erased or has objected, and the data cannot be used without that person")

    def _read_again(self) -> None:
        """Make the next run without what has become older than the platform keeps it; the configuration stays as it was."""
        with self._changing:
            assert self._used is not None
            config, _ = self._used
            try:
                self._offer(config, load_training_data(config))
            except Exception as error:
                # Told once, and tried again the next day.
                _log.error(
                    "what is older than retention_days goes on being used, as the data cannot be read: %s",
                    told_of(error),
                )

    def _share_otherwise(self) -> None:
        """Make the next run without the items that are hidden now, and with those that are no longer."""
        with self._changing:
            assert self._used is not None
            config, data = self._used
            try:
                hidden = HiddenItems(config.state / "store").current()
                self._offer(config, replace(data, shared=shared_items(data.items, config.catalogue, hidden)))
            except Exception as error:
                # Not tried again at every look: what fails now is likely to, until items change once more.
                _log.error("what is shared stays as it was: %s", told_of(error))
                return
        _log.info("hidden items have changed; the next run uses it")

    def _offer(self, config: PlatformConfig, data: TrainingData) -> None:
        # Made here and not when the next run begins: how long it takes depends on the data.
        successor = self._make(config, data, self._builder)
        assert self._agent is not None
        self._used = config, data
        self._agent.offer(lambda: successor)

    def _serve_newest(self) -> None:
        if self._recommender is not None:
            self._recommender.model.look()


def log_file(config: PlatformConfig, part: Part) -> Path:
    """The platform's own log: ``state/logs/platform.log``, or the courier's where it runs as another user."""
    courier = config.supernode.superexec_secret.parent
    return courier / "logs" / "courier.log" if part == "courier" else config.state / "logs" / "platform.log"


def listeners(config: PlatformConfig, part: Part) -> list[Listener]:
    """Return what a running platform, or a part of it, listens on."""
    found = []
    if part != "courier":
        found.append(Listener("agent", config.socket.path))
        if config.recommender.enabled:
            found.append(Listener("recommender", (config.recommender.host, config.recommender.port)))
            if config.recommender.http is not None:
                found.append(Listener("recommender over HTTP", (config.recommender.host, config.recommender.http.port)))
    if part != "agent":
        found.append(Listener("SuperNode", ("127.0.0.1", config.supernode.port)))
    return found


def _supervise(config: PlatformConfig, registry: CollectorRegistry, stack: ExitStack) -> None:
    """The courier's side: its programs, and an eye on the aggregator."""
    check_port_free("127.0.0.1", config.supernode.port, "supernode.port")
    node_public_key(config.supernode.private_key)  # one that was cut short is named here, and not in Flower's words
    watch = AggregatorWatch(config, registry)
    logs = config.supernode.superexec_secret.parent / "logs"
    supervisor = Supervisor(courier_programs(config, logs), on_exit=watch.program_ended)
    supervisor.start()
    stack.callback(supervisor.stop)
    watch.start()
    stack.callback(watch.stop)


def socket_mode(config: SocketConfig) -> int:
    """0660 for a courier of another user, else 0600, which protects nothing from the courier and says so."""
    if config.group is not None:
        return 0o660
    _log.warning(
        "socket.group is not set: agent and courier run as one user, so code that the aggregator ships could read this "
        "platform's files. Fit for trying out; docs/deploy.md says how to separate them"
    )
    return 0o600


def give_to_group(config: SocketConfig) -> None:
    """Let the courier's group reach the socket, and through its folder nothing else.

    Raises:
        ConfigError: there is no such group, or this user is not in it.
    """
    if config.group is None:
        return
    try:
        os.chown(config.path, -1, grp.getgrnam(config.group).gr_gid)
    except (KeyError, PermissionError):
        raise ConfigError(
            f"socket.group: {config.group!r} is no group of this host, or this user is not in it; create it and add both users"
        ) from None
    # grpcio makes the socket under the process's umask; say again what it must be.
    config.path.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP)


def serve_of_platform(
    config: PlatformConfig, registry: CollectorRegistry, tracing: Tracing | None = None, *, read_only: bool = False
) -> RecommenderServer:
    """Serve the platform's model as ``recommender`` and ``steering`` say.

    Args:
        config: the platform's.
        registry: of metrics.
        tracing: where spans go.
        read_only: as one of several recommenders: without feedback and passports, which the agent's own takes.
    """
    settings = config.recommender
    passports, tls = config.passport.issue or config.passport.redeem, None
    if settings.certificate is not None and settings.key is not None:
        tls = TlsFiles(settings.certificate, settings.key)
    return serve_recommender(
        config.state / "store",
        token=None if settings.token_file is None else CurrentTokens(settings.token_file),
        tls=tls,
        config=ServingConfig(
            host=settings.host,
            port=settings.port,
            http=settings.http,
            steering=config.steering,
            **config.serving.model_dump(),
        ),
        rules=EventRules.of(config.data),
        metrics=ServingMetrics(registry, tracing),
        passports=PassportDesk.of(config) if passports and not read_only else None,
        read_only=read_only,
    )
