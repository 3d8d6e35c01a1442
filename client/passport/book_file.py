"""``passports.db``: one SQLite file in the platform's private folder, and beside it the number of its last change.

An old copy of the file, put back, would revive what was revoked since and let a serial be redeemed a second time. The number
of its last change, in a file of its own, shows that it is old; a restored backup is old by itself. Of an old file nothing
that was redeemed is used any more, and no passport that was issued before it was put back is good here.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar, cast

from common.errors import CrossfedError, LedgerError, StoreError
from common.sealed.witness import create_durably, require_private

PASSPORTS_FILE = "passports.db"
CHANGES_FILE = "passports.changes"
LEFT_OUT_OF_BACKUPS = ("DELETE FROM content",)
"""No vector that a person brought is in a backup: after a restore none would be used."""
RESTORED_NOTE = (
    "what people brought by passports is not used any more, and passports that were issued before now are not redeemed here: "
    "some may have been revoked since then; people may ask for new ones"
)
_BUSY_SECONDS = 10.0
Result = TypeVar("Result")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS receipt (
  serial TEXT NOT NULL, direction TEXT NOT NULL, user TEXT NOT NULL, platform TEXT NOT NULL, kinds TEXT NOT NULL,
  at INTEGER NOT NULL, until INTEGER NOT NULL, digest TEXT NOT NULL, revoked INTEGER,
  PRIMARY KEY (direction, serial)) STRICT;
CREATE INDEX IF NOT EXISTS receipt_user ON receipt (direction, user, at);
CREATE TABLE IF NOT EXISTS content (serial TEXT PRIMARY KEY, user TEXT NOT NULL, data BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS content_user ON content (user);
CREATE TABLE IF NOT EXISTS spent (serial_digest BLOB PRIMARY KEY, until INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS restored (at INTEGER NOT NULL) STRICT;
"""


class _Change:
    """A write that one caller wants, and its outcome."""

    def __init__(self, work: Callable[[sqlite3.Connection], object], counted: bool) -> None:
        self.counted, self.done = counted, False
        self.result: object = None
        self.error: Exception | None = None
        self._work = work

    def tried(self, connection: sqlite3.Connection) -> None:
        """Done in a transaction that others share: an error undoes this one's part and stays with it.

        Raises:
            sqlite3.Error: the file cannot be used.
        """
        connection.execute("SAVEPOINT one")
        try:
            self.result = self._work(connection)
        except CrossfedError as error:
            self.error = error
            connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")


class BookFile:
    """The file, opened when first needed. Safe for threads and for several processes.

    Args:
        folder: the platform's private folder.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._path, self._changes = folder / PASSPORTS_FILE, folder / CHANGES_FILE
        self._clock = clock
        self._lock, self._turn = threading.Lock(), threading.Condition()
        self._waiting: list[_Change] = []
        self._writing = False
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes nothing.

        Raises:
            StoreError: the file cannot be used.
        """
        with self._lock, self._errors():
            connection = self._opened()
            with _transaction(connection, "BEGIN"):
                yield connection

    def change(self, work: Callable[[sqlite3.Connection], Result], *, counted: bool = True) -> Result:
        """Do ``work`` in a transaction that is durable when this returns; its result.

        Whoever comes while another is being written shares the next transaction, so that many wait for the disk once. What one
        of them may not do is undone for that one alone.

        Args:
            work: reads and writes; what it raises is raised here, and nothing of it is written.
            counted: whether an old copy of the file would revive something without it.

        Raises:
            StoreError: the file cannot be used.
        """
        mine = _Change(work, counted)
        with self._turn:
            self._waiting.append(mine)
            while self._writing and not mine.done:
                self._turn.wait()
            together = [] if mine.done else self._waiting
            if together:
                self._waiting, self._writing = [], True
        if together:
            try:
                with self._lock:
                    self._write(together)
            finally:
                with self._turn:
                    self._writing = False
                    self._turn.notify_all()
        if mine.error is not None:
            raise mine.error
        return cast("Result", mine.result)

    def _write(self, together: list[_Change]) -> None:
        """One transaction for all; afterwards each is done, with its result or its error."""
        try:
            with self._errors():
                connection = self._opened()
                with _transaction(connection, "BEGIN IMMEDIATE"):
                    for one in together:
                        one.tried(connection)
                    number = _number(connection) + 1
                    counted = any(one.counted and one.error is None for one in together)
                    if counted:
                        connection.execute(f"PRAGMA user_version = {number}")
                if counted:
                    # Behind the file, never ahead of it: a kill in between is no old copy.
                    self._remember(number)
        except StoreError as error:
            for one in together:
                one.error = one.error or error
        except BaseException:
            for one in together:
                one.error = one.error or StoreError(f"{self._path}: writing was stopped; ask again")
            raise
        finally:
            for one in together:
                one.done = True

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _remember(self, number: int) -> None:
        """In place, since one disk access is enough for a few bytes: a new file would take three."""
        if not self._changes.exists():
            create_durably(self._changes, b"")
        descriptor = os.open(self._changes, os.O_WRONLY)
        try:
            os.pwrite(descriptor, f"{number:010d}\n".encode(), 0)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _remembered(self) -> int:
        try:
            return int(self._changes.read_text("ascii") or "0")
        except FileNotFoundError:
            return 0
        except ValueError:
            # Whatever stood there: the file cannot be shown to be new.
            return 1 << 31

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            if not self._path.exists():
                create_durably(self._path, b"")
            require_private(self._path)
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # As in common.sealed.log: a commit returns when both the database and the end of its journal are on disk. What is
            # deleted is overwritten, so that a forgotten vector is in no free page.
            try:
                for pragma in ("synchronous=EXTRA", "fullfsync=ON", "secure_delete=ON"):
                    connection.execute(f"PRAGMA {pragma}")
                connection.executescript(_SCHEMA)
                self._check_not_old(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _check_not_old(self, connection: sqlite3.Connection) -> None:
        with _transaction(connection, "BEGIN IMMEDIATE"):
            number, remembered = _number(connection), self._remembered()
            if number >= remembered:
                return
            forget_all(connection, int(self._clock()))
            number = remembered + 1 if remembered < 1 << 31 else number + 1
            connection.execute(f"PRAGMA user_version = {number}")
        self._remember(number)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, LedgerError) as error:
            raise StoreError(
                f"{self._path}: cannot be used ({error}); check its owner and the free space, or restore it from a backup"
            ) from error


def forget_all(connection: sqlite3.Connection, now: int) -> None:
    """Make an old file good: use nothing that was redeemed, and redeem nothing that was issued before ``now``."""
    connection.execute("DELETE FROM content")
    connection.execute("UPDATE receipt SET revoked = ? WHERE direction = 'redeemed' AND revoked IS NULL", (now,))
    connection.execute("INSERT INTO restored VALUES (?)", (now,))


def restored_passports(folder: Path, clock: Callable[[], float]) -> bool:
    """After a backup was unpacked into ``folder``: whether there were books of passports, which are now good.

    Raises:
        StoreError: they cannot be used.
    """
    if not (folder / PASSPORTS_FILE).exists():
        return False
    with closing(BookFile(folder, clock)) as file:
        file.change(lambda connection: forget_all(connection, int(clock())))
    return True


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _number(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
