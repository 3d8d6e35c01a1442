"""Items whose texts are near those of a user's history: needs neither other users nor other platforms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.scoring.part import Arrays, DirectPart, stored
from common.errors import ContractError

_BLOCK = 1024  # rows of cosines at a time


@stored("nearest_texts")
@dataclass(frozen=True, eq=False)
class NearestTextsPart(DirectPart):
    """log(1 + Σ_i max(cos(t_i, t_j), 0)³ over the items i of the history) for each item j.

    Attributes:
        neighbours: float32 CSR ``[n_columns, m]``: for each column of histories, the largest max(cos, 0)³ over the m items.
    """

    neighbours: sp.csr_array
    name: str = "texts"

    @property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, 0]``: scores are no products."""
        return np.zeros((self.neighbours.shape[1], 0), dtype=np.float32)

    def at(self, rows: NDArray[np.integer]) -> NearestTextsPart:
        """The same over the items ``rows`` alone."""
        return replace(self, neighbours=sp.csr_array(self.neighbours[:, rows]))

    def direct(self, columns: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 ``[m]``; neither the order of the history nor its values count."""
        near = self.neighbours[columns]
        total = np.bincount(near.indices, weights=near.data, minlength=near.shape[1])
        return np.log1p(total)

    def added(
        self, row: int, columns: NDArray[np.int32], values: NDArray[np.float32]
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The score, shared out among the history in proportion to how near each of its items is."""
        near = self.neighbours[columns][:, [row]].toarray()[:, 0].astype(np.float64)
        total = near.sum()
        return np.arange(len(columns)), near * (np.log1p(total) / total if total > 0 else 0.0)

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``, a block at a time.

        Raises:
            ContractError: histories have other columns.
        """
        if histories.n_items != self.neighbours.shape[0]:
            raise ContractError(f"histories have {histories.n_items} columns, neighbours {self.neighbours.shape[0]}")
        own = histories.select_users(np.asarray(users))
        ones = np.ones(own.nnz, dtype=np.float32)
        has = sp.csr_array((ones, own.indices, own.indptr), shape=(own.n_users, own.n_items))
        scores: NDArray[np.float32] = np.log1p((has @ self.neighbours).toarray()).astype(np.float32)
        return scores

    def arrays(self) -> Arrays:
        """The neighbours in compressed rows."""
        near = self.neighbours
        return {"near": near.data, "indices": near.indices, "indptr": near.indptr, "shape": np.array(near.shape)}

    @classmethod
    def of_arrays(cls, name: str, arrays: Arrays) -> NearestTextsPart:
        """Take back :meth:`arrays`."""
        n_columns, m = (int(size) for size in arrays["shape"])
        parts = (arrays["near"], arrays["indices"], arrays["indptr"])
        return cls(sp.csr_array(parts, shape=(n_columns, m)), name)


def fit_nearest_texts(
    history_vectors: NDArray[np.floating], item_vectors: NDArray[np.floating], *, neighbours: int = 256
) -> NearestTextsPart:
    """Find the nearest items by text.

    Args:
        history_vectors: ``[n_columns, d]`` of unit length or zero, one a column of histories: of the platform's own items, or
            of the vocabulary with zeros where the platform lacks the item.
        item_vectors: ``[m, d]``, one an item that is scored, by the same encoder and :class:`~client.text.whitening.Whitening`.
        neighbours: kept for each column, counted among the m; the cube leaves little to those further away.

    Raises:
        ContractError: the vectors differ in length.
    """
    if history_vectors.shape[1] != item_vectors.shape[1]:
        raise ContractError(f"vectors of {history_vectors.shape[1]} and of {item_vectors.shape[1]} numbers")
    scored = item_vectors.astype(np.float32).T
    kept = min(neighbours, scored.shape[1])
    blocks = [
        _nearest(history_vectors[start : start + _BLOCK].astype(np.float32) @ scored, kept)
        for start in range(0, len(history_vectors), _BLOCK)
    ]
    if not blocks or kept == 0:
        return NearestTextsPart(sp.csr_array(np.zeros((len(history_vectors), len(item_vectors)), dtype=np.float32)))
    return NearestTextsPart(sp.csr_array(sp.vstack(blocks)))


def _nearest(cosines: NDArray[np.float32], kept: int) -> sp.csr_array:
    """The ``kept`` largest of each row, cubed; those not above 0 fall out."""
    near = np.maximum(cosines, 0.0)
    if kept < near.shape[1]:
        far = np.argpartition(-near, kept, axis=1)[:, kept:]
        np.put_along_axis(near, far, 0.0, axis=1)
    return sp.csr_array(near**3)
