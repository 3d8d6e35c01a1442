"""Checks what the sensitivity of a sum over users rests on: one row a user, each item once in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import PrivacyError


def checked_lengths(indptr: NDArray[np.int64], indices: NDArray[np.int32], n_items: int) -> NDArray[np.int64]:
    """Row lengths, after checking that rows are in order, and items in range and unique in a row.

    Raises:
        PrivacyError: they are not.
    """
    lengths = np.diff(indptr)
    if len(indptr) < 1 or indptr[0] != 0 or (lengths < 0).any() or indptr[-1] != len(indices):
        raise PrivacyError("indptr: must rise from 0 to the number of entries")
    if len(indices) and (indices.min() < 0 or indices.max() >= n_items):
        raise PrivacyError(f"indices: items must lie in 0..{n_items - 1}")
    cells = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths) * n_items + indices
    cells.sort()
    if (cells[1:] == cells[:-1]).any():
        raise PrivacyError("indices: an item occurs twice in a row; clean the interactions first")
    return lengths
