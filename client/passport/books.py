"""Receipts of passports at both ends, and what was redeemed: durable before anything is answered.

Consent is a row: who, what, for whom, when, until when. The vectors of a redeemed passport stand in a table of their own, from
which revocation and expiry delete them; the receipt stays, without them, as the proof that they were forgotten. A serial can
be redeemed once: its row is the primary key, so of two processes, or of a process that is killed and its successor, one
writes it.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from client.passport.book_file import PASSPORTS_FILE, BookFile
from client.passport.contents import Contents
from client.passport.envelope import CLOCK_SECONDS, Passport, account_binding
from client.passport.receipts import COLUMNS, Direction, Receipt, Redeemed, find_receipt, insert_receipt, receipt_of
from common.errors import PassportError

__all__ = ["PASSPORTS_FILE", "PassportBooks", "Receipt", "Redeemed"]
_DAY = 86_400


class PassportBooks:
    """The receipts of one platform. Safe for threads and for several processes.

    Args:
        folder: the platform's private folder.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = BookFile(folder, clock)
        self._clock = clock

    def record_issue(self, passport: Passport, user: str, kinds: tuple[str, ...], *, per_day: int) -> Receipt:
        """Make a receipt durable, before the passport is handed out.

        Raises:
            PassportError: the user has had as many within the last day as there may be.
            StoreError: it cannot be written; the passport must not be handed out.
        """
        now, head = int(self._clock()), passport.head
        receipt = Receipt(passport.serial, "issued", user, head.receiver, kinds, now, head.expires)

        def issued(connection: sqlite3.Connection) -> Receipt:
            _check_rate(connection, "issued", user, now, per_day)
            insert_receipt(connection, receipt, passport.digest())
            return receipt

        return self._file.change(issued, counted=False)

    def record_redeem(
        self, passport: Passport, user: str, contents: Contents, *, per_day: int, keep_days: int | None = None
    ) -> tuple[Receipt, bool]:
        """Keep what a passport brings to ``user``; the receipt, and whether it had been redeemed before.

        Redeeming again for the same account is the same redemption: whoever got no answer may ask once more.

        Args:
            passport: checked and opened.
            user: of this platform.
            contents: of the passport.
            per_day: passports that a user may redeem within a day.
            keep_days: for how long this platform keeps data of persons; None: until the passport expires.

        Raises:
            PassportError: it belongs to another account, was revoked, or the account has redeemed too many today.
            StoreError: it cannot be written, and is not redeemed.
        """
        if contents.account not in (None, account_binding(passport.head.receiver, user)):
            raise PassportError("passport: was made out to another account of this platform")
        now, head = int(self._clock()), passport.head

        def redeemed(connection: sqlite3.Connection) -> tuple[Receipt, bool]:
            earlier, digest = find_receipt(connection, "redeemed", passport.serial)
            if earlier is not None:
                _check_same(earlier, user, digest == passport.digest(), now)
                return earlier, True
            _check_not_spent(connection, passport)
            _check_rate(connection, "redeemed", user, now, per_day)
            until = head.expires if keep_days is None else min(head.expires, now + keep_days * _DAY)
            receipt = Receipt(passport.serial, "redeemed", user, head.issuer, contents.kinds, now, until)
            insert_receipt(connection, receipt, passport.digest())
            if until < head.expires:
                # Its serial is spent for longer than its receipt says, whatever becomes of that.
                spent = (_serial_digest(passport.serial), head.expires)
                connection.execute("INSERT OR REPLACE INTO spent VALUES (?, ?)", spent)
            # One passport of a platform counts for an account: the newest.
            connection.execute(
                "DELETE FROM content WHERE serial IN (SELECT serial FROM receipt WHERE direction = 'redeemed'"
                " AND user = ? AND platform = ? AND serial != ?)",
                (user, head.issuer, passport.serial),
            )
            connection.execute("INSERT INTO content VALUES (?, ?, ?)", (passport.serial, user, contents.encoded()))
            return receipt, False

        return self._file.change(redeemed)

    def check_usable(self, passport: Passport) -> None:
        """Raises: PassportError: its serial was redeemed for an account, revoked or not, or it is older than a restore."""
        with self._file.reading() as connection:
            found, _ = find_receipt(connection, "redeemed", passport.serial)
            if found is not None:
                raise PassportError("passport: was redeemed for an account already; recommend to that account")
            _check_not_spent(connection, passport)

    def revoke(self, serial: str) -> list[Receipt]:
        """Forget what a passport brought; the receipts that say so. A second time changes nothing.

        Raises:
            PassportError: no passport of that serial was issued or redeemed here.
        """
        return self._revoke("serial = ?", serial.lower(), f"no passport {serial!r} was issued or redeemed here")

    def revoke_user(self, user: str) -> list[Receipt]:
        """Forget all that any passport brought to a user, and revoke those issued to the user."""
        return self._revoke("user = ?", user, None)

    def erase_user(self, user: str) -> int:
        """Remove a user altogether, receipts included: for when the person is erased from the platform. Again is the same.

        No serial that the user redeemed can be redeemed again, by anybody: its digest alone is kept until its expiry. A
        running recommender notices within a second, and learns its bridges anew without the user.

        Returns:
            How many receipts there were.

        Raises:
            StoreError: it cannot be written, and nothing is erased.
        """

        def erased(connection: sqlite3.Connection) -> int:
            rows = connection.execute("SELECT direction, serial, until FROM receipt WHERE user = ?", (user,)).fetchall()
            spent = [(_serial_digest(serial), until) for direction, serial, until in rows if direction == "redeemed"]
            connection.executemany("INSERT OR IGNORE INTO spent VALUES (?, ?)", spent)
            connection.execute("DELETE FROM content WHERE user = ?", (user,))
            connection.execute("DELETE FROM receipt WHERE user = ?", (user,))
            return len(rows)

        return self._file.change(erased)

    def receipts(self, user: str | None = None) -> list[Receipt]:
        """All, or a user's, oldest first."""
        where, values = ("WHERE user = ?", (user,)) if user is not None else ("", ())
        with self._file.reading() as connection:
            rows = connection.execute(f"SELECT {COLUMNS} FROM receipt {where} ORDER BY at, rowid", values)  # noqa: S608
            return [receipt_of(row) for row in rows]

    def redeemed(self, user: str | None = None) -> list[Redeemed]:
        """Passports in use, of all users or of one: redeemed, not revoked, not expired; the newest last."""
        now = int(self._clock())
        of_one, values = ("AND receipt.user = ?", (now, user)) if user is not None else ("", (now,))
        columns = ", ".join(f"receipt.{name}" for name in COLUMNS.split(", "))
        self._forget_expired(now)
        with self._file.reading() as connection:
            rows = connection.execute(
                f"SELECT {columns}, content.data FROM receipt JOIN content USING (serial)"  # noqa: S608
                f" WHERE direction = 'redeemed' AND revoked IS NULL AND until > ? {of_one} ORDER BY at, receipt.rowid",
                values,
            )
            return [Redeemed(receipt_of(row[:-1]), Contents.decoded(row[-1])) for row in rows]

    def version(self) -> int:
        """Another number whenever another connection, in this process or another, has written."""
        with self._file.reading() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        self._file.close()

    def _revoke(self, where: str, value: str, missing: str | None) -> list[Receipt]:
        now = int(self._clock())

        def revoked(connection: sqlite3.Connection) -> list[Receipt]:
            found = connection.execute(f"SELECT serial FROM receipt WHERE {where}", (value,)).fetchall()  # noqa: S608
            if not found and missing is not None:
                raise PassportError(missing)
            connection.execute(f"UPDATE receipt SET revoked = ? WHERE {where} AND revoked IS NULL", (now, value))  # noqa: S608
            connection.execute(f"DELETE FROM content WHERE {where}", (value,))  # noqa: S608
            rows = connection.execute(f"SELECT {COLUMNS} FROM receipt WHERE {where}", (value,))  # noqa: S608
            return [receipt_of(row) for row in rows]

        return self._file.change(revoked)

    def _forget_expired(self, now: int) -> None:
        gone = "serial IN (SELECT serial FROM receipt WHERE direction = 'redeemed' AND until <= ?)"
        with self._file.reading() as connection:
            expired = connection.execute(f"SELECT 1 FROM content WHERE {gone} LIMIT 1", (now,)).fetchone()  # noqa: S608

        def forgotten(connection: sqlite3.Connection) -> None:
            connection.execute(f"DELETE FROM content WHERE {gone}", (now,))  # noqa: S608
            connection.execute("DELETE FROM spent WHERE until <= ?", (now,))

        if expired is not None:
            self._file.change(forgotten)


def _check_rate(connection: sqlite3.Connection, direction: Direction, user: str, now: int, per_day: int) -> None:
    count = connection.execute(
        "SELECT count(*) FROM receipt WHERE direction = ? AND user = ? AND at > ?", (direction, user, now - _DAY)
    ).fetchone()[0]
    if count >= per_day:
        raise PassportError(
            f"passport: {count} were {direction} for this user within a day, which is as many as may be"
        )


def _check_same(earlier: Receipt, user: str, same: bool, now: int) -> None:
    if earlier.user != user or not same:
        raise PassportError("passport: was redeemed before, for another account")
    if earlier.revoked is not None:
        raise PassportError("passport: was revoked; ask the platform that issued it for a new one")
    if earlier.until <= now:
        raise PassportError(
            "passport: what it brought is forgotten here by now; ask the platform that issued it for a new one"
        )


def _check_not_spent(connection: sqlite3.Connection, passport: Passport) -> None:
    """Whether it may have been redeemed or revoked without a receipt that says so."""
    digest = _serial_digest(passport.serial)
    if connection.execute("SELECT 1 FROM spent WHERE serial_digest = ?", (digest,)).fetchone() is not None:
        raise PassportError("passport: was redeemed before; ask the platform that issued it for a new one")
    (restored,) = connection.execute("SELECT max(at) FROM restored").fetchone()
    # The issuer's clock may be ahead of this one by as much.
    if restored is not None and passport.head.not_before < restored + CLOCK_SECONDS:
        raise PassportError(
            "passport: is older than the books of passports here, which were restored; ask the platform that issued it for "
            "a new one"
        )


def _serial_digest(serial: str) -> bytes:
    return hashlib.sha256(bytes.fromhex(serial)).digest()
