"""Item factors as a part of a blend: the user's factor is solved from the history.

What an item of the history adds is known in closed form (Hu, Koren & Volinsky 2008, section 5). A user's factor is
u = A⁻¹ Σ_j y_j w_j t_j with A the matrix of the ALS solve, so the score xᵀu of an item is the sum over the history of
(xᵀA⁻¹y_j) w_j t_j: the paper's s_uj times its confidence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from client.scoring.fold_in import FoldIn, Recency
from client.scoring.part import Carried, Part, UserHistory
from common.config.model import FactorizationConfig

if TYPE_CHECKING:
    from client.data.dataset import UserItemMatrix


@dataclass(frozen=True, eq=False, kw_only=True)
class FactorModel:
    """Item parameters and the hyperparameters that go with them.

    Attributes:
        item_parameters: float32 ``[m, row]``.
        config: of the training.
        value_mean: μ of explicit feedback, else 0.
        recency: how much more a user's latest entries weigh where own items are ranked; None: as in training. Chosen at home:
            it is no part of what the model was trained to.
    """

    item_parameters: NDArray[np.float32]
    config: FactorizationConfig
    value_mean: float = 0.0
    recency: Recency | None = None

    def with_rows(self, rows: NDArray[np.integer], parameters: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 ``[m, row]``: a copy of the parameters, those of ``rows`` replaced."""
        changed = self.item_parameters.copy()
        changed[rows] = parameters
        return changed

    def restricted(self, rows: NDArray[np.integer], recency: Recency | None = None) -> FoldIn:
        """A scorer over the items ``rows`` alone, which count as the whole catalogue; without a recency as in training."""
        return FoldIn(self.item_parameters[rows], self.config, self.value_mean, recency)


@dataclass(frozen=True, eq=False)
class FactorPart(Part):
    """One factor model's share of a scope.

    Attributes:
        name: ``local``, ``shared`` or ``anchored``.
        fold_in: solves the user's factor over the items that this model counts as the platform's catalogue.
        columns: int32 ``[n_columns]``: row in ``fold_in`` of each column of a history, −1 where it has none; None: the same.
        scored: float32 ``[m, width]``: the scope's items in the form of :attr:`FoldIn.scoring_items`.
        value_mean: μ of explicit feedback, else 0.
    """

    name: str
    fold_in: FoldIn
    columns: NDArray[np.int32] | None
    scored: NDArray[np.float32]
    value_mean: float = 0.0

    def at(self, rows: NDArray[np.integer]) -> FactorPart:
        """The same over the items ``rows`` alone."""
        return replace(self, scored=self.scored[rows])

    @property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, width]``."""
        return self.scored

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        """float64 ``[width]``; whose history it is does not matter."""
        entries, rows = self._known(history.columns)
        factor = self.fold_in.user(rows, history.values[entries], self._prior(history))
        scoring: NDArray[np.float64] = self.fold_in.scoring_factors(factor[None])[0].astype(np.float64)
        return scoring

    def factors(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[k, width]``: :meth:`factor` of each, to the bit."""
        rows = histories.select_users(users)
        if self.columns is not None:
            rows = replace(rows, indices=self.columns[rows.indices]).select_entries(self.columns[rows.indices] >= 0)
        solved = self.fold_in.users(rows)
        scoring: NDArray[np.float64] = self.fold_in.scoring_factors(solved).astype(np.float64)
        return scoring

    def carried(self, row: int, deviation: NDArray[np.float64], history: UserHistory) -> Carried:
        """(deviationᵀA⁻¹y_j) w_j t_j of each entry, and the item's bias."""
        entries, rows = self._known(history.columns)
        known = history.values[entries].astype(np.float64)
        matrix, _ = self.fold_in.system(rows, history.values[entries])
        design = self.fold_in.scoring_items[rows].astype(np.float64)
        weighted_targets = self.fold_in.entry_weights(known)
        bias, item = 0.0, deviation
        if self.fold_in.config.feedback == "explicit":
            # Scoring rows are [v, b, 1] against [u, 1, b_u + μ]; the unknowns [u, b_u] meet [v, 1].
            weighted_targets = known - self.value_mean - design[:, -2]
            design = np.delete(design, -2, axis=1)
            bias, item = float(deviation[-2]), np.append(deviation[:-2], deviation[-1])
        direction = scipy.linalg.solve(matrix, item, assume_a="pos", check_finite=False)
        prior = self._prior(history)
        brought = 0.0 if prior is None else float(self.fold_in.pull(prior) @ direction)
        return Carried(entries, (design @ direction) * weighted_targets, bias + brought, {}, brought)

    def _prior(self, history: UserHistory) -> NDArray[np.float32] | None:
        """Of the shared factors alone, and of implicit feedback; None where there is none of their width."""
        prior, config = history.prior, self.fold_in.config
        fits = prior is not None and self.name == "shared" and config.feedback == "implicit"
        return prior if fits and prior is not None and len(prior) == self.fold_in.scoring_items.shape[1] else None

    def _known(self, columns: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Which entries of a history this model knows, and their rows in ``fold_in``."""
        rows = columns if self.columns is None else self.columns[columns]
        entries = np.flatnonzero(rows >= 0)
        return entries, rows[entries]


def own_factors(name: str, model: FactorModel) -> FactorPart:
    """A model of the platform's own items alone, whose histories have its columns."""
    fold_in = FoldIn(model.item_parameters, model.config, model.value_mean, model.recency)
    return FactorPart(name, fold_in, None, fold_in.scoring_items, model.value_mean)


def shared_on_own(shared: FactorModel, own_positions: NDArray[np.int32]) -> FactorPart:
    """Shared factors over the own catalogue. An item that nobody shares gets the user's mean score.

    Args:
        shared: over the vocabulary.
        own_positions: int32 ``[m_own]``: position of each own item, −1 where nobody shares it.
    """
    known = own_positions >= 0
    fold_in = shared.restricted(own_positions[known], shared.recency)
    items = np.zeros((len(known), fold_in.scoring_items.shape[1]), dtype=np.float32)
    items[known] = fold_in.scoring_items
    if known.any():
        items[~known] = fold_in.scoring_items.mean(axis=0, dtype=np.float64)
    rows = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
    return FactorPart("shared", fold_in, rows, items, shared.value_mean)


def shared_on_vocabulary(shared: FactorModel, own_positions: NDArray[np.int32], name: str = "shared") -> FactorPart:
    """Shared factors over the whole vocabulary, for users whose catalogue is the platform's; histories have its columns.

    Absence is not dislike: what the own platform does not have is not held against an item (mechanism.md).
    """
    own = own_positions[own_positions >= 0]
    fold_in = shared.restricted(own)
    rows = np.full(len(shared.item_parameters), -1, dtype=np.int32)
    rows[own] = np.arange(len(own))
    every = shared.restricted(np.arange(len(shared.item_parameters))).scoring_items
    return FactorPart(name, fold_in, rows, every, shared.value_mean)
