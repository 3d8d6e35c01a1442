"""A score of each item that is the same for every user: foreign popularity, demand expected from a description."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.scoring.part import Arrays, Carried, Part, UserHistory, stored


@stored("prior")
@dataclass(frozen=True, eq=False)
class PriorPart(Part):
    """Attributes:
    name: ``foreign popularity``, for instance.
    of_items: float32 ``[m]``.
    """

    name: str
    of_items: NDArray[np.float32]

    @property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, 1]``."""
        return self.of_items[:, None]

    def at(self, rows: NDArray[np.integer]) -> PriorPart:
        """The same over the items ``rows`` alone."""
        return replace(self, of_items=self.of_items[rows])

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        """float64 ``[1]``: 1, whatever the history."""
        return np.ones(1)

    def factors(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[k, 1]``."""
        return np.ones((len(users), 1))

    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        """All of it is the item's own."""
        return Carried(np.zeros(0, dtype=np.intp), np.zeros(0), float(deviation[0]), {})

    def arrays(self) -> Arrays:
        """The scores."""
        return {"items": self.of_items}

    @classmethod
    def of_arrays(cls, name: str, arrays: Arrays) -> PriorPart:
        """Take back :meth:`arrays`."""
        return cls(name, arrays["items"])
