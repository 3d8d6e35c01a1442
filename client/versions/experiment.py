"""An experiment between the version that serves and another: a split of the users, or a shadow that nobody is shown.

    STORE/experiment.json     which version, since when, which share of users, and the key that users are split by

Who is shown what is a function of the user's id and the key, HMAC-SHA256(key, id) below the share: the same user is shown the
same version at every request, in every process, and nothing of it has to be remembered.
"""

from __future__ import annotations

import hmac
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Final, Literal, get_args

from client.data.reading.identifiers import identifier
from common.deploy.locks import held
from common.errors import ConfigError, StoreError
from common.files import file_errors, make_folder, write_atomically

_log = getLogger(__name__)
EXPERIMENT_FILE: Final = "experiment.json"
SHOWN_FILE: Final = "experiment.shown"
_FORMAT: Final = 1
_KEY_BYTES: Final = 32
Kind = Literal["split", "shadow"]
Variant = Literal["current", "challenger"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Holds what is compared.

    Attributes:
        kind: ``split``: a share of the users is shown the challenger; ``shadow``: nobody is, and its lists are compared.
        version: the challenger's number in the store.
        share: of the users, above 0 and below 1; of requests under a shadow.
        since: seconds since 1970.
        key: 32 bytes; splits users. Not a secret of theirs, and of no use elsewhere.
    """

    kind: Kind
    version: int
    share: float
    since: int
    key: bytes

    def variant(self, user_id: str) -> Variant:
        """Which version a user is shown, however the id is spelt."""
        if self.kind != "split":
            return "current"
        drawn = int.from_bytes(self._digest(b"variant", user_id)[:8], "big") / 2**64
        return "challenger" if drawn < self.share else "current"

    def tag(self, user_id: str) -> bytes:
        """8 bytes that stand for a user within this experiment."""
        return self._digest(b"shown", user_id)[:8]

    def _digest(self, purpose: bytes, user_id: str) -> bytes:
        same = identifier(user_id) or user_id
        return hmac.digest(self.key, purpose + b"\0" + same.encode("utf-8", "surrogatepass"), "sha256")


class ExperimentFile:
    """The experiment of the platform whose model store is at ``store``; there is one at a time. Safe for processes."""

    def __init__(self, store: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._path = store / EXPERIMENT_FILE
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] = ("never",)
        self._kept: Experiment | None = None

    @property
    def shown_path(self) -> Path:
        """Where it is noted who was shown something."""
        return self._store / SHOWN_FILE

    def stamp(self) -> tuple[object, ...]:
        """Another value whenever an experiment began or ended."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def current(self) -> Experiment | None:
        """Return what is going on; nothing where the file cannot be read, which the log says."""
        stamp = self.stamp()
        if stamp == self._seen:
            return self._kept
        with self._lock:
            try:
                self._kept = self._read()
            except StoreError as error:
                _log.error("%s; until then everybody is shown what serves", error)
                self._kept = None
            self._seen = stamp
            return self._kept

    def begin(self, kind: Kind, version: int, share: float) -> Experiment:
        """Begin an experiment.

        Raises:
            ConfigError: one is going on, or the share is none.
            StoreError: it cannot be written.
        """
        if not 0 < share < 1 and not (kind == "shadow" and share == 1):
            raise ConfigError("--share: must lie above 0 and below 1")
        with self._changing():
            if self.stamp():
                raise ConfigError(
                    "an experiment is going on; look at crossfed-client models outcomes, and end it first"
                )
            self.shown_path.unlink(missing_ok=True)
            made = Experiment(
                kind=kind, version=version, share=share, since=int(self._clock()), key=os.urandom(_KEY_BYTES)
            )
            content = {"format": _FORMAT, **vars(made), "key": made.key.hex()}
            write_atomically(self._path, json.dumps(content, indent=1).encode())
            return made

    def end(self) -> bool:
        """End it, and forget who was shown what; whether there was one."""
        with self._changing():
            there = bool(self.stamp())
            self._path.unlink(missing_ok=True)
            self.shown_path.unlink(missing_ok=True)
            return there

    @contextmanager
    def _changing(self) -> Iterator[None]:
        make_folder(self._store, mode=0o700)
        lock = self._store / f"{EXPERIMENT_FILE}.lock"
        with file_errors(self._path), held(lock, "crossfed-client models", mend="try again", mode=0o600):
            yield

    def _read(self) -> Experiment | None:
        if not self._path.exists():
            return None
        try:
            content = json.loads(self._path.read_bytes())
            if content.pop("format") != _FORMAT:
                raise StoreError(f"{self._path}: was written by a newer crossfed; upgrade crossfed")
            made = Experiment(**content | {"key": bytes.fromhex(content["key"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{self._path}: is damaged; crossfed-client models end removes it") from error
        if made.kind not in get_args(Kind) or len(made.key) != _KEY_BYTES or not 0 < made.share <= 1:
            raise StoreError(f"{self._path}: is damaged; crossfed-client models end removes it")
        return made
