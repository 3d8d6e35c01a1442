"""Records what users did after the model was trained: an append-only log, on disk before it is acknowledged.

A line of the log is one write followed by one fsync; events that arrive while a write is under way share the next one
(:mod:`client.recommend.feedback_file` has the format). ``PATH.lock`` is held by the process that writes.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from types import TracebackType
from typing import Final

from client.data.reading.exclusions import ExclusionBook
from client.data.reading.identifiers import identifier, required_identifier, required_key
from client.data.recorded import Event, EventRules, RecordedEvents, in_seconds
from client.recommend.feedback_file import FeedbackEvent, LogContent, header, line_of, read_log, recorded_events
from client.recommend.quarantine import forget_set_aside, quarantine_of, set_aside
from common.errors import ContractError, StoreError
from common.files import write_atomically

__all__ = ["Event", "FeedbackEvent", "FeedbackLog"]

_log = getLogger(__name__)

_CLOSED = -1


class FeedbackInUseError(StoreError):
    """Another process writes the log."""


@dataclass(eq=False)
class _Batch:
    """Events that share one write."""

    events: list[FeedbackEvent] = field(default_factory=list)
    refused: list[FeedbackEvent] = field(default_factory=list)
    done: bool = False
    error: OSError | None = None


class FeedbackLog:
    """The log of one platform; one process writes, any may read (:func:`~client.recommend.feedback_file.read_events`).

    Safe for threads. What the file holds and cannot be believed goes to a file beside it (:mod:`client.recommend.quarantine`)
    and is named in the operator's log; what is sound goes on.

    Args:
        path: the file; made, readable by its owner only, when it is not there.
        rules: what an event must be.
        exclusions: of whom nothing is recorded and nothing kept; the list in the log's folder unless given.

    Raises:
        StoreError: another process writes it, it cannot be opened, or it is something else.
    """

    writes: Final = True

    def __init__(self, path: Path, rules: EventRules | None = None, exclusions: ExclusionBook | None = None) -> None:
        self.path = path
        self._exclusions = ExclusionBook(path.parent) if exclusions is None else exclusions
        self.rules = EventRules() if rules is None else rules
        self._state = threading.Lock()
        self._writing = threading.Lock()
        self._open_batch = _Batch()
        self._pending: dict[str, tuple[FeedbackEvent, _Batch]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_file = _locked(path.with_name(f"{path.name}.lock"))
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened ({error.strerror}); check the folder and its owner") from error
        try:
            found = self._opened()
        except StoreError:
            os.close(self._lock_file)
            raise
        self._size = found.size
        self._remember(found.events, found.following)
        self.forget_excluded()

    def _opened(self) -> LogContent:
        """Open the file, a torn last line cut off and what cannot be believed set aside; what is in it now."""
        try:
            empty = self.path.exists() and not self.path.stat().st_size
            if empty:
                _log.warning(
                    "%s: was empty, without the first line of a log; what it held is in backups only", self.path
                )
            if empty or not self.path.exists():
                write_atomically(self.path, header(1))
            found = read_log(self.path, self.rules)
            if found.set_aside:
                set_aside(self.path, found.set_aside)
                kept = header(found.following) + (line_of(found.events) if found.events else b"")
                write_atomically(self.path, kept)
                found.warn(self.path, f"entries were moved to {quarantine_of(self.path).name}")
                found = read_log(self.path, self.rules)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)
            os.ftruncate(self._file, found.size)
            os.fsync(self._file)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be opened ({error.strerror}); check its owner") from error
        return found

    def record(self, event_id: str, user_id: str, item_key: str, value: float, time: int) -> tuple[int, bool]:
        """Make an event durable and visible; returns its number and whether it had been recorded before.

        Ids are recorded as they are compared (:mod:`client.data.reading.identifiers`).

        Raises:
            ContractError: an id, the value or the time is none that an event can have, the event's id was used for another
                event, or the person was erased or has objected.
            StoreError: it could not be written, and is not recorded.
        """
        user_id = required_identifier("user_id", user_id)
        item_key = required_key("item_key", item_key)
        if problem := self.rules.problem(user_id, item_key, value, time):
            raise ContractError(problem)
        with self._state:
            event = FeedbackEvent(self._next, event_id, user_id, item_key, value, time)
            earlier, batch = self._known.get(event_id), None
            if earlier is None and event_id in self._pending:
                earlier, batch = self._pending[event_id]
            if earlier is None:
                batch = self._open_batch
                batch.events.append(event)
                self._pending[event_id] = (event, batch)
                self._next += 1
            elif not earlier.same_as(event):
                raise ContractError("event_id: was used for another event; choose a new id for each event")
        if batch is not None:
            self._settle(batch)
            if event in batch.refused:
                raise ContractError(
                    "user_id: this person was erased from this platform or has objected; nothing of them is recorded"
                )
        return (event if earlier is None else earlier).sequence, earlier is not None

    def events_of(self, user_id: str) -> tuple[Event, ...]:
        """A user's durable events, in order of recording. The same tuple until there is another event."""
        return self._by_user.get(identifier(user_id) or "", ())

    def __len__(self) -> int:
        return len(self._known)

    def recorded(self) -> RecordedEvents:
        """All durable events."""
        with self._state:
            return recorded_events(list(self._known.values()), self._next - 1)

    def prune(self, through: int) -> None:
        """Drop the events numbered up to ``through``: the serving model has learned them.

        Raises:
            StoreError: the log cannot be rewritten; it is as it was.
        """
        self._rewrite(lambda event: event.sequence > through)

    def forget(self, user_id: str) -> None:
        """Erase all events of a user, those that were set aside too.

        Raises:
            StoreError: a file cannot be rewritten; it is as it was.
        """
        same = identifier(user_id)
        self._forget(lambda event: _user_of(event) == same)

    def forget_excluded(self) -> None:
        """Erase all events of whoever is left out now, and what a crash left beside the log. Safe to repeat.

        Raises:
            StoreError: a file cannot be rewritten, or the list of exclusions cannot be read.
        """
        excluded = self._exclusions.current()
        if len(excluded):
            self._forget(lambda event: _user_of(event) in excluded)

    def forget_older(self, oldest: int) -> None:
        """Erase all events before ``oldest`` (seconds since 1970), those that were set aside too. Safe to repeat.

        Raises:
            StoreError: a file cannot be rewritten; it is as it was.
        """
        self._forget(lambda event: in_seconds(event.time) < oldest)

    def _forget(self, gone: Callable[[FeedbackEvent], bool]) -> None:
        if any(gone(event) for event in list(self._known.values())):
            self._rewrite(lambda event: not gone(event))
        try:
            with self._writing:
                for left_over in self.path.parent.glob(f".{self.path.name}*"):
                    left_over.unlink()
                forget_set_aside(self.path, gone)
        except OSError as error:
            raise StoreError(f"{quarantine_of(self.path)}: cannot be rewritten ({error.strerror})") from error

    def close(self) -> None:
        """Wait for a write under way and let go of the file; nothing can be recorded afterwards."""
        with self._writing:
            if self._file != _CLOSED:
                os.close(self._file)
                os.close(self._lock_file)
                self._file = _CLOSED

    def __enter__(self) -> FeedbackLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, batch: _Batch) -> None:
        """Return when ``batch`` is on disk; whoever comes first writes for all that wait."""
        with self._writing:
            if not batch.done:
                with self._state:
                    self._open_batch = _Batch()
                self._write(batch)
        if batch.error is not None:
            raise StoreError(
                f"{self.path.name}: the event was not recorded ({batch.error.strerror}); free some space and send it again"
            ) from batch.error

    def _write(self, batch: _Batch) -> None:
        # Asked here, while nothing else writes: whoever is left out later is taken out of the log again after this.
        excluded = self._exclusions.current()
        batch.refused = [event for event in batch.events if event.user_id in excluded]
        kept = [event for event in batch.events if event not in batch.refused]
        try:
            if kept:
                self._append(line_of(kept))
        except OSError as error:
            batch.error = error
        with self._state:
            for event in batch.events:
                del self._pending[event.event_id]
                if batch.error is None and event not in batch.refused:
                    self._add(event)
            batch.done = True

    def _append(self, line: bytes) -> None:
        # What an earlier failure left behind goes first: a torn line in the middle would be damage.
        os.ftruncate(self._file, self._size)
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _rewrite(self, keep: Callable[[FeedbackEvent], bool]) -> None:
        with self._writing, self._state:
            kept = [event for event in self._known.values() if keep(event)]
            write_atomically(self.path, header(self._next) + (line_of(kept) if kept else b""))
            os.close(self._file)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)
            self._size = os.fstat(self._file).st_size
            self._remember(kept, self._next)

    def _remember(self, events: Iterable[FeedbackEvent], following: int) -> None:
        self._next = following
        self._known: dict[str, FeedbackEvent] = {}
        self._by_user: dict[str, tuple[Event, ...]] = {}
        for event in events:
            self._add(event)

    def _add(self, event: FeedbackEvent) -> None:
        self._known[event.event_id] = event
        self._by_user[event.user_id] = (*self._by_user.get(event.user_id, ()), event.event)


def _user_of(event: FeedbackEvent) -> str:
    return identifier(event.user_id) or event.user_id


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FeedbackInUseError(
            f"{path}: another process records feedback here; stop it, or give this one a log of its own"
        ) from error
    return descriptor
