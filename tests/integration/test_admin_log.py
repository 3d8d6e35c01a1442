"""The administrators' log: written before the act, chained, and silent about the platform's users."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli.main import app as client
from client.console.places import PlatformPages
from client.personalization.store import PlatformStore
from common.errors import LedgerError
from common.sealed.admin import ADMIN_LOG, AdminLog, operator
from common.web.console.app import Visit
from server.cli import app as server
from server.deploy.admission import AdmissionBook
from simulations.engine.random_model import random_platform_model
from tests.support.joined import joined
from tests.support.persons import ANNA, platform_with_persons
from tests.support.registrations import registration


@pytest.fixture
def aggregator(tmp_path: Path) -> Path:
    words = [
        "init",
        str(tmp_path / "fed"),
        "--address",
        "h.example.org:9443",
        "--federation",
        "films",
        "--platforms",
        "3",
    ]
    assert CliRunner().invoke(server, words).exit_code == 0
    return tmp_path / "fed" / "federation.yaml"


def admitted(aggregator: Path, name: str = "cinema") -> int:
    made = registration(name)
    made.write(aggregator.parent / f"{name}.registration.json")
    words = ["admit", str(aggregator.parent / f"{name}.registration.json"), "-c", str(aggregator)]
    return CliRunner().invoke(server, [*words, "--fingerprint", made.fingerprint]).exit_code


def test_admitting_and_revoking_are_written_down_with_who_did_it(aggregator: Path) -> None:
    assert admitted(aggregator) == 0
    assert CliRunner().invoke(server, ["revoke", "cinema", "-c", str(aggregator)]).exit_code == 0
    acts = AdminLog(aggregator.parent / "state").acts()
    assert [(one.act, one.details["platform"]) for one in acts] == [("admit", "cinema"), ("revoke", "cinema")]
    assert {one.who for one in acts} == {operator()}
    shown = CliRunner().invoke(server, ["admin-log", "-c", str(aggregator), "--json"])
    assert [one["act"] for one in json.loads(shown.stdout)] == ["admit", "revoke"]


def test_what_cannot_be_written_down_is_not_done(aggregator: Path) -> None:
    assert admitted(aggregator) == 0
    path = aggregator.parent / "state" / ADMIN_LOG
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER entry_update")
        connection.execute("UPDATE entry SET text = replace(text, 'cinema', 'cinemb') WHERE sequence = 2")
        connection.commit()
    with pytest.raises(LedgerError, match="entry 2 was edited"):
        AdminLog(path.parent).acts()
    assert admitted(aggregator, "club") != 0
    assert "club" not in AdmissionBook(aggregator.parent / "platforms").all()


def test_a_log_cut_short_shows(aggregator: Path) -> None:
    log = AdminLog(aggregator.parent / "state")
    for number in range(3):
        log.record("test", number=str(number))
    path = aggregator.parent / "state" / ADMIN_LOG
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER entry_delete")
        connection.execute("DELETE FROM entry WHERE sequence = 4")
        connection.commit()
    with pytest.raises(LedgerError, match=r"cut short.*from a backup"):
        log.acts()
    path.unlink()
    with pytest.raises(LedgerError, match=r"missing.*from a backup"):
        log.acts()


def test_acts_for_persons_are_there_and_persons_are_not(tmp_path: Path) -> None:
    platform = platform_with_persons(tmp_path)
    path = tmp_path / "platform.yaml"
    path.write_text(json.dumps(platform.model_dump(mode="json", exclude_defaults=True)))
    for command in ("export", "erase"):
        result = CliRunner().invoke(client, ["person", command, "-c", str(path)], input=f"{ANNA}\n")
        assert result.exit_code == 0, result.output
    acts = AdminLog(platform.state).acts()
    assert [one.act for one in acts] == ["person export", "person erased"]
    assert ANNA.encode() not in (platform.state / ADMIN_LOG).read_bytes()


SERVED = [
    (["models", "rollback", "1"], "models rollback", {"version": "1"}),
    (["models", "shadow", "2"], "models shadow", {"version": "2", "share": "1"}),
    (["models", "end"], "models end", {}),
    (["models", "split", "2", "--share", "0.2"], "models split", {"version": "2", "share": "0.2"}),
    (["models", "end"], "models end", {}),
    (["items", "hide", "imdb:1", "x:2", "--reason", "anna asked"], "items hide", {"items": "imdb:1 x:2"}),
    (["items", "show", "x:2"], "items show", {"items": "x:2"}),
    (["secret", "new"], "secret new", {}),
]


@pytest.fixture
def served(tmp_path: Path) -> Path:
    config = joined(tmp_path, tmp_path)
    for seed in (0, 1):
        PlatformStore(config.parent / "state" / "store").commit(random_platform_model(np.random.default_rng(seed)))
    (config.parent / "keys" / "federation.secret").unlink()
    return config


def test_what_changes_what_is_served_is_written_down(served: Path) -> None:
    state = served.parent / "state"
    for words, act, details in SERVED:
        result = CliRunner().invoke(client, [*words, "-c", str(served)])
        assert result.exit_code == 0, result.output
        newest = AdminLog(state).acts()[-1]
        assert (newest.act, newest.details, newest.who) == (act, details, operator())
    PlatformPages(served).roll_back(Visit(form={"version": "2"}))
    newest = AdminLog(state).acts()[-1]
    assert (newest.act, newest.details) == ("models rollback", {"version": "2"})
    for words in (["models", "end"], ["items", "list"], ["models", "list"]):
        assert CliRunner().invoke(client, [*words, "-c", str(served)]).exit_code == 0
    assert CliRunner().invoke(client, ["items", "hide", "no key", "-c", str(served)]).exit_code != 0
    assert CliRunner().invoke(client, ["items", "hide", "x:3", "--store", str(state / "store")]).exit_code == 0
    acts = AdminLog(state).acts()
    assert len(acts) == len(SERVED) + 2
    assert acts[-1].details == {"items": "x:3"}
    assert b"anna" not in (state / ADMIN_LOG).read_bytes()


def test_what_is_served_stays_where_it_cannot_be_written_down(served: Path) -> None:
    store = PlatformStore(served.parent / "state" / "store")
    AdminLog(served.parent / "state").record("test")
    (served.parent / "state" / ADMIN_LOG).unlink()
    with pytest.raises(LedgerError, match="not the log whose head was kept"):
        PlatformPages(served).roll_back(Visit(form={"version": "1"}))
    for words, _, _ in SERVED:
        CliRunner().invoke(client, [*words, "-c", str(served)])
    assert store.current() == 2
    assert store.experiments.current() is None
    assert not (store.root / "hidden.json").exists()
    assert not list((served.parent / "keys").glob("*secret*"))
