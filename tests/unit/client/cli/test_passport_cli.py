"""``crossfed-client passport``: from issuing to revoking, on two platforms' folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli.ask import explanation_table
from client.cli.main import app
from client.cli.passport import _drawn
from client.keys import KeyFolder, make_keys, registration_of
from client.personalization.store import PlatformStore
from client.recommend.answers import Explanation, ModelShare
from common.deploy.console import PlainConsole
from common.deploy.provisioning import Pins
from common.errors import PassportError
from common.sealed.admin import AdminLog
from simulations.engine.random_model import random_platform_model

_runner = CliRunner()


def _platform(folder: Path, name: str, seed: int) -> Path:
    keys = KeyFolder(folder / "keys")
    make_keys(keys, folder / "courier" / "node.key")
    (folder / "state").mkdir(mode=0o700)
    model = random_platform_model(np.random.default_rng(seed))
    PlatformStore(folder / "state" / "store").commit(replace(model, platform=name))
    (folder / "views.csv").write_text("user,item\n")
    path = folder / "platform.yaml"
    path.write_text(
        f"name: {name}\nplan: {{}}\naggregator: localhost:9443\ndata:\n  interactions:\n    path: views.csv\n"
        "passport:\n  issue: true\n  redeem: true\n"
    )
    return path


@pytest.fixture
def platforms(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for seed, name in enumerate(("books", "cinema")):
        (tmp_path / name).mkdir()
        found[name] = _platform(tmp_path / name, name, seed)
    for here, there in (("books", "cinema"), ("cinema", "books")):
        other = found[there].parent
        card = registration_of(there, "f", KeyFolder(other / "keys"), other / "courier" / "node.key")
        Pins(found[here].parent / "pins.json").pin(card, card.fingerprint)
    return found


def _run(*arguments: object, fails: bool = False) -> str:
    result = _runner.invoke(app, ["passport", *map(str, arguments)])
    assert (result.exit_code != 0) == fails, result.output
    return str(result.exception) if fails else result.output


def test_issue_show_redeem_log_revoke(platforms: dict[str, Path], tmp_path: Path) -> None:
    user = PlatformStore(tmp_path / "cinema" / "state" / "store").load().user_ids[0]
    file = tmp_path / "anna.passport"
    picture = tmp_path / "anna.svg"
    _run("issue", "-c", platforms["cinema"], "--user", user, "--to", "books", "-o", file, "--qr", picture)
    assert picture.read_bytes().startswith(b"<?xml")
    assert picture.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_mode & 0o777 == 0o600
    shown = json.loads(_run("show", file, "--json"))
    assert (shown["issuer"], shown["receiver"]) == ("cinema", "books")
    assert shown["bytes"] <= 8192
    assert "from cinema to books" in _run("show", file)

    assert _run("redeem", "-c", platforms["books"], "--user", "anna", file).startswith("redeemed: tastes, profile")
    assert _run("redeem", "-c", platforms["books"], "--user", "anna", file).startswith("was redeemed before")
    own = _run("redeem", "-c", platforms["cinema"], "--user", "x", file, fails=True)
    assert "issued by this platform itself" in own
    logged = json.loads(_run("log", "-c", platforms["books"], "--json"))
    assert [(one["user"], one["direction"], one["serial"]) for one in logged] == [("anna", "redeemed", shown["serial"])]
    assert "good" in _run("log", "-c", platforms["books"])
    assert json.loads(_run("log", "-c", platforms["cinema"], "--json"))[0]["direction"] == "issued"

    assert shown["serial"] in _run("revoke", "-c", platforms["books"], "--user", "anna")
    assert "revoked" in _run("log", "-c", platforms["books"], "--user", "anna")
    [act] = AdminLog(tmp_path / "books" / "state").acts()
    assert (act.act, act.details) == ("passport revoke", {}), "neither whose nor which"
    assert "nothing to revoke" in _run("revoke", "-c", platforms["books"], "--user", "nobody")


def test_platform_keeps_what_was_brought_no_longer_than_its_data(platforms: dict[str, Path], tmp_path: Path) -> None:
    user = PlatformStore(tmp_path / "cinema" / "state" / "store").load().user_ids[0]
    file, books = tmp_path / "anna.passport", platforms["books"]
    _run("issue", "-c", platforms["cinema"], "--user", user, "--to", "books", "-o", file)
    short = books.read_text().replace("path: views.csv", "path: views.csv\n    time_column: when\n  retention_days: 7")
    books.write_text(short)
    _run("redeem", "-c", books, "--user", "anna", file)
    (receipt,) = json.loads(_run("log", "-c", books, "--json"))
    assert receipt["until"] - receipt["at"] == 7 * 86_400


def test_mistakes_are_named(platforms: dict[str, Path], tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk")
    assert "neither a passport's bytes nor text" in _run("show", junk, fails=True)
    assert "give one of them" in _run("revoke", "-c", platforms["books"], fails=True)
    assert "no passport 'ff'" in _run("revoke", "-c", platforms["books"], "ff", fails=True)
    user = PlatformStore(tmp_path / "cinema" / "state" / "store").load().user_ids[0]
    command = ("issue", "-c", platforms["cinema"], "--user", user, "--to", "club", "-o", tmp_path / "club.passport")
    assert "is not pinned" in _run(*command, fails=True)
    assert not (tmp_path / "club.passport").exists()
    assert "neither in .svg nor in .png" in _run(*command, "--qr", tmp_path / "club.gif", fails=True)
    with pytest.raises(PassportError, match="too many for a QR code"):
        _drawn("x" * 3000, "png")
    assert _drawn("x" * 2900, "png").startswith(b"\x89PNG")


def test_explanation_says_what_was_brought() -> None:
    why = Explanation(
        key="imdb:1", title="A", score=1.5, contributions=(), others=0.0, item_bias=1.25, popularity=0.25, decided_by="local",
        models={"local": ModelShare(0.5, 0.25), "passport": ModelShare(0.5, 1.0)}, passports=("cinema",),
    )  # fmt: skip
    console = PlainConsole(width=100)
    with console.capture() as capture:
        console.print(explanation_table(why))
    shown = capture.get()
    assert "what you brought from cinema" in shown
    assert "+1.000" in shown
    assert "+0.250" in shown
