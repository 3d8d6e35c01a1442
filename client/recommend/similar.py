"""Items like an item: cosines in the space that ranks it.

Own items are compared in the space of the verdict; under a blend the cosine is (cos_local + w·cos_shared)/(1 + w).
Whatever involves an item of another platform is compared in the shared space.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.platform_model import FactorModel, PlatformModel


class ItemSimilarity:
    """Cosines between the items of one platform's model; the unit vectors are made when first asked for."""

    def __init__(self, model: PlatformModel) -> None:
        self._model = model
        self._foreign = np.flatnonzero(model.foreign)

    def to_own(self, own: int) -> NDArray[np.float32]:
        """float32 ``[m_own]``: cosine of the own item ``own`` with every own item."""
        verdict = self._model.verdict
        if verdict.name == "shared":
            return self._shared_to_own(int(self._model.own_positions[own]))
        cosines: NDArray[np.float32] = self._own_units @ self._own_units[own]
        if verdict.name != "blend" or verdict.weight is None:
            return cosines
        share = np.float32(verdict.weight / (1 + verdict.weight))
        shared = self._shared_to_own(int(self._model.own_positions[own]))
        return (1 - share) * cosines + share * shared

    def foreign_to_own(self, row: int) -> NDArray[np.float32]:
        """float32 ``[m_own]``: of the foreign item ``row`` with every own item, 0 where nobody shares the own one."""
        return self._shared_to_own(int(self._foreign[row]))

    def own_to_foreign(self, own: int) -> NDArray[np.float32]:
        """float32 ``[m_foreign]``: of an own item with every foreign one; 0 where nobody shares the own one."""
        return self._shared(int(self._model.own_positions[own]))[self._foreign]

    def to_foreign(self, row: int) -> NDArray[np.float32]:
        """float32 ``[m_foreign]``: of the foreign item ``row`` with every foreign one."""
        return self._shared(int(self._foreign[row]))[self._foreign]

    def _shared_to_own(self, position: int) -> NDArray[np.float32]:
        positions = self._model.own_positions
        return np.where(positions >= 0, self._shared(position)[positions], np.float32(0))

    def _shared(self, position: int) -> NDArray[np.float32]:
        if position < 0:
            return np.zeros(len(self._shared_units), dtype=np.float32)
        cosines: NDArray[np.float32] = self._shared_units @ self._shared_units[position]
        return cosines

    @cached_property
    def _shared_units(self) -> NDArray[np.float32]:
        return _units(self._model.shared)

    @cached_property
    def _own_units(self) -> NDArray[np.float32]:
        anchored = self._model.anchored if self._model.verdict.name == "anchored" else None
        return _units(anchored or self._model.local)


def _units(model: FactorModel) -> NDArray[np.float32]:
    """float32 ``[m, d]``: item factors of length 1, without their biases; zero factors stay zero."""
    factors = model.item_parameters[:, :-1] if model.config.feedback == "explicit" else model.item_parameters
    lengths = np.linalg.norm(factors, axis=1, keepdims=True)
    units: NDArray[np.float32] = np.divide(factors, lengths, out=np.zeros_like(factors), where=lengths > 0)
    return units
