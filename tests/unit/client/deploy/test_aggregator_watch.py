"""Trouble between a platform and its aggregator stands in the platform's own log, as the doctor says it."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from client.cli.main import app
from client.deploy.agent_process import log_file
from client.deploy.aggregator_watch import AggregatorWatch, meaning_of
from client.deploy.doctor import examine
from client.deploy.join import join_federation
from client.tokens import read_token
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.logs import one_line, set_up_logs
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.deploy.supervise import BackOff, Program, Supervisor
from common.deploy.tls import issue_server_certificate, make_authority
from common.errors import ConfigError
from server.deploy.provisioning import initialise, invite, renew_certificate
from tests.support.tls import tls_server
from tests.support.waiting import until

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    authority = make_authority("films")
    authority.write(tmp_path / "ca.pem", tmp_path / "ca.key")
    issue_server_certificate(authority, ["127.0.0.1"], days=20).write(tmp_path / "s.pem", tmp_path / "s.key")
    return tmp_path


@pytest.fixture
def config(certificates: Path) -> PlatformConfig:
    """A platform that trusts the test's authority, its agent listening."""
    made = initialise(certificates / "fed", PLAN, "127.0.0.1:9443")
    invite(load_yaml_model(made.config, AggregatorConfig), "cinema", certificates / "cinema.invitation")
    (certificates / "views.csv").write_text("user_id,item_id\n1,2\n")
    joined = join_federation(
        certificates / "cinema.invitation", certificates / "c", interactions=certificates / "views.csv"
    )
    return load_yaml_model(joined.config, PlatformConfig).model_copy(update={"ca": certificates / "ca.pem"})


@pytest.fixture
def agent(config: PlatformConfig) -> Iterator[None]:
    config.state.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(config.socket.path))
        listening.listen()
        yield


@pytest.fixture
def logs() -> Iterator[None]:
    """Restore what ``set_up_logs`` changes of the whole process."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def test_a_clock_that_is_off_is_named_in_the_log(
    config: PlatformConfig, certificates: Path, agent: None, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    with tls_server(certificates, date=date(-61)) as port:
        watch = AggregatorWatch(config.model_copy(update={"aggregator": f"127.0.0.1:{port}"}), registry)
        assert [finding.what for finding in watch.look_once()] == ["clock"]
        watch.look_once()
    assert "s ahead of the aggregator's" in caplog.text
    assert sum("ahead of" in record.message for record in caplog.records) == 1, "said once, though it is a second more"
    assert 60 <= (registry.get_sample_value("crossfed_clock_ahead_seconds") or 0) <= 75
    assert registry.get_sample_value("crossfed_aggregator_reachable") == 1.0
    left = registry.get_sample_value("crossfed_certificate_days_left", {"certificate": "aggregator"})
    assert left == pytest.approx(20, abs=0.1)


def test_an_end_of_the_supernode_is_looked_into_at_once(
    config: PlatformConfig, certificates: Path, agent: None, caplog: pytest.LogCaptureFixture
) -> None:
    with tls_server(certificates) as port:
        registry = CollectorRegistry()
        watch = AggregatorWatch(
            config.model_copy(update={"aggregator": f"127.0.0.1:{port}"}), registry, interval=3600.0
        )
        watch.start()
        until(lambda: registry.get_sample_value("crossfed_aggregator_reachable") == 1.0)
    watch.program_ended("supernode", 1)
    until(lambda: "cannot be reached" in caplog.text)
    watch.stop()
    until(lambda: not any(thread.name == "aggregator-watch" for thread in threading.enumerate()))
    assert registry.get_sample_value("crossfed_program_exits_total", {"program": "supernode"}) == 1.0


def test_an_agent_that_is_gone_is_named(
    config: PlatformConfig, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    with tls_server(certificates) as port:
        watch = AggregatorWatch(config.model_copy(update={"aggregator": f"127.0.0.1:{port}"}), registry)
        assert [finding.what for finding in watch.look_once()] == ["agent"]
    assert registry.get_sample_value("crossfed_agent_reachable") == 0.0
    assert str(config.socket.path) in caplog.text


def test_an_aggregator_that_is_gone_has_no_clock(config: PlatformConfig, certificates: Path, agent: None) -> None:
    registry = CollectorRegistry()
    with tls_server(certificates) as port:
        pass
    watch = AggregatorWatch(config.model_copy(update={"aggregator": f"127.0.0.1:{port}"}), registry)
    [found] = watch.look_once()
    assert "cannot be reached" in found.detail
    assert math.isnan(registry.get_sample_value("crossfed_clock_ahead_seconds") or 0.0)
    assert registry.get_sample_value("crossfed_aggregator_reachable") == 0.0


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("…certificate verify failed: certificate has expired (_ssl.c:1006)", "crossfed-server renew"),
        ("…certificate verify failed: unable to get local issuer certificate", "courier/ca.pem"),
        ("Exit Code: 305 (SuperNode could not connect)", "crossfed-server admit"),
        ("requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url", "clock is off"),
        ("OSError: [Errno 98] Address already in use", "supernode.port"),
        ("[Errno 111] Connection refused", "cannot be reached"),
    ],
)
def test_the_end_of_a_supernode_is_explained(output: str, said: str) -> None:
    assert said in (meaning_of(output) or "")


def test_an_end_that_is_not_known_is_left_to_its_last_line() -> None:
    assert meaning_of("Traceback…\nKeyError: 'x'") is None


@pytest.mark.parametrize(
    ("explain", "said"),
    [
        (lambda output: None, "it said last: no\\x1b[2Jway"),
        (lambda output: "by the moon" if "moon" in output else "because", "because"),
    ],
)
def test_the_log_says_why_a_program_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture, explain, said: str) -> None:
    (tmp_path / "log").write_text("an earlier start said: because of the moon\n")
    code = r"import sys; print('no\x1b[2Jway', flush=True); sys.exit(1)"
    program = Program(name="node", command=[sys.executable, "-c", code], log=tmp_path / "log", explain=explain)
    ends: list[int] = []
    supervisor = Supervisor([program], back_off=BackOff(first=30.0), on_exit=lambda name, status: ends.append(status))
    supervisor.start()
    until(lambda: bool(ends))
    supervisor.stop()
    [record] = [record for record in caplog.records if "ended with status" in record.message]
    assert f"node ended with status 1: {said}" in record.message
    assert "moon" not in record.message
    assert "\x1b" not in record.message


def test_the_log_is_a_private_file(tmp_path: Path, logs: None) -> None:
    before = os.umask(0)
    try:
        set_up_logs("json", file=tmp_path / "logs" / "platform.log")
    finally:
        os.umask(before)
    logging.getLogger("x").warning("here")
    path = tmp_path / "logs" / "platform.log"
    assert json.loads(path.read_text())["message"] == "here"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file")
    set_up_logs(file=tmp_path / "logs" / "platform.log")
    assert "standard error alone" in capsys.readouterr().err


def test_the_log_of_a_platform_says_why_it_does_not_start(
    config: PlatformConfig, certificates: Path, logs: None
) -> None:
    path = certificates / "c" / "platform.yaml"
    result = CliRunner().invoke(app, ["start", "--config", str(path)])
    assert result.exit_code != 0
    log = log_file(load_yaml_model(path, PlatformConfig), "all")
    assert log == certificates / "c" / "state" / "logs" / "platform.log"
    assert "this role ends: " in log.read_text()
    assert "no federation secret yet" in log.read_text()


def test_an_empty_token_file_opens_the_recommender_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(ConfigError, match="is empty"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ["keys/identity.pem", "keys/sealing.pem", "courier/node.key"])
def test_a_key_that_was_cut_short_is_named(config: PlatformConfig, certificates: Path, name: str, share: float) -> None:
    path = certificates / "c" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    [found] = [
        finding for finding in examine(certificates / "c" / "platform.yaml", devices=False) if finding.what == "keys"
    ]
    assert (found.level, str(path) in found.detail) == ("wrong", True)


def test_a_node_key_that_was_cut_short_stops_the_courier(
    config: PlatformConfig, certificates: Path, logs: None
) -> None:
    config.supernode.private_key.write_bytes(b"-----BEGIN OPENSSH")
    words = ["start", "--part", "courier", "--config", str(certificates / "c" / "platform.yaml")]
    assert CliRunner().invoke(app, words).exit_code != 0
    assert "node.key: not a private key in OpenSSH form, or damaged" in log_file(config, "courier").read_text()


@pytest.mark.parametrize("content", ["", "-----BEGIN PRIVATE KEY-----"])
def test_an_authority_key_that_was_cut_short_is_named(config: PlatformConfig, certificates: Path, content: str) -> None:
    (certificates / "fed" / "tls" / "ca.key").write_text(content)
    with pytest.raises(ConfigError, match="authority's key is damaged"):
        renew_certificate(certificates / "fed" / "federation.yaml")


def test_a_line_of_somebody_else_is_one_line() -> None:
    assert one_line("a\nb\tc\u202e") == "a\\nb\\tc\\u202e"
    assert len(one_line("x" * 1000)) == 300
