"""Metrics of agent and aggregator: numbers, and never a text that somebody else has chosen."""

from __future__ import annotations

import json
import logging
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from client.deploy.agent_metrics import AgentMetrics, MeasuredAgent
from client.privacy.ledger import BudgetLedger
from common.config.loader import load_yaml_model
from common.contributions.run_plan import RunPlan, read_plan
from common.deploy.logs import JsonFormatter
from common.deploy.roles import AggregatorConfig
from common.privacy.lifetime import BudgetPolicy, budget_policy
from common.wire.exchange import AgentReply, AgentRequest
from server.deploy.metrics import AggregatorMetrics
from server.deploy.provisioning import initialise
from server.deploy.runs import RunFolder
from server.federation.state import RoundRecord
from simulations.engine.deployment import free_port
from tests.support.dashboards import DEPLOY, PLAN, admit, metric_names


class Answering:
    def exchange(self, request: AgentRequest) -> AgentReply:
        code = "ok" if request.kind == "statistics" else "contract"
        arrays = {"gram": np.zeros(4)} if code == "ok" else {}
        return AgentReply(platform="a", kind=request.kind, server_round=3, code=code, arrays=arrays)


def test_exchanges_are_counted_and_a_hostile_kind_is_no_label(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    agent = MeasuredAgent(Answering(), AgentMetrics(registry, tmp_path, PLAN))
    given = {"item_parameters": np.zeros(2)}
    agent.exchange(AgentRequest(kind="statistics", run_id="r", server_round=3, arrays=given))
    for number in range(50):
        agent.exchange(AgentRequest(kind=f"hostile-{number}", run_id="r", server_round=0))
    text = generate_latest(registry).decode()
    assert 'crossfed_agent_exchanges_total{code="ok",kind="statistics"} 1.0' in text
    assert 'crossfed_agent_exchanges_total{code="contract",kind="refused"} 50.0' in text
    assert 'crossfed_agent_bytes_total{direction="in"} 16.0' in text
    assert 'crossfed_agent_bytes_total{direction="out"} 32.0' in text
    assert "hostile" not in text


def test_a_budget_that_cannot_be_read_is_not_a_number(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    AgentMetrics(registry, tmp_path, PLAN)
    assert "crossfed_epsilon_spent NaN" in generate_latest(registry).decode()


def test_how_many_runs_are_left_is_measured(tmp_path: Path) -> None:
    plan = read_plan({"platforms": 3, "privacy": {"budget": 4.5}})
    registry = CollectorRegistry()
    AgentMetrics(registry, tmp_path, plan)
    assert "crossfed_runs_left NaN" in generate_latest(registry).decode()
    ledger = BudgetLedger.open(tmp_path, budget_policy(plan))
    assert "crossfed_runs_left 2.0" in generate_latest(registry).decode()
    releases = RunPlan.of(plan).release_plan().releases()
    ledger.reserve("run", releases, epsilon=3.0, delta=plan.delta)
    ledger.charge("run", 0, releases[:1], f"{1:064x}")
    assert "crossfed_runs_left 1.0" in generate_latest(registry).decode()
    BudgetLedger.open(tmp_path, BudgetPolicy(epsilon=None, delta=1e-5))
    assert "crossfed_runs_left +Inf" in generate_latest(registry).decode()


def test_the_aggregators_metrics_come_from_the_newest_run(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", PLAN, "127.0.0.1:9443")
    config = load_yaml_model(made.config, AggregatorConfig, [f"metrics_port={free_port()}"])
    run = RunFolder(config.state, "r1")
    admit(config, "cinema", "club")
    metrics = AggregatorMetrics(config)
    metrics.program_ended("superlink", -9)
    with run.recorded():
        recorder = run.observer()
        recorder.on_reply(1, "statistics", "cinema", "ok", 10)
        recorder.on_reply(1, "statistics", "club", "deadline", 0)
        recorder.on_round(
            RoundRecord(
                round=1, seconds=2.5, bytes_up=10, bytes_down=20, objective=7.0, recall=None, platforms=("cinema",)
            )
        )
    with metrics.exposed(), urllib.request.urlopen(f"http://127.0.0.1:{config.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    for line in (
        'crossfed_runs{state="finished"} 1.0',
        'crossfed_platform_ok{platform="club"} 0.0',
        'crossfed_platform_ok{platform="cinema"} 1.0',
        'crossfed_round_bytes{direction="down"} 20.0',
        "crossfed_round_seconds 2.5",
        "crossfed_objective 7.0",
        'crossfed_program_exits{program="superlink"} 1.0',
    ):
        assert line in text, line


@pytest.mark.parametrize("text", ["plain", 'with "quotes"\nand a line', "Ünïcode"])
def test_a_json_log_is_one_object_a_line(text: str) -> None:
    record = logging.LogRecord("n", logging.WARNING, __file__, 1, "%s", (text,), None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == text


def test_the_metrics_leave_revoked_platforms_out(tmp_path: Path) -> None:
    config = load_yaml_model(initialise(tmp_path / "agg", PLAN, "127.0.0.1:9443").config, AggregatorConfig)
    book = admit(config, "cinema", "club")
    run = RunFolder(config.state, "r1")
    with run.recorded():
        for name in ("cinema", "club"):
            run.observer().on_reply(1, "statistics", name, "ok", 10)
    book.revoke("club")
    families = {family.name: family.samples for family in AggregatorMetrics(config).families()}
    assert families["crossfed_platform_ok"] == {"cinema": 1.0}
    assert set(families["crossfed_platform_heard_timestamp_seconds"]) == {"cinema"}


def test_damage_and_certificates_are_measured(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", PLAN, "127.0.0.1:9443")
    config = load_yaml_model(made.config, AggregatorConfig)
    admit(config, "cinema")
    (config.platforms / "cinema.json").write_text("{")
    (config.state / "runs" / "old").mkdir(parents=True)
    (config.state / "runs" / "old" / "status.json").write_text("")
    made.server[0].write_text("")
    families = {family.name: family.samples for family in AggregatorMetrics(config).families()}
    assert families["crossfed_damaged_files"] == {"runs": 1.0, "platforms": 1.0}
    assert families["crossfed_certificate_days_left"]["authority"] > 3000
    assert families["crossfed_certificate_days_left"]["server"] == 0.0


def test_the_dashboard_shows_metrics_that_exist(tmp_path: Path) -> None:
    used = set(re.findall(r"crossfed_[a-z_]+", (DEPLOY / "grafana" / "crossfed.json").read_text()))
    assert len(used) > 10
    assert used <= metric_names(tmp_path)
