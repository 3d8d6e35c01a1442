"""Items whose texts are near those of a user's history: needs neither other users nor other platforms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from common.errors import ContractError

_BLOCK = 1024  # rows of cosines at a time


@dataclass(frozen=True, eq=False)
class NearestTextsScorer:
    """log(1 + Σ_i max(cos(t_i, t_j), 0)³ over the items i of the history) for each item j.

    Attributes:
        neighbours: float32 CSR ``[h, m]``: for each of the h columns of histories, the largest max(cos, 0)³ over the m items.
    """

    neighbours: sp.csr_array

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]`` from histories in the h columns; neither their order nor their values count."""
        if histories.n_items != self.neighbours.shape[0]:
            raise ContractError(f"histories have {histories.n_items} columns, neighbours {self.neighbours.shape[0]}")
        own = histories.select_users(np.asarray(users))
        has = sp.csr_array(
            (np.ones(own.nnz, dtype=np.float32), own.indices, own.indptr), shape=(len(users), own.n_items)
        )
        scores: NDArray[np.float32] = np.log1p((has @ self.neighbours).toarray()).astype(np.float32)
        return scores


def fit_nearest_texts(
    history_vectors: NDArray[np.floating], item_vectors: NDArray[np.floating], *, neighbours: int = 256
) -> NearestTextsScorer:
    """Find the nearest items by text.

    Args:
        history_vectors: ``[h, d]`` of unit length or zero, one a column of histories (own items, or the vocabulary).
        item_vectors: ``[m, d]``, one an item that is scored, by the same encoder and :class:`~client.text.whitening.Whitening`.
        neighbours: kept for each column; the cube leaves little to those further away.
    """
    if history_vectors.shape[1] != item_vectors.shape[1]:
        raise ContractError(f"vectors of {history_vectors.shape[1]} and of {item_vectors.shape[1]} numbers")
    scored = item_vectors.astype(np.float32).T
    kept = min(neighbours, scored.shape[1])
    rows = [_nearest(history_vectors[start : start + _BLOCK].astype(np.float32) @ scored, kept)
            for start in range(0, len(history_vectors), _BLOCK)]  # fmt: skip
    if not rows or kept == 0:
        return NearestTextsScorer(sp.csr_array(np.zeros((len(history_vectors), len(item_vectors)), dtype=np.float32)))
    return NearestTextsScorer(sp.csr_array(sp.vstack(rows)))


def _nearest(cosines: NDArray[np.float32], kept: int) -> sp.csr_array:
    """The ``kept`` largest of each row, cubed; those not above 0 fall out."""
    near = np.maximum(cosines, 0.0)
    if kept < near.shape[1]:
        far = np.argpartition(-near, kept, axis=1)[:, kept:]
        np.put_along_axis(near, far, 0.0, axis=1)
    return sp.csr_array(near**3)
