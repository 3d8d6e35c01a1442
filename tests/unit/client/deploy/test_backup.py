"""A platform's folder in one file and back, and what previewing and reloading do."""

from __future__ import annotations

import shutil
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.deploy.agent_process import ReloadableAgent
from client.deploy.backup import back_up, restore
from client.deploy.join import join_federation
from client.deploy.loading import load_platform_data, load_training_data, make_agent, text_cache
from client.deploy.preview import preview_rows
from client.keys import KeyFolder
from client.passport.books import PassportBooks
from client.passport.contents import Basis, Contents, Profile
from client.passport.envelope import issue
from client.privacy.secure_sum.state import STATE_FILE
from common.backup.reading import MANIFEST
from common.config.loader import load_yaml_model
from common.contributions.run_plan import read_plan
from common.deploy.roles import AggregatorConfig, PlatformConfig
from common.errors import ConfigError, PassportError, StoreError
from common.privacy.secure_sum import PlatformIdentity
from common.wire.exchange import AgentReply, AgentRequest
from server.deploy.provisioning import initialise, invite

PLAN = read_plan({"federation": "films", "platforms": 2, "privacy": {"mode": "none"}})


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    aggregator = load_yaml_model(initialise(tmp_path / "agg", PLAN, "h.example.org:9443").config, AggregatorConfig)
    invite(aggregator, "cinema", tmp_path / "cinema.invitation")
    rows = [f"u{user},{item}" for user in range(20) for item in range(user % 3, 12, 3)]
    (tmp_path / "views.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    (tmp_path / "films.csv").write_text("item_id,title\n" + "".join(f"{item},Film {item}\n" for item in range(12)))
    path = join_federation(
        tmp_path / "cinema.invitation",
        tmp_path / "cinema",
        interactions=tmp_path / "views.csv",
        items=tmp_path / "films.csv",
        namespace="imdb",
    ).config
    KeyFolder(tmp_path / "cinema/keys").new_secret()
    return path


def join_request(run_id: str) -> AgentRequest:
    return AgentRequest(kind="join", run_id=run_id, server_round=0, config={"plan": PLAN.model_dump(mode="json")})


def test_a_backup_of_open_logs_restores_the_same_logs(config_path: Path, tmp_path: Path) -> None:
    config = load_yaml_model(config_path, PlatformConfig)
    agent = make_agent(config, load_training_data(config))
    assert agent.exchange(join_request("r1")).code == "ok"
    assert back_up(config_path, tmp_path / "cinema.backup").files > 5
    assert (tmp_path / "cinema.backup").stat().st_mode & 0o077 == 0
    said = restore(tmp_path / "cinema.backup", tmp_path / "again").ledger
    assert said["ledger_entries"] >= 1
    assert said["lost_mu"] == 0
    restored = load_yaml_model(tmp_path / "again" / "platform.yaml", PlatformConfig)
    assert KeyFolder(restored.keys).secret().fingerprint == KeyFolder(config.keys).secret().fingerprint
    assert make_agent(restored, load_training_data(restored)).exchange(join_request("r2")).code == "ok"


def test_a_backup_holds_no_socket_log_or_flower_state(config_path: Path, tmp_path: Path) -> None:
    folder = config_path.parent / "courier" / "flower"
    folder.mkdir()
    (folder / "x.fab").write_text("x")
    (config_path.parent / "courier" / "supernode.log").write_text("x")
    cache = text_cache(load_yaml_model(config_path, PlatformConfig))
    cache.put("0" * 64, ["x"], np.ones((1, 8), dtype=np.float16))
    assert cache.path.exists()
    back_up(config_path, tmp_path / "b")
    with tarfile.open(tmp_path / "b") as archive:
        names = archive.getnames()
    assert "platform.yaml" in names
    assert "keys/identity.pem" in names
    assert not [name for name in names if name.endswith((".log", ".fab")) or "cache" in name]


def test_no_backup_holds_or_restores_a_place_in_a_secure_sum(config_path: Path, tmp_path: Path) -> None:
    config = load_yaml_model(config_path, PlatformConfig)
    make_agent(config, load_training_data(config))
    (config.state / STATE_FILE).write_bytes(b"secret")
    (config.state / f".{STATE_FILE}.k2").write_bytes(b"secret")
    back_up(config_path, tmp_path / "new.backup")
    with tarfile.open(tmp_path / "new.backup") as archive:
        assert not [name for name in archive.getnames() if STATE_FILE in name]
    shutil.unpack_archive(tmp_path / "new.backup", tmp_path / "old", "gztar")
    (tmp_path / "old" / MANIFEST).unlink()
    (tmp_path / "old" / "state" / STATE_FILE).write_bytes(b"as backups of version 0.1 hold it")
    with tarfile.open(tmp_path / "old.backup", "w:gz") as archive:
        archive.add(tmp_path / "old", arcname=".")
    restore(tmp_path / "old.backup", tmp_path / "again")
    assert (tmp_path / "again" / "state" / "ledger.db").exists()
    assert not (tmp_path / "again" / "state" / STATE_FILE).exists()


def test_a_backup_never_overwrites_and_restores_into_empty_folders(config_path: Path, tmp_path: Path) -> None:
    back_up(config_path, tmp_path / "b")
    with pytest.raises(StoreError, match="exists"):
        back_up(config_path, tmp_path / "b")
    with pytest.raises(StoreError, match="not empty"):
        restore(tmp_path / "b", config_path.parent)
    with pytest.raises(StoreError, match="not a backup"):
        restore(tmp_path / "views.csv", tmp_path / "new")


def test_holding_out_takes_only_chosen_users_and_loses_nothing(config_path: Path) -> None:
    config = load_yaml_model(config_path, PlatformConfig)
    data = load_training_data(config)
    assert data.train.nnz + data.validation.truth.nnz == 80
    assert len(data.validation.users) == round(0.3 * 20)
    assert np.all(data.train.row_lengths >= 1)
    again = load_training_data(config)
    np.testing.assert_array_equal(data.train.indices, again.train.indices)


def test_cleaning_that_looks_at_other_users_is_refused_under_privacy(config_path: Path) -> None:
    config = load_yaml_model(
        config_path, PlatformConfig, ["plan.privacy.mode=user", "data.cleaning.min_item_interactions=2"]
    )
    with pytest.raises(ConfigError, match="min_item_interactions"):
        load_training_data(config)


def test_a_platform_without_pins_cannot_take_part_in_a_secure_sum(config_path: Path) -> None:
    overrides = ["plan.privacy.mode=user", "plan.platforms=3"]
    config = load_yaml_model(config_path, PlatformConfig, overrides)
    data = load_training_data(load_yaml_model(config_path, PlatformConfig))
    with pytest.raises(ConfigError, match="crossfed-client pin"):
        make_agent(config, data)


def test_the_preview_lists_every_array_that_may_leave(config_path: Path) -> None:
    config = load_yaml_model(config_path, PlatformConfig)
    rows = preview_rows(config, load_platform_data(config))
    arrays = {(row["kind"], row["array"]) for row in rows}
    assert {("join", "digests"), ("join", "identity"), ("counts", "item_counts"), ("statistics", "gram")} <= arrays
    gram = next(row for row in rows if row["array"] == "gram")
    assert gram["shape"][0] == 12
    assert gram["noise"].startswith("NONE")
    assert not (config_path.parent / "state" / "ledger.db").exists()


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def exchange(self, request: AgentRequest) -> AgentReply:
        return AgentReply(platform=self.name, kind=request.kind, server_round=request.server_round)


def test_a_run_ends_with_the_agent_that_it_began_with() -> None:
    agent = ReloadableAgent(Named("old"))
    agent.offer(lambda: Named("new"))
    later = AgentRequest(kind="statistics", run_id="r", server_round=1)
    assert agent.exchange(later).platform == "old"
    assert agent.exchange(join_request("next")).platform == "new"
    assert agent.exchange(later).platform == "new"


@pytest.mark.parametrize("error", [ConfigError("a key is missing"), KeyError("anna")])
def test_a_successor_that_cannot_be_made_leaves_the_old_agent_serving(error: Exception) -> None:
    def broken() -> Named:
        raise error

    agent = ReloadableAgent(Named("old"))
    agent.offer(broken)
    assert agent.exchange(join_request("r")).platform == "old"


def test_two_couriers_at_once_do_not_make_two_successors() -> None:
    made: list[Named] = []

    def make() -> Named:
        made.append(Named("new"))
        return made[-1]

    agent = ReloadableAgent(Named("old"))
    agent.offer(make)
    threads = [threading.Thread(target=agent.exchange, args=(join_request("r"),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_backup_holds_and_revives_no_vector_that_a_person_brought(config_path: Path, tmp_path: Path) -> None:
    config = load_yaml_model(config_path, PlatformConfig)
    mark = np.full(64, 0.123456, dtype=np.float32)
    contents = Contents(profile=Profile(Basis("shop/1", bytes(32)), mark))
    sealing = X25519PrivateKey.generate().public_key().public_bytes_raw()
    make = lambda start: issue(  # noqa: E731 -- as at another platform
        contents, issuer="shop", identity=PlatformIdentity.generate(), receiver="cinema", receiver_key=sealing,
        not_before=start, expires=1 << 39,
    )  # fmt: skip
    config.state.mkdir(mode=0o700, exist_ok=True)
    books, now = PassportBooks(config.state), int(time.time())
    passport = make(now)
    books.record_redeem(passport, "anna", contents, per_day=1)
    books.close()
    back_up(config_path, tmp_path / "b")
    with tarfile.open(tmp_path / "b") as archive:
        kept = b"".join(archive.extractfile(name).read() for name in archive.getmembers() if name.isfile())  # type: ignore[union-attr]
    assert mark.astype(">f4").tobytes() not in kept
    assert passport.serial.encode() in kept

    restored = restore(tmp_path / "b", tmp_path / "again")
    assert "passports" in " ".join(restored.notes)
    again = PassportBooks(load_yaml_model(restored.config, PlatformConfig).state)
    assert again.redeemed() == []
    assert [receipt.state(now) for receipt in again.receipts()] == ["revoked"]
    for early in (passport, make(now)):
        with pytest.raises(PassportError):
            again.record_redeem(early, "anna", contents, per_day=9)
    again.record_redeem(make(now + 3600), "anna", contents, per_day=9)
    again.close()
