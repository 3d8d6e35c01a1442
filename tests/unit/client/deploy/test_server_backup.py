"""The aggregator's backup: sound while it runs, verified when made, restored as it was."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.deploy.backup import restore as restore_platform
from common.backup.reading import verify_backup
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig
from common.errors import StoreError
from common.sealed.admin import AdminLog
from server.cli import app
from server.deploy.admission import AdmissionBook
from server.deploy.backup import back_up, restore
from server.deploy.provisioning import AggregatorFolder, initialise
from server.deploy.runs import FAILED, FINISHED, RunFolder, list_runs
from tests.support.checkpoints import PLAN as CHECKPOINT_PLAN
from tests.support.checkpoints import state_after
from tests.support.registrations import registration

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})


@pytest.fixture
def made(tmp_path: Path) -> AggregatorFolder:
    """An aggregator with an admitted and a revoked platform, a finished run, and a database of Flower's."""
    folder = initialise(tmp_path / "flower" / "logs", PLAN, "h.example.org:9443")
    config = load_yaml_model(folder.config, AggregatorConfig)
    book = AdmissionBook(config.platforms)
    for name in ("cinema", "club"):
        book.admit(registration(name), "films")
    book.revoke("club")
    run = RunFolder(config.state, "done")
    with run.recorded():
        run.checkpoints(keep=3).save(state_after(1), CHECKPOINT_PLAN)
    with closing(sqlite3.connect(config.state / "flower.db")) as database:
        database.executescript(
            "PRAGMA journal_mode=WAL; CREATE TABLE node (k, v); INSERT INTO node VALUES (1, 0), (2, 0)"
        )
    for name in ("logs/superlink.log", "flower/x.fab", "app/client/app.py", "caddy/x"):
        (config.state / name).parent.mkdir(parents=True, exist_ok=True)
        (config.state / name).write_text("made again")
    return folder


def test_all_that_an_aggregator_needs_comes_back(made: AggregatorFolder, tmp_path: Path) -> None:
    before = load_yaml_model(made.config, AggregatorConfig)
    assert back_up(made.config, tmp_path / "b").authority_key
    assert not [
        name for name in verify_backup(tmp_path / "b").files if "superlink.log" in name or name.endswith(".fab")
    ]
    restored = restore(tmp_path / "b", tmp_path / "again")
    config = load_yaml_model(restored.config, AggregatorConfig)
    assert AdmissionBook(config.platforms).all() == AdmissionBook(before.platforms).all()
    assert [(run.name, run.state) for run in list_runs(config.state)] == [("done", FINISHED)]
    read = RunFolder(config.state, "done").checkpoints(keep=3).latest(CHECKPOINT_PLAN)
    assert read is not None
    assert read.server_round == 1
    for path in (config.tls.ca, config.tls.key, config.superexec_secret):
        twin = made.folder / path.relative_to(tmp_path / "again")
        assert (path.read_bytes(), path.stat().st_mode) == (twin.read_bytes(), twin.stat().st_mode)
    assert (config.tls.key.parent.stat().st_mode & 0o777) == (made.server[1].parent.stat().st_mode & 0o777) == 0o700
    with closing(sqlite3.connect(config.state / "flower.db")) as database:
        assert database.execute("SELECT count(*) FROM node").fetchone() == (2,)


def test_a_backup_is_sound_while_the_aggregator_works(made: AggregatorFolder, tmp_path: Path) -> None:
    """A run writes statuses and checkpoints, Flower writes its database; every backup in between is whole."""
    config = load_yaml_model(made.config, AggregatorConfig)
    stop = threading.Event()
    run = RunFolder(config.state, "now")

    def work() -> None:
        with run.recorded(), closing(sqlite3.connect(config.state / "flower.db", timeout=30)) as database:
            store, server_round = run.checkpoints(keep=2), 0
            while not stop.is_set():
                server_round += 1
                store.save(state_after(server_round % 50 + 1), CHECKPOINT_PLAN)
                run.observer().on_reply(server_round, "statistics", "cinema", "ok", 1)
                database.execute("UPDATE node SET v = ?", (server_round,))
                database.commit()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(4):
            back_up(made.config, tmp_path / f"b{number}")
            restored = load_yaml_model(
                restore(tmp_path / f"b{number}", tmp_path / f"r{number}").config, AggregatorConfig
            )
            with closing(sqlite3.connect(restored.state / "flower.db")) as database:
                (first,), (second,) = database.execute("SELECT v FROM node").fetchall()
                assert first == second
            RunFolder(restored.state, "now").checkpoints(keep=2).latest(CHECKPOINT_PLAN)
    finally:
        stop.set()
        worker.join()


def test_a_run_that_was_going_on_is_not_resumed_unasked(made: AggregatorFolder, tmp_path: Path) -> None:
    config = load_yaml_model(made.config, AggregatorConfig)
    with RunFolder(config.state, "now").recorded():
        back_up(made.config, tmp_path / "b")
    result = CliRunner().invoke(app, ["restore", str(tmp_path / "b"), str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    assert "crossfed-server run --resume now" in result.output
    assert "revoke again whom you have revoked since" in result.output
    restored = load_yaml_model(tmp_path / "again" / "federation.yaml", AggregatorConfig)
    assert [one.act for one in AdminLog(restored.state).acts()][-1] == "restore"
    [run] = [run for run in list_runs(restored.state) if run.name == "now"]
    assert run.state == FAILED
    assert "going on when the backup was made" in (run.error or "")


def test_a_backup_of_one_role_is_not_restored_as_another(made: AggregatorFolder, tmp_path: Path) -> None:
    back_up(made.config, tmp_path / "b")
    with pytest.raises(StoreError, match="role 'aggregator'"):
        restore_platform(tmp_path / "b", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_command_says_what_is_in_the_file(made: AggregatorFolder, tmp_path: Path) -> None:
    content = made.config.read_text()
    made.config.write_text(content + f"superexec_secret: {json.dumps(str(tmp_path / 'elsewhere'))}\n")
    result = CliRunner().invoke(app, ["backup", "--config", str(made.config), str(tmp_path / "b")])
    assert result.exit_code == 0, result.output
    assert "authority's private key is in it" in result.output
    assert f"not in it: superexec_secret: {tmp_path / 'elsewhere'}" in result.output
