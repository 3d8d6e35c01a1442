"""The feedback log's file: its format, and how another process reads it.

    "crossfed feedback 1 N", then a line per write: CRC-32 in hex, a space, a JSON list of events

Only the last line can be torn by a crash, without an end; nothing in it had been acknowledged, and it does not count. What
else cannot be believed, a damaged line or an event that no application could have meant, is told from the rest and never
stops anybody: one bad event must not keep a platform from training on the others. N is the least number that the next event
may have.
"""

from __future__ import annotations

import json
import math
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from logging import getLogger
from pathlib import Path
from typing import Final

from client.data.reading.exclusions import ExclusionBook
from client.data.reading.identifiers import identifier, item_key
from client.data.recorded import Event, EventRules, RecordedEvents, columns_of, in_seconds
from common.errors import ContractError, StoreError

_log = getLogger(__name__)

FEEDBACK_LOG = "feedback.log"
"""In the folder of the platform's model store."""

_MAGIC = "crossfed feedback 1"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """One line's entry. Private: user ids never leave the platform.

    Attributes:
        sequence: rises by one with each event; pruned and forgotten ones leave gaps.
        event_id: chosen by the application, unique.
        user_id, item_key, value, time: who did what and when.
    """

    sequence: int
    event_id: str
    user_id: str
    item_key: str
    value: float
    time: int

    @property
    def event(self) -> Event:
        return Event(self.item_key, self.value, self.time)

    def same_as(self, other: FeedbackEvent) -> bool:
        """Whether a retry could have sent the other: everything agrees but the number and the time of arrival."""
        return (self.user_id, self.item_key, self.value) == (other.user_id, other.item_key, other.value)


@dataclass(frozen=True)
class SetAside:
    """Holds what is in a log and cannot be believed.

    Attributes:
        line: of the file, from 1.
        sequence: the event's number; None where the whole line is damaged.
        reason: what is wrong; holds nothing of the event.
        content: the line as it was, or a line of that event alone. Private.
    """

    line: int
    sequence: int | None
    reason: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class LogContent:
    """Holds a log's events.

    Attributes:
        events: what can be believed, ids as they are compared.
        set_aside: what cannot.
        size: length in bytes of all that is complete.
        following: the next event's number.
    """

    events: list[FeedbackEvent]
    set_aside: list[SetAside]
    size: int
    following: int

    def warn(self, path: Path, what: str) -> None:
        """Name what was set aside in the operator's log: how much, where and why; never whose."""
        for reason in dict.fromkeys(one.reason for one in self.set_aside):
            those = [one for one in self.set_aside if one.reason == reason]
            places = [f"line {o.line}" if o.sequence is None else f"number {o.sequence}" for o in those[:_SHOWN]]
            more = ", …" if len(those) > _SHOWN else ""
            _log.warning("%s: %d %s (%s%s): %s", path, len(those), what, ", ".join(places), more, reason)


def read_events(path: Path, rules: EventRules) -> RecordedEvents:
    """The events of a log that another process may be writing; a line that is not complete yet does not count.

    What cannot be believed is left out and named in the operator's log.

    Raises:
        StoreError: there is no such log.
    """
    try:
        found = read_log(path, rules)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    found.warn(path, "entries are not used")
    return recorded_events(found.events, found.following - 1)


def event_times(path: Path, rules: EventRules) -> list[tuple[str, int]]:
    """User id and time of every event of a log; none where there is no log.

    Raises:
        StoreError: it cannot be read.
    """
    if not path.exists():
        return []
    recorded = read_events(path, rules)
    return list(zip(recorded.user_ids, recorded.times.tolist(), strict=True))


def recorded_events(events: Sequence[FeedbackEvent], through: int) -> RecordedEvents:
    """Events in columns; ``through`` is the last number given out."""
    return columns_of([(event.sequence, event.user_id, event.event) for event in events], through)


def header(following: int) -> bytes:
    """The file's first line."""
    return f"{_MAGIC} {following}\n".encode()


def line_of(events: Sequence[FeedbackEvent]) -> bytes:
    """One write's line."""
    text = json.dumps([astuple(event) for event in events], ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def read_log(path: Path, rules: EventRules) -> LogContent:
    """Everything in a log; one without a byte, as a full disk or a restore may leave it, holds nothing.

    Raises:
        StoreError: it is no feedback log.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    if not content:
        return LogContent(events=[], set_aside=[], size=0, following=1)
    lines = content.split(b"\n")
    lines.pop()  # what no line end follows was not written whole
    magic, _, following = lines[0].decode(errors="replace").rpartition(" ") if lines else ("", "", "")
    if magic != _MAGIC or not following.isdigit():
        raise StoreError(f"{path}: is not a feedback log of this version ({_MAGIC}); move it away")
    events: list[FeedbackEvent] = []
    bad: list[SetAside] = []
    size, last = len(lines[0]) + 1, int(following) - 1
    for number, line in enumerate(lines[1:], start=2):
        entries = parsed_line(line)
        if entries is None:
            bad.append(SetAside(number, None, "the line is damaged", line + b"\n"))
        for event in entries or ():
            last = max(last, event.sequence)
            problem = rules.problem(event.user_id, event.item_key, event.value, event.time)
            if problem is None:
                events.append(_normalised(event))
            else:
                bad.append(SetAside(number, event.sequence, problem, line_of([event])))
        size += len(line) + 1
    return LogContent(events=events, set_aside=bad, size=size, following=last + 1)


def parsed_line(line: bytes) -> list[FeedbackEvent] | None:
    """A line's events, without its end; None where it is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        entries = json.loads(text)
    except ValueError:
        return None
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        return None
    return [FeedbackEvent(*entry) for entry in entries]


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, list) or len(entry) != 6:
        return False
    sequence, *texts, value, time = entry
    numbered = type(sequence) is int and 0 <= sequence < 1 << 62
    return (
        numbered
        and type(time) is int
        and isinstance(value, int | float)
        and all(isinstance(text, str) for text in texts)
    )


def _normalised(event: FeedbackEvent) -> FeedbackEvent:
    """A sound event, ids as they are compared and its time in seconds, whichever version wrote it."""
    user, key = identifier(event.user_id), item_key(event.item_key)
    assert user is not None
    assert key is not None
    return FeedbackEvent(event.sequence, event.event_id, user, key, event.value, in_seconds(event.time))


class FeedbackReader:
    """Reads what another process records, for a recommender that only reads: it writes nothing, and takes no events.

    The file is looked at once a second at most, and read again where it has changed; reading takes a tenth of the time at most,
    so that of a long log events are seen later.

    Args:
        path: of the log; it may not be there yet.
        rules: what an event must be.
        clock: seconds.
    """

    writes: Final = False

    def __init__(
        self, path: Path, rules: EventRules | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self.rules = path, EventRules() if rules is None else rules
        self._exclusions = ExclusionBook(path.parent)
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -math.inf
        self._stamp: tuple[int, int, int] | None = None
        self._by_user: dict[str, tuple[Event, ...]] = {}

    def events_of(self, user_id: str) -> tuple[Event, ...]:
        """A user's events, in order of recording. The same tuple until there is another event."""
        if self._clock() >= self._next and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._by_user.get(identifier(user_id) or "", ())

    def record(self, event_id: str, user_id: str, item_key: str, value: float, time: int) -> tuple[int, bool]:
        """Raises: ContractError, whatever the event is."""
        raise ContractError("this recommender only reads; send feedback to the platform's recommender that records it")

    def forget_excluded(self) -> None:
        """Know no event of whoever is left out now, nor any that is too old.

        Raises:
            StoreError: the list of exclusions cannot be read.
        """
        with self._lock:
            self._by_user = self._allowed(self._by_user)

    def forget_older(self, oldest: int) -> None:
        """Know no event before ``oldest``; what is older than ``rules`` keep is not read anyhow."""
        self.forget_excluded()

    def close(self) -> None:
        """Nothing is held open."""

    def _look(self) -> None:
        began = self._clock()
        try:
            status = self.path.stat()
            stamp = status.st_ino, status.st_mtime_ns, status.st_size
            if stamp != self._stamp:
                found: dict[str, list[Event]] = {}
                for event in read_log(self.path, self.rules).events:
                    found.setdefault(event.user_id, []).append(event.event)
                kept = self._by_user
                events = {user: tuple(those) for user, those in found.items()}
                self._by_user = self._allowed(
                    {user: kept[user] if kept.get(user) == those else those for user, those in events.items()}
                )
                # Last: what could not be read, the list of exclusions too, is read again.
                self._stamp = stamp
        except FileNotFoundError:
            self._by_user, self._stamp = {}, None
        except (OSError, StoreError) as error:
            _log.error("recorded feedback cannot be read, what was known of it stays: %s", error)
        now = self._clock()
        self._next = now + max(1.0, 10 * (now - began))

    def _allowed(self, by_user: Mapping[str, tuple[Event, ...]]) -> dict[str, tuple[Event, ...]]:
        excluded, oldest = self._exclusions.current(), self.rules.oldest(time.time())
        allowed = {user: events for user, events in by_user.items() if user not in excluded}
        if oldest is None:
            return allowed
        recent = {user: tuple(one for one in events if one.time >= oldest) for user, events in allowed.items()}
        return {user: allowed[user] if recent[user] == allowed[user] else recent[user] for user in allowed}
