"""Alternating least squares for implicit and for explicit feedback: the two trainers."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from client.training.kernels.preconditioning import solve_preconditioned
from client.training.kernels.systems import Entries, Kernels, RowSystems, gram
from client.training.trainer import Anchor, ItemStatistics
from common.linalg import initial_item_factors, scaled_ridge

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix
    from common.config.model import FactorizationConfig


class _AlternatingLeastSquares:
    """Shares between both kinds of feedback: caching of the transposed matrix, and the choice of solver."""

    def __init__(self, config: FactorizationConfig, kernels: Kernels) -> None:
        self.config = config
        self.kernels = kernels
        self._made: dict[str, tuple[weakref.ref[UserItemMatrix], Entries]] = {}

    def _entry_values(self, matrix: UserItemMatrix) -> NDArray[np.float32]:
        """float32 ``[nnz]``: what the entries stand for, weights or ratings."""
        return matrix.values

    def _by_item(self, matrix: UserItemMatrix) -> Entries:
        """The matrix by columns; indices are users, weights the entry values, targets 1. Kept while the matrix is."""
        return self._kept("columns", matrix, self._columns)

    def _columns(self, matrix: UserItemMatrix) -> Entries:
        shape = (matrix.n_users, matrix.n_items)
        columns = sp.csr_array((self._entry_values(matrix), matrix.indices, matrix.indptr), shape).tocsc()
        users = columns.indices.astype(np.int32, copy=False)
        return Entries(columns.indptr.astype(np.int64, copy=False), users, columns.data, None)

    def _kept(self, name: str, matrix: UserItemMatrix, make: Callable[[UserItemMatrix], Entries]) -> Entries:
        """The entries that ``make`` makes of the matrix; the same object as long as the matrix is the same."""
        kept = self._made.get(name)
        if kept is None or kept[0]() is not matrix:
            kept = self._made[name] = (weakref.ref(matrix), make(matrix))
        return kept[1]

    def _solve(
        self, systems: RowSystems, warm_start: NDArray[np.float32] | None, empty_ridge: float | None = None
    ) -> NDArray[np.float32]:
        if warm_start is None or self.config.solver == "cholesky":
            return self.kernels.solve_cholesky(systems)
        if empty_ridge is None:
            return self.kernels.solve_cg(systems, warm_start, self.config.cg_steps)
        return solve_preconditioned(self.kernels, systems, warm_start, self.config.cg_steps, empty_ridge)

    def _user_ridge(self, matrix: UserItemMatrix, unobserved_weight: float) -> NDArray[np.float64]:
        sums = matrix.row_lengths + unobserved_weight * matrix.n_items
        return scaled_ridge(self.config.regularization, sums, self.config.regularization_exponent)

    def _item_ridge(self, matrix: UserItemMatrix, unobserved_weight: float) -> NDArray[np.float64]:
        sums = np.diff(self._by_item(matrix).indptr) + unobserved_weight * matrix.n_users
        return scaled_ridge(self._item_regularization, sums, self.config.regularization_exponent)

    @property
    def _item_regularization(self) -> float:
        return self.config.item_regularization or self.config.regularization

    def _empty_ridge(self, regularization: float, others: int) -> float:
        """The ridge of a row without entries where the other side has ``others`` rows."""
        sums = np.array([self.config.unobserved_weight * others])
        return float(scaled_ridge(regularization, sums, self.config.regularization_exponent)[0])


class ImplicitTrainer(_AlternatingLeastSquares):
    """Σ_u [Σ_{i∈Ω_u} w_ui (1 − uᵀv_i)² + α₀ Σ_{i∈C_p} (uᵀv_i)² + λ_u‖u‖²] + Σ_i λ_i‖v_i‖².

    Hu, Koren & Volinsky 2008 in the form of Rendle et al. 2021, except that the unobserved term runs over the
    platform's own catalogue: absence from a catalogue is not dislike.
    """

    @property
    def width(self) -> int:
        return self.config.dimension

    def first_item_factors(self, m: int, rng: np.random.Generator) -> NDArray[np.float32]:
        return initial_item_factors(m, self.width, rng, self.config.init_scale)

    def solve_users(
        self,
        matrix: UserItemMatrix,
        item_factors: NDArray[np.float32],
        warm_start: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        entries = self._user_entries(matrix)
        ridge = self._user_ridge(matrix, self.config.unobserved_weight)
        empty = self._empty_ridge(self.config.regularization, matrix.n_items)
        return self._solve(self._systems(entries, item_factors, ridge, None), warm_start, empty)

    def solve_items(
        self,
        matrix: UserItemMatrix,
        user_factors: NDArray[np.float32],
        warm_start: NDArray[np.float32] | None = None,
        anchor: Anchor | None = None,
    ) -> NDArray[np.float32]:
        ridge = self._item_ridge(matrix, self.config.unobserved_weight)
        empty = self._empty_ridge(self._item_regularization, matrix.n_users)
        return self._solve(self._systems(self._item_entries(matrix), user_factors, ridge, anchor), warm_start, empty)

    def item_statistics(self, matrix: UserItemMatrix, user_factors: NDArray[np.float32]) -> ItemStatistics:
        gram_packed, rhs = self.kernels.statistics(self._item_entries(matrix), user_factors)
        return ItemStatistics(gram_packed, rhs, gram(user_factors), matrix.item_counts(), matrix.n_users)

    def objective(
        self, matrix: UserItemMatrix, user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]
    ) -> float:
        entries = self._user_entries(matrix)
        observed = self.kernels.squared_error(entries, user_factors, item_factors)
        # Σ_u Σ_i (uᵀv_i)² = ⟨UᵀU, VᵀV⟩: n·m scores are never formed.
        unobserved = float(np.vdot(gram(user_factors), gram(item_factors)))
        ridge = self._user_ridge(matrix, self.config.unobserved_weight)
        return observed + self.config.unobserved_weight * unobserved + _penalty(ridge, user_factors)

    def item_penalty(
        self, matrix: UserItemMatrix, item_factors: NDArray[np.float32], anchor: Anchor | None = None
    ) -> float:
        return _penalty(self._item_ridge(matrix, self.config.unobserved_weight), item_factors, anchor)

    def scoring_factors(
        self, user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return user_factors, item_factors

    def _entry_values(self, matrix: UserItemMatrix) -> NDArray[np.float32]:
        return recency_weights(matrix, self.config.recency_boost, self.config.recency_span)

    def _user_entries(self, matrix: UserItemMatrix) -> Entries:
        return self._kept("rows", matrix, self._rows)

    def _rows(self, matrix: UserItemMatrix) -> Entries:
        return Entries(matrix.indptr, matrix.indices, self._entry_values(matrix), None)

    def _item_entries(self, matrix: UserItemMatrix) -> Entries:
        return self._by_item(matrix)

    def _systems(
        self, entries: Entries, factors: NDArray[np.float32], ridge: NDArray[np.float64], anchor: Anchor | None
    ) -> RowSystems:
        return RowSystems(
            entries=entries,
            factors=factors,
            base=self.config.unobserved_weight * self.kernels.gram(factors),
            ridge=ridge,
            shape=np.ones(factors.shape[1]) if anchor is None else anchor.shape,
            anchors=None if anchor is None else anchor.item_factors,
        )


class ExplicitTrainer(_AlternatingLeastSquares):
    """Σ_ui (r_ui − μ − b_u − b_i − uᵀv_i)² + λ_u(‖u‖² + b_u²) + λ_i(‖v_i‖² + b_i²), by extended factors.

    With item factors [v_i, b_i] a user's [u, b_u] meets the entries [v_i, 1] with targets r − μ − b_i, and the other
    way round; so both sides are plain least squares of dimension d + 1 (Koren, Bell & Volinsky 2009, eq. 4).

    Args:
        config: the hyperparameters.
        kernels: the backend.
        global_mean: μ, from :func:`rating_sum_and_count` summed over all platforms.
    """

    def __init__(self, config: FactorizationConfig, kernels: Kernels, global_mean: float) -> None:
        super().__init__(config, kernels)
        self.global_mean = global_mean

    @property
    def width(self) -> int:
        return self.config.dimension + 1

    def first_item_factors(self, m: int, rng: np.random.Generator) -> NDArray[np.float32]:
        factors = initial_item_factors(m, self.config.dimension, rng, self.config.init_scale)
        return np.pad(factors, ((0, 0), (0, 1)))

    def solve_users(
        self,
        matrix: UserItemMatrix,
        item_factors: NDArray[np.float32],
        warm_start: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        targets = matrix.values - np.float32(self.global_mean) - item_factors[matrix.indices, -1]
        entries = Entries(matrix.indptr, matrix.indices, np.ones_like(targets), targets)
        return self._solve(self._systems(entries, item_factors, self._user_ridge(matrix, 0.0), None), warm_start)

    def solve_items(
        self,
        matrix: UserItemMatrix,
        user_factors: NDArray[np.float32],
        warm_start: NDArray[np.float32] | None = None,
        anchor: Anchor | None = None,
    ) -> NDArray[np.float32]:
        entries = self._item_entries(matrix, user_factors)
        return self._solve(self._systems(entries, user_factors, self._item_ridge(matrix, 0.0), anchor), warm_start)

    def item_statistics(self, matrix: UserItemMatrix, user_factors: NDArray[np.float32]) -> ItemStatistics:
        gram_packed, rhs = self.kernels.statistics(self._item_entries(matrix, user_factors), _with_one(user_factors))
        zero = np.zeros((self.width, self.width))
        return ItemStatistics(gram_packed, rhs, zero, matrix.item_counts(), matrix.n_users)

    def objective(
        self, matrix: UserItemMatrix, user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]
    ) -> float:
        left, right = self.scoring_factors(user_factors, item_factors)
        entries = Entries(matrix.indptr, matrix.indices, np.ones_like(matrix.values), matrix.values)
        return self.kernels.squared_error(entries, left, right) + _penalty(self._user_ridge(matrix, 0.0), user_factors)

    def item_penalty(
        self, matrix: UserItemMatrix, item_factors: NDArray[np.float32], anchor: Anchor | None = None
    ) -> float:
        return _penalty(self._item_ridge(matrix, 0.0), item_factors, anchor)

    def scoring_factors(
        self, user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[u, 1, μ + b_u] and [v_i, b_i, 1], float32 ``[n, d + 2]`` and ``[m, d + 2]``."""
        left = np.column_stack([_with_one(user_factors), user_factors[:, -1] + np.float32(self.global_mean)])
        right = np.column_stack([item_factors, np.ones(len(item_factors), dtype=np.float32)])
        return left, right

    def _item_entries(self, matrix: UserItemMatrix, user_factors: NDArray[np.float32]) -> Entries:
        by_item = self._by_item(matrix)
        targets = by_item.weights - np.float32(self.global_mean) - user_factors[by_item.indices, -1]
        return Entries(by_item.indptr, by_item.indices, np.ones_like(targets), targets)

    def _systems(
        self, entries: Entries, factors: NDArray[np.float32], ridge: NDArray[np.float64], anchor: Anchor | None
    ) -> RowSystems:
        return RowSystems(
            entries=entries,
            factors=_with_one(factors),
            base=np.zeros((self.width, self.width)),
            ridge=ridge,
            shape=np.ones(self.width) if anchor is None else anchor.shape,
            anchors=None if anchor is None else anchor.item_factors,
        )


def recency_weights(matrix: UserItemMatrix, boost: float, span: float) -> NDArray[np.float32]:
    """w_ui·(1 + β·exp(−a/τ)), float32 ``[nnz]``, where a counts the user's interactions after this one.

    Only the order within the user's own row is read, so a user's weights depend on that user alone.
    """
    if boost == 0:
        return matrix.values
    boosts = 1 + boost * np.exp(-matrix.entries_after() / span)
    weights: NDArray[np.float32] = (matrix.values * boosts).astype(np.float32)
    return weights


def rating_sum_and_count(matrix: UserItemMatrix) -> tuple[float, int]:
    """Sum and number of a platform's ratings; the global mean μ is the ratio of their sums over platforms."""
    return float(matrix.values.sum(dtype=np.float64)), matrix.nnz


def _with_one(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[u, b_u] as the design vector [u, 1]."""
    extended = factors.copy()
    extended[:, -1] = 1.0
    return extended


def _penalty(ridge: NDArray[np.float64], factors: NDArray[np.float32], anchor: Anchor | None = None) -> float:
    """Σ_r ρ_r Σ_k s_k (f_rk − a_rk)², with s = 1 and a = 0 where there is no anchor."""
    distance = factors.astype(np.float64) if anchor is None else factors.astype(np.float64) - anchor.item_factors
    shape = np.ones(factors.shape[1]) if anchor is None else anchor.shape
    return float(ridge @ (distance * distance) @ shape)
