"""Defines a trainer: all that the agent asks of a factorisation.

A trainer holds no model: factors go in, factors and statistics come out. Item factors, ``[m, p]``, are the shared
parameters; user factors, ``[n, p]``, never leave the platform. p is d for implicit feedback and d + 1 for explicit
feedback, whose last item column is the item bias b_i and whose last user column the private user bias b_u.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix
    from common.config.model import FactorizationConfig


@dataclass(frozen=True, eq=False)
class ItemStatistics:
    """Holds what a platform's users say about its m items: the sums that item factors are solved from.

    Not private as they are: the privacy mechanism comes after.

    Attributes:
        gram_packed: float32 ``[m, p(p+1)/2]``; A_i = Σ_{u∋i} w_ui u uᵀ, packed by :func:`common.linalg.pack_symmetric`.
        rhs: float32 ``[m, p]``; b_i = Σ_{u∋i} w_ui y_ui u.
        user_gram: float64 ``[p, p]``; G = Σ_u u uᵀ. Zero for explicit feedback, which says nothing of unobserved pairs.
        item_counts: int64 ``[m]``; n_i, users who have the item.
        n_users: |U_p|.
    """

    gram_packed: NDArray[np.float32]
    rhs: NDArray[np.float32]
    user_gram: NDArray[np.float64]
    item_counts: NDArray[np.int64]
    n_users: int


@dataclass(frozen=True, eq=False)
class Anchor:
    """A prior mean for item factors, a ridge shape that says how firmly each dimension is held to it.

    Attributes:
        item_factors: float32 ``[m, p]``.
        shape: float64 ``[p]``; multiplies λ_i dimension by dimension.
    """

    item_factors: NDArray[np.float32]
    shape: NDArray[np.float64]


class Trainer(Protocol):
    """Alternating least squares on one platform. The matrix's columns are the platform's catalogue C_p."""

    config: FactorizationConfig

    @property
    def width(self) -> int:
        """p: length of a row of user or item factors."""
        ...

    def first_item_factors(self, m: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Random item factors, float32 ``[m, p]``; row i depends on the generator's seed and on i only."""
        ...

    def solve_users(
        self,
        matrix: UserItemMatrix,
        item_factors: NDArray[np.float32],
        warm_start: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """User factors, float32 ``[n, p]``, from item factors ``[m, p]``; folds in histories never seen before too.

        Conjugate gradients need a start: without ``warm_start`` (``[n, p]``) the solve is exact whatever the solver.
        """
        ...

    def solve_items(
        self,
        matrix: UserItemMatrix,
        user_factors: NDArray[np.float32],
        warm_start: NDArray[np.float32] | None = None,
        anchor: Anchor | None = None,
    ) -> NDArray[np.float32]:
        """Item factors, float32 ``[m, p]``, from this platform's users alone (local or pooled training)."""
        ...

    def item_statistics(self, matrix: UserItemMatrix, user_factors: NDArray[np.float32]) -> ItemStatistics:
        """The sums from which the aggregator solves for item factors."""
        ...

    def objective(
        self, matrix: UserItemMatrix, user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]
    ) -> float:
        """This platform's data term plus its users' regularisation; sums over platforms to all but the items'."""
        ...

    def item_penalty(
        self, matrix: UserItemMatrix, item_factors: NDArray[np.float32], anchor: Anchor | None = None
    ) -> float:
        """Σ_i λ_i‖v_i‖², or what the anchor makes of it; completes the objective of local or pooled training."""
        ...

    def scoring_factors(
        self, user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Factors whose plain dot products are the predictions, biases included."""
        ...
