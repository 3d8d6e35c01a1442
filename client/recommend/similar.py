"""Items like an item: cosines in the space that ranks it.

Own items are compared in the space of the verdict; under a blend of two the cosine is (cos_local + w·cos_other)/(1 + w).
Whatever involves an item of another platform is compared in the shared space, or in the deep model's where that alone
ranks the own items and knows the others'.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.personalization.platform_model import PlatformModel
from client.scoring.factors import FactorModel


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
        if self._deep:
            return self._towers(int(self._own_rows[own]))[self._own_rows]
        cosines: NDArray[np.float32] = self._own_units @ self._own_units[own]
        if verdict.name not in ("blend", "tower_blend") or verdict.weight is None:
            return cosines
        share = np.float32(verdict.weight / (1 + verdict.weight))
        if verdict.name == "tower_blend":
            other = self._towers(int(self._own_rows[own]))[self._own_rows]
        else:
            other = self._shared_to_own(int(self._model.own_positions[own]))
        return (1 - share) * cosines + share * other

    def foreign_to_own(self, row: int) -> NDArray[np.float32]:
        """float32 ``[m_own]``: of the foreign item ``row`` with every own item, 0 where the space lacks the own one."""
        if self._deep_everywhere:
            return self._towers(int(self._foreign[row]))[self._own_rows]
        return self._shared_to_own(int(self._foreign[row]))

    def own_to_foreign(self, own: int) -> NDArray[np.float32]:
        """float32 ``[m_foreign]``: of an own item with every foreign one; 0 where the space lacks the own one."""
        if self._deep_everywhere:
            return self._towers(int(self._own_rows[own]))[self._foreign]
        return self._shared(int(self._model.own_positions[own]))[self._foreign]

    def to_foreign(self, row: int) -> NDArray[np.float32]:
        """float32 ``[m_foreign]``: of the foreign item ``row`` with every foreign one."""
        if self._deep_everywhere:
            return self._towers(int(self._foreign[row]))[self._foreign]
        return self._shared(int(self._foreign[row]))[self._foreign]

    def among(self, own: NDArray[np.integer], foreign: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[c, c]``: of some own items and some foreign ones, in this order; 0 where the space lacks one."""
        positions = np.concatenate([self._model.own_positions[own], self._foreign[foreign]]).astype(np.int64)
        if self._deep_everywhere:
            units = self._tower_units[np.concatenate([self._own_rows[own], self._foreign[foreign]])]
            return _products(units)
        shared = np.where(positions[:, None] >= 0, self._shared_units[positions], np.float32(0))
        cosines, count, verdict = _products(shared), len(own), self._model.verdict
        if verdict.name == "shared":
            return cosines
        alone = _products(self._tower_units[self._own_rows[own]] if self._deep else self._own_units[own])
        if verdict.name in ("blend", "tower_blend") and verdict.weight is not None:
            share = np.float32(verdict.weight / (1 + verdict.weight))
            other = cosines[:count, :count]
            if verdict.name == "tower_blend":
                other = _products(self._tower_units[self._own_rows[own]])
            alone = (1 - share) * alone + share * other
        cosines[:count, :count] = alone
        return cosines

    @property
    def _deep(self) -> bool:
        """Whether the deep model alone ranks the own items."""
        return self._model.verdict.name == "towers" and self._model.towers is not None

    @property
    def _deep_everywhere(self) -> bool:
        """The same, and it has a vector of every item, shared or not: one that was trained at home has none of others'."""
        return self._deep and self._model.towers is not None and self._model.towers.n_shared > 0

    def _towers(self, row: int) -> NDArray[np.float32]:
        """float32 ``[items]``: of the deep model's item ``row`` with each of its items."""
        cosines: NDArray[np.float32] = self._tower_units @ self._tower_units[row]
        return cosines

    def _shared_to_own(self, position: int) -> NDArray[np.float32]:
        positions = self._model.own_positions
        return np.where(positions >= 0, self._shared(position)[positions], np.float32(0))

    def _shared(self, position: int) -> NDArray[np.float32]:
        if position < 0:
            return np.zeros(len(self._shared_units), dtype=np.float32)
        cosines: NDArray[np.float32] = self._shared_units @ self._shared_units[position]
        return cosines

    @cached_property
    def _own_rows(self) -> NDArray[np.int32]:
        assert self._model.towers is not None
        return self._model.towers.own

    @cached_property
    def _tower_units(self) -> NDArray[np.float32]:
        """The vocabulary's rows come first, so that positions are rows."""
        assert self._model.towers is not None
        return _unit_rows(self._model.towers.item_vectors)

    @cached_property
    def _shared_units(self) -> NDArray[np.float32]:
        return _units(self._model.shared)

    @cached_property
    def _own_units(self) -> NDArray[np.float32]:
        anchored = self._model.anchored if self._model.verdict.name == "anchored" else None
        return _units(anchored or self._model.local)


def _products(units: NDArray[np.float32]) -> NDArray[np.float32]:
    cosines: NDArray[np.float32] = units @ units.T
    return cosines


def _units(model: FactorModel) -> NDArray[np.float32]:
    """float32 ``[m, d]``: item factors of length 1, without their biases; zero factors stay zero."""
    factors = model.item_parameters[:, :-1] if model.config.feedback == "explicit" else model.item_parameters
    return _unit_rows(factors)


def _unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return units
