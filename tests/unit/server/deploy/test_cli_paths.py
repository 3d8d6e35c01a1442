"""Paths and names that cannot be: files for folders, folders for files, names that lead elsewhere or are too long."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import yaml

from client.deploy.join import join_federation
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig
from common.errors import ConfigError
from server.deploy.bundle import stage_app
from server.deploy.provisioning import initialise, invite
from tests.support.scenarios import scenario_of

LONG = "n" * 300
EVIL = "../../evil"
INIT = ["--address", "localhost:9443", "--federation", "f", "--platforms", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an aggregator, a platform, a scenario, and a file in the place of a folder."""
    folder = tmp_path_factory.mktemp("paths") / "deep" / "down"
    folder.mkdir(parents=True)
    plan = read_plan({"federation": "f", "platforms": 2, "privacy": {"mode": "none"}})
    made = initialise(folder / "fed", plan, "localhost:9443")
    invite(load_yaml_model(made.config, AggregatorConfig), "p", folder / "p.invitation")
    scenario = scenario_of(folder).model_dump(mode="json", exclude_defaults=True)
    (folder / "s.yaml").write_text(yaml.safe_dump(scenario))
    join_federation(folder / "p.invitation", folder / "p", interactions=folder / "all.csv")
    (folder / "afile").write_text("")
    (folder / "fed" / "platforms").mkdir()
    return folder


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name != ".lock")


def said_by(
    role: str, arguments: list[str], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The message of a command that is refused, as a shell would show it."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", [role, *arguments])
    monkeypatch.setattr("tempfile.tempdir", str(place.parent))
    before = files_in(place.parents[1])
    with pytest.raises(SystemExit) as done:
        importlib.import_module(f"{role}.__main__").main()
    assert done.value.code == 1
    assert files_in(place.parents[1]) == before, "nothing half written, no report of a defect"
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("role", "arguments"),
    [
        ("server", ["init", "FOLDER", *INIT]),
        ("client", ["join", "p.invitation", "FOLDER", "--interactions", "all.csv"]),
        ("simulations", ["run", "s.yaml", "--output", "FOLDER"]),
        ("simulations", ["cross-validate", "s.yaml", "--output", "FOLDER"]),
        ("simulations", ["sweep", "s.yaml", "--output", "FOLDER"]),
        ("simulations", ["tune", "s.yaml", "--output", "FOLDER"]),
        ("simulations", ["audit", "--output", "FOLDER"]),
        ("simulations", ["bench", "secure-sum", "--output", "FOLDER"]),
        ("simulations", ["demo", "--output", "FOLDER"]),
    ],
)
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("afile", "afile: is a file where a folder is needed; choose another folder"),
        ("afile/below", "afile: is a file where a folder is needed; choose another folder"),
        ("/proc/x", r"/proc/x"),
        (LONG, "at most 255 bytes|File name too long"),
    ],
)
def test_a_folder_that_cannot_be_one_is_named(
    role: str,
    arguments: list[str],
    folder: str,
    reason: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [folder if word == "FOLDER" else word for word in arguments]
    said = said_by(role, given, place, monkeypatch, capsys)
    assert any(part in said for part in reason.split("|")), said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("role", "arguments", "reason"),
    [
        ("server", ["invite", EVIL, "-c", "fed/federation.yaml"], "name: string should match pattern"),
        ("server", ["invite", "", "-c", "fed/federation.yaml"], "NAME: is empty"),
        ("server", ["invite", LONG, "-c", "fed/federation.yaml"], "name: string should match pattern"),
        ("server", ["invite", "q", "-c", "fed/federation.yaml", "-o", "fed"], "it is a folder; name a file"),
        ("server", ["invite", "q", "-c", "fed/federation.yaml", "-o", "afile/q"], "afile/q: cannot be written"),
        ("server", ["invite", "q", "-c", "fed/federation.yaml", "-o", LONG], "at most 255 bytes"),
        ("server", ["revoke", EVIL, "-c", "fed/federation.yaml"], "no platform '../../evil'"),
        ("server", ["admit", "fed", "-c", "fed/federation.yaml", "--fingerprint", "x"], "fed: cannot be read"),
        ("server", ["run", "-c", "fed/federation.yaml", "--resume", EVIL], "run name '../../evil'"),
        ("server", ["run", "-c", "fed/federation.yaml", "--resume", "nosuch"], "there is no run of that name"),
        ("server", ["init", "new", *INIT[2:], "--address", "localhost"], "init: address: string should match"),
        ("server", ["init", "new", *INIT[2:], "--address", "localhost:99999"], "init: proxy.port: input should be"),
        ("server", ["init", "new", *INIT, "--name", ""], "--name: is empty"),
        ("server", ["init", "new", *INIT, "--federation", EVIL], "federation: string should match"),
        ("client", ["unpin", EVIL, "-c", "p/platform.yaml"], "no key is pinned for '../../evil'"),
        ("client", ["secret", "seal", EVIL, "-c", "p/platform.yaml"], "'../../evil' is not pinned"),
        ("client", ["backup", "-c", "p/platform.yaml", "afile/x"], "afile/x: cannot be written"),
        ("client", ["recommend", "--store", "afile", "--user", "u"], "afile: holds no model yet"),
        ("simulations", ["run", "s.yaml", "--set", 'partition.platforms={"../../evil": 1}'], "partition.platforms"),
        ("simulations", ["run", LONG], "at most 255 bytes"),
        ("simulations", ["map", "nosuch"], "nosuch"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    role: str,
    arguments: list[str],
    reason: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert reason in said_by(role, arguments, place, monkeypatch, capsys)


def test_a_folder_that_is_not_the_apps_is_not_replaced_by_it(tmp_path: Path) -> None:

    app = tmp_path / "app"
    stage_app(app)
    (app / "left.py").write_text("")
    assert not (stage_app(app) / "left.py").exists()
    theirs = tmp_path / "project"
    theirs.mkdir()
    (theirs / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    with pytest.raises(ConfigError, match="holds what crossfed has not put there"):
        stage_app(theirs)
    assert (theirs / "pyproject.toml").exists()
