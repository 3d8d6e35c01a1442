"""The textbook example: four users, four items, one factor, λ = 0.01, by alternating least squares and by Adam.

Introductions to collaborative filtering factorise a small table of ratings and print the factors. The table here is in
the usual style ("–" is not rated; every item has a rating, so that every item has a factor):

    ======  ======  ======  ======  ======
            item 1  item 2  item 3  item 4
    ======  ======  ======  ======  ======
    user 1    5       3       –       1
    user 2    4       –       –       1
    user 3    1       1       –       5
    user 4    –       1       5       4
    ======  ======  ======  ======  ======

What is minimised: Σ (r_ui − u·v_i)² over the ratings there are, plus λ(Σ u² + Σ v_i²).

Numbers printed in articles of this kind do not follow from their formulas where the first factors and the stopping rule
are not given: a factor's sign is arbitrary, and a few sweeps stop somewhere on the way. So nothing here is quoted from
anywhere. First factors are stated, sweeps go on until nothing moves, and the predictions u·v_i, which have no arbitrary
sign, are what the tests compare with an independent solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.scoring.topk import top_k
from client.training.factory import make_kernels
from client.training.kernels.systems import Entries, RowSystems
from common.config.model import FactorizationConfig

RATINGS = np.array([[5, 3, 0, 1], [4, 0, 0, 1], [1, 1, 0, 5], [0, 1, 5, 4]], dtype=np.float32)
"""0 is not rated."""
REGULARIZATION = 0.01
SWEEPS = 1000


@dataclass(frozen=True, eq=False)
class Solution:
    """Factors and what they say of user 3.

    Attributes:
        user_factors: float32 ``[4, 1]``.
        item_factors: float32 ``[4, 1]``.
        best_two: items (from 1) with the highest predictions for user 3, rated or not.
        best_unrated: the best item that user 3 has not rated, from 1.
    """

    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    best_two: tuple[int, int]
    best_unrated: int

    @property
    def predictions(self) -> NDArray[np.float32]:
        """float32 ``[4, 4]``."""
        return self.user_factors @ self.item_factors.T


def ratings_matrix(ratings: NDArray[np.float32] = RATINGS) -> UserItemMatrix:
    """A table with 0 for "not rated" as the library's common form."""
    users, items = np.nonzero(ratings)
    n, m = ratings.shape
    return UserItemMatrix.from_entries(users, items, ratings[users, items], np.arange(len(users)), n_users=n, n_items=m)


def alternate() -> Solution:
    """Users from items, items from users, from item factors of 1, until both rest."""
    table = ratings_matrix()
    by_item = ratings_matrix(RATINGS.T)
    users, items = np.zeros((4, 1), dtype=np.float32), np.ones((4, 1), dtype=np.float32)
    for _ in range(SWEEPS):
        users = _least_squares(table, items)
        items = _least_squares(by_item, users)
    return _solution(users, items)


def descend() -> Solution:
    """The same objective by Adam in TensorFlow."""
    from simulations.examples.adam import fit_with_adam

    rng = np.random.default_rng(0)
    return _solution(*fit_with_adam(ratings_matrix(), rng, dimension=1, regularization=REGULARIZATION))


def _least_squares(ratings: UserItemMatrix, factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row's x = (Σ f fᵀ + λI)⁻¹ Σ r f over the entries of the row."""
    kernels = make_kernels(FactorizationConfig(device="cpu"))
    entries = Entries(ratings.indptr, ratings.indices, np.ones_like(ratings.values), ratings.values)
    ridge = np.full(ratings.n_users, REGULARIZATION)
    return kernels.solve_cholesky(RowSystems(entries, factors, np.zeros((1, 1)), ridge, np.ones(1)))


def _solution(users: NDArray[np.float32], items: NDArray[np.float32]) -> Solution:
    row = users[2:3] @ items.T
    (first, second), (unrated,) = (
        (top_k(row, k, exclude)[0][0] + 1).tolist()
        for k, exclude in ((2, None), (1, ratings_matrix().select_users(np.array([2]))))
    )
    return Solution(users, items, (first, second), unrated)


if __name__ == "__main__":
    for name, solution in (("alternating least squares", alternate()), ("Adam", descend())):
        print(f"{name}: user 3 rates items {solution.best_two} highest; best unrated: item {solution.best_unrated}")
        print(np.round(solution.predictions, 2))
