"""The sums over users that the factorisation's contributions are made of; engines add them up, wherever the users are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice
from client.scoring.evaluation import evaluate
from client.scoring.scorer import SolvedFactorScorer
from client.training.als import rating_sum_and_count
from client.training.engine import Sums, UserBlock
from client.training.trainer import Trainer
from common.config.model import FactorizationConfig
from common.contributions.user_sums import UserSums


@dataclass(frozen=True)
class PlainCounts:
    """``item_counts`` float64 ``[m_p]`` and ``totals`` float64 ``[3]``: users, interactions, sum of their values."""

    def of(self, users: UserBlock) -> Sums:
        value_sum, interactions = rating_sum_and_count(users.shared)
        totals = np.array([users.shared.n_users, interactions, value_sum], dtype=np.float64)
        return {"item_counts": users.shared.item_counts().astype(np.float64), "totals": totals}


@dataclass(frozen=True, eq=False)
class PlainStatistics:
    """The exact statistics of a round at ``items``, and what these are worth on validation users.

    Attributes:
        model: what is trained.
        global_mean: μ of explicit feedback.
        items: float32 ``[m_p, p]``, parameters of the shared items.
        metrics: of validation users; ``evaluation`` holds their sums, and last how many users those are of.
        objective: whether the objective is among the sums.
    """

    model: FactorizationConfig
    global_mean: float
    items: NDArray[np.float32]
    metrics: Sequence[str] = ()
    objective: bool = True

    def of(self, users: UserBlock) -> Sums:
        trainer, matrix = users.trainer(self.model, self.global_mean), users.shared
        # Conjugate gradients start from zero, so that a round's sums depend on data and request alone: what is asked
        # again, after a restart too, is answered alike.
        factors = trainer.solve_users(matrix, self.items, np.zeros((matrix.n_users, trainer.width), np.float32))
        sums = trainer.item_statistics(matrix, factors)
        found: dict[str, NDArray[np.floating]] = {
            "gram": sums.gram_packed,
            "rhs": sums.rhs,
            "user_gram": sums.user_gram,
        }
        if self.objective:
            found["objective"] = np.array([trainer.objective(matrix, factors, self.items)])
        return found | {"evaluation": self._worth(trainer, users)}

    def _worth(self, trainer: Trainer, users: UserBlock) -> NDArray[np.float64]:
        """float64 ``[metrics + 1]``: sums over the validation users, on shared items, and how many they are; else two zeros."""
        if not self.metrics:
            return np.zeros(2)
        validation = users.validation
        alone = [
            matrix.select_users(validation.users).select_items(users.shared_columns)
            for matrix in (validation.history, validation.truth)
        ]
        held_out = EvaluationSlice(np.arange(len(validation.users)), *alone)
        factors = trainer.solve_users(held_out.history, self.items)
        measured = evaluate(SolvedFactorScorer(factors, self.items), held_out, metrics=self.metrics, depth=20)
        return np.array([*(measured.values[metric].sum() for metric in self.metrics), len(measured.users)])


@dataclass(frozen=True, eq=False)
class _Private:
    """Holds what sums that are noised afterwards have in common.

    Attributes:
        quantised: clips, weighs, quantises and sums.
        positions: int32 ``[m_p]``, of the shared items in the columns to sum into; None: as they are.
        n_items: number of these columns.
    """

    quantised: UserSums
    positions: NDArray[np.int32] | None
    n_items: int

    def _laid_out(self, matrix: UserItemMatrix) -> UserItemMatrix:
        if self.positions is None:
            return matrix
        return replace(matrix, indices=self.positions[matrix.indices].astype(np.int32), n_items=self.n_items)


@dataclass(frozen=True, eq=False)
class PrivateCounts(_Private):
    """Whole grid steps of the counts."""

    def of(self, users: UserBlock) -> Sums:
        matrix = self._laid_out(users.bounded)
        return self.quantised.count_sums(matrix.indptr, matrix.indices, n_items=self.n_items)


@dataclass(frozen=True, eq=False)
class PrivateStatistics(_Private):
    """Whole grid steps of a round's statistics.

    Attributes:
        server_round: 1 … T.
        model: what is trained.
        items: float32 ``[m_p, d]``, parameters of the shared items.
        weights: float64 ``[m]``, of the columns to sum into; 0 for what is not kept.
    """

    server_round: int
    model: FactorizationConfig
    items: NDArray[np.float32]
    weights: NDArray[np.float64]

    def of(self, users: UserBlock) -> Sums:
        own = self.weights if self.positions is None else self.weights[self.positions]
        kept = np.flatnonzero(own > 0)
        trainer = users.trainer(self.model, alone=True)
        factors = trainer.solve_users(users.bounded.select_items(kept), self.items[kept])
        matrix = self._laid_out(users.bounded)
        return self.quantised.statistics_sums(self.server_round, matrix.indptr, matrix.indices, factors, self.weights)
