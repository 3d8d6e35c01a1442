"""Scores items by how near their vectors are to those of a history's items: of texts, pictures, factors."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.scoring.described.counted import CountedPart
from common.errors import ContractError

_BLOCK = 1024  # rows of cosines at a time


def fit_nearest(
    history_vectors: NDArray[np.floating],
    item_vectors: NDArray[np.floating],
    *,
    neighbours: int = 256,
    name: str = "texts",
) -> CountedPart:
    """log(1 + Σ_i max(cos(v_i, v_j), 0)³ over the items i of the history) for each item j.

    Args:
        history_vectors: ``[n_columns, d]`` of unit length or zero, one a column of histories: of the platform's own items, or
            of the vocabulary with zeros where the platform lacks the item.
        item_vectors: ``[m, d]``, one an item that is scored, in the same space: of texts by the same encoder
            and :class:`~client.text.whitening.Whitening`.
        neighbours: kept for each column, counted among the m; the cube leaves little to those further away.
        name: of the scorer: an attribute's; ``texts`` of all words together.

    Raises:
        ContractError: the vectors differ in length.
    """
    if history_vectors.shape[1] != item_vectors.shape[1]:
        raise ContractError(f"vectors of {history_vectors.shape[1]} and of {item_vectors.shape[1]} numbers")
    scored = item_vectors.astype(np.float32).T
    kept = min(neighbours, scored.shape[1])
    shape = len(history_vectors), len(item_vectors)
    blocks = [
        _nearest(some.astype(np.float32) @ scored, kept)
        if some.any()
        else sp.csr_array((len(some), shape[1]), dtype=np.float32)
        for some in (history_vectors[start : start + _BLOCK] for start in range(0, shape[0], _BLOCK))
    ]
    near = sp.csr_array(sp.vstack(blocks)) if blocks else sp.csr_array(np.zeros(shape, np.float32))
    return CountedPart(name, near, sp.csr_array(sp.eye_array(shape[1], dtype=np.float32)))


def _nearest(cosines: NDArray[np.float32], kept: int) -> sp.csr_array:
    """The ``kept`` largest of each row, cubed; those not above 0 fall out."""
    near = np.maximum(cosines, 0.0)
    if kept < near.shape[1]:
        far = np.argpartition(-near, kept, axis=1)[:, kept:]
        np.put_along_axis(near, far, 0.0, axis=1)
    return sp.csr_array(near**3)
