"""Which items of a history carried a score, in closed form (Hu, Koren & Volinsky 2008, section 5).

A user's factor is u = A⁻¹ Σ_j y_j w_j t_j with A the matrix of the ALS solve, so the score xᵀu of an item is the sum over
the history of (xᵀA⁻¹y_j) w_j t_j: the paper's s_uj times its confidence. Standardising takes x̄ from x and multiplies by
a scale that does not depend on the item: the contributions still add up to the score that was shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from client.recommend.linear import LinearScope, Part


@dataclass(frozen=True, eq=False)
class ScoreShares:
    """A score taken apart: score = Σ contributions + item_bias + popularity = Σ by_part + popularity.

    Attributes:
        contributions: float64 ``[n]``: of each entry of the history; 0 for one that no part of the scope knows.
        item_bias: of the item's own bias (explicit feedback).
        popularity: β·(log popularity − mean), standardised.
        by_part: float64 ``[P]``: of each part, item bias included.
    """

    contributions: NDArray[np.float64]
    item_bias: float
    popularity: float
    by_part: NDArray[np.float64]

    @property
    def score(self) -> float:
        return float(self.by_part.sum()) + self.popularity


def explain_score(scope: LinearScope, row: int, columns: NDArray[np.int32], values: NDArray[np.float32]) -> ScoreShares:
    """Take apart the score of the scope's item ``row`` for a history.

    Args:
        scope: the linear form that made the score.
        row: of the item.
        columns: int32 ``[n]``; the history's own items, oldest first.
        values: float32 ``[n]``.
    """
    query = scope.query(columns, values)
    deviation = scope.items[row] - scope.mean
    contributions = np.zeros(len(columns))
    biases, by_part = 0.0, np.zeros(len(scope.parts))
    for index, (part, where) in enumerate(zip(scope.parts, scope.slices, strict=True)):
        entries, amounts = _pulls(part, deviation[where], columns, values)
        scale = query.part_scales[index]
        bias = float(deviation[where][-2]) if part.fold_in.config.feedback == "explicit" else 0.0
        contributions[entries] += scale * amounts
        biases += scale * bias
        by_part[index] = scale * (amounts.sum() + bias)
    popularity = query.popularity_scale * float(deviation[-1]) if scope.has_popularity else 0.0
    return ScoreShares(contributions, biases, popularity, by_part)


def _pulls(
    part: Part, item: NDArray[np.float64], columns: NDArray[np.int32], values: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The entries that the part knows, and itemᵀA⁻¹y_j w_j t_j of each."""
    entries, rows = part.known(columns)
    known = values[entries].astype(np.float64)
    matrix, _ = part.fold_in.system(rows, values[entries])
    design = part.fold_in.scoring_items[rows].astype(np.float64)
    weighted_targets = part.fold_in.entry_weights(known)
    if part.fold_in.config.feedback == "explicit":
        # Scoring rows are [v, b, 1] against [u, 1, b_u + μ]; the unknowns [u, b_u] meet [v, 1].
        weighted_targets = known - part.value_mean - design[:, -2]
        design = np.delete(design, -2, axis=1)
        item = np.append(item[:-2], item[-1])
    direction = scipy.linalg.solve(matrix, item, assume_a="pos", check_finite=False)
    return entries, (design @ direction) * weighted_targets
