"""The deep model as a part of a scope: its item vectors are rows, and the user tower reads the newest items of a history.

What an item of the history and what an attribute of the scored item add is told by integrated gradients (Sundararajan et
al. 2017): both sides grow together from zero, so that a product of the two is shared between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.recommend.linear_form import Carried
from client.towers.stored import TowerModel


@dataclass(frozen=True, eq=False)
class TowerPart:
    """The deep model's share of a scope.

    Attributes:
        towers: the model.
        readable: bool ``[m_own]``: own items that the user tower may read here; among other platforms' items those that
            somebody shares.
        scored: int32 ``[m]``: the model's row of each item of the scope.
        weight: w_p.
    """

    towers: TowerModel
    readable: NDArray[np.bool_]
    scored: NDArray[np.int32]
    weight: float = 1.0

    @property
    def name(self) -> str:
        return "towers"

    @cached_property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, d]``."""
        return self.towers.item_vectors[self.scored]

    def factor(self, columns: NDArray[np.int32], values: NDArray[np.float32], user: int | None) -> NDArray[np.float64]:
        """float64 ``[d]``; the order of the history counts, its values do not."""
        return self.towers.user_vector(columns[self.readable[columns]], user).astype(np.float64)

    def carried(
        self,
        row: int,
        deviation: NDArray[np.float64],
        columns: NDArray[np.int32],
        values: NDArray[np.float32],
        user: int | None,
    ) -> Carried:
        """Attributions against a history of nothing and the scope's mean item."""
        entries = np.flatnonzero(self.readable[columns])
        parts = {
            attribute: part[self.scored[row]] - self._means[attribute]
            for attribute, part in self.towers.item_parts.items()
        }
        found = self.towers.attribution(columns[entries], user, deviation, parts)
        # The baseline of both sides is 0, so what the history does not add is the item's.
        return Carried(entries, found.history, found.score - float(found.history.sum()), found.attributes)

    @cached_property
    def _means(self) -> dict[str, NDArray[np.float64]]:
        """float64 ``[d]`` by attribute: its mean share of the scope's items."""
        parts = self.towers.item_parts.items()
        return {attribute: part[self.scored].mean(axis=0, dtype=np.float64) for attribute, part in parts}
