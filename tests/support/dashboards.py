"""The dashboards that ship, and which metrics there are."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from client.deploy.agent_metrics import AgentMetrics
from client.deploy.aggregator_watch import AggregatorWatch
from client.deploy.join import join_federation
from client.service.metrics_export import ServingMetrics
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig, PlatformConfig
from server.deploy.admission import AdmissionBook
from server.deploy.metrics import AggregatorMetrics
from server.deploy.provisioning import initialise, invite
from server.deploy.runs import RunFolder
from server.federation.state import RoundRecord
from tests.support.registrations import registration

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})


def admit(config: AggregatorConfig, *names: str) -> AdmissionBook:
    """Cards of platforms that nobody has joined."""
    book = AdmissionBook(config.platforms)
    for name in names:
        book.admit(registration(name), "films")
    return book


DEPLOY = Path(__file__).parents[2] / "deploy"


def metric_names(folder: Path) -> set[str]:
    """All metrics that the roles export, of roles in ``folder``."""
    made = initialise(folder / "agg", PLAN, "127.0.0.1:9443")
    config = load_yaml_model(made.config, AggregatorConfig)
    admit(config, "a")
    run = RunFolder(config.state, "r1")
    with run.recorded():
        run.observer().on_reply(1, "counts", "a", "ok", 1)
        run.observer().on_round(
            RoundRecord(round=1, seconds=1, bytes_up=1, bytes_down=1, objective=1.0, recall=None, platforms=("a",))
        )
    names = {family.name for family in AggregatorMetrics(config).families()}
    invite(config, "a", folder / "a.invitation")
    (folder / "views.csv").write_text("user_id,item_id\n1,2\n")
    joined = join_federation(folder / "a.invitation", folder / "a", interactions=folder / "views.csv")
    registry = CollectorRegistry()
    AgentMetrics(registry, folder, PLAN)
    ServingMetrics(registry).certificate(made.server[0])
    AggregatorWatch(load_yaml_model(joined.config, PlatformConfig), registry)
    for metric in registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        names |= {metric.name + end for end in ends}
    return names
