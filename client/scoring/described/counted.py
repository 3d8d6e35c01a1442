"""Scores by counting what items of a history have in common with an item: a maker, a topic, near texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.scoring.part import Arrays, Carried, DirectPart, UserHistory, stored
from common.errors import ContractError

_WIDEST = 128


@stored("counted")
@dataclass(frozen=True, eq=False)
class CountedPart(DirectPart):
    """Σ_v log(1 + c_v)·y_jv, with c_v = Σ_i x_iv over the items i of the history.

    Of a category v is a value, x tells which items have it, and y shares an item out between its values. Of near texts v is
    an item, x tells how near it is to each item of a history, and y is the identity.

    Attributes:
        name: of the attribute.
        inputs: float32 CSR ``[n_columns, values]``: x ≥ 0 of each column of a history.
        outputs: float32 CSR ``[m, values]``: y of each item that is scored.
    """

    name: str
    inputs: sp.csr_array
    outputs: sp.csr_array

    @property
    def _narrow(self) -> bool:
        """Whether values are few enough to be coordinates, so that the scores are products."""
        return bool(self.outputs.shape[1] <= _WIDEST)

    @cached_property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, values]``, or ``[m, 0]`` of too many values."""
        if self._narrow:
            return np.asarray(self.outputs.toarray(), dtype=np.float32)
        return np.zeros((self.outputs.shape[0], 0), dtype=np.float32)

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        """float64 ``[values]``; neither the order of the history nor its values count."""
        return np.log1p(self._counts(history.columns)) if self._narrow else super().factor(history)

    def factors(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[k, values]``."""
        if not self._narrow:
            return np.zeros((len(users), 0))
        return np.asarray(self._logarithms(histories, users).toarray(), dtype=np.float64)

    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        """Each count's logarithm, shared out between the items that were counted."""
        if not self._narrow:
            return super().carried(row, deviation, history)
        share = self._share(history.columns)
        amounts = np.asarray(self.inputs[history.columns] @ (deviation * share), dtype=np.float64)
        return Carried(np.arange(len(amounts)), amounts, 0.0, {})

    def at(self, rows: NDArray[np.integer]) -> CountedPart:
        """The same over the items ``rows`` alone."""
        return replace(self, outputs=sp.csr_array(self.outputs[rows]))

    def direct(self, history: UserHistory) -> NDArray[np.float64] | None:
        """float64 ``[m]`` of too many values, else None; as :meth:`factor`."""
        if self._narrow:
            return None
        return np.asarray(self.outputs @ np.log1p(self._counts(history.columns)))

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``.

        Raises:
            ContractError: histories have other columns.
        """
        return np.asarray((self._logarithms(histories, users) @ self.outputs.T).toarray(), dtype=np.float32)

    def added(self, row: int, history: UserHistory) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Each count's logarithm, shared out between the items that were counted."""
        weights = self.outputs[[row]].toarray()[0] * self._share(history.columns)
        amounts = np.asarray(self.inputs[history.columns] @ weights, dtype=np.float64)
        return np.arange(len(amounts)), amounts

    def _counts(self, columns: NDArray[np.int32]) -> NDArray[np.float64]:
        """float64 ``[values]``: c."""
        return np.asarray(self.inputs[columns].sum(axis=0), dtype=np.float64).ravel()

    def _share(self, columns: NDArray[np.int32]) -> NDArray[np.float64]:
        """float64 ``[values]``: log(1 + c)/c."""
        counts = self._counts(columns)
        return np.divide(np.log1p(counts), counts, out=np.zeros_like(counts), where=counts > 0)

    def _logarithms(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> sp.csr_array:
        """float32 CSR ``[k, values]``: log(1 + c) of the rows ``users``."""
        if histories.n_items != self.inputs.shape[0]:
            raise ContractError(f"{self.name}: histories have {histories.n_items} columns, not {self.inputs.shape[0]}")
        x = histories.select_users(np.asarray(users)).incidence(np.float32)
        counts = sp.csr_array(x @ self.inputs)
        counts.data = np.log1p(counts.data)
        return counts

    def arrays(self) -> Arrays:
        """Both matrices, taken apart."""
        return {**_taken_apart("inputs", self.inputs), **_taken_apart("outputs", self.outputs)}

    @classmethod
    def of_arrays(cls, name: str, arrays: Arrays) -> CountedPart:
        """Take back :meth:`arrays`."""
        return cls(name, _put_together("inputs", arrays), _put_together("outputs", arrays))


def category_part(name: str, has: sp.csr_array, readable: NDArray[np.integer]) -> CountedPart:
    """Tastes for the values of a categorical attribute.

    Args:
        name: of the attribute.
        has: CSR ``[m, values]``: 1 where an item has a value.
        readable: int: the items that histories may hold.
    """
    each = np.maximum(np.asarray(has.sum(axis=1)).ravel(), 1.0)
    outputs = sp.csr_array(sp.diags_array(1.0 / each) @ has).astype(np.float32)
    kept = np.zeros(has.shape[0])
    kept[readable] = 1.0
    return CountedPart(name, sp.csr_array(sp.diags_array(kept) @ has).astype(np.float32), outputs)


def _taken_apart(name: str, matrix: sp.csr_array) -> dict[str, NDArray[np.generic]]:
    shape = np.array(matrix.shape, dtype=np.int64)
    return {f"{name}_{key}": getattr(matrix, key) for key in ("data", "indices", "indptr")} | {f"{name}_shape": shape}


def _put_together(name: str, arrays: Arrays) -> sp.csr_array:
    data, indices, indptr = (arrays[f"{name}_{key}"] for key in ("data", "indices", "indptr"))
    rows, columns = arrays[f"{name}_shape"].tolist()
    return sp.csr_array((data, indices, indptr), shape=(rows, columns))
