"""The textbook example against a solution that shares no code with it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simulations.examples.article import RATINGS, REGULARIZATION, Solution, alternate, descend


def objective(users: NDArray[np.floating], items: NDArray[np.floating]) -> float:
    errors = np.where(RATINGS > 0, RATINGS - users.astype(float) @ items.astype(float).T, 0.0)
    return float((errors**2).sum() + REGULARIZATION * ((users.astype(float) ** 2).sum() + (items**2).sum()))


def independent_solution() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Alternation by ``np.linalg.lstsq`` on rows stacked with √λ."""

    def side(table: NDArray[np.floating], factors: NDArray[np.float64]) -> NDArray[np.float64]:
        solved = np.empty((len(table), 1))
        for row, ratings in enumerate(table):
            seen = ratings > 0
            design = np.vstack([factors[seen], [[np.sqrt(REGULARIZATION)]]])
            solved[row] = np.linalg.lstsq(design, np.append(ratings[seen], 0.0))[0]
        return solved

    users, items = np.zeros((4, 1)), np.ones((4, 1))
    for _ in range(3000):
        users = side(RATINGS, items)
        items = side(RATINGS.T, users)
    return users, items


@pytest.fixture(scope="module")
def alternated() -> Solution:
    return alternate()


def test_alternating_least_squares_reaches_the_independent_solution(alternated: Solution) -> None:
    users, items = independent_solution()
    np.testing.assert_allclose(alternated.predictions, users @ items.T, atol=1e-3)


def test_user_threes_best_two_are_those_of_the_independent_solution(alternated: Solution) -> None:
    users, items = independent_solution()
    row = (users @ items.T)[2]
    assert list(alternated.best_two) == (np.argsort(-row)[:2] + 1).tolist()
    assert alternated.best_unrated == 3


def test_no_small_step_lowers_the_objective_where_alternation_rests(alternated: Solution) -> None:
    rng = np.random.default_rng(0)
    best = objective(alternated.user_factors, alternated.item_factors)
    for _ in range(50):
        step = 0.02 * rng.standard_normal((2, 4, 1))
        assert objective(alternated.user_factors + step[0], alternated.item_factors + step[1]) > best


def test_adam_comes_to_rest_at_the_same_predictions(alternated: Solution) -> None:
    descended = descend()
    np.testing.assert_allclose(descended.predictions, alternated.predictions, atol=0.02)
    assert descended.best_two == alternated.best_two
