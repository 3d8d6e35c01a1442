"""Who was shown which version, and what came of it, with intervals.

    STORE/experiment.shown     13 bytes for each user: variant, time of the first list, the user's tag under the key

A user counts as one however many lists there were. The outcome is whether the user had an event after the first list. Rates
have Wilson's score interval (1927), their difference Newcombe's hybrid of the two (1998, method 10).
"""

from __future__ import annotations

import math
import os
import struct
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, Final

from client.versions.experiment import VARIANTS, Experiment, Variant
from common.files import write_atomically

_log = getLogger(__name__)
_ENTRY: Final = struct.Struct(">BI8s")
_LEVEL: Final = 0.95


class ShownUsers:
    """Notes whom the running service has shown a list under a split. Safe for threads; one process writes.

    Args:
        path: of the file; its entries are of ``experiment``.
        experiment: that is going on.
    """

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self._path, self.experiment = path, experiment
        self._lock = threading.Lock()
        self._tags = {tag for _, _, tag in read_shown(path)}

    def note(self, user_id: str, now: int) -> None:
        """A user was shown a list; written the first time. A disk that is full costs the note, never the answer."""
        tag = self.experiment.tag(user_id)
        if tag in self._tags:
            return
        with self._lock:
            if tag in self._tags:
                return
            self._tags.add(tag)
            entry = _ENTRY.pack(VARIANTS.index(self.experiment.variant(user_id)), now, tag)
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    os.write(descriptor, entry)
                finally:
                    os.close(descriptor)
            except OSError as error:
                _log.error("%s: who was shown a list is not noted (%s)", self._path, error.strerror)


def read_shown(path: Path) -> list[tuple[Variant, int, bytes]]:
    """Variant, time and tag of each entry; what was cut short at the end does not count."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    whole = len(content) - len(content) % _ENTRY.size
    found = _ENTRY.iter_unpack(content[:whole])
    return [(VARIANTS[variant], at, tag) for variant, at, tag in found if variant < len(VARIANTS)]


def write_shown(path: Path, entries: Iterable[tuple[Variant, int, bytes]]) -> None:
    """Write the entries anew, as when somebody is erased. A list that is shown meanwhile may lack its note.

    Raises:
        StoreError: the file cannot be written; it is as it was.
    """
    content = b"".join(_ENTRY.pack(VARIANTS.index(variant), at, tag) for variant, at, tag in entries)
    write_atomically(path, content)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one variant.

    Attributes:
        variant: which.
        users: shown at least one list.
        acted: of them, those with an event afterwards.
        events: all such events.
        rate: acted / users; NaN without users.
        interval: Wilson's, of 95 %.
    """

    variant: Variant
    users: int
    acted: int
    events: int
    rate: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Rate of the challenger less that of the current version, with Newcombe's interval of 95 %."""

    value: float
    interval: tuple[float, float]


def outcomes(
    experiment: Experiment, shown: Iterable[tuple[Variant, int, bytes]], events: Iterable[tuple[str, int]]
) -> tuple[dict[Variant, Outcome], Difference]:
    """Return what came of an experiment.

    Args:
        experiment: whose.
        shown: as :func:`read_shown` gives it.
        events: user id and time of every recorded event.
    """
    first = {tag: (variant, at) for variant, at, tag in shown}
    counts: dict[bytes, int] = {}
    for user, at in events:
        tag = experiment.tag(user)
        if tag in first and at >= first[tag][1]:
            counts[tag] = counts.get(tag, 0) + 1
    found: dict[Variant, Outcome] = {}
    for variant in VARIANTS:
        users = [tag for tag, (one, _) in first.items() if one == variant]
        acted = sum(tag in counts for tag in users)
        found[variant] = Outcome(
            variant=variant,
            users=len(users),
            acted=acted,
            events=sum(counts.get(tag, 0) for tag in users),
            rate=acted / len(users) if users else math.nan,
            interval=wilson(acted, len(users)),
        )
    return found, newcombe(found["challenger"], found["current"])


def told_outcomes(
    experiment: Experiment, serving: int, shown: Iterable[tuple[Variant, int, bytes]], events: Iterable[tuple[str, int]]
) -> dict[str, Any]:
    """The same as JSON can hold it: ``since``, ``variants`` with the version of each, ``difference``.

    Args:
        experiment: whose.
        serving: the version that ``current`` shows.
        shown: as :func:`read_shown` gives it.
        events: user id and time of every recorded event.
    """
    found, difference = outcomes(experiment, shown, events)
    versions = {"current": serving, "challenger": experiment.version}
    return {
        "since": experiment.since,
        "variants": [asdict(one) | {"version": versions[one.variant]} for one in found.values()],
        "difference": asdict(difference),
    }


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a rate; 0 … 1 without trials."""
    if not trials:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(_LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def newcombe(one: Outcome, other: Outcome) -> Difference:
    """``one`` less ``other`` by the square-and-add rule over their Wilson intervals."""
    if not one.users or not other.users:
        return Difference(value=math.nan, interval=(-1.0, 1.0))
    value = one.rate - other.rate
    low = value - math.hypot(one.rate - one.interval[0], other.interval[1] - other.rate)
    high = value + math.hypot(one.interval[1] - one.rate, other.rate - other.interval[0])
    return Difference(value=value, interval=(low, high))
