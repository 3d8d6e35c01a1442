"""The courier's programs: what SuperExec starts for each message is Flower's own program, started with less work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.deploy.join import join_federation
from client.deploy.supernode import courier_programs
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig, PlatformConfig
from server.deploy.provisioning import initialise, invite

COUNT = "sum(each['collections'] for each in gc.get_stats())"


@pytest.fixture
def config(tmp_path: Path) -> PlatformConfig:
    plan = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})
    made = initialise(tmp_path / "fed", plan, "127.0.0.1:9443")
    invitation, interactions = tmp_path / "cinema.invitation", tmp_path / "views.csv"
    invite(load_yaml_model(made.config, AggregatorConfig), "cinema", invitation)
    interactions.write_text("user_id,item_id\n1,2\n")
    joined = join_federation(invitation, tmp_path / "a cinema", interactions=interactions)
    return load_yaml_model(joined.config, PlatformConfig)


def launcher_of(config: PlatformConfig, logs: Path) -> Path:
    """What SuperExec finds on the PATH that it is given."""
    [path] = {program.environment["PATH"] for program in courier_programs(config, logs)}
    return next(found for folder in path.split(os.pathsep) if (found := Path(folder) / "flwr-clientapp").exists())


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_superexec_finds_the_launcher_and_it_is_flowers_program(config: PlatformConfig, tmp_path: Path) -> None:
    launcher = launcher_of(config, tmp_path / "logs")
    assert launcher.parent.parent == config.supernode.superexec_secret.parent.resolve()
    assert launcher.stat().st_mode & 0o777 == 0o700
    shown = run(launcher, "--help")
    assert "--runtime-api-address" in shown
    assert shown == run(Path(sys.executable).parent / "flwr-clientapp", "--help")


def test_the_collector_rests_while_flower_is_imported_and_works_afterwards(
    config: PlatformConfig, tmp_path: Path
) -> None:
    code = launcher_of(config, tmp_path / "logs").read_text()
    assert code.endswith("\nflwr_clientapp()\n")
    probe = code.removesuffix("flwr_clientapp()\n") + f"print(gc.isenabled(), {COUNT})"
    enabled, collections = run(sys.executable, "-c", probe).split()
    plain = run(sys.executable, "-c", f"import gc; from flwr.supernode.cli import flwr_clientapp; print({COUNT})")
    assert enabled == "True"
    assert int(collections) * 10 < int(plain)
