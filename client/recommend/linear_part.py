"""The linear road as a part of a scope: a user is the list of inputs in the history, an item its column of weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.recommend.linear_form import Carried
from client.scoring.ease import LinearTransferScorer


@dataclass(frozen=True, eq=False)
class LinearPart:
    """The share of :class:`LinearTransferScorer` in a scope of items that only others have.

    Attributes:
        model: over the vocabulary.
        own_positions: int32 ``[m_own]``: position of each own item in the vocabulary, −1 where nobody shares it.
        scored: int ``[m]``: positions of the scope's items, rising.
        weight: w_p.
    """

    model: LinearTransferScorer
    own_positions: NDArray[np.int32]
    scored: NDArray[np.integer]
    weight: float

    @property
    def name(self) -> str:
        return "linear"

    @cached_property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, s]``: the weights of the s inputs; 0 for an item that nothing points to."""
        items = np.zeros((len(self.scored), len(self.model.inputs)), dtype=np.float32)
        known = np.isin(self.model.targets, self.scored)
        items[np.searchsorted(self.scored, self.model.targets[known])] = self.model.weights[:, known].T
        return items

    def factor(self, columns: NDArray[np.int32], values: NDArray[np.float32], user: int | None) -> NDArray[np.float64]:
        """float64 ``[s]``: 1 for each input in the history; neither its order nor its values count."""
        factor = np.zeros(len(self.model.inputs))
        factor[self._inputs(columns)[1]] = 1.0
        return factor

    def carried(
        self,
        row: int,
        deviation: NDArray[np.float64],
        columns: NDArray[np.int32],
        values: NDArray[np.float32],
        user: int | None,
    ) -> Carried:
        """The weight of each input in the history on the scored item; nothing else adds."""
        entries, inputs = self._inputs(columns)
        return Carried(entries, deviation[inputs], 0.0, {})

    def _inputs(self, columns: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which entries of a history are inputs, and which: places in ``model.inputs``."""
        rows = self._input_of[columns]
        entries = np.flatnonzero(rows >= 0)
        return entries, rows[entries]

    @cached_property
    def _input_of(self) -> NDArray[np.intp]:
        """Int ``[m_own]``: each own item's place among the inputs, −1 where it is none."""
        place = np.searchsorted(self.model.inputs, self.own_positions).clip(max=len(self.model.inputs) - 1)
        return np.where(self.model.inputs[place] == self.own_positions, place, -1)
