"""The feedback log's file: its format, how another process reads it, and how it is folded into training data.

    "crossfed feedback 1 N", then a line per write: CRC-32 in hex, a space, a JSON list of events

Only the last line can be torn by a crash, and then nothing in it had been acknowledged: it does not count. A bad line before
the last is damage and is reported. N is the least number that the next event may have.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from common.errors import StoreError

_MAGIC = "crossfed feedback 1"


@dataclass(frozen=True, slots=True)
class Event:
    """What counts for recommendations: an item, its weight or rating, and when (seconds since 1970)."""

    item_key: str
    value: float
    time: int


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

    def same_as(self, other: FeedbackEvent) -> bool:
        """Whether a retry could have sent the other: everything agrees but the number and the time of arrival."""
        return (self.user_id, self.item_key, self.value) == (other.user_id, other.item_key, other.value)


@dataclass(frozen=True, eq=False)
class Interactions:
    """A log's events in columns, oldest first, ready to be folded into training data.

    Attributes:
        user_ids, item_keys: ``[n]``.
        values: float32 ``[n]``.
        times: int64 ``[n]``; seconds since 1970.
        through: number of the last event; what :meth:`FeedbackLog.prune` takes once a model has learned them.
    """

    user_ids: tuple[str, ...]
    item_keys: tuple[str, ...]
    values: NDArray[np.float32]
    times: NDArray[np.int64]
    through: int


def read_interactions(path: Path) -> Interactions:
    """The events of a log that another process may be writing; a line that is not complete yet does not count.

    Raises:
        StoreError: there is no such log, or it is damaged.
    """
    try:
        events, _, following = read_log(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    return columns_of(events, following - 1)


def fold_into(
    user_ids: Sequence[str], item_keys: Sequence[str], matrix: UserItemMatrix, feedback: Interactions
) -> tuple[tuple[str, ...], UserItemMatrix]:
    """Training data with recorded feedback: new users get rows, the newest entry of a pair counts.

    Args:
        user_ids: one per row of ``matrix``.
        item_keys: one per column; events of other items fall out.
        matrix: n × m.
        feedback: as :meth:`FeedbackLog.interactions` gives it.

    Returns:
        The n′ ≥ n user ids, the old ones first, and their matrix n′ × m.
    """
    column = {key: place for place, key in enumerate(item_keys)}
    row = {user: place for place, user in enumerate(user_ids)}
    known = [place for place, key in enumerate(feedback.item_keys) if key in column]
    rows = [row.setdefault(feedback.user_ids[place], len(row)) for place in known]
    users = np.concatenate([matrix.entry_users(), np.array(rows, dtype=np.int64)])
    items = np.concatenate([matrix.indices, np.array([column[feedback.item_keys[p]] for p in known], dtype=np.int64)])
    values = np.concatenate([matrix.values, feedback.values[known]])
    times = np.concatenate([matrix.times, feedback.times[known]])
    # np.unique keeps the first of equals: read backwards in order of time, that is the newest.
    backwards = np.argsort(times, kind="stable")[::-1]
    _, newest = np.unique((users * matrix.n_items + items)[backwards], return_index=True)
    kept = np.sort(backwards[newest])
    folded = UserItemMatrix.from_entries(
        users[kept], items[kept], values[kept], times[kept], n_users=len(row), n_items=matrix.n_items
    )
    return tuple(row), folded


def header(following: int) -> bytes:
    """The file's first line."""
    return f"{_MAGIC} {following}\n".encode()


def line_of(events: Sequence[FeedbackEvent]) -> bytes:
    """One write's line."""
    text = json.dumps([astuple(event) for event in events], ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def read_log(path: Path) -> tuple[list[FeedbackEvent], int, int]:
    """The events, the length in bytes of all that is complete, and the next event's number.

    Raises:
        StoreError: it is no feedback log, or damaged before its last line.
        OSError: it cannot be read.
    """
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    magic, _, following = lines[0].decode(errors="replace").rpartition(" ") if lines else ("", "", "")
    if magic != _MAGIC or not following.isdigit():
        raise StoreError(f"{path}: is not a feedback log of this version ({_MAGIC}); move it away")
    events: list[FeedbackEvent] = []
    size = len(lines[0]) + 1
    for number, line in enumerate(lines[1:], start=2):
        found = _parsed(line)
        if found is None:
            if number == len(lines) and not torn:
                break
            raise StoreError(
                f"{path}: line {number} is damaged and others follow it; restore the file from a backup, or take the "
                "line out to go on without its events"
            )
        events += found
        size += len(line) + 1
    return events, size, max(int(following), events[-1].sequence + 1 if events else 0)


def _parsed(line: bytes) -> list[FeedbackEvent] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    return [FeedbackEvent(*entry) for entry in json.loads(text)]


def columns_of(events: Sequence[FeedbackEvent], through: int) -> Interactions:
    """Events in columns; ``through`` is the last number given out."""
    return Interactions(
        user_ids=tuple(event.user_id for event in events),
        item_keys=tuple(event.item_key for event in events),
        values=np.array([event.value for event in events], dtype=np.float32),
        times=np.array([event.time for event in events], dtype=np.int64),
        through=through,
    )
