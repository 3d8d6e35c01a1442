"""A whole federation as real processes on loopback: what the demo shows and what the deployment's tests start.

Provisioning goes the way that operators go (init, join, roster, sign, admit), and the processes are started by the commands
that they use. All of them end with this process, whatever ends it.
"""

from __future__ import annotations

import csv
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from client.data.training import TrainingData
from client.deploy.join import JoinedPlatform, join_federation
from client.deploy.sign import look_at_roster, sign_roster
from client.service.client import RecommenderClient
from common.attributes import Value, numbers_of
from common.config.federation import FederationPlan
from common.config.loader import load_yaml_model
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.deploy.supervise import BackOff, Program, Supervisor
from common.errors import FederationError, PlatformError
from server.deploy.aggregator import control_of
from server.deploy.provisioning import AggregatorFolder, initialise
from server.deploy.roster import admit_roster, make_roster
from server.deploy.runs import FAILED, FINISHED, RunFolder, RunStatus

AGGREGATOR = "aggregator"
_QUIET: Mapping[str, str] = {"TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"}
_POLL_SECONDS = 0.3
_LONGEST_LOOK_SECONDS = 5.0
_HOPELESS = 3


@dataclass(frozen=True)
class PlatformFiles:
    """A platform's data as its operator has it.

    Attributes:
        interactions: CSV with user_id, item_id and value.
        items: CSV with item_id, title, genres, and what ``describe`` names.
        namespace: of the item ids.
        describe: ``catalogue.describe`` of its configuration.
        genre_separator: between the genres of an item.
    """

    interactions: Path
    items: Path
    namespace: str
    describe: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    genre_separator: str = "|"


@dataclass
class LocalFederation:
    """Folders of an aggregator and its platforms on this machine, and the processes once they are started.

    Attributes:
        folder: of all.
        aggregator: the aggregator's files.
        platforms: what joining made, by name.
    """

    folder: Path
    aggregator: AggregatorFolder
    platforms: dict[str, JoinedPlatform] = field(default_factory=dict)
    supervisor: Supervisor | None = None

    @property
    def config(self) -> AggregatorConfig:
        """The aggregator's configuration."""
        return load_yaml_model(self.aggregator.config, AggregatorConfig)

    @property
    def invitation(self) -> Path:
        """For all platforms."""
        return self.aggregator.folder / f"{self.config.plan.federation}.invitation"

    def platform_config(self, name: str) -> PlatformConfig:
        """A platform's configuration."""
        return load_yaml_model(self.platforms[name].config, PlatformConfig)

    @contextmanager
    def running(
        self, *, parts: Sequence[str] | None = None, within: Mapping[str, Sequence[str]] | None = None
    ) -> Iterator[Supervisor]:
        """Run the aggregator and the platforms while the body runs; each is started again should it end.

        Args:
            parts: names of those to run; all unless given.
            within: words before a part's command, which run it elsewhere: in a network namespace.
        """
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        start = {AGGREGATOR: ["crossfed-server", "start", "--config", str(self.aggregator.config)]}
        for name, joined in self.platforms.items():
            start[name] = ["crossfed-client", "start", "--config", str(joined.config)]
        programs = [
            Program(
                name=name,
                command=[*(within or {}).get(name, ()), *command],
                environment=_QUIET,
                log=logs / f"{name}.log",
            )
            for name, command in start.items()
            if parts is None or name in parts
        ]
        self.supervisor = Supervisor(programs, back_off=BackOff(first=0.5, most=5.0), grace=40.0)
        self.supervisor.start()
        try:
            yield self.supervisor
        finally:
            self.supervisor.stop()

    def wait_online(self, count: int, *, deadline: float = 150.0) -> None:
        """Wait until so many SuperNodes are connected.

        Raises:
            FederationError: they are not in time.
        """
        control = control_of(self.config)

        def online() -> bool:
            restarts = {} if self.supervisor is None else self.supervisor.restarts
            failing = [name for name, times in restarts.items() if times >= _HOPELESS]
            if failing:
                raise FederationError(f"{', '.join(failing)} does not start; see {self.folder / 'logs'}")
            try:
                return sum(node.status == "online" for node in control.nodes()) >= count
            except FederationError:
                return False  # the SuperLink is not up yet

        wait_for(online, f"{count} platforms online; see {self.folder / 'logs'}", deadline)

    def wait_run(self, name: str, *, deadline: float = 300.0) -> RunStatus:
        """Wait for a run's end and return its status.

        Raises:
            FederationError: it has not ended in time.
        """
        run = RunFolder(self.config.state, name)
        wait_for(lambda: run.status().state in (FINISHED, FAILED), f"run {name} to end", deadline)
        return run.status()

    def recommender(self, name: str, *, deadline: float = 60.0) -> RecommenderClient:
        """A client of a platform's recommender, once that has taken up its first model: it looks every few seconds.

        Raises:
            FederationError: it has none in time.
        """
        config = self.platform_config(name)
        token = (config.keys / "api.token").read_text().strip()
        client = RecommenderClient(f"127.0.0.1:{config.recommender.port}", token=token, timeout=30.0)

        def serves() -> bool:
            try:
                client.recommend_for_history([], 1)
            except PlatformError:
                return False
            return True

        wait_for(serves, f"a model in the recommender of {name}; see {self.folder / 'logs'}", deadline)
        return client


def provision(
    folder: Path,
    plan: FederationPlan,
    files: Mapping[str, PlatformFiles],
    settings: Mapping[str, Any] | None = None,
    *,
    host: str = "127.0.0.1",
    tell: Callable[[str], None] = lambda text: None,
) -> LocalFederation:
    """Set up an aggregator and its platforms, as their operators would: one invitation, one roster that all sign.

    Args:
        folder: made; must not hold a federation yet.
        plan: what all agree to; the number of platforms is that of ``files``, unless it says another.
        files: each platform's data, by name.
        settings: further keys of every ``platform.yaml``.
        host: at which platforms reach the aggregator.
        tell: told of each step, as the command that an operator would type.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address = f"{host}:{free_port()}"
    tell(
        f"crossfed-server init {AGGREGATOR} --address {address} --federation {plan.federation} --platforms {len(files)}"
    )
    made = LocalFederation(folder, initialise(folder / AGGREGATOR, plan, address, superlink_port=free_port()))
    for name, data in files.items():
        _join(made, name, data, settings or {}, tell)
    _agree(made, tell)
    return made


def write_files(folder: Path, data: TrainingData, namespace: str) -> PlatformFiles:
    """A platform's data as CSV files, its item keys without their namespace; all that it tells of its items is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [key.removeprefix(f"{namespace}:") for key in data.items.keys]
    told = data.items.described
    describe, columns = dict[str, dict[str, str]](), dict[str, list[str]]()
    for name, kind in told.kinds.items():
        separator = _separator(told.values(name)) if kind == "categories" else ""
        columns[name] = [_cell(value, separator) for value in told.columns[name]]
        # A column of any name may be what the plan calls otherwise; no attribute's name can be that of the id.
        describe[name] = {"kind": kind, "column": f"about {name}", **({"separator": separator} if separator else {})}
    genres = describe.pop("genres")
    del describe["title"]
    files = PlatformFiles(folder / "interactions.csv", folder / "items.csv", namespace, describe, genres["separator"])
    known = data.known
    with files.interactions.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("user_id", "item_id"))
        pairs = zip(known.entry_users(), known.indices, strict=True)
        writer.writerows((data.user_ids[user], ids[item]) for user, item in pairs)
    with files.items.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("item_id", "title", "genres", *(own["column"] for own in describe.values())))
        writer.writerows(zip(ids, *columns.values(), strict=True))
    return files


def _separator(values: Sequence[Sequence[str]]) -> str:
    """One that no value holds."""
    letters = {letter for own in values for value in own for letter in value}
    return next(mark for mark in ("|", ";", "¦", "‖", "\x1f") if mark not in letters)


def _cell(value: Value | None, separator: str) -> str:
    """As the reader takes the value from a file."""
    if isinstance(value, bytes):
        return " ".join(repr(number) for number in numbers_of(value).tolist())
    return "" if value is None else separator.join(value) if isinstance(value, tuple) else str(value)


def wait_for(done: Callable[[], bool], what: str, deadline: float) -> None:
    """Poll until ``done``.

    A look counts for some seconds at most: while this process is stopped, or the machine asleep, nothing is waited for in vain.

    Raises:
        FederationError: not within ``deadline`` seconds.
    """
    waited, before = 0.0, time.monotonic()
    while not done():
        if waited > deadline:
            raise FederationError(f"waited {deadline:.0f} s in vain for {what}")
        time.sleep(_POLL_SECONDS)
        now = time.monotonic()
        waited, before = waited + min(now - before, _LONGEST_LOOK_SECONDS), now


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _join(
    made: LocalFederation, name: str, data: PlatformFiles, settings: Mapping[str, Any], tell: Callable[[str], None]
) -> None:
    tell(
        f"crossfed-client join {made.invitation.name} {name} --name {name} --interactions FILE --items FILE "
        f"--namespace {data.namespace}"
    )
    joined = join_federation(
        made.invitation,
        made.folder / name,
        name=name,
        interactions=data.interactions,
        items=data.items,
        namespace=data.namespace,
        ports=(free_port(), free_port()),
    )
    content = yaml.safe_load(joined.config.read_text()) | dict(settings)
    if data.describe:
        content["catalogue"] = {**content.get("catalogue", {}), "describe": {**data.describe}}
    if data.genre_separator != "|":
        content["data"]["items"]["genre_separator"] = data.genre_separator
    joined.config.write_text(yaml.safe_dump(content, sort_keys=False))
    made.platforms[name] = joined


def _agree(made: LocalFederation, tell: Callable[[str], None]) -> None:
    """Put the roster together, have all sign what they heard from the others, and admit all of it."""
    aggregator = f"--config {AGGREGATOR}/{made.aggregator.config.name}"
    registrations = [joined.config.parent / f"{name}.registration.json" for name, joined in made.platforms.items()]
    tell(f"crossfed-server roster {' '.join(path.name for path in registrations)} {aggregator}")
    roster, path = make_roster(made.aggregator.config, registrations)
    # The keeper signs first: it makes the secret that it seals for the others.
    signing, secrets = [roster.keeper, *(name for name in roster.names if name != roster.keeper)], None
    for name in signing:
        others = "" if secrets is None else f" --secrets {secrets.name}"
        tell(f"crossfed-client sign {path.name} --config {name}/platform.yaml{others}")
        view = look_at_roster(path, made.platforms[name].config)
        signed = sign_roster(view, roster.fingerprint, secrets=secrets)
        secrets = signed.secrets or secrets
    tell(f"crossfed-server admit {path.name} {aggregator}")
    admit_roster(made.config, roster, roster.fingerprint)
