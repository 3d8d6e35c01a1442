"""Receipts: durable, once per serial, forgotten when revoked."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.passport.books import PASSPORTS_FILE, PassportBooks
from client.passport.contents import Basis, Contents, Profile, Tastes
from client.passport.envelope import Passport, account_binding, issue
from common.errors import PassportError, StoreError
from common.privacy.secure_sum import PlatformIdentity

_DAY = 86_400
_MARK = np.full(64, 0.123456, dtype=np.float32)
_PROFILE = Contents(profile=Profile(Basis("cinema/1", bytes(32)), _MARK))


class _Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def _passport(
    contents: Contents = _PROFILE, issuer: str = "cinema", days: int = 30, start: int = int(_Clock.now)
) -> Passport:
    return issue(
        contents,
        issuer=issuer,
        identity=PlatformIdentity.generate(),
        receiver="books",
        receiver_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        not_before=start,
        expires=start + days * _DAY,
    )


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def books(tmp_path: Path, clock: _Clock):  # type: ignore[no-untyped-def]
    opened = PassportBooks(tmp_path, clock=clock)
    yield opened
    opened.close()


def test_receipt_says_who_what_whom_and_until_when(books: PassportBooks, clock: _Clock) -> None:
    passport = _passport()
    receipt, before = books.record_redeem(passport, "anna", _PROFILE, per_day=1)
    assert not before
    assert (receipt.user, receipt.platform, receipt.kinds) == ("anna", "cinema", ("profile",))
    assert (receipt.at, receipt.until) == (int(clock.now), int(clock.now) + 30 * _DAY)
    assert books.receipts() == books.receipts("anna") == [receipt]
    assert books.receipts("ben") == []


def test_redeeming_again_is_the_same_redemption(books: PassportBooks) -> None:
    passport = _passport()
    first, _ = books.record_redeem(passport, "anna", _PROFILE, per_day=1)
    again, before = books.record_redeem(passport, "anna", _PROFILE, per_day=1)
    assert before
    assert again == first
    assert len(books.redeemed("anna")) == 1


def test_another_account_is_refused(books: PassportBooks) -> None:
    passport = _passport()
    books.record_redeem(passport, "anna", _PROFILE, per_day=5)
    with pytest.raises(PassportError, match="another account"):
        books.record_redeem(passport, "ben", _PROFILE, per_day=5)
    bound = Contents(account=account_binding("books", "anna"), tastes=Tastes((("genre:drama", 1.0),)))
    with pytest.raises(PassportError, match="made out to another account"):
        books.record_redeem(_passport(bound), "ben", bound, per_day=5)
    assert books.record_redeem(_passport(bound), "anna", bound, per_day=5)
    assert books.redeemed("ben") == []


def test_limits_are_per_user_and_day(books: PassportBooks, clock: _Clock) -> None:
    for _ in range(2):
        books.record_issue(_passport(), "anna", ("profile",), per_day=2)
    with pytest.raises(PassportError, match="2 were issued for this user within a day"):
        books.record_issue(_passport(), "anna", ("profile",), per_day=2)
    books.record_issue(_passport(), "ben", ("profile",), per_day=2)
    clock.now += _DAY + 1
    books.record_issue(_passport(), "anna", ("profile",), per_day=2)


def test_newest_passport_of_a_platform_counts(books: PassportBooks) -> None:
    other = _passport(issuer="club")
    books.record_redeem(other, "anna", _PROFILE, per_day=9)
    for _ in range(2):
        last = _passport()
        books.record_redeem(last, "anna", _PROFILE, per_day=9)
    assert [item.receipt.serial for item in books.redeemed("anna")] == [other.serial, last.serial]


def test_revoking_leaves_the_receipt_and_no_byte_of_the_vector(books: PassportBooks, tmp_path: Path) -> None:
    passport = _passport()
    books.record_redeem(passport, "anna", _PROFILE, per_day=1)
    vector = _MARK.astype(">f4").tobytes()
    assert vector in (tmp_path / PASSPORTS_FILE).read_bytes()

    (revoked,) = books.revoke(passport.serial)
    assert revoked.revoked is not None
    assert books.redeemed() == []
    assert vector not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert books.revoke(passport.serial) == [revoked]
    with pytest.raises(PassportError, match="was revoked"):
        books.record_redeem(passport, "anna", _PROFILE, per_day=9)
    with pytest.raises(PassportError, match="no passport 'ff'"):
        books.revoke("ff")


def test_expired_passport_is_forgotten(books: PassportBooks, clock: _Clock, tmp_path: Path) -> None:
    books.record_redeem(_passport(days=2), "anna", _PROFILE, per_day=1)
    clock.now += 2 * _DAY
    assert books.redeemed() == []
    assert _MARK.astype(">f4").tobytes() not in (tmp_path / PASSPORTS_FILE).read_bytes()
    assert books.receipts("anna")[0].state(clock.now) == "expired"


def test_what_was_brought_is_kept_no_longer_than_other_data(books: PassportBooks, clock: _Clock) -> None:
    passport, short = _passport(), 3
    receipt, _ = books.record_redeem(passport, "anna", _PROFILE, per_day=9, keep_days=short)
    assert receipt.until == clock.now + short * _DAY < passport.head.expires
    clock.now += short * _DAY - 1
    assert [item.receipt.serial for item in books.redeemed()] == [passport.serial]
    clock.now += 1
    assert books.redeemed() == []
    with pytest.raises(PassportError, match="forgotten here by now"):
        books.record_redeem(passport, "anna", _PROFILE, per_day=9, keep_days=short)
    # Nor is it good for anybody once Anna is erased.
    books.erase_user("anna")
    books.record_redeem(_passport(), "ben", _PROFILE, per_day=9, keep_days=1)
    clock.now += _DAY
    assert books.redeemed() == []
    with pytest.raises(PassportError, match="was redeemed before"):
        books.record_redeem(passport, "ben", _PROFILE, per_day=9)
    long, _ = books.record_redeem(_passport(), "cara", _PROFILE, per_day=9, keep_days=4000)
    assert long.until == passport.head.expires


def test_erasing_a_user_leaves_nothing(books: PassportBooks, clock: _Clock, tmp_path: Path) -> None:
    passport = _passport()
    books.record_redeem(passport, "anna-0815", _PROFILE, per_day=1)
    books.record_issue(_passport(), "anna-0815", ("profile",), per_day=1)
    books.record_redeem(_passport(), "ben", _PROFILE, per_day=1)
    assert books.erase_user("anna-0815") == 2
    assert books.erase_user("anna-0815") == 0
    assert [item.user for item in books.receipts()] == ["ben"]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for trace in (b"anna-0815", passport.serial.encode(), passport.head.serial):
        assert trace not in kept
    # What was redeemed once stays redeemed, whoever has the file now.
    for user in ("anna-0815", "ben"):
        with pytest.raises(PassportError, match="was redeemed before"):
            books.record_redeem(passport, user, _PROFILE, per_day=9)
    with pytest.raises(PassportError, match="was redeemed before"):
        books.check_usable(passport)


@pytest.mark.parametrize("undone", ["revoked", "erased", "redeemed"])
def test_old_copy_put_back_revives_nothing(books: PassportBooks, clock: _Clock, tmp_path: Path, undone: str) -> None:
    passport = _passport()
    if undone != "redeemed":
        books.record_redeem(passport, "anna", _PROFILE, per_day=1)
    books.record_redeem(_passport(), "ben", _PROFILE, per_day=1)
    old = (tmp_path / PASSPORTS_FILE).read_bytes()
    if undone == "redeemed":
        books.record_redeem(passport, "anna", _PROFILE, per_day=1)
    elif undone == "revoked":
        books.revoke(passport.serial)
    else:
        books.erase_user("anna")
    books.close()
    (tmp_path / PASSPORTS_FILE).write_bytes(old)
    clock.now += 3600

    assert books.redeemed() == []
    assert all(receipt.revoked is not None for receipt in books.receipts())
    for user in ("anna", "ben"):
        with pytest.raises(PassportError):
            books.record_redeem(passport, user, _PROFILE, per_day=9)
    with pytest.raises(PassportError):
        books.check_usable(passport)
    # Nor one that was issued meanwhile: it may have been redeemed here before the copy was put back.
    with pytest.raises(PassportError, match="older than the books"):
        books.record_redeem(_passport(), "clara", _PROFILE, per_day=9)
    later = _passport(start=int(clock.now) + 300)
    assert books.record_redeem(later, "anna", _PROFILE, per_day=9)[0].user == "anna"
    books.close()
    assert [item.receipt.user for item in PassportBooks(tmp_path, clock=clock).redeemed()] == ["anna"]


def test_books_of_before_are_read(tmp_path: Path, clock: _Clock) -> None:
    (tmp_path / PASSPORTS_FILE).touch(mode=0o600)
    old = sqlite3.connect(tmp_path / PASSPORTS_FILE)
    old.executescript(_FIRST_SCHEMA)
    row = ("00" * 16, "redeemed", "anna", "cinema", "profile", int(clock.now), int(clock.now) + _DAY, "d", None)
    old.execute("INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    old.execute("INSERT INTO content VALUES (?, ?, ?)", (row[0], "anna", _PROFILE.encoded()))
    old.commit()
    old.close()
    books = PassportBooks(tmp_path, clock=clock)
    assert [item.receipt.user for item in books.redeemed()] == ["anna"]
    books.close()


_FIRST_SCHEMA = """
CREATE TABLE receipt (
  serial TEXT NOT NULL, direction TEXT NOT NULL, user TEXT NOT NULL, platform TEXT NOT NULL, kinds TEXT NOT NULL,
  at INTEGER NOT NULL, until INTEGER NOT NULL, digest TEXT NOT NULL, revoked INTEGER,
  PRIMARY KEY (direction, serial)) STRICT;
CREATE TABLE content (serial TEXT PRIMARY KEY, user TEXT NOT NULL, data BLOB NOT NULL) STRICT;
"""


def test_file_is_private(books: PassportBooks, tmp_path: Path) -> None:
    books.receipts()
    path = tmp_path / PASSPORTS_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    books.close()
    path.chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        books.receipts()


def test_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / PASSPORTS_FILE).touch(mode=0o600)
    (tmp_path / PASSPORTS_FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"passports\.db: cannot be used"):
        PassportBooks(tmp_path).receipts()


_REDEEM_AND_DIE = """
import os, signal, sys
from pathlib import Path
from client.passport.books import PassportBooks
from client.passport.contents import Contents
from client.passport.envelope import Passport
passport, contents = (Path(name).read_bytes() for name in sys.argv[2:])
books = PassportBooks(Path(sys.argv[1]), clock=lambda: 1_800_000_000)
books.record_redeem(Passport.decoded(passport), "anna", Contents.decoded(contents), per_day=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_between_redeeming_and_answering(tmp_path: Path, clock: _Clock) -> None:
    passport = _passport()
    for name, data in (("passport", passport.encoded()), ("contents", _PROFILE.encoded())):
        (tmp_path / name).write_bytes(data)
    command = [
        sys.executable,
        "-c",
        _REDEEM_AND_DIE,
        *map(str, (tmp_path, tmp_path / "passport", tmp_path / "contents")),
    ]
    assert subprocess.run(command, env=os.environ, check=False).returncode == -signal.SIGKILL

    books = PassportBooks(tmp_path, clock=clock)
    receipt, before = books.record_redeem(passport, "anna", _PROFILE, per_day=1)
    assert before
    assert books.receipts() == [receipt]
    with pytest.raises(PassportError, match="another account"):
        books.record_redeem(passport, "ben", _PROFILE, per_day=1)
    books.close()


def test_those_who_wait_share_one_transaction(tmp_path: Path, clock: _Clock) -> None:
    books, passports = PassportBooks(tmp_path, clock=clock), [_passport() for _ in range(8)]
    books.record_redeem(passports[0], "anna", _PROFILE, per_day=9)
    before = _changes(tmp_path)
    entered, may_go = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        entered.set()
        may_go.wait()

    found: dict[int, object] = {}

    def redeem(number: int) -> None:
        try:
            found[number] = books.record_redeem(passports[number], f"user-{number}", _PROFILE, per_day=9)[0].user
        except PassportError as error:
            found[number] = error

    workers = [threading.Thread(target=books._file.change, args=(slow,))]
    workers[0].start()
    entered.wait()
    workers += [threading.Thread(target=redeem, args=(number,)) for number in range(8)]
    for worker in workers[1:]:
        worker.start()
    while len(books._file._waiting) < 8:
        pass
    may_go.set()
    for worker in workers:
        worker.join()

    assert isinstance(found.pop(0), PassportError)  # Anna's passport
    assert found == {number: f"user-{number}" for number in range(1, 8)}
    assert _changes(tmp_path) == before + 2
    assert {item.receipt.user for item in books.redeemed()} == {"anna", *found.values()}
    books.close()


def _changes(folder: Path) -> int:
    return int((folder / "passports.changes").read_text())
