"""A platform's backup: whole under any path, verified when made, and restored as it was."""

from __future__ import annotations

import gzip
import io
import os
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.main import app
from client.deploy.backup import back_up, restore
from client.deploy.join import join_federation
from common.backup.listing import list_folder
from common.backup.reading import verify_backup
from common.backup.writing import write_backup
from common.config.loader import load_yaml_model
from common.deploy.provisioning import Registration
from common.deploy.roles import AggregatorConfig
from common.errors import ConfigError, NewerStoreError, StoreError
from common.sealed.admin import AdminLog
from server.deploy.provisioning import invite
from tests.support.joined import joined


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return joined(tmp_path, tmp_path / "srv")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("parent", ["flower", "flower shop/logs", "programs"])
def test_a_backup_is_whole_under_any_path(tmp_path: Path, parent: str) -> None:
    config = joined(tmp_path, tmp_path / parent)
    before = contents(config.parent)
    assert back_up(config, tmp_path / "b").files == len(before) > 6
    restore(tmp_path / "b", tmp_path / parent / "again")
    assert contents(tmp_path / parent / "again") == before


def invoke(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_secret_commands_work_after_a_restore(config: Path, tmp_path: Path) -> None:
    """``secret seal`` and ``secret import`` read the platform's own registration, which backups lacked."""
    invite(
        load_yaml_model(tmp_path / "agg" / "federation.yaml", AggregatorConfig), "club", tmp_path / "club.invitation"
    )
    club = join_federation(tmp_path / "club.invitation", tmp_path / "club", interactions=tmp_path / "views.csv")
    registrations = {"cinema": config.parent / "cinema.registration.json", "club": club.registration_file}
    for name, own in (("cinema", club.config), ("club", config)):
        heard = Registration.read(registrations[name]).fingerprint
        invoke("pin", registrations[name], "--config", own, "--fingerprint", heard)
    for name, path in (("cinema", config), ("club", club.config)):
        back_up(path, tmp_path / f"{name}.backup")
        restore(tmp_path / f"{name}.backup", tmp_path / "again" / name)
    invoke("secret", "seal", "club", "--config", tmp_path / "again/cinema/platform.yaml", "-o", tmp_path / "sealed")
    invoke("secret", "import", tmp_path / "sealed", "--config", tmp_path / "again/club/platform.yaml")
    shown = [invoke("secret", "show", "-c", path) for path in (config, tmp_path / "again/club/platform.yaml")]
    assert shown[0] == shown[1]


def test_a_backup_of_version_0_1_gets_its_registration_back(config: Path, tmp_path: Path) -> None:
    """Such a backup has no manifest and no registration, and its folders have whatever permissions."""
    registration = (config.parent / "cinema.registration.json").read_bytes()
    (config.parent / "state").mkdir()
    (config.parent / "state" / "secure_sum.state").write_text("{}")
    with tarfile.open(tmp_path / "old", "w:gz") as archive:
        for path in sorted(config.parent.rglob("*")):
            if path.is_file() and "registration" not in path.name:
                archive.add(path, arcname=str(path.relative_to(config.parent)))
    restored = restore(tmp_path / "old", tmp_path / "again")
    assert (tmp_path / "again" / "cinema.registration.json").read_bytes() == registration
    assert not (tmp_path / "again" / "state" / "secure_sum.state").exists()
    assert (tmp_path / "again" / "keys").stat().st_mode & 0o077 == 0
    assert any("0.1" in note for note in restored.notes)


def chain_of_links() -> list[tuple[tarfile.TarInfo, bytes]]:
    """Members that lead out of the folder past tarfile's own filter, which takes a path that is too long as it is."""
    members, path, steps, long = [], "", "abcdefghijklmnop", "d" * 247

    def add(name: str, kind: bytes, target: str = "", content: bytes = b"") -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size, member.mode = kind, target, len(content), 0o755
        members.append((member, content))

    for step in steps:
        add(f"{path}{long}", tarfile.DIRTYPE)
        add(f"{path}{step}", tarfile.SYMTYPE, long)
        path += f"{long}/"
    root = f"{'/'.join(steps)}/{'l' * 254}"
    add(root, tarfile.SYMTYPE, "../" * len(steps))
    add("escape", tarfile.SYMTYPE, f"{root}/../beside")
    add("escape/written", tarfile.REGTYPE, content=b"x")
    return members


def test_no_link_in_an_old_backup_leads_out_of_the_folder(config: Path, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    with tarfile.open(tmp_path / "old", "w:gz") as archive:
        archive.add(config, arcname=config.name)
        for member, content in chain_of_links():
            archive.addfile(member, io.BytesIO(content))
    with suppress(StoreError):
        restore(tmp_path / "old", tmp_path / "again")
    assert not list((tmp_path / "beside").iterdir())
    assert not [path for path in (tmp_path / "again").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("name", ["../out", "keys/../../out", "/out"])
def test_an_old_backup_that_names_what_lies_outside_is_refused(config: Path, tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "old", "w:gz") as archive:
        archive.add(config, arcname=config.name)
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    with pytest.raises(StoreError, match="lies outside of the folder"):
        restore(tmp_path / "old", tmp_path / "again")
    assert not list((tmp_path / "again").iterdir())


def test_no_backup_brings_files_that_run_as_their_owner(config: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "old", "w:gz") as archive:
        archive.add(config, arcname=config.name)
        member = tarfile.TarInfo("program")
        member.mode = 0o4755
        archive.addfile(member, io.BytesIO(b""))
    with suppress(StoreError):
        restore(tmp_path / "old", tmp_path / "again")
    assert (tmp_path / "again" / "program").stat().st_mode & 0o7000 == 0


def test_permissions_come_back(config: Path, tmp_path: Path) -> None:
    (config.parent / "state" / "store").mkdir(parents=True, mode=0o700)
    (config.parent / "state" / "store" / "feedback.log").write_text("crossfed feedback 1 0\n")
    (config.parent / "state" / "store" / "feedback.log").chmod(0o600)
    modes = {p.relative_to(config.parent): p.stat().st_mode for p in (config.parent, *config.parent.rglob("*"))}
    before = os.umask(0)
    try:
        back_up(config, tmp_path / "b")
        restore(tmp_path / "b", tmp_path / "again")
    finally:
        os.umask(before)
    again = tmp_path / "again"
    assert {p.relative_to(again): p.stat().st_mode for p in (again, *again.rglob("*"))} == modes
    assert again.stat().st_mode & 0o777 == 0o700


def test_the_secure_sum_is_in_no_backup(config: Path, tmp_path: Path) -> None:
    (config.parent / "state").mkdir()
    for name in ("secure_sum.state", ".secure_sum.state.abcdefgh"):
        (config.parent / "state" / name).write_text("secret")
    back_up(config, tmp_path / "b")
    assert not [name for name in verify_backup(tmp_path / "b").files if "secure_sum" in name]


def test_what_can_be_made_again_is_left_out(config: Path, tmp_path: Path) -> None:
    places = ("courier/flower/x.fab", "courier/logs/supernode.log", "courier/programs/p", "state/logs/platform.log")
    for name in (*places, "state/agent.lock", "state/.ledger.db.0123abcd.part"):
        (config.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (config.parent / name).write_text("x")
    kept = config.parent / "flower" / "notes.log"
    kept.parent.mkdir()
    kept.write_text("the operator's own")
    back_up(config, tmp_path / "b")
    names = verify_backup(tmp_path / "b").files
    assert "flower/notes.log" in names
    assert not {*places, "state/agent.lock", "state/.ledger.db.0123abcd.part"} & set(names)


def test_restoring_says_which_paths_point_elsewhere(config: Path, tmp_path: Path) -> None:
    back_up(config, tmp_path / "b")
    result = CliRunner().invoke(app, ["restore", str(tmp_path / "b"), str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    assert (
        f"data.interactions.path points outside of the restored folder: {tmp_path / 'views.csv'} (there)"
        in result.output
    )
    assert [one.act for one in AdminLog(tmp_path / "again" / "state").acts()] == ["restore"]
    (tmp_path / "views.csv").unlink()
    result = CliRunner().invoke(app, ["restore", str(tmp_path / "b"), str(tmp_path / "third")])
    assert "NOT there" in result.output


def damage(path: Path, edit: Callable[[dict[str, bytes]], None]) -> None:
    """Write a backup anew with other contents, as a sound archive."""
    with tarfile.open(path) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    edit(files)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_an_altered_backup_is_refused_before_anything_is_written(config: Path, tmp_path: Path) -> None:
    back_up(config, tmp_path / "b")
    damage(tmp_path / "b", lambda files: files.update({"keys/identity.pem": b"another"}))
    with pytest.raises(StoreError, match=r"keys/identity\.pem is not what was backed up"):
        restore(tmp_path / "b", tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_backup_is_refused(config: Path, tmp_path: Path, share: float) -> None:
    back_up(config, tmp_path / "b")
    content = (tmp_path / "b").read_bytes()
    (tmp_path / "b").write_bytes(content[: int(share * len(content))])
    with pytest.raises(StoreError, match="damaged"):
        restore(tmp_path / "b", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_missing_file_and_a_newer_format_are_named(config: Path, tmp_path: Path) -> None:
    back_up(config, tmp_path / "b")
    damage(tmp_path / "b", lambda files: files.pop("keys/api.token") and None)
    with pytest.raises(StoreError, match=r"keys/api\.token"):
        verify_backup(tmp_path / "b")
    damage(tmp_path / "b", lambda files: files.update({"backup.json": b'{"format": 2}'}))
    with pytest.raises(NewerStoreError, match="format 2"):
        restore(tmp_path / "b", tmp_path / "again")


def test_a_path_out_of_the_folder_is_not_restored(config: Path, tmp_path: Path) -> None:
    back_up(config, tmp_path / "b")

    def escape(files: dict[str, bytes]) -> None:
        files["../evil"] = files.pop("keys/api.token")
        files["backup.json"] = files["backup.json"].replace(b"keys/api.token", b"../evil")

    damage(tmp_path / "b", escape)
    with pytest.raises(StoreError, match="outside of the folder"):
        restore(tmp_path / "b", tmp_path / "again")
    assert not (tmp_path / "evil").exists()


def test_a_write_that_goes_wrong_shows_when_the_backup_is_made(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that returns other bytes than it was given: the archive is opened again, so it is noticed at once."""
    real = gzip.GzipFile.write

    def flipped(self: gzip.GzipFile, data: bytes) -> int:
        return real(self, bytes(data).replace(b"BEGIN", b"BEGUN"))

    monkeypatch.setattr(gzip.GzipFile, "write", flipped)
    with pytest.raises(StoreError, match="is not what was backed up"):
        back_up(config, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".b")]


def test_a_damaged_database_is_named(config: Path, tmp_path: Path) -> None:
    database = config.parent / "state" / "ledger.db"
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as made:
        made.execute("CREATE TABLE t (a)")
        made.executemany("INSERT INTO t VALUES (?)", [(str(n) * 300,) for n in range(100)])
        made.commit()
    content = bytearray(database.read_bytes())
    content[5000:9000] = b"\xff" * 4000
    database.write_bytes(content)
    with pytest.raises(StoreError, match=r"ledger\.db: the database is damaged"):
        back_up(config, tmp_path / "b")


def test_a_folder_without_a_platform_is_refused(tmp_path: Path) -> None:
    """A configuration alone, as the old rule found it under a path with "flower" in it, is no backup."""
    config = joined(tmp_path, tmp_path / "srv")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "platform.yaml").write_text(config.read_text())
    with pytest.raises(StoreError, match="neither this platform's identity nor its node key"):
        back_up(tmp_path / "alone" / "platform.yaml", tmp_path / "b")


def test_links_and_places_outside_are_named(config: Path, tmp_path: Path) -> None:
    (config.parent / "more").symlink_to(tmp_path / "agg")
    assert back_up(config, tmp_path / "b").links == (config.parent.resolve() / "more",)
    with pytest.raises(StoreError, match="lies in the folder that is backed up"):
        back_up(config, config.parent / "c")
    (tmp_path / "disk").mkdir()
    (config.parent / "state").symlink_to(tmp_path / "disk")
    with pytest.raises(ConfigError, match=r"state: .* lies outside"):
        back_up(config, tmp_path / "c")


@pytest.mark.parametrize("pruned", [True, False])
def test_a_file_that_goes_or_comes_meanwhile_is_no_hole(tmp_path: Path, pruned: bool) -> None:
    """Versions of a model come and go: what is named must be there, so the folder is read again."""
    root = tmp_path / "role"
    root.mkdir()
    for name in ("CURRENT", "v1"):
        (root / name).write_text(name)
    seen = 0

    def listing():
        nonlocal seen
        seen += 1
        found = list_folder(root, lambda path: False)
        if seen == 1:
            if pruned:
                (root / "v1").unlink()
            (root / "v2").write_text("v2")
        return found

    made = write_backup(tmp_path / "b", root, role="x", config="CURRENT", listing=listing)
    assert set(made.files) == {"CURRENT", "v2"} | (set() if pruned else {"v1"})


def test_a_database_under_writing_is_copied_as_of_one_moment(tmp_path: Path) -> None:
    """Two rows change together, always; a copy of the file's bytes would tear them."""
    root = tmp_path / "role"
    root.mkdir()
    with closing(sqlite3.connect(root / "x.db")) as made:
        made.executescript("CREATE TABLE t (k PRIMARY KEY, v, pad); INSERT INTO t VALUES (1, 0, ''), (2, 0, '')")
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(root / "x.db", timeout=30)) as live:
            value = 0
            while not stop.is_set():
                value += 1
                live.execute("UPDATE t SET v = ?, pad = ?", (value, "x" * (value % 9000)))
                live.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            target = tmp_path / f"b{number}"
            write_backup(target, root, role="x", config="x.db", listing=lambda: list_folder(root, lambda path: False))
            with tarfile.open(target) as archive:
                (tmp_path / "out.db").write_bytes(archive.extractfile("x.db").read())  # type: ignore[union-attr]
            with closing(sqlite3.connect(tmp_path / "out.db")) as copied:
                assert copied.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                (first,), (second,) = copied.execute("SELECT v FROM t").fetchall()
                assert first == second
    finally:
        stop.set()
        writer.join()
