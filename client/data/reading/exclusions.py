"""Whose data must not be used, whatever the platform's files still hold: who was erased, and who objected.

    STORE/exclusions.json     a key and, for each person, an HMAC of the id under it, why, and since when

The list names nobody: an id is in it as HMAC-SHA256 under a key of its own, over the form in which ids are compared. Whoever
has the file has the key, too, and can try ids; so it is as private as the store. Everything that reads users asks it: files
and recorded feedback, the store when it loads or writes a version, the recommender when it records an event.
"""

from __future__ import annotations

import hmac
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from client.data.reading.identifiers import identifier
from common.deploy.locks import held
from common.errors import StoreError
from common.files import file_errors, make_folder, write_atomically

EXCLUSIONS_FILE: Final = "exclusions.json"
Why = Literal["erased", "objected"]
_FORMAT: Final = 1
_LABEL: Final = b"crossfed exclusion v1\0"
_KEY_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Why a person is left out.

    Attributes:
        why: ``erased``, or ``objected`` (which can be taken back).
        since: seconds since 1970.
    """

    why: Why
    since: int


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Who is left out, as the list stood when it was read.

    Attributes:
        key: of the HMACs; empty where nobody is left out.
        entries: by HMAC, hex.
    """

    key: bytes = b""
    entries: Mapping[str, Exclusion] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, user_id: object) -> bool:
        return self.of(str(user_id)) is not None

    def of(self, user_id: str) -> Exclusion | None:
        """Why a person is left out, however the id is spelt; None for everybody else."""
        return self.entries.get(self.tag(user_id)) if self.entries else None

    def tag(self, user_id: str) -> str:
        """The HMAC that stands for an id, hex."""
        same = identifier(user_id) or user_id
        return hmac.digest(self.key, _LABEL + same.encode("utf-8", "surrogatepass"), "sha256").hex()

    def mask(self, user_ids: Iterable[str | None]) -> NDArray[np.bool_]:
        """Bool ``[n]``: which of ``user_ids`` are left out."""
        given = list(user_ids)
        if not self.entries:
            return np.zeros(len(given), dtype=np.bool_)
        known: dict[str, bool] = {}
        for user in given:
            if user is not None and user not in known:
                known[user] = user in self
        return np.array([user is not None and known[user] for user in given], dtype=np.bool_)


NOBODY: Final = Exclusions()


class ExclusionBook:
    """The list of one platform. Safe for threads and for several processes.

    Args:
        store: folder of the platform's model store.
        clock: seconds since 1970.
    """

    def __init__(self, store: Path, *, clock: Any = time.time) -> None:
        self._path = store / EXCLUSIONS_FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] | None = None
        self._kept = NOBODY

    def stamp(self) -> tuple[object, ...]:
        """Another value whenever the list was written."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be read ({error.strerror}); nothing of users is used") from error
        return status.st_ino, status.st_mtime_ns, status.st_size

    def current(self) -> Exclusions:
        """Who is left out now; read again only where the file was written since.

        Raises:
            StoreError: the list cannot be read. Nobody's data may be used then.
        """
        with self._lock:
            stamp = self.stamp()
            if stamp != self._seen:
                self._kept, self._seen = self._read(), stamp
            return self._kept

    def tag(self, user_id: str) -> str:
        """The HMAC that stands for an id; the list, and with it the key, is made when it is not there."""
        with self._changing() as (key, _):
            return Exclusions(key).tag(user_id)

    def add(self, tags: Mapping[str, Why]) -> None:
        """Leave people out from now on, durably. Who objected and then is erased is erased; not the other way round.

        Raises:
            StoreError: the list cannot be written; it is as it was.
        """
        with self._changing() as (_, entries):
            for tag, why in tags.items():
                earlier = entries.get(tag)
                if earlier is None or (earlier.why == "objected" and why == "erased"):
                    entries[tag] = Exclusion(why=why, since=int(self._clock()))

    def take_back(self, tag: str) -> bool:
        """Use the data of a person again who had objected; whether there was such an objection.

        Raises:
            StoreError: the list cannot be written; it is as it was.
        """
        with self._changing() as (_, entries):
            found = entries.get(tag)
            if found is None or found.why != "objected":
                return False
            del entries[tag]
            return True

    def take_over(self, other: Exclusions) -> None:
        """Become another list: of this platform as it was before a backup was restored. Entries of a list of one key only.

        Raises:
            StoreError: this list has entries under another key, or cannot be written.
        """
        with self._changing(key=other.key) as (_, entries):
            entries.update({tag: entry for tag, entry in other.entries.items() if tag not in entries})

    @contextmanager
    def _changing(self, key: bytes | None = None) -> Iterator[tuple[bytes, dict[str, Exclusion]]]:
        """Key and entries, to be changed; written when the body ends, while no other process writes them."""
        make_folder(self._path.parent, mode=0o700)
        lock = self._path.with_name(f"{EXCLUSIONS_FILE}.lock")
        with file_errors(self._path), held(lock, "crossfed-client person", mend="try again", mode=0o600):
            before = self._read()
            if key is not None and before.entries and before.key != key:
                raise StoreError(
                    f"{self._path}: has entries of its own, under another key; the two cannot be put together"
                )
            used = key or before.key or os.urandom(_KEY_BYTES)
            entries = dict(before.entries)
            yield used, entries
            if used != before.key or entries != dict(before.entries):
                content = {tag: asdict(entry) for tag, entry in sorted(entries.items())}
                text = json.dumps({"format": _FORMAT, "key": used.hex(), "entries": content}, indent=1)
                write_atomically(self._path, text.encode())

    def _read(self) -> Exclusions:
        return read_list(self._path) if self._path.exists() else NOBODY


def read_exclusions(store: Path) -> Exclusions:
    """Who is left out at the platform whose model store is at ``store``.

    Raises:
        StoreError: the list cannot be read. Nobody's data may be used then.
    """
    return ExclusionBook(store).current()


def read_list(path: Path) -> Exclusions:
    """A list by its file.

    Raises:
        StoreError: it is none, or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise StoreError(
                f"{path}: is a list of a newer crossfed; upgrade crossfed, nothing of users is used until then"
            )
        entries = {str(tag): Exclusion(**entry) for tag, entry in content["entries"].items()}
        key = bytes.fromhex(content["key"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}: is damaged, and says who must be left out: no data of users is used until it is restored from a backup"
        ) from error
    if len(key) != _KEY_BYTES or any(entry.why not in get_args(Why) for entry in entries.values()):
        raise StoreError(f"{path}: is damaged, and says who must be left out; restore it from a backup")
    return Exclusions(key, entries)
