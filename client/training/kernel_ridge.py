"""Kernel ridge regression whose width and ridge are chosen by leaving out one row at a time.

Saunders et al. 1998, "Ridge regression learning algorithm in dual variables"; the leave-one-out residual of row i is
α_i / (K + λI)⁻¹_ii (Rasmussen & Williams 2006, eq. 5.12). Nothing is random but which rows are looked at where there are many.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

_WIDTHS = (0.25, 0.5, 1.0, 2.0)
"""γ of exp(−γ‖x − y‖²), times the median of ‖x − y‖²."""
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)
_CHOSEN_ON, _FITTED_ON = 1200, 4000
"""Rows, at most: a solve takes time in their cube."""
_BLOCK = 1024


def predict(
    known: NDArray[np.float64],
    targets: NDArray[np.float64],
    asked: NDArray[np.float64],
    *,
    chosen_on: int = _CHOSEN_ON,
    fitted_on: int = _FITTED_ON,
) -> NDArray[np.float64]:
    """float64 ``[k, t]``: what rows ``asked`` ``[k, f]`` are expected to be.

    Args:
        known: ``[n, f]``; at least two rows.
        targets: ``[n, t]`` of these.
        asked: ``[k, f]``.
        chosen_on: rows, at most, that width and ridge are chosen on.
        fitted_on: rows, at most, that the model is fitted on.
    """
    order = np.random.default_rng(0).permutation(len(known))
    some, fitted = np.sort(order[:chosen_on]), np.sort(order[:fitted_on])
    width, ridge = _chosen(known[some], targets[some])
    mean, learned = targets[fitted].mean(axis=0), known[fitted]
    kernel = np.exp(-width * _squares(learned, learned))
    kernel[np.diag_indices_from(kernel)] += ridge
    weights = scipy.linalg.solve(kernel, targets[fitted] - mean, assume_a="pos", overwrite_a=True)
    blocks = [
        mean + np.exp(-width * _squares(asked[start : start + _BLOCK], learned)) @ weights
        for start in range(0, len(asked), _BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.zeros((0, targets.shape[1]))


def _chosen(known: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Width and ridge of the least squared error of rows that are left out."""
    squares, centred = _squares(known, known), targets - targets.mean(axis=0)
    usual = float(np.median(squares[~np.eye(len(known), dtype=np.bool_)]))
    best = (np.inf, 1.0, 1.0)
    for relative in _WIDTHS:
        width = relative / max(usual, 1e-12)
        values, directions = np.linalg.eigh(np.exp(-width * squares))
        turned, squared = directions.T @ centred, np.square(directions)
        for ridge in _RIDGES:
            shrunk = 1.0 / (np.maximum(values, 0.0) + ridge)
            residuals = (directions @ (shrunk[:, None] * turned)) / (squared @ shrunk)[:, None]
            best = min(best, (float(np.square(residuals).mean()), width, ridge))
    return best[1], best[2]


def _squares(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[n, m]``: squared distances."""
    products = one @ other.T
    found = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2.0 * products
    return np.asarray(np.maximum(found, 0.0))
