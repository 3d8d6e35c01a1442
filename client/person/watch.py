"""Looks at what an operator may change beside a running platform, so that the next run is made with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from logging import getLogger
from typing import Protocol

from client.data.recorded import DAY_SECONDS
from common.errors import told_of

_log = getLogger(__name__)
_POLL_SECONDS = 1.0


class Stamped(Protocol):
    """A file that tells whether it was written."""

    def stamp(self) -> tuple[object, ...]:
        """Another value whenever it was."""
        ...


class Days:
    """A stamp that is another one every day: data with a limit of age are read again then."""

    def stamp(self) -> tuple[object, ...]:
        """The day, UTC."""
        return (int(time.time() // DAY_SECONDS),)


class ChangeWatch:
    """Calls back whenever a file has changed; in a thread of its own.

    Args:
        book: the file.
        on_change: called with no lock held.
        seen: the stamp of what is known already; as it stands now unless given.
        poll_seconds: how often the file is looked at.
    """

    def __init__(
        self,
        book: Stamped,
        on_change: Callable[[], None],
        *,
        seen: tuple[object, ...] | None = None,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        self._poll_seconds = poll_seconds
        self._book, self._on_change = book, on_change
        self._seen = book.stamp() if seen is None else seen
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="change-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                stamp = self._book.stamp()
                if stamp != self._seen:
                    self._on_change()
                    self._seen = stamp
            except Exception as error:
                # Whatever it was, the next change must be seen: that a person is left out, above all.
                _log.error("a change beside this platform could not be taken up: %s", told_of(error))
