"""The deep model as a part of a blend: its item vectors are rows, and the user tower reads the newest items of a history.

What an item of the history and what an attribute of the scored item add is told by integrated gradients (Sundararajan et
al. 2017): both sides grow together from zero, so that a product of the two is shared between them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.scoring.part import Carried, Part, UserHistory
from client.towers.stored import TowerModel


@dataclass(frozen=True, eq=False)
class TowerPart(Part):
    """The deep model's share of a scope.

    Attributes:
        towers: the model.
        rows: int32 ``[n_columns]``: the model's row of each column of a history, −1 for one that the user tower may not
            read here; among other platforms' items it reads those that somebody shares.
        scored: int32 ``[m]``: the model's row of each item of the scope.
    """

    towers: TowerModel
    rows: NDArray[np.int32]
    scored: NDArray[np.int32]
    name: str = "towers"

    @classmethod
    def on_own(cls, towers: TowerModel) -> TowerPart:
        """Over the own catalogue; histories have its columns."""
        return cls(towers, towers.own, towers.own)

    @classmethod
    def on_vocabulary(cls, towers: TowerModel, own_positions: NDArray[np.int32]) -> TowerPart:
        """Over the vocabulary; histories have its columns."""
        rows = np.full(towers.n_shared, -1, dtype=np.int32)
        known = own_positions[own_positions >= 0]
        rows[known] = known
        return cls(towers, rows, np.arange(towers.n_shared, dtype=np.int32))

    @cached_property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, d]``."""
        return self.towers.item_vectors[self.scored]

    def at(self, rows: NDArray[np.integer]) -> TowerPart:
        """The same over the items ``rows`` alone."""
        return replace(self, scored=self.scored[rows])

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        """float64 ``[d]``; the order of the history counts, its values do not."""
        return self.towers.served.vector(self._read(history.columns)[1], history.user).astype(np.float64)

    def factors(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[k, d]``: a block at a time by the Keras model."""
        return self.towers.scorer(self.rows).user_vectors(histories, np.asarray(users)).astype(np.float64)

    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        """Attributions against a history of nothing and the scope's mean item."""
        entries, vectors = self._read(history.columns)
        parts = {
            attribute: part[self.scored[row]] - self._means[attribute]
            for attribute, part in self.towers.item_parts.items()
        }
        found = self.towers.served.attribution(vectors, history.user, deviation, parts)
        # The baseline of both sides is 0, so what the history does not add is the item's.
        return Carried(entries, found.history, found.score - float(found.history.sum()), found.attributes)

    def _read(self, columns: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Which entries of a history the user tower reads, and their items' vectors: float32 ``[k, d]``."""
        rows = self.rows[columns]
        entries = np.flatnonzero(rows >= 0)
        return entries, self.towers.item_vectors[rows[entries]]

    @cached_property
    def _means(self) -> dict[str, NDArray[np.float64]]:
        """float64 ``[d]`` by attribute: its mean share of the scope's items."""
        parts = self.towers.item_parts.items()
        return {attribute: part[self.scored].mean(axis=0, dtype=np.float64) for attribute, part in parts}
