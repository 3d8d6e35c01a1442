"""Reads recorded events, of what users did since the files were written: which are believable, and what they count for.

An event is judged twice by the same rules: when it arrives, where it is refused, and when the log is read again, where it is
set aside. What is believed then goes through the same cleaning as the rows of the interactions file
(:mod:`client.data.cleaning`), as if it had been written at the file's end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from client.data.reading.identifiers import LONGEST, identifier, item_key
from common.catalogue import is_key
from common.config.data import DataConfig
from common.errors import ContractError

LARGEST_VALUE: Final = 1000.0
"""Bound on a weight or a rating, from whatever source: they are trained on in float32, where squares of larger ones soon have
no room, and a user's system stays solvable whatever the user did."""
SMALLEST_WEIGHT: Final = 1e-3
"""A weight is above 0; one below this counts as this."""
FIRST_ROW: Final = 1 << 62
"""Row number of the first recorded event beside a file's rows, which are fewer."""
DAY_SECONDS: Final = 86_400
_LARGEST_JUDGED: Final = 1e30
_LATEST_TIME: Final = 10**11
"""Seconds since 1970 in the year 5138; milliseconds in 1973."""


@dataclass(frozen=True, slots=True)
class Event:
    """Holds what counts for recommendations: an item, its weight or rating, and when (seconds since 1970)."""

    item_key: str
    value: float
    time: int


@dataclass(frozen=True, eq=False)
class RecordedEvents:
    """A log's events in columns, in order of recording, ready to be cleaned with the rows of a file.

    Attributes:
        user_ids, item_keys: ``[n]``, as :mod:`client.data.reading.identifiers` compares them. Private.
        values: float32 ``[n]``.
        times: int64 ``[n]``; seconds since 1970.
        sequences: int64 ``[n]``, ascending: the events' numbers, which reports may name.
        through: number of the last event; what pruning takes once a model has learned them.
    """

    user_ids: tuple[str, ...]
    item_keys: tuple[str, ...]
    values: NDArray[np.float32]
    times: NDArray[np.int64]
    sequences: NDArray[np.int64]
    through: int

    def __len__(self) -> int:
        return len(self.user_ids)


@dataclass(frozen=True, kw_only=True)
class EventRules:
    """Holds what a platform's configuration says of recorded events.

    Attributes:
        meaning: of a value: the weight of an event, a rating that a threshold turns into an event, or a rating; None:
            unknown, as long as neither a configuration nor a model says it.
        value_range: ``cleaning.value_range``.
        threshold: ``cleaning.positive_threshold``.
        one_weight: whether every event weighs one, whatever its value.
        keep_first: whether the first of a user's events with an item counts, and not the last.
        max_history: ``cleaning.max_history``.
        by_order: whether times of the files are positions, to which seconds do not compare: recorded events are later.
        retention_days: for how many days an interaction is kept; None: without a limit.
    """

    meaning: Literal["weight", "judged", "rating"] | None = None
    value_range: tuple[float, float] | None = None
    threshold: float | None = None
    one_weight: bool = False
    keep_first: bool = False
    max_history: int | None = None
    by_order: bool = False
    retention_days: int | None = None

    @classmethod
    def of(cls, data: DataConfig) -> EventRules:
        """Of a platform's data."""
        cleaning = data.cleaning
        implied: Literal["weight", "judged"] = "weight" if cleaning.positive_threshold is None else "judged"
        return cls(
            meaning="rating" if data.feedback == "explicit" else implied,
            value_range=cleaning.value_range,
            threshold=cleaning.positive_threshold,
            one_weight=data.feedback == "implicit" and cleaning.implicit_weights == "one",
            keep_first=cleaning.duplicates == "first",
            max_history=cleaning.max_history,
            by_order=data.interactions.time_format == "order",
            retention_days=data.retention_days,
        )

    def oldest(self, now: float) -> int | None:
        """The time of the oldest interaction that is still kept (seconds since 1970); None: all are."""
        return None if self.retention_days is None else int(now) - self.retention_days * DAY_SECONDS

    def value_of(self, given: float | None) -> float:
        """The value of an event that arrives, ``given`` or, where the application sent none, what it must mean.

        Raises:
            ContractError: the value is none that an event can have; says which.
        """
        if given is None:
            return self._unsaid()
        if problem := self._problem_of_value(given):
            raise ContractError(f"value: {problem}")
        if self.value_range is not None and not self.value_range[0] <= given <= self.value_range[1]:
            low, high = self.value_range
            raise ContractError(f"value: must lie between {low:g} and {high:g} (cleaning.value_range)")
        return given

    def problem(self, user_id: str, key: str, value: float, time: int) -> str | None:
        """Return what is wrong with a recorded event; None where it is sound. Holds nothing of the event."""
        user, item = identifier(user_id), item_key(key)
        if user is None or len(user) > LONGEST:
            return "user_id: is no id"
        if item is None or len(item) > LONGEST or not is_key(item):
            return "item_key: is no namespaced key"
        if problem := self._problem_of_value(value):
            return f"value: {problem}"
        return None if (problem := problem_of_time(time, milliseconds=True)) is None else f"time: {problem}"

    def weight(self, value: float) -> float:
        """Return what a value counts for, as cleaning has it; NaN where it does not count."""
        if self.threshold is not None and value < self.threshold:
            return math.nan
        if self.one_weight:
            return 1.0
        if self.meaning not in ("weight", "judged"):
            return value
        return min(max(value, SMALLEST_WEIGHT), LARGEST_VALUE) if value > 0 else math.nan

    def counted(
        self, columns: NDArray[np.int32], values: NDArray[np.float32], times: NDArray[np.int64], *, earlier: int
    ) -> NDArray[np.int64]:
        """Which entries of one user's history count, in order of time: int64 positions.

        Does with a user's cleaned history and the events since what cleaning does with all of it (in
        :mod:`client.data.cleaning`), but for what a rule has dropped already and would now keep.

        Args:
            columns: int32 ``[n]``, the items; first those of the history, then the events', in order of recording.
            values: float32 ``[n]``, as :meth:`weight` has them.
            times: int64 ``[n]``.
            earlier: how many of them are the history's.
        """
        order = (
            np.lexsort((times, np.arange(len(times)) >= earlier)) if self.by_order else np.argsort(times, kind="stable")
        )
        step = 1 if self.keep_first else -1
        _, first = np.unique(columns[order][::step], return_index=True)
        kept = order[::step][np.sort(first)][::step]
        kept = kept[~np.isnan(values[kept])]
        return kept if self.max_history is None else kept[-self.max_history :]

    def _unsaid(self) -> float:
        if self.meaning == "rating":
            raise ContractError("value: is missing; with explicit feedback it is the rating")
        found = 1.0 if self.threshold is None else self.threshold
        return found if self.value_range is None else min(max(found, self.value_range[0]), self.value_range[1])

    def _problem_of_value(self, value: float) -> str | None:
        if self.meaning == "weight":
            sound, bounds = 0 < value <= LARGEST_VALUE, f"a weight above 0 and at most {LARGEST_VALUE:g}"
        elif self.meaning == "judged":
            # A rating on whatever scale the threshold is on: minutes watched, say.
            sound, bounds = abs(value) < _LARGEST_JUDGED, f"a number of an absolute value below {_LARGEST_JUDGED:g}"
        else:
            sound, bounds = abs(value) <= LARGEST_VALUE, f"a number of an absolute value of at most {LARGEST_VALUE:g}"
        return None if sound else f"must be {bounds}"


def problem_of_time(time: int, *, milliseconds: bool = False) -> str | None:
    """Return what is wrong with the time of an event.

    Args:
        time: as it came.
        milliseconds: whether a finer unit than seconds is taken for what it is, as in files; requests must send seconds.
    """
    if time < 0 or time >= (10**19 if milliseconds else _LATEST_TIME):
        return "must be seconds since 1970, not milliseconds"
    return None


def in_seconds(time: int) -> int:
    """Seconds since 1970 of a time in seconds, milli-, micro- or nanoseconds, told apart by size as in files."""
    while time >= _LATEST_TIME:
        time //= 1000
    return time


def columns_of(events: Sequence[tuple[int, str, Event]], through: int) -> RecordedEvents:
    """Events, each with its number and its user, in columns; ``through`` is the last number given out."""
    return RecordedEvents(
        user_ids=tuple(user for _, user, _ in events),
        item_keys=tuple(event.item_key for _, _, event in events),
        values=np.array([event.value for _, _, event in events], dtype=np.float32),
        times=np.array([event.time for _, _, event in events], dtype=np.int64),
        sequences=np.array([sequence for sequence, _, _ in events], dtype=np.int64),
        through=through,
    )


def bounded_weights(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights within their bounds, whatever they were; what is no number counts least.

    Cleaning bounds them as well. Under privacy this is said again where it is relied on: a weight of 10³⁸, or below 0, would
    break its user's system down, and the refusal would tell that the user is there.
    """
    known = np.nan_to_num(values, nan=SMALLEST_WEIGHT, posinf=LARGEST_VALUE, neginf=SMALLEST_WEIGHT)
    return np.clip(known, np.float32(SMALLEST_WEIGHT), np.float32(LARGEST_VALUE))


NO_EVENTS: Final = columns_of((), 0)

ANY_EVENT: Final = EventRules()
