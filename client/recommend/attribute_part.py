"""Public attributes as a part of a scope: a user's tastes are the sum of those of the items in the history."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.recommend.linear_form import Carried
from client.scoring.attributes import AttributeTransferScorer


@dataclass(frozen=True, eq=False)
class AttributePart:
    """The share of :class:`AttributeTransferScorer` in a scope of items that only others have.

    Attributes:
        model: over the vocabulary.
        own_positions: int32 ``[m_own]``: position of each own item in the vocabulary, -1 where nobody shares it.
        scored: int ``[m]``: positions of the scope's items.
        weight: w_p.
    """

    model: AttributeTransferScorer
    own_positions: NDArray[np.int32]
    scored: NDArray[np.integer]
    weight: float

    @property
    def name(self) -> str:
        return "attributes"

    @cached_property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, r]``."""
        items: NDArray[np.float32] = self.model.item_factors[self.scored]
        return items

    def factor(self, columns: NDArray[np.int32], values: NDArray[np.float32], user: int | None) -> NDArray[np.float64]:
        """float64 ``[r]``; neither the order of the history nor its values count."""
        factor: NDArray[np.float64] = self._tastes(columns)[1].sum(axis=0)
        return factor

    def carried(
        self,
        row: int,
        deviation: NDArray[np.float64],
        columns: NDArray[np.int32],
        values: NDArray[np.float32],
        user: int | None,
    ) -> Carried:
        """How far each item of the history shares the tastes that the scored item meets; nothing else adds."""
        entries, tastes = self._tastes(columns)
        return Carried(entries, tastes @ deviation, 0.0, {})

    def _tastes(self, columns: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Which entries of a history are in the vocabulary, and their tastes: float64 ``[k, r]``."""
        positions = self.own_positions[columns]
        entries = np.flatnonzero(positions >= 0)
        return entries, self.model.tastes[positions[entries]].astype(np.float64)
