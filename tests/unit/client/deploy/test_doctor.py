"""The doctors: what is wrong is named with its mend, and what is right is left alone."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.deploy.doctor import check_store, check_text_encoder
from client.deploy.doctor import examine as examine_platform
from client.personalization.store import PlatformStore
from common.contributions.run_plan import read_plan
from common.deploy.doctor import (
    Finding,
    check_aggregator,
    check_certificate,
    check_cudnn,
    check_port,
    check_private,
    check_python,
    print_findings,
)
from common.deploy.roles import PlatformConfig
from common.deploy.tls import issue_server_certificate, make_authority
from server.cli import app as server_app
from server.deploy.doctor import examine
from server.deploy.provisioning import initialise
from simulations.engine.random_model import random_platform_model
from tests.support.tls import tls_server

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})


def wrong(findings: list[Finding]) -> list[str]:
    return [f"{finding.what}: {finding.detail}" for finding in findings if finding.level == "wrong"]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    authority = make_authority("films")
    authority.write(tmp_path / "ca.pem", tmp_path / "ca.key")
    issue_server_certificate(authority, ["127.0.0.1", "localhost"]).write(tmp_path / "s.pem", tmp_path / "s.key")
    make_authority("other").write(tmp_path / "other.pem", tmp_path / "other.key")
    return tmp_path


def test_a_package_that_is_missing_is_named() -> None:
    findings = check_python(["numpy", "no-such-package-of-crossfed"])
    assert wrong(findings) == [
        "no-such-package-of-crossfed: not installed; install crossfed with the extra of this role"
    ]


def test_two_wheels_of_cudnn_are_a_clash_and_one_is_not() -> None:
    assert check_cudnn(["nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "torch"]).level == "wrong"
    assert check_cudnn(["nvidia-cudnn-cu12", "tensorflow"]).level == "ok"
    assert check_cudnn([]).level == "ok"


def test_a_certificate_that_is_sound_passes(certificates: Path) -> None:
    assert check_certificate(certificates / "s.pem", certificates / "ca.pem", ["127.0.0.1"]).level == "ok"


def test_certificates_that_are_not_sound_are_named_with_the_reason(certificates: Path) -> None:
    foreign = check_certificate(certificates / "s.pem", certificates / "other.pem")
    elsewhere = check_certificate(certificates / "s.pem", certificates / "ca.pem", ["films.example.org"])
    missing = check_certificate(certificates / "none.pem")
    assert [finding.level for finding in (foreign, elsewhere, missing)] == ["wrong"] * 3
    assert "not issued by" in foreign.detail
    assert "films.example.org" in elsewhere.detail
    assert "cannot be read" in missing.detail


def test_a_certificate_about_to_expire_is_noted(certificates: Path) -> None:
    issue_server_certificate(make_authority("f"), ["h"], days=10).write(certificates / "x.pem", certificates / "x.key")
    assert check_certificate(certificates / "x.pem").level == "note"


def test_an_aggregator_that_answers_is_found_sound(certificates: Path) -> None:
    with tls_server(certificates) as port:
        findings = check_aggregator(f"127.0.0.1:{port}", certificates / "ca.pem")
    assert [finding.level for finding in findings] == ["ok", "ok"]


def test_a_wrong_authority_port_and_clock_are_told_apart(certificates: Path) -> None:
    with tls_server(certificates) as port:
        [refused] = check_aggregator(f"127.0.0.1:{port}", certificates / "other.pem")
    with tls_server(certificates, status=404) as port:
        elsewhere = check_aggregator(f"127.0.0.1:{port}", certificates / "ca.pem")
    with tls_server(certificates, date="Fri, 01 Jan 2021 00:00:00 GMT") as port:
        late = check_aggregator(f"127.0.0.1:{port}", certificates / "ca.pem")
    [closed] = check_aggregator(f"127.0.0.1:{port}", certificates / "ca.pem")
    assert "certificate is refused" in refused.detail
    assert "no fleet API" in wrong(elsewhere)[0]
    assert wrong(late)[0].startswith("clock")
    assert "cannot be reached" in closed.detail


def test_a_port_in_use_is_noted() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert check_port("127.0.0.1", taken.getsockname()[1], "x").level == "note"


def test_an_open_key_is_wrong(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("x")
    key.chmod(0o640)
    assert check_private(key).level == "wrong"
    key.chmod(0o600)
    assert check_private(key).level == "ok"
    assert check_private(tmp_path / "none").level == "wrong"


def test_a_fresh_aggregator_has_nothing_wrong(tmp_path: Path) -> None:
    config = initialise(tmp_path / "agg", PLAN, "127.0.0.1:9443").config
    found = [finding for finding in examine(config) if finding.what != "proxy"]  # not every developer has Caddy
    assert wrong(found) == []


def test_damage_of_an_aggregator_is_found(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", PLAN, "127.0.0.1:9443")
    made.server[1].chmod(0o644)
    (tmp_path / "agg/tls/superexec.secret").unlink()
    problems = wrong(list(examine(made.config)))
    assert any("server.key" in problem for problem in problems)
    assert any("superexec.secret" in problem for problem in problems)


def test_what_the_aggregator_skips_is_named_by_the_doctor(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", PLAN, "127.0.0.1:9443")
    for path in ("state/runs/run-1/status.json", "platforms/cinema.json", "state/flower.db"):
        (made.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (made.folder / path).write_text("{" * 4096)
    problems = wrong(list(examine(made.config)))
    assert any(problem.startswith("run run-1") and "status.json: damaged" in problem for problem in problems)
    assert any(problem.startswith("platform cinema") and "admit this platform again" in problem for problem in problems)
    assert any(problem.startswith("flower.db") and "is damaged" in problem for problem in problems)


def test_the_doctor_reads_every_version_of_the_model(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path)
    assert [finding.level for finding in check_store(store)] == ["ok"]
    for seed in range(3):
        store.commit(random_platform_model(np.random.default_rng(seed)))
    (tmp_path / "versions/000003/arrays.npz").write_bytes(b"")
    (tmp_path / "versions/000002/manifest.json").write_text('{"format": 9}')
    (tmp_path / "CURRENT").write_text("x")
    found = list(check_store(store))
    assert [finding.level for finding in found] == ["wrong", "note", "wrong", "ok"]
    assert "CURRENT" in found[0].detail
    assert "000003: damaged" in found[2].detail
    assert found[3].detail.startswith("version 1 serves")


def test_the_exit_status_says_whether_something_is_wrong(tmp_path: Path) -> None:
    made = initialise(tmp_path / "agg", PLAN, "127.0.0.1:9443")
    made.server[1].chmod(0o644)
    result = CliRunner().invoke(server_app, ["doctor", "--config", str(made.config), "--json"])
    assert result.exit_code == 1
    assert {"level", "what", "detail"} == set(json.loads(result.stdout)[0])


def test_findings_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_findings([Finding("ok", "devices", "['/gpu:0'] [bold]")], as_json=False) == 0
    assert "['/gpu:0'] [bold]" in capsys.readouterr().out


PLATFORM = """
name: cinema
aggregator: "127.0.0.1:1"
recommender: {http: {}}
data: {interactions: {path: none.csv}, items: {path: none.csv, namespace: x}}
plan: {federation: films, platforms: 3, privacy: {mode: user}}
"""


def test_a_new_platform_is_told_what_is_missing_and_both_ports(tmp_path: Path) -> None:
    (tmp_path / "platform.yaml").write_text(PLATFORM)
    found = {one.what: one.detail for one in examine_platform(tmp_path / "platform.yaml", devices=False)}
    assert [detail.partition(": ")[0] for what, detail in found.items() if what.startswith("port ")] == [
        "SuperNode's runtime API",
        "recommender",
        "recommender over HTTP",
    ]
    assert "crossfed-client sign ROSTER" in found["pinned platforms"]
    assert "crossfed-client sign ROSTER" in found["federation secret"]
    assert "pays for 1 run of" in found["budget"]


def test_a_report_of_several_lines_is_printed_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("ok", "data", "orders.csv: kept 3 rows\n  note: no times\u202e")], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ok    data: orders.csv: kept 3 rows", "        note: no times\\u202e"]


def test_a_text_encoder_that_is_not_the_plans_is_found() -> None:
    def config(text: dict[str, str] | None) -> PlatformConfig:
        return PlatformConfig.model_validate({
            "name": "cinema", "aggregator": "h.example.org:9443", "plan": {"privacy": {"mode": "none"}, "text": text},
            "data": {"interactions": {"path": "x.csv"}},
        })  # fmt: skip

    assert list(check_text_encoder(config(None))) == []
    [found] = check_text_encoder(config({"encoder": "mine", "digest": "0" * 64}))
    assert (found.level, found.what) == ("wrong", "text encoder")
    assert "text.saved_model or text.function" in found.detail
