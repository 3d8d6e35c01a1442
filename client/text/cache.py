"""Vectors of texts that were encoded before: a bounded file in the platform's private folder.

A text's key is a hash of the encoder's digest and the text, so that no entry outlives its model and the file holds no
words. Entries carry a checksum. What cannot be read is encoded again: a cache may be lost at any time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from logging import getLogger
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import StoreError
from common.files import make_folder

_log = getLogger(__name__)

CACHE_FOLDER = "cache"
"""In a platform's state; backups leave it out."""

_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL, used INTEGER NOT NULL)"
_PASSING = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM,
}  # fmt: skip
"""Errors that say nothing against the file's content."""
_ASK = 500  # parameters a statement


class VectorCache:
    """Vectors by content hash, least recently used first to go.

    Args:
        path: of the file; its folder is made where needed.
        limit: entries that are kept; one of 512 numbers takes a kilobyte.
    """

    def __init__(self, path: Path, limit: int = 200_000) -> None:
        self.path = path
        self.limit = limit

    def get(self, digest: str, dimension: int, texts: Sequence[str]) -> dict[str, NDArray[np.float16]]:
        """Those of the vectors, float16 ``[d]``, that are there and sound."""
        keys = {text_key(digest, text): text for text in texts}
        found: dict[str, NDArray[np.float16]] = {}

        def read(database: sqlite3.Connection) -> None:
            used = _next_use(database)
            for some in _portions(list(keys)):
                marks = ",".join("?" * len(some))
                sound = []
                for key, blob in database.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some):  # noqa: S608
                    vector = _unpacked(key, blob, dimension)
                    if vector is not None:
                        found[keys[key]] = vector
                        sound.append((used, key))
                database.executemany("UPDATE vectors SET used = ? WHERE key = ?", sound)

        if self.path.exists():
            self._do(read)
        return found

    def put(self, digest: str, texts: Sequence[str], vectors: NDArray[np.float16]) -> None:
        """Keep ``vectors`` ``[n, d]`` of ``texts``; where the file cannot be written, say so and go on."""
        keys = [text_key(digest, text) for text in texts]

        def write(database: sqlite3.Connection) -> None:
            used = _next_use(database)
            rows = [(key, _packed(key, vector), used) for key, vector in zip(keys, vectors, strict=True)]
            database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            surplus = database.execute("SELECT count(*) FROM vectors").fetchone()[0] - self.limit
            if surplus > 0:
                database.execute(
                    "DELETE FROM vectors WHERE key IN (SELECT key FROM vectors ORDER BY used LIMIT ?)", (surplus,)
                )

        self._do(write)

    def _do(self, work: Callable[[sqlite3.Connection], None]) -> None:
        try:
            with self._opened() as database:
                work(database)
        except (sqlite3.Error, OSError, StoreError) as error:
            if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF not in _PASSING:
                _log.warning("%s: is damaged (%s) and begins anew", self.path, error)
                self.path.unlink(missing_ok=True)
            else:
                _log.warning("%s: vectors of texts are not cached (%s)", self.path, error)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        make_folder(self.path.parent, mode=0o700)
        # SQLite gives its own files the mode of this one.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(self.path, timeout=10.0)) as database:
            database.execute(_SCHEMA)
            with database:
                yield database


def user_cache() -> Path:
    """Where simulations keep vectors of texts from one run to the next: public texts, in the user's own cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "crossfed" / "texts.db"


def text_key(digest: str, text: str) -> bytes:
    """16 bytes that name a text under an encoder."""
    return hashlib.blake2b(text.encode(), digest_size=16, key=bytes.fromhex(digest)).digest()


def _next_use(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT coalesce(max(used), 0) + 1 FROM vectors").fetchone()[0])


def _portions(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), _ASK):
        yield keys[start : start + _ASK]


def _packed(key: bytes, vector: NDArray[np.float16]) -> bytes:
    content = vector.astype("<f2").tobytes()
    return zlib.crc32(key + content).to_bytes(4, "little") + content


def _unpacked(key: bytes, blob: object, dimension: int) -> NDArray[np.float16] | None:
    if not isinstance(blob, bytes) or len(blob) != 4 + 2 * dimension:
        return None
    if zlib.crc32(key + blob[4:]) != int.from_bytes(blob[:4], "little"):
        return None
    return np.frombuffer(blob[4:], dtype="<f2").astype(np.float16)
