from __future__ import annotations

import numpy as np

from simulations.tuning import smallest_of_the_best


def grids_of(mean: list[list[float]], noise: float, k: int = 40) -> np.ndarray:
    shape = (k, len(mean), len(mean[0]))
    return np.array(mean) + noise * np.random.default_rng(0).standard_normal(shape)


def test_a_clear_best_is_chosen() -> None:
    grids = grids_of([[1.0, 1.02, 1.0], [1.0, 1.01, 1.3], [0.9, 1.0, 1.1]], noise=0.05)
    assert smallest_of_the_best(grids, np.ones(40)) == (1, 2)


def test_without_a_clear_gain_nothing_is_added_to_the_factors() -> None:
    grids = grids_of([[1.0, 1.0], [1.001, 1.0]], noise=0.05)
    assert smallest_of_the_best(grids, np.ones(40)) == (0, 0)


def test_slices_count_by_their_weight() -> None:
    one, other = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [3.0, 0.0]])
    grids = np.stack([one, one, other, other])
    assert smallest_of_the_best(grids, np.array([100.0, 100.0, 1.0, 1.0])) == (0, 1)
    assert smallest_of_the_best(grids, np.array([1.0, 1.0, 100.0, 100.0])) == (1, 0)


def test_a_single_slice_decides_by_itself() -> None:
    assert smallest_of_the_best(np.array([[[1.0, 1.1], [1.05, 1.2]]]), np.ones(1)) == (1, 1)
