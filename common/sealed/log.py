"""An append-only log on disk whose entries are chained by a keyed MAC: what ledger and egress journal are written on.

Entry k stores its text and HMAC-SHA256(key, label ‖ k ‖ MAC of the entry before ‖ text). Without the key nobody can
edit, insert, reorder or remove an entry unnoticed. Removing the *last* entries, or putting an old copy back, leaves a
whole chain and shows against a head kept elsewhere (:mod:`common.sealed.witness`).

Durability: SQLite with a rollback journal and ``synchronous=EXTRA``. A commit then returns only when the database
*and* the deletion of its rollback journal are on disk; ``FULL`` leaves the latter to luck, and after a power cut the
journal could reappear and undo a commit that had been acknowledged. WAL with ``FULL`` would be as durable, but keeps
the newest entries
in a second file: whoever copies or restores the database file alone would lose them. Each transaction opens the file
anew, so that one deleted or replaced under a running agent is noticed before anything is appended to it.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import LedgerError
from common.sealed.witness import Head, HeadWitness, create_durably, link_durably, part_name, require_private

Content = Mapping[str, Any]
Totals = Mapping[str, float]

_BUSY_SECONDS = 60.0
_GO_ON = "run `crossfed-client privacy restore` to go on with all that its kept head says was spent"
_KEY_BYTES = 32
_SCHEMA = """
BEGIN;
CREATE TABLE entry (sequence INTEGER PRIMARY KEY, text TEXT NOT NULL, mac BLOB NOT NULL) STRICT;
CREATE TRIGGER entry_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER entry_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
COMMIT;
"""


@dataclass(frozen=True)
class Entry:
    """One entry: number, content (parsed JSON), MAC in hex. Numbers rise by one, but for what a restore skips."""

    sequence: int
    content: Content
    mac: str


def load_key(path: Path) -> bytes:
    """The key in ``path``, made on first use (mode 0600, from the operating system's CSPRNG).

    Raises:
        LedgerError: the file is readable by others or not 32 bytes long.
    """
    try:
        if not path.exists():
            create_durably(path, secrets.token_bytes(_KEY_BYTES))
        require_private(path)
        key = path.read_bytes()
    except OSError as error:
        raise LedgerError(
            f"{path.name} cannot be read or made ({error.strerror}): check its folder and owner"
        ) from error
    if len(key) != _KEY_BYTES:
        raise LedgerError(f"{path.name} is damaged: restore it from a backup, nothing else can vouch for the log")
    return key


class Writer:
    """The write side of one transaction: every checked entry so far, and ``append``."""

    def __init__(self, log: SealedLog, connection: sqlite3.Connection, entries: list[Entry]) -> None:
        self._log = log
        self._connection = connection
        self.entries = entries

    def append(self, content: Content) -> Entry:
        """Add an entry; durable once the transaction ends. Its time is informative only: the numbers give the order."""
        replaced = content.get("replaces")
        last = self.entries[-1]
        sequence = (max(last.sequence, replaced["to"]) if replaced else last.sequence) + 1
        entry = self._log.insert(self._connection, sequence, last.mac, content)
        self.entries.append(entry)
        return entry


class SealedLog:
    """The log in one SQLite file. Every transaction reads and checks the whole chain before it appends.

    Args:
        path: the database.
        key: 32 bytes; whoever has it can forge.
        label: what the log is for; keeps the MACs of two logs under one key apart.
        witnesses: where the head is kept besides.
        mend: what somebody may do who finds the log damaged, for messages.
    """

    def __init__(
        self, path: Path, *, key: bytes, label: str, witnesses: Sequence[HeadWitness], mend: str | None = None
    ) -> None:
        self._mend = mend
        self._path = path
        self._key = key
        self._label = label.encode()
        self._witnesses = tuple(witnesses)

    @property
    def name(self) -> str:
        return self._path.name

    def exists(self) -> bool:
        return self._path.exists()

    def create(self, content: Content, *, log_id: str | None = None) -> None:
        """Make the file with its first entry, whole or not at all; does nothing if another process was faster."""
        part = part_name(self._path)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with self._file_errors(), closing(sqlite3.connect(part, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.executescript(_SCHEMA)
            self.insert(connection, 1, "", {**content, "log_id": log_id or secrets.token_hex(16)})
        link_durably(part, self._path)

    @contextmanager
    def writing(self, *, distrust_witnesses: bool = False) -> Iterator[Writer]:
        """A transaction that no other process can interleave with: durable when it ends, undone on any error.

        Raises:
            LedgerError: the file is missing, damaged, edited or rolled back, or was locked for a minute.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            entries = self._checked(connection)
            if not distrust_witnesses:
                self._check_witnesses(entries)
            yield Writer(self, connection, entries)

    def entries(self) -> list[Entry]:
        """Every entry, the chain and the witnesses checked.

        Raises:
            LedgerError: names the first bad entry.
        """
        with self._transaction("BEGIN") as connection:
            # The read lock is held while the witnesses are asked: none can be told a newer head in between.
            entries = self._checked(connection)
            self._check_witnesses(entries)
            return entries

    def restore(
        self,
        first: Content,
        note: Callable[[Sequence[Entry], Sequence[Head]], Content],
        totals_of: Callable[[Sequence[Entry]], Totals],
    ) -> None:
        """Go on with an old copy, or with none: append ``note`` as an entry that owns up to the numbers it skips.

        Args:
            first: content of the first entry, for when there is no copy.
            note: from the copy's entries and the kept heads, the content of the new entry.
            totals_of: as in :meth:`publish`.

        Raises:
            LedgerError: the copy's chain is broken, it is another log's, or a kept head was edited.
        """
        heads = self.kept_heads()
        if not self.exists():
            self.create(first, log_id=heads[0].log_id if heads else None)
        with self.writing(distrust_witnesses=True) as writer:
            if any(head.log_id != writer.entries[0].content["log_id"] for head in heads):
                raise LedgerError(f"{self.name} is not a copy of the log whose head was kept")
            last = writer.entries[-1].sequence
            newest = max([last, *(head.sequence for head in heads)])
            writer.append({**note(writer.entries, heads), "replaces": {"from": last + 1, "to": newest}})
        self.publish(totals_of, distrust_witnesses=True)

    def publish(self, totals_of: Callable[[Sequence[Entry]], Totals], *, distrust_witnesses: bool = False) -> Head:
        """Tell every witness the head as it now is.

        Under the write lock, so that a slow process cannot put an older head over a newer one; and after the commit, so
        that a crash in between leaves the witness behind the log (nothing was released yet), never ahead of it, which
        is the sign of a rollback.
        """
        with self.writing(distrust_witnesses=distrust_witnesses) as writer:
            head = self.seal(writer.entries, totals_of(writer.entries))
            for witness in self._witnesses:
                witness.remember(head)
        return head

    def seal(self, entries: Sequence[Entry], totals: Totals) -> Head:
        last, log_id = entries[-1], str(entries[0].content["log_id"])
        unsealed = Head(log_id, last.sequence, last.mac, dict(totals), "")
        return Head(log_id, last.sequence, last.mac, dict(totals), self._seal_of(unsealed))

    def check_head(self, head: Head, entries: Sequence[Entry]) -> None:
        """Raises LedgerError: ``head`` was kept elsewhere and the log does not lead there any more."""
        self._check_seal(head)
        if head.log_id != entries[0].content["log_id"]:
            raise LedgerError(f"{self.name} is not the log whose head was kept; put the right file back")
        if not any(_explains(entry, head) for entry in entries):
            raise LedgerError(
                f"{self.name} ends with entry {entries[-1].sequence} and lacks entry {head.sequence}, which had been "
                "written: it was cut short or an old copy was put back; "
                + (self._mend or f"put the newest copy back, or {_GO_ON}")
            )

    def kept_heads(self) -> list[Head]:
        """Return what the witnesses remember.

        Raises:
            LedgerError: a witness holds what this log's key did not seal.
        """
        heads = [head for witness in self._witnesses if (head := witness.recall()) is not None]
        for head in heads:
            self._check_seal(head)
        return heads

    def insert(self, connection: sqlite3.Connection, sequence: int, previous: str, content: Content) -> Entry:
        stamped = {**content, "time": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")}
        text = json.dumps(stamped, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        mac = self._mac(sequence, previous, text)
        connection.execute("INSERT INTO entry VALUES (?, ?, ?)", (sequence, text, bytes.fromhex(mac)))
        return Entry(sequence, json.loads(text), mac)

    def _check_witnesses(self, entries: Sequence[Entry]) -> None:
        heads = self.kept_heads()
        # A single entry without a head is a log whose maker was killed before it could tell anybody.
        if self._witnesses and not heads and len(entries) > 1:
            raise LedgerError(
                f"the head of {self.name} is kept nowhere any more, so a rollback could not be noticed; "
                + (
                    self._mend
                    or "put the file back, or run `crossfed-client privacy restore` to vouch for the log as it is"
                )
            )
        for head in heads:
            self.check_head(head, entries)

    def _checked(self, connection: sqlite3.Connection) -> list[Entry]:
        entries: list[Entry] = []
        previous = Entry(0, {}, "")
        for sequence, text, mac in connection.execute("SELECT sequence, text, mac FROM entry ORDER BY sequence"):
            if not (isinstance(text, str) and isinstance(mac, bytes)) or not hmac.compare_digest(
                self._mac(sequence, previous.mac, text), mac.hex()
            ):
                raise LedgerError(f"{self.name}: entry {sequence} was edited, or one before it was added or removed")
            content = json.loads(text)
            expected = content["replaces"]["to"] + 1 if "replaces" in content else previous.sequence + 1
            if sequence < expected or (sequence > expected and "replaces" not in content):
                raise LedgerError(f"{self.name}: entry {expected} is missing")
            previous = Entry(sequence, content, mac.hex())
            entries.append(previous)
        if not entries:
            raise LedgerError(f"{self.name}: entry 1 is missing")
        return entries

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        if not self.exists():
            raise LedgerError(f"{self.name} is missing; " + (self._mend or f"put it back from a backup, or {_GO_ON}"))
        location = f"{self._path.resolve().as_uri()}?mode=rw"
        with (
            self._file_errors(),
            closing(sqlite3.connect(location, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)) as connection,
        ):
            require_private(self._path)
            connection.execute("PRAGMA synchronous=EXTRA")
            connection.execute("PRAGMA fullfsync=ON")
            connection.execute(begin)
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite has undone it by itself where the disk was full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeError) as error:
            # SQLite quotes the file in its errors, and Python fails to read one whose bytes are no text.
            raise LedgerError(f"{self.name} cannot be used ({error}); nothing was written") from error

    def _mac(self, sequence: int, previous: str, text: str) -> str:
        message = b"\0".join([b"entry", self._label, str(sequence).encode(), previous.encode(), text.encode()])
        return hmac.digest(self._key, message, "sha256").hex()

    def _seal_of(self, head: Head) -> str:
        totals = json.dumps(head.totals, sort_keys=True)
        fields = [head.log_id, str(head.sequence), head.mac, totals]
        return hmac.digest(self._key, b"\0".join([b"head", self._label, *(f.encode() for f in fields)]), "sha256").hex()

    def _check_seal(self, head: Head) -> None:
        if not hmac.compare_digest(self._seal_of(head), head.seal):
            raise LedgerError(f"a kept head of {self.name} was not sealed with this log's key: it was edited")


def _explains(entry: Entry, head: Head) -> bool:
    """Whether ``entry`` is the one the head names, or a restore that owns up to its loss."""
    if entry.sequence == head.sequence:
        return hmac.compare_digest(entry.mac, head.mac)
    replaced = entry.content.get("replaces")
    return replaced is not None and replaced["from"] <= head.sequence <= replaced["to"]
