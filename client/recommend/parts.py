"""Item factors as a part of a scope: the user's factor is solved from the history.

What an item of the history adds is known in closed form (Hu, Koren & Volinsky 2008, section 5). A user's factor is
u = A⁻¹ Σ_j y_j w_j t_j with A the matrix of the ALS solve, so the score xᵀu of an item is the sum over the history of
(xᵀA⁻¹y_j) w_j t_j: the paper's s_uj times its confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from client.recommend.linear_form import Carried
from client.scoring.fold_in import FoldIn


@dataclass(frozen=True, eq=False)
class FactorPart:
    """One factor model's share of a scope.

    Attributes:
        name: ``local``, ``shared`` or ``anchored``.
        fold_in: solves the user's factor over the items that this model counts as the platform's catalogue.
        columns: int32 ``[m_own]``: each own item's row in ``fold_in``, −1 where it has none; None: the same.
        items: float32 ``[m, width]``: the scope's items in the form of :attr:`FoldIn.scoring_items`.
        weight: w_p.
        value_mean: μ of explicit feedback, else 0.
    """

    name: str
    fold_in: FoldIn
    columns: NDArray[np.int32] | None
    items: NDArray[np.float32]
    weight: float = 1.0
    value_mean: float = 0.0

    def factor(self, columns: NDArray[np.int32], values: NDArray[np.float32], user: int | None) -> NDArray[np.float64]:
        """float64 ``[width]``; whose history it is does not matter."""
        entries, rows = self._known(columns)
        factor = self.fold_in.user(rows, values[entries])
        scoring: NDArray[np.float64] = self.fold_in.scoring_factors(factor[None])[0].astype(np.float64)
        return scoring

    def carried(
        self,
        row: int,
        deviation: NDArray[np.float64],
        columns: NDArray[np.int32],
        values: NDArray[np.float32],
        user: int | None,
    ) -> Carried:
        """(deviationᵀA⁻¹y_j) w_j t_j of each entry, and the item's bias."""
        entries, rows = self._known(columns)
        known = values[entries].astype(np.float64)
        matrix, _ = self.fold_in.system(rows, values[entries])
        design = self.fold_in.scoring_items[rows].astype(np.float64)
        weighted_targets = self.fold_in.entry_weights(known)
        bias, item = 0.0, deviation
        if self.fold_in.config.feedback == "explicit":
            # Scoring rows are [v, b, 1] against [u, 1, b_u + μ]; the unknowns [u, b_u] meet [v, 1].
            weighted_targets = known - self.value_mean - design[:, -2]
            design = np.delete(design, -2, axis=1)
            bias, item = float(deviation[-2]), np.append(deviation[:-2], deviation[-1])
        direction = scipy.linalg.solve(matrix, item, assume_a="pos", check_finite=False)
        return Carried(entries, (design @ direction) * weighted_targets, bias, {})

    def _known(self, columns: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Which entries of a history this model knows, and their rows in ``fold_in``."""
        rows = columns if self.columns is None else self.columns[columns]
        entries = np.flatnonzero(rows >= 0)
        return entries, rows[entries]
