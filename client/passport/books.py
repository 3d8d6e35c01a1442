"""Receipts of passports at both ends, and what was redeemed: durable before anything is answered.

One SQLite file in the platform's private folder. Consent is a row: who, what, for whom, when, until when. The vectors of a
redeemed passport stand in a table of their own, from which revocation and expiry delete them; the receipt stays, without
them, as the proof that they were forgotten. A serial can be redeemed once: its row is the primary key, so of two processes,
or of a process that is killed and its successor, one writes it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.passport.contents import Contents
from client.passport.envelope import Passport, account_binding
from client.privacy.witness import create_durably, require_private
from common.errors import LedgerError, PassportError, StoreError

PASSPORTS_FILE = "passports.db"
_BUSY_SECONDS = 10.0
_DAY = 86_400
Direction = Literal["issued", "redeemed"]
_SCHEMA = """
CREATE TABLE IF NOT EXISTS receipt (
  serial TEXT NOT NULL, direction TEXT NOT NULL, user TEXT NOT NULL, platform TEXT NOT NULL, kinds TEXT NOT NULL,
  at INTEGER NOT NULL, until INTEGER NOT NULL, digest TEXT NOT NULL, revoked INTEGER,
  PRIMARY KEY (direction, serial)) STRICT;
CREATE INDEX IF NOT EXISTS receipt_user ON receipt (direction, user, at);
CREATE TABLE IF NOT EXISTS content (serial TEXT PRIMARY KEY, user TEXT NOT NULL, data BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS content_user ON content (user);
"""


@dataclass(frozen=True)
class Receipt:
    """What a person consented to, as both ends keep it.

    Attributes:
        serial: of the passport, hex.
        direction: ``issued`` here or ``redeemed`` here.
        user: of this platform.
        platform: the other one.
        kinds: what was in it.
        at, until: seconds since 1970; from then until then.
        revoked: seconds since 1970, or None.
    """

    serial: str
    direction: Direction
    user: str
    platform: str
    kinds: tuple[str, ...]
    at: int
    until: int
    revoked: int | None = None

    def state(self, now: float) -> str:
        """``revoked``, ``expired`` or ``good``."""
        return "revoked" if self.revoked is not None else "expired" if now >= self.until else "good"


@dataclass(frozen=True, eq=False)
class Redeemed:
    """A passport in use.

    Attributes:
        receipt: of it.
        contents: what it brought.
    """

    receipt: Receipt
    contents: Contents


class PassportBooks:
    """The receipts of one platform. Safe for threads and for several processes.

    Args:
        folder: the platform's private folder.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = folder / PASSPORTS_FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def record_issue(self, passport: Passport, user: str, kinds: tuple[str, ...], *, per_day: int) -> Receipt:
        """Make a receipt durable, before the passport is handed out.

        Raises:
            PassportError: the user has had as many within the last day as there may be.
            StoreError: it cannot be written; the passport must not be handed out.
        """
        now = int(self._clock())
        with self._transaction() as connection:
            self._check_rate(connection, "issued", user, now, per_day)
            head = passport.head
            receipt = Receipt(passport.serial, "issued", user, head.receiver, kinds, now, head.expires)
            _insert(connection, receipt, passport.digest())
        return receipt

    def record_redeem(self, passport: Passport, user: str, contents: Contents, *, per_day: int) -> tuple[Receipt, bool]:
        """Keep what a passport brings to ``user``; the receipt, and whether it had been redeemed before.

        Redeeming again for the same account is the same redemption: whoever got no answer may ask once more.

        Raises:
            PassportError: it belongs to another account, was revoked, or the account has redeemed too many today.
            StoreError: it cannot be written, and is not redeemed.
        """
        if contents.account not in (None, account_binding(passport.head.receiver, user)):
            raise PassportError("passport: was made out to another account of this platform")
        now = int(self._clock())
        with self._transaction() as connection:
            earlier = _find(connection, "redeemed", passport.serial)
            if earlier is not None:
                _check_same(connection, earlier, user, passport.digest())
                return earlier, True
            self._check_rate(connection, "redeemed", user, now, per_day)
            head = passport.head
            receipt = Receipt(passport.serial, "redeemed", user, head.issuer, contents.kinds, now, head.expires)
            _insert(connection, receipt, passport.digest())
            # One passport of a platform counts for an account: the newest.
            connection.execute(
                "DELETE FROM content WHERE serial IN (SELECT serial FROM receipt WHERE direction = 'redeemed'"
                " AND user = ? AND platform = ? AND serial != ?)",
                (user, head.issuer, passport.serial),
            )
            connection.execute("INSERT INTO content VALUES (?, ?, ?)", (passport.serial, user, contents.encoded()))
        return receipt, False

    def check_usable(self, passport: Passport) -> None:
        """Raises: PassportError: its serial was revoked, redeemed for an account, or used for another passport."""
        with self._transaction(writing=False) as connection:
            found = _find(connection, "redeemed", passport.serial)
        if found is not None:
            raise PassportError("passport: was redeemed for an account already; recommend to that account")

    def revoke(self, serial: str) -> list[Receipt]:
        """Forget what a passport brought; the receipts that say so. A second time changes nothing.

        Raises:
            PassportError: no passport of that serial was issued or redeemed here.
        """
        return self._revoke("serial = ?", serial.lower(), f"no passport {serial!r} was issued or redeemed here")

    def revoke_user(self, user: str) -> list[Receipt]:
        """Forget all that any passport brought to a user, and revoke those issued to the user."""
        return self._revoke("user = ?", user, None)

    def erase_user(self, user: str) -> None:
        """Remove a user altogether, receipts included: for when the person is erased from the platform."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM content WHERE user = ?", (user,))
            connection.execute("DELETE FROM receipt WHERE user = ?", (user,))

    def receipts(self, user: str | None = None) -> list[Receipt]:
        """All, or a user's, oldest first."""
        where, values = ("WHERE user = ?", (user,)) if user is not None else ("", ())
        with self._transaction() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM receipt {where} ORDER BY at, rowid", values)  # noqa: S608
            return [_receipt(row) for row in rows]

    def redeemed(self, user: str | None = None) -> list[Redeemed]:
        """Passports in use, of all users or of one: redeemed, not revoked, not expired; the newest last."""
        now = int(self._clock())
        of_one, values = ("AND receipt.user = ?", (now, user)) if user is not None else ("", (now,))
        columns = ", ".join(f"receipt.{name}" for name in _COLUMNS.split(", "))
        with self._transaction() as connection:
            self._forget_expired(connection, now)
            rows = connection.execute(
                f"SELECT {columns}, content.data FROM receipt JOIN content USING (serial)"  # noqa: S608
                f" WHERE direction = 'redeemed' AND revoked IS NULL AND until > ? {of_one} ORDER BY at, receipt.rowid",
                values,
            )
            return [Redeemed(_receipt(row[:-1]), Contents.decoded(row[-1])) for row in rows]

    def version(self) -> int:
        """Another number whenever another connection, in this process or another, has written."""
        with self._transaction(writing=False) as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _revoke(self, where: str, value: str, missing: str | None) -> list[Receipt]:
        now = int(self._clock())
        with self._transaction() as connection:
            found = connection.execute(f"SELECT serial FROM receipt WHERE {where}", (value,)).fetchall()  # noqa: S608
            if not found and missing is not None:
                raise PassportError(missing)
            connection.execute(f"UPDATE receipt SET revoked = ? WHERE {where} AND revoked IS NULL", (now, value))  # noqa: S608
            connection.execute(f"DELETE FROM content WHERE {where}", (value,))  # noqa: S608
            rows = connection.execute(f"SELECT {_COLUMNS} FROM receipt WHERE {where}", (value,))  # noqa: S608
            return [_receipt(row) for row in rows]

    def _forget_expired(self, connection: sqlite3.Connection, now: int) -> None:
        gone = "SELECT serial FROM receipt WHERE direction = 'redeemed' AND until <= ?"
        connection.execute(f"DELETE FROM content WHERE serial IN ({gone})", (now,))  # noqa: S608

    def _check_rate(self, connection: sqlite3.Connection, direction: str, user: str, now: int, per_day: int) -> None:
        count = connection.execute(
            "SELECT count(*) FROM receipt WHERE direction = ? AND user = ? AND at > ?", (direction, user, now - _DAY)
        ).fetchone()[0]
        if count >= per_day:
            raise PassportError(
                f"passport: {count} were {direction} for this user within a day, which is as many as may be"
            )

    @contextmanager
    def _transaction(self, *, writing: bool = True) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._opened()
                connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError, LedgerError) as error:
                raise StoreError(
                    f"{self._path}: cannot be used ({error}); check its owner and the free space, or restore it from a "
                    "backup; nothing was written"
                ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            if not self._path.exists():
                create_durably(self._path, b"")
            require_private(self._path)
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # As in sealed_log: a commit returns when both the database and the end of its journal are on disk. What is
            # deleted is overwritten, so that a forgotten vector is in no free page.
            for pragma in ("synchronous=EXTRA", "fullfsync=ON", "secure_delete=ON"):
                connection.execute(f"PRAGMA {pragma}")
            try:
                connection.executescript(_SCHEMA)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection


_COLUMNS = "serial, direction, user, platform, kinds, at, until, revoked"


def _insert(connection: sqlite3.Connection, receipt: Receipt, digest: str) -> None:
    connection.execute(
        "INSERT INTO receipt (serial, direction, user, platform, kinds, at, until, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            receipt.serial,
            receipt.direction,
            receipt.user,
            receipt.platform,
            ",".join(receipt.kinds),
            receipt.at,
            receipt.until,
            digest,
        ),
    )


def _find(connection: sqlite3.Connection, direction: Direction, serial: str) -> Receipt | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM receipt WHERE direction = ? AND serial = ?",  # noqa: S608
        (direction, serial),
    ).fetchone()
    return None if row is None else _receipt(row)


def _check_same(connection: sqlite3.Connection, earlier: Receipt, user: str, digest: str) -> None:
    (kept,) = connection.execute(
        "SELECT digest FROM receipt WHERE direction = 'redeemed' AND serial = ?", (earlier.serial,)
    ).fetchone()
    if earlier.user != user or kept != digest:
        raise PassportError("passport: was redeemed before, for another account")
    if earlier.revoked is not None:
        raise PassportError("passport: was revoked; ask the platform that issued it for a new one")


def _receipt(row: tuple[object, ...]) -> Receipt:
    serial, direction, user, platform, kinds, at, until, revoked = row
    names = tuple(str(kinds).split(","))
    return Receipt(serial, direction, user, platform, names, at, until, revoked)  # type: ignore[arg-type]
