"""Numbers and vectors that describe items as columns for regressions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_KNOTS = 8
_MOST_DIRECTIONS = 64
_LEAST_SHARE = 1e-9


def number_columns(values: NDArray[np.float64], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """float64 ``[m, ≤ 8]``: hat functions between quantiles of a number over the items ``rows``, so that its scale is none.

    Args:
        values: ``[m]``, NaN where nobody told: all 0 there.
        rows: int: the items that the range is that of; beyond it the nearest knot stands for the number.
    """
    fitted = values[rows][np.isfinite(values[rows])]
    knots = np.unique(np.quantile(fitted, np.linspace(0, 1, _KNOTS))) if len(fitted) else np.zeros(0)
    columns = np.zeros((len(values), len(knots)))
    known = np.flatnonzero(np.isfinite(values))
    for place in range(len(knots)):
        columns[known, place] = np.interp(values[known], knots, np.arange(len(knots)) == place)
    return columns


def vector_columns(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """float64 ``[m, ≤ 64]``: the directions in which vectors ``[m, d]`` differ most; zero where a vector is."""
    told = np.asarray(vectors.any(axis=1))
    wide = vectors.astype(np.float64)
    wide[told] -= wide[told].mean(axis=0) if told.any() else 0.0
    return directions(wide)


def directions(wide: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[m, ≤ 64]``: rows of ``wide`` ``[m, d]`` along the strongest directions."""
    if not wide.any():
        return np.zeros((len(wide), 0))
    _, values, turn = np.linalg.svd(wide.T @ wide, hermitian=True)
    kept = turn[: min(_MOST_DIRECTIONS, int((values > _LEAST_SHARE * values.max()).sum()))]
    return np.asarray(wide @ kept.T)


def unit_vectors(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 ``[m, d]`` of unit length around the mean of those that are told; zero where a vector is."""
    told = np.asarray(vectors.any(axis=1))
    centred = vectors.astype(np.float64)
    if told.sum() > 1:
        centred[told] -= centred[told].mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0).astype(
        np.float32
    )
    return unit
