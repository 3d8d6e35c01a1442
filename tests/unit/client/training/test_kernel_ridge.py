"""Kernel ridge regression against scikit-learn, and its choice against leaving rows out one by one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from client.training import kernel_ridge

RNG = np.random.default_rng(4)
KNOWN = RNG.standard_normal((40, 3))
TARGETS = np.column_stack([np.sin(KNOWN[:, 0]), KNOWN[:, 1] ** 2]) + 7


def left_out(width: float, ridge: float) -> float:
    """Mean squared error of each row by a model of the others; the mean of all is taken out before."""
    errors, centred = [], TARGETS - TARGETS.mean(axis=0)
    for row in range(len(KNOWN)):
        others = np.arange(len(KNOWN)) != row
        model = KernelRidge(alpha=ridge, kernel="rbf", gamma=width).fit(KNOWN[others], centred[others])
        errors.append(centred[row] - model.predict(KNOWN[[row]])[0])
    return float(np.square(errors).mean())


def test_the_choice_is_that_of_leaving_out_each_row() -> None:
    squares = np.square(KNOWN[:, None] - KNOWN[None]).sum(axis=2)
    usual = np.median(squares[~np.eye(len(KNOWN), dtype=bool)])
    tried = {
        (relative / usual, ridge): left_out(relative / usual, ridge)
        for relative in (0.25, 0.5, 1.0, 2.0)
        for ridge in (0.03, 0.1, 0.3, 1.0, 3.0)
    }
    assert kernel_ridge._chosen(KNOWN, TARGETS) == pytest.approx(min(tried, key=tried.__getitem__))


def test_predictions_are_those_of_scikit_learn() -> None:
    width, ridge = kernel_ridge._chosen(KNOWN, TARGETS)
    asked = RNG.standard_normal((2100, 3))
    model = KernelRidge(alpha=ridge, kernel="rbf", gamma=width).fit(KNOWN, TARGETS - TARGETS.mean(axis=0))
    expected = model.predict(asked) + TARGETS.mean(axis=0)
    np.testing.assert_allclose(kernel_ridge.predict(KNOWN, TARGETS, asked), expected, atol=1e-8)


@pytest.mark.parametrize("n", [2, 3, 30])
def test_rows_that_are_all_alike_give_the_mean(n: int) -> None:
    found = kernel_ridge.predict(np.ones((n, 2)), np.tile([1.0, 2.0], (n, 1)), np.zeros((4, 2)))
    assert found == pytest.approx(np.tile([1.0, 2.0], (4, 1)))
    assert kernel_ridge.predict(np.ones((n, 2)), np.ones((n, 1)), np.zeros((0, 2))).shape == (0, 1)


def test_many_rows_are_thinned_alike_each_time() -> None:
    asked = RNG.standard_normal((5, 3))
    once, again = (kernel_ridge.predict(KNOWN, TARGETS, asked, chosen_on=20, fitted_on=30) for _ in range(2))
    assert (once == again).all()
    assert np.abs(once - TARGETS.mean(axis=0)).max() < 5
