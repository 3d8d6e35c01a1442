"""A deployed role has a configuration, and the proxy configuration that follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.config.loader import load_yaml_model, parse_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig, PlatformConfig, RecommenderConfig, ScheduleConfig
from common.errors import ConfigError
from server.deploy.provisioning import initialise
from server.deploy.superlink import aggregator_programs, proxy_configuration

PLAN = read_plan({"federation": "films", "platforms": 3, "privacy": {"mode": "none"}})


def aggregator(folder: Path, address: str = "127.0.0.1:9443") -> AggregatorConfig:
    return load_yaml_model(initialise(folder, PLAN, address).config, AggregatorConfig)


def test_default_paths_are_relative_to_the_configuration_file(tmp_path: Path) -> None:
    config = aggregator(tmp_path / "agg")
    for path in (config.state, config.platforms, config.tls.ca, config.tls.key, config.superexec_secret):
        assert path.is_relative_to(tmp_path / "agg")


def test_data_of_another_feedback_than_the_plans_are_refused() -> None:
    content = {"name": "a", "aggregator": "h:1", "data": {"interactions": {"path": "views.csv"}}}
    plan = {"model": {"feedback": "explicit"}, "privacy": {"mode": "none"}}
    with pytest.raises(
        ConfigError, match=r"data\.feedback: is implicit where plan\.model\.feedback is explicit; set both"
    ):
        parse_model(content | {"plan": plan}, PlatformConfig, "platform.yaml")
    ratings = {"data": {"interactions": {"path": "views.csv"}, "feedback": "explicit"}}
    assert parse_model(content | ratings | {"plan": plan}, PlatformConfig, "platform.yaml").data.feedback == "explicit"
    with pytest.raises(ConfigError, match=r"data\.feedback: is explicit"):
        parse_model(content | ratings | {"plan": {}}, PlatformConfig, "platform.yaml")


def test_platform_default_paths_start_at_the_configuration_file(tmp_path: Path) -> None:
    content = {"name": "a", "plan": {}, "aggregator": "h:1", "data": {"interactions": {"path": "views.csv"}}}
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump(content))
    config = load_yaml_model(tmp_path / "platform.yaml", PlatformConfig)
    nested = (
        config.socket.path,
        config.supernode.private_key,
        config.recommender.token_file,
        config.data.interactions.path,
    )
    assert all(path is not None and path.parent.is_relative_to(tmp_path) for path in nested)


@pytest.mark.parametrize("address", ["example.org", "http://example.org:1", "example.org:", ":9443", "a b:1", "h:1/x"])
def test_an_address_that_is_not_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        parse_model({"plan": {}, "address": address}, AggregatorConfig, "federation.yaml")


def test_a_recommender_that_others_can_reach_needs_tls_and_a_token() -> None:
    with pytest.raises(ConfigError, match="reachable from outside"):
        parse_model({"host": "0.0.0.0"}, RecommenderConfig, "platform.yaml")
    with pytest.raises(ConfigError, match="reachable from outside"):
        parse_model(
            {"host": "::", "certificate": "c", "key": "k", "token_file": None}, RecommenderConfig, "platform.yaml"
        )
    parse_model({"host": "0.0.0.0", "certificate": "c", "key": "k"}, RecommenderConfig, "platform.yaml")


@pytest.mark.parametrize("schedule", [{"at": "24:00"}, {"at": "3:30"}, {"every": 60, "at": "03:30"}, {"every": 0}])
def test_a_schedule_that_means_nothing_is_refused(schedule: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_model(schedule, ScheduleConfig, "federation.yaml")


def test_flower_listens_on_loopback_with_tls_node_keys_and_a_secret(tmp_path: Path) -> None:
    config = aggregator(tmp_path / "agg", "films.example.org:9443")
    superlink, superexec, proxy = aggregator_programs(config, tmp_path / "agg" / "federation.yaml")
    command = list(superlink.command)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--isolation") + 1] == "process"
    assert {"--enable-supernode-auth", "--superexec-auth-secret-file", "--ssl-certfile", "--database"} <= set(command)
    assert "--insecure" not in command + list(superexec.command)
    assert superlink.environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert proxy.name == "proxy"


def test_the_proxy_forwards_the_fleet_api_and_nothing_else(tmp_path: Path) -> None:
    text = proxy_configuration(aggregator(tmp_path / "agg", "films.example.org:9443"))
    assert text.count("reverse_proxy") == 1
    assert text.count("@fleet path /v1/fleet/*") == 1
    assert "respond 404" in text
    assert "admin off" in text


def test_the_limits_of_serving_stand_in_the_platforms_file() -> None:
    content = {"name": "a", "plan": {}, "aggregator": "h:1", "data": {"interactions": {"path": "views.csv"}}}
    config = parse_model(content | {"serving": {"max_k": 50}}, PlatformConfig, "platform.yaml")
    assert (config.serving.max_k, config.serving.workers) == (50, 4)
    with pytest.raises(ConfigError, match=r"serving\.host"):
        parse_model(content | {"serving": {"host": "0.0.0.0"}}, PlatformConfig, "platform.yaml")
