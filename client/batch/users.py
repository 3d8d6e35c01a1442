"""Whom lists are asked for, a part of them at a time: what is kept of those who were told does not grow with their number."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from client.data.reading.identifiers import identifier
from client.recommend.recommender import Recommender
from common.errors import DataError


@dataclass(frozen=True, eq=False)
class SomeUsers:
    """Some users that have a list.

    Attributes:
        ids: as they are compared, each once among all parts.
        rows: int64 ``[b]``: of each in the model; −1 for who has recorded events and no row.
        asked: how many entries of all that is asked for these and the parts before them are.
    """

    ids: Sequence[str]
    rows: NDArray[np.int64]
    asked: int


class AskedUsers(Protocol):
    """Whom lists are asked for."""

    def digest(self) -> bytes:
        """Of what is asked for, beside the model and its events."""

    def __len__(self) -> int:
        """How many entries are asked for."""

    def parts(self, size: int) -> Iterator[SomeUsers]:
        """All of them, up to ``size`` at a time."""

    @property
    def unknown(self) -> int:
        """How many of those told so far nobody knows."""


class Everybody:
    """All of the model's users in the order of its rows, then those whom only recorded feedback knows.

    Args:
        recommender: of the model.
        recorded: ids with recorded events.
    """

    unknown = 0

    def __init__(self, recommender: Recommender, recorded: Collection[str]) -> None:
        self._recommender = recommender
        self._newcomers = set(recorded)
        # Models of earlier versions have ids as these compared them, which may be two spellings of one.
        ids = recommender.model.user_ids
        self._respelt = any(identifier(user) not in (user, None) for user in ids)
        for user in ids:
            self._newcomers.discard((identifier(user) or user) if self._respelt else user)

    def digest(self) -> bytes:
        return b"everybody"

    def __len__(self) -> int:
        return len(self._recommender.model.user_ids) + len(self._newcomers)

    def parts(self, size: int) -> Iterator[SomeUsers]:
        ids = self._recommender.model.user_ids
        for start in range(0, len(ids), size):
            some, rows = ids[start : start + size], np.arange(start, min(start + size, len(ids)))
            yield SomeUsers(some, rows, start + len(some)) if not self._respelt else self._once(some, rows)
        newcomers = sorted(self._newcomers)
        for start in range(0, len(newcomers), size):
            fresh = newcomers[start : start + size]
            yield SomeUsers(fresh, np.full(len(fresh), -1), len(ids) + start + len(fresh))

    def _once(self, some: Sequence[str], rows: NDArray[np.int64]) -> SomeUsers:
        """Of several spellings of one id the one by which the recommender knows it."""
        compared = [identifier(user) or user for user in some]
        kept = [place for place, user in enumerate(compared) if self._recommender.row_of(user) == rows[place]]
        return SomeUsers([compared[place] for place in kept], rows[kept], int(rows[-1]) + 1)


class ListedUsers:
    """The users of a file with one id a line, in its order; read anew each time.

    Args:
        path: of the file.
        recommender: of the model.
        recorded: ids with recorded events.

    Raises:
        DataError: it is a pipe or a folder; by each method: the file cannot be read.
    """

    def __init__(self, path: Path, recommender: Recommender, recorded: Collection[str]) -> None:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: can be read once alone; write the ids into a file, which is read several times")
        self._path, self._recommender, self._recorded = path, recommender, recorded
        self._strangers: set[str] = set()

    @property
    def unknown(self) -> int:
        return len(self._strangers)

    def digest(self) -> bytes:
        digest = sha256()
        for user in self._lines():
            digest.update(user.encode("utf-8", "surrogatepass") + b"\n")
        return digest.digest()

    def __len__(self) -> int:
        return sum(1 for _ in self._lines())

    def parts(self, size: int) -> Iterator[SomeUsers]:
        told = np.zeros(len(self._recommender.model.user_ids), dtype=np.bool_)
        newcomers: set[str] = set()
        ids, rows, asked = list[str](), list[int](), 0
        for asked, user in enumerate(self._lines(), 1):
            row = self._recommender.row_of(user)
            if row >= 0 and not told[row]:
                told[row] = True
            elif row < 0 and user in self._recorded and user not in newcomers:
                newcomers.add(user)
            else:
                if row < 0 and user not in newcomers:
                    self._strangers.add(user)
                continue
            ids.append(user)
            rows.append(row)
            if len(ids) == size:
                yield SomeUsers(ids, np.array(rows, dtype=np.int64), asked)
                ids, rows = [], []
        if ids:
            yield SomeUsers(ids, np.array(rows, dtype=np.int64), asked)

    def _lines(self) -> Iterator[str]:
        try:
            with self._path.open(encoding="utf-8-sig") as lines:
                yield from (user for line in lines if (user := identifier(line)) is not None)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self._path}: cannot be read as UTF-8 text with one user id a line ({error})") from None
