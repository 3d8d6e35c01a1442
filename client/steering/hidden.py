"""Items that an operator has hidden: durable, and out of every list as soon as the command has ended.

    STORE/hidden.json     {"format": 1, "items": {"imdb:0114709": {"since": 1700000000, "reason": "..."}}}

The file is looked at for every request, so that nothing has to be told to a running service. While it cannot be read, what it
hid before stays hidden; where that is not known, nothing is listed.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Final

from client.data.reading.identifiers import required_key
from common.catalogue import check_key
from common.deploy.locks import held
from common.errors import StoreError
from common.files import file_errors, make_folder, write_atomically

_log = getLogger(__name__)
HIDDEN_FILE: Final = "hidden.json"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Hidden:
    """Since when an item is hidden (seconds since 1970), and why, in the operator's words."""

    since: int
    reason: str = ""


def checked_keys(keys: Iterable[str]) -> list[str]:
    """Keys as they are kept.

    Raises:
        ContractError, CatalogueError: one is none.
    """
    return [check_key(required_key("item key", key)) for key in keys]


class HiddenItems:
    """The hidden items of the platform whose model store is at ``store``. Safe for threads and processes."""

    def __init__(self, store: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = store / HIDDEN_FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] | None = None
        self._keys: frozenset[str] | None = None

    def current(self) -> frozenset[str]:
        """Keys of what is hidden now; the same object until that changes.

        Raises:
            StoreError: the file cannot be read, and was not read before.
        """
        seen = self.stamp()
        if seen == self._seen and self._keys is not None:
            return self._keys
        with self._lock:
            try:
                self._keys = frozenset(self._read())
            except StoreError as error:
                if self._keys is None:
                    raise
                _log.error("%s; what was hidden before stays hidden", error)
            self._seen = seen
            return self._keys

    def all(self) -> Mapping[str, Hidden]:
        """Every hidden item.

        Raises:
            StoreError: the file cannot be read.
        """
        return self._read()

    def hide(self, keys: Iterable[str], reason: str = "") -> None:
        """Hide items from now on; keys of items that nobody knows yet, too.

        Raises:
            ContractError, CatalogueError: a key is none; nothing is hidden.
            StoreError: it cannot be written; all is as it was.
        """
        wanted = checked_keys(keys)
        with self._changing() as items:
            for key in wanted:
                items.setdefault(key, Hidden(int(self._clock()), reason))

    def show(self, keys: Iterable[str]) -> list[str]:
        """List items again; those that were not hidden are given back.

        Raises:
            ContractError: a key is none.
            StoreError: as of :meth:`hide`.
        """
        wanted = [required_key("item key", key) for key in keys]
        with self._changing() as items:
            return [key for key in wanted if items.pop(key, None) is None]

    def stamp(self) -> tuple[int, int, int]:
        """Another value whenever the file was written."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 -- asked for every request
        except OSError:
            return 0, 0, 0
        return found.st_ino, found.st_mtime_ns, found.st_size

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Hidden]]:
        make_folder(self._path.parent, mode=0o700)
        lock = self._path.with_name(f"{HIDDEN_FILE}.lock")
        with file_errors(self._path), held(lock, "crossfed-client items", mend="try again", mode=0o600):
            before = self._read()
            items = dict(before)
            yield items
            if items != before:
                content = {"format": _FORMAT, "items": {key: asdict(items[key]) for key in sorted(items)}}
                write_atomically(self._path, json.dumps(content, ensure_ascii=False, indent=1).encode())

    def _read(self) -> dict[str, Hidden]:
        if not self._path.exists():
            return {}
        try:
            content = json.loads(self._path.read_bytes())
            if content["format"] != _FORMAT:
                raise StoreError(f"{self._path}: was written by a newer crossfed; upgrade crossfed")
            return {str(key): Hidden(**entry) for key, entry in content["items"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{self._path}: is damaged; restore it from a backup, or move it away and hide the items again"
            ) from error
