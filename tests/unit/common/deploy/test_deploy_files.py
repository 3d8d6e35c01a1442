"""The files in ``deploy/``: alert rules that fire, health checks that exist, and containers that reach each other."""

from __future__ import annotations

import math
import operator
import re
import socket
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from typer.testing import CliRunner

from client.cli.main import app as client_app
from client.deploy.agent_process import listeners
from client.service.client import RecommenderClient
from client.service.server import TlsFiles, serve_recommender
from client.service.tls import issue_recommender_tls
from common.config.loader import load_yaml_model, parse_model
from common.config.serving import ServingConfig
from common.deploy.health import Listener, unanswered
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.deploy.tls import is_issued_by, names_of, read_certificate
from common.errors import ConfigError, PlatformError
from server.cli import app as server_app
from simulations.engine.deployment import free_port
from tests.support.dashboards import DEPLOY, metric_names
from tests.support.joined import joined

RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PLATFORM = {
    "name": "cinema",
    "plan": {"privacy": {"mode": "none"}},
    "aggregator": "films.example.org:9443",
    "data": {"interactions": {"path": "/data/views.csv"}},
}
Samples = dict[str, list[tuple[dict[str, str], float]]]
Vector = list[tuple[dict[str, str], float]]
COMPARISONS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq}


def value(expression: Any, samples: Samples) -> Vector | float:
    """The small part of PromQL that the rules use; metrics of one instance, joined on their labels."""
    if isinstance(expression, promql.NumberLiteral):
        return float(expression.val)
    if isinstance(expression, promql.VectorSelector):
        wanted = {matcher.name: matcher.value for matcher in expression.matchers.matchers}
        return [
            (labels, number) for labels, number in samples.get(expression.name, []) if wanted.items() <= labels.items()
        ]
    if isinstance(expression, promql.UnaryExpr):
        return -value(expression.expr, samples)  # type: ignore[operator]
    if isinstance(expression, promql.Call):
        return value(expression.args[0].vector_selector, samples)
    assert isinstance(expression, promql.BinaryExpr), expression
    left, right, op = value(expression.lhs, samples), value(expression.rhs, samples), str(expression.op)
    if op in ("or", "and"):
        assert isinstance(left, list)
        assert isinstance(right, list)
        both = [entry for entry in left if any(entry[0] == other[0] for other in right)]
        return both if op == "and" else left + [entry for entry in right if entry not in left]
    assert isinstance(left, list)
    pairs = [
        (labels, number, other)
        for labels, number in left
        for other in ([right] if isinstance(right, float) else [each for name, each in right if name == labels])
    ]
    return [(labels, number) for labels, number, other in pairs if COMPARISONS[op](number, other)]


def fired(samples: Samples) -> set[str]:
    return {rule["alert"] for rule in RULES if value(promql.parse(rule["expr"]), samples)}


QUIET: Samples = {
    "crossfed_runs_left": [({}, 1.0)],
    "crossfed_epsilon_spent": [({}, 0.0)],
    "crossfed_agent_reachable": [({}, 1.0)],
    "crossfed_aggregator_reachable": [({}, 1.0)],
    "crossfed_clock_ahead_seconds": [({}, -1.0)],
    "crossfed_store_problems": [({}, 0.0)],
    "crossfed_model_build_failed": [({}, 0.0)],
    "crossfed_recommender_certificate_days_left": [({}, 300.0)],
    "crossfed_newest_run": [({"state": "failed"}, 0.0), ({"state": "interrupted"}, 0.0), ({"state": "running"}, 1.0)],
    "crossfed_platform_ok": [({"platform": "a"}, 1.0)],
    "crossfed_damaged_files": [({"of": "runs"}, 0.0)],
    "crossfed_certificate_days_left": [({"certificate": "server"}, 300.0)],
    "crossfed_program_exits_total": [({"program": "supernode"}, 0.0)],
    "up": [({"job": "crossfed"}, 1.0)],
}
LOUD: dict[str, tuple[Samples, ...]] = {
    "CrossfedBudgetSpent": ({"crossfed_runs_left": [({}, 0.0)]},),
    "CrossfedBudgetLow": ({"crossfed_runs_left": [({}, 2.0)], "crossfed_epsilon_spent": [({}, 4.0)]},),
    "CrossfedAgentUnreachable": ({"crossfed_agent_reachable": [({}, 0.0)]},),
    "CrossfedAggregatorUnreachable": ({"crossfed_aggregator_reachable": [({}, 0.0)]},),
    "CrossfedClockOff": (
        {"crossfed_clock_ahead_seconds": [({}, 61.0)]},
        {"crossfed_clock_ahead_seconds": [({}, -300.0)]},
    ),
    "CrossfedStoreDamaged": ({"crossfed_store_problems": [({}, 1.0)]},),
    "CrossfedModelNotBuilt": ({"crossfed_model_build_failed": [({}, 1.0)]},),
    "CrossfedRecommenderCertificate": ({"crossfed_recommender_certificate_days_left": [({}, 10.0)]},),
    "CrossfedRunFailed": ({"crossfed_newest_run": [({"state": "failed"}, 1.0)]},),
    "CrossfedRunInterrupted": ({"crossfed_newest_run": [({"state": "interrupted"}, 1.0)]},),
    "CrossfedPlatformFailing": ({"crossfed_platform_ok": [({"platform": "a"}, 0.0)]},),
    "CrossfedDamagedFiles": ({"crossfed_damaged_files": [({"of": "runs"}, 1.0)]},),
    "CrossfedDown": ({"up": [({"job": "crossfed"}, 0.0)]},),
    "CrossfedCertificateExpires": ({"crossfed_certificate_days_left": [({"certificate": "server"}, 20.0)]},),
    "CrossfedProgramsRestart": ({"crossfed_program_exits_total": [({"program": "supernode"}, 9.0)]},),
}


def test_a_healthy_federation_fires_nothing() -> None:
    assert fired(QUIET) == set()
    assert (
        fired(QUIET | {"crossfed_clock_ahead_seconds": [({}, math.nan)], "crossfed_runs_left": [({}, math.inf)]})
        == set()
    )


@pytest.mark.parametrize(("alert", "samples"), [(name, each) for name, given in LOUD.items() for each in given])
def test_each_fault_fires_its_alert_alone(alert: str, samples: Samples) -> None:
    assert fired(QUIET | samples) == {alert}


def test_an_expired_certificate_fires_both() -> None:
    expired: Samples = {"crossfed_certificate_days_left": [({"certificate": "server"}, -1.0)]}
    assert fired(QUIET | expired) == {"CrossfedCertificateExpires", "CrossfedCertificateExpired"}
    assert {rule["alert"] for rule in RULES} == {*LOUD, "CrossfedCertificateExpired"}


def test_alert_rules_read_metrics_that_exist(tmp_path: Path) -> None:
    known = metric_names(tmp_path)
    for rule in RULES:
        used = set(re.findall(r"\b(?:crossfed_[a-z_]+|up)\b", rule["expr"]))
        assert used, rule["alert"]
        assert used <= known | {"up"}, rule["alert"]
        assert {"summary", "action"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.fullmatch(r"\d+[mh]", rule["for"])


def test_every_service_of_ours_has_a_health_check_that_exists() -> None:
    ours = {name: service for name, service in COMPOSE["services"].items() if name != "prometheus"}
    assert set(ours) == {"aggregator", "agent", "courier"}
    for service in ours.values():
        _, program, *words = service["healthcheck"]["test"]
        app = {"crossfed-client": client_app, "crossfed-server": server_app}[program]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2, "nothing but the configuration is missing here"
        assert "does not exist" in result.output


def test_networks_and_volumes_are_declared() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("networks", [])) <= COMPOSE["networks"].keys()
        named = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith((".", "$"))}
        assert named <= COMPOSE["volumes"].keys()
    assert COMPOSE["networks"]["monitoring"] == {"internal": True}


def snippets() -> list[dict[str, Any]]:
    """The configuration that docs/deploy.md, Containers, tells operators to write."""
    text = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    section = text[text.index("\n## Containers\n") :].partition("\n## ")[2].partition("\n## ")[0]
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL)]


def test_the_documented_setup_is_reachable_from_other_containers() -> None:
    aggregator, agent, courier = snippets()
    plan = {"plan": {"privacy": {"mode": "none"}}, "address": "films.example.org:9443"}
    served = parse_model(plan | aggregator, AggregatorConfig, "federation.yaml")
    configs = {
        "aggregator": (served.metrics_host, served.metrics_port),
        "agent": (agent["metrics_host"], parse_model(PLATFORM | agent, PlatformConfig, "p").metrics_port),
        "courier": (
            courier["metrics_host"],
            parse_model(PLATFORM | courier, PlatformConfig, "p").supernode.metrics_port,
        ),
    }
    scraped = {}
    for role in ("aggregator", "platform"):
        config = yaml.safe_load((DEPLOY / "prometheus" / f"{role}.yml").read_text())
        [job] = config["scrape_configs"]
        assert job["job_name"] == "crossfed"
        scraped |= dict(target.split(":") for target in job["static_configs"][0]["targets"])
    for name, (host, port) in configs.items():
        service = COMPOSE["services"][name]
        assert (host, str(port)) == ("0.0.0.0", scraped[name])
        assert scraped[name] in service["expose"]
        assert {"monitoring"} <= {*service["networks"]} & {*COMPOSE["services"]["prometheus"]["networks"]}
    recommender = parse_model(PLATFORM | agent, PlatformConfig, "platform.yaml").recommender
    assert (recommender.host, recommender.port) == ("0.0.0.0", 50061)
    assert agent["socket"] == courier["socket"]
    assert agent["socket"]["path"].startswith("/run/crossfed/")


def test_the_certificate_command_makes_what_another_address_demands(tmp_path: Path) -> None:
    config = joined(tmp_path, tmp_path / "srv")
    result = CliRunner().invoke(client_app, ["certificate", "--config", str(config), "--name", "agent"])
    assert result.exit_code == 0, result.output
    text = config.read_text()
    written = yaml.safe_load(result.output[result.output.index("recommender:") :])["recommender"]
    content = yaml.safe_load(text)
    content["recommender"] |= written
    config.write_text(yaml.safe_dump(content))
    settings = load_yaml_model(config, PlatformConfig).recommender
    assert settings.host == "0.0.0.0"
    assert settings.certificate is not None
    assert {"agent", "localhost", "127.0.0.1"} == set(names_of(read_certificate(settings.certificate)))
    assert (config.parent / "tls" / "recommender.key").stat().st_mode & 0o077 == 0
    again = CliRunner().invoke(client_app, ["certificate", "--config", str(config), "--name", "agent"])
    assert "put into" not in again.output


def test_applications_reach_a_recommender_at_every_address(tmp_path: Path) -> None:
    """Over the host's own address, not loopback's, as from another container; without token or authority, nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but loopback's")
        address = probe.getsockname()[0]
    made = issue_recommender_tls(tmp_path / "tls", [address, "agent"])
    config = ServingConfig(host="0.0.0.0")
    files = TlsFiles(made.certificate, made.key)
    with serve_recommender(tmp_path / "store", port=0, token="secret", tls=files, config=config) as server:
        for token, error, said in (("secret", PlatformError, "no model yet"), ("wrong", ConfigError, "API token")):
            target = f"{address}:{server.port}"
            with (
                RecommenderClient(target, token=token, root_certificates=made.authority) as client,
                pytest.raises(error, match=said),
            ):
                client.recommend("user")


def test_renewing_keeps_the_authority_that_applications_trust(tmp_path: Path) -> None:
    made = issue_recommender_tls(tmp_path / "tls", ["a"])
    authority, first = made.authority.read_bytes(), made.certificate.read_bytes()
    issue_recommender_tls(tmp_path / "tls", ["a", "b"])
    assert made.authority.read_bytes() == authority
    assert made.certificate.read_bytes() != first
    assert is_issued_by(read_certificate(made.certificate), read_certificate(made.authority))
    made.authority.with_suffix(".key").unlink()
    with pytest.raises(ConfigError, match="restore it, or move both away"):
        issue_recommender_tls(tmp_path / "tls", ["a"])
    assert made.authority.read_bytes() == authority
    with pytest.raises(ConfigError, match="--name"):
        issue_recommender_tls(tmp_path / "tls", [])


def test_health_says_what_does_not_answer(tmp_path: Path) -> None:
    config = joined(tmp_path, tmp_path / "srv")
    settings = load_yaml_model(config, PlatformConfig)
    content = yaml.safe_load(config.read_text())
    content["recommender"]["port"] = free_port()
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(client_app, ["health", "--config", str(config), "--part", "agent"])
    assert result.exit_code == 1
    assert f"agent does not answer at {settings.socket.path}" in result.output
    assert "recommender does not answer" in result.output
    assert [each.what for each in listeners(settings, "courier")] == ["SuperNode"]
    settings.state.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent, socket.create_server(("127.0.0.1", 0)) as port:
        agent.bind(str(settings.socket.path))
        agent.listen()
        content["recommender"]["port"] = port.getsockname()[1]
        config.write_text(yaml.safe_dump(content))
        result = CliRunner().invoke(client_app, ["health", "--config", str(config), "--part", "agent"])
        assert (result.exit_code, result.output) == (0, "up\n")


def test_health_of_an_aggregator(tmp_path: Path) -> None:
    joined(tmp_path, tmp_path / "srv")
    path = tmp_path / "agg" / "federation.yaml"
    content = yaml.safe_load(path.read_text())
    content["superlink_port"], content["proxy"]["port"] = free_port(), free_port()
    path.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(server_app, ["health", "--config", str(path)])
    assert result.exit_code == 1
    assert "SuperLink does not answer" in result.output
    assert "fleet proxy does not answer" in result.output


def test_an_address_for_everybody_is_looked_for_on_loopback() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        assert unanswered([Listener("x", ("0.0.0.0", port))]) == []
