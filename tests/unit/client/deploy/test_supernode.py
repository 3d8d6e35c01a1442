"""The courier's programs: what SuperExec starts for each message is Flower's own program, started with less work."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from client.deploy.doctor import examine
from client.deploy.join import join_federation
from client.deploy.launcher import refused_app
from client.deploy.supernode import courier_programs
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.app_bundle import installed_app_digest
from common.deploy.app_digest import UnknownAppError, bundle_digest
from common.deploy.roles import AggregatorConfig, PlatformConfig
from server.deploy.bundle import stage_app
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
    """Return what SuperExec finds on the PATH that it is given."""
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


@pytest.fixture
def shipped(tmp_path: Path) -> bytes:
    """The app as the aggregator's Flower sends it."""
    with pytest.warns(DeprecationWarning, match="GitWildMatchPattern"):  # Flower's own
        return build_fab_from_disk(stage_app(tmp_path / "app"))


def changed(bundle: bytes, path: str, content: bytes) -> bytes:
    """The bundle with another content of one file, or one file more."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(bundle)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            if entry.filename != path:
                new.writestr(entry, old.read(entry))
        new.writestr(path, content)
    return out.getvalue()


def test_what_flower_ships_has_the_digest_of_what_is_installed(shipped: bytes) -> None:
    assert bundle_digest(shipped) == installed_app_digest()


def test_the_digest_is_that_of_every_file_but_flowers_list(shipped: bytes) -> None:
    known = bundle_digest(shipped)
    for path in ("client/app.py", "pyproject.toml", "sitecustomize.py", "client/../.info/x.py"):
        assert bundle_digest(changed(shipped, path, b"import os")) != known, path
    assert bundle_digest(changed(shipped, ".info/CONTENT", b"other")) == known
    twice = io.BytesIO(shipped)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("client/app.py", b"import os")
    for damaged in (twice.getvalue(), b"", shipped[: len(shipped) // 2]):
        with pytest.raises(UnknownAppError):
            bundle_digest(damaged)


def test_the_courier_unpacks_no_app_that_is_not_known(config: PlatformConfig, tmp_path: Path, shipped: bytes) -> None:
    [programs] = {tuple(program.environment.items()) for program in courier_programs(config, tmp_path / "logs")}
    launcher = launcher_of(config, tmp_path / "logs")
    bundle, home = tmp_path / "bundle", tmp_path / "flower"
    probe = launcher.read_text().removesuffix("flwr_clientapp()\n") + (
        f"from pathlib import Path; run_clientapp.install_from_fab(Path({str(bundle)!r}).read_bytes(), skip_prompt=True)"
    )
    environment = {**os.environ, **dict(programs), "FLWR_HOME": str(home)}

    def unpack() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=False
        )

    foreign = changed(shipped, "client/app.py", b"raise SystemExit('ran')")
    bundle.write_bytes(foreign)
    done = unpack()
    assert done.returncode == 1
    assert bundle_digest(foreign) in done.stderr
    assert not list(home.rglob("*.py"))
    said = refused_app(config.supernode)
    assert said is not None
    assert bundle_digest(foreign) in said.detail
    assert any(
        finding.what == "aggregator's app" for finding in examine(tmp_path / "a cinema/platform.yaml", devices=False)
    )

    bundle.write_bytes(shipped)
    assert unpack().returncode == 0
    assert list(home.rglob("client/app.py"))
    courier_programs(config, tmp_path / "logs")
    assert refused_app(config.supernode) is None


def test_the_operator_can_name_another_app(config: PlatformConfig, tmp_path: Path) -> None:
    other = "ab" * 32
    supernode = config.supernode.model_copy(update={"accept_apps": (other,)})
    program = courier_programs(config.model_copy(update={"supernode": supernode}), tmp_path / "logs")[1]
    assert program.environment["CROSSFED_KNOWN_APPS"].split() == [installed_app_digest(), other]


def test_the_collector_rests_while_flower_is_imported(config: PlatformConfig, tmp_path: Path) -> None:
    code = launcher_of(config, tmp_path / "logs").read_text()
    assert code.endswith("\nflwr_clientapp()\n")
    probe = code.removesuffix("flwr_clientapp()\n") + f"print(gc.isenabled(), {COUNT})"
    enabled, collections = run(sys.executable, "-c", probe).split()
    plain = run(sys.executable, "-c", f"import gc; from flwr.supernode.cli import flwr_clientapp; print({COUNT})")
    assert enabled == "True"
    assert int(collections) * 10 < int(plain)
