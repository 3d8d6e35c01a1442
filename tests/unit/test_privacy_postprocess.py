from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import PrivacyError
from common.privacy.postprocess import (
    clamp_counts,
    expected_weight_sums,
    isometric_scale,
    item_weights,
    project_psd,
    shrink_singular_values,
    solve_items,
    unpack_gram,
)


@given(d=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_packed_triangles_have_the_frobenius_norm_and_come_back(d: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(d, d))
    matrix += matrix.T
    packed = matrix[np.triu_indices(d)] * isometric_scale(d)
    assert np.linalg.norm(packed) == pytest.approx(np.linalg.norm(matrix))
    assert unpack_gram(packed, d) == pytest.approx(matrix)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_projection_is_the_nearest_positive_semidefinite_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(5, 5))
    matrix += matrix.T
    projected = project_psd(matrix)
    assert np.linalg.eigvalsh(projected).min() > -1e-9
    # Optimality over the cone: what was taken away is negative semidefinite and orthogonal to what is left.
    assert np.linalg.eigvalsh(matrix - projected).max() < 1e-9
    assert abs(np.sum((matrix - projected) * projected)) < 1e-8


def test_counts_and_users_are_at_least_one() -> None:
    counts, users = clamp_counts(np.array([5.0, -3.0, 0.2, -7.0]))
    assert counts.tolist() == [5, 1, 1]
    assert users == 1
    with pytest.raises(PrivacyError):
        clamp_counts(np.array([1.0]))


def test_weights_fall_with_popularity_and_are_zero_beyond_the_kept_items() -> None:
    weights = item_weights(np.array([16.0, 1.0, 4.0, -2.0]), kept_items=3, popularity_exponent=0.5)
    assert weights.tolist() == [0.25, 1.0, 0.5, 0.0]
    assert item_weights(np.array([2.0, 2.0, 2.0]), kept_items=2, popularity_exponent=0).tolist() == [1, 1, 0]


def test_expected_weight_sums_are_exact_for_users_of_equal_normaliser() -> None:
    rng = np.random.default_rng(0)
    n, m, per_user, total = 500, 20, 6, 7.0
    seen = np.zeros((n, m))
    for row in seen:
        row[rng.permutation(m)[:per_user]] = 1
    exact = (seen * np.sqrt(total / per_user)).sum(axis=0)
    assert expected_weight_sums(seen.sum(axis=0), np.ones(m), users=n, weight_total=total) == pytest.approx(exact)
    assert expected_weight_sums(np.ones(2), np.zeros(2), users=5, weight_total=1).tolist() == [0, 0]


def test_shrinkage_comes_nearer_to_the_signal_and_leaves_nothing_of_pure_noise() -> None:
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 16))
    noise = rng.normal(size=signal.shape)
    error = np.linalg.norm(shrink_singular_values(signal + 1.5 * noise, 1.5) - signal)
    hard = np.linalg.svd(signal + 1.5 * noise, full_matrices=False)
    truncated = np.linalg.norm((hard[0][:, :2] * hard[1][:2]) @ hard[2][:2] - signal)
    assert error < truncated < np.linalg.norm(1.5 * noise)
    assert np.linalg.norm(shrink_singular_values(noise, 1.05)) == 0
    assert shrink_singular_values(signal.T, 1e-9) == pytest.approx(signal.T, abs=1e-6)


def test_shrunken_singular_values_are_those_of_the_formula() -> None:
    # β = 1: η(y) = √(y² − 4) above 2; β = 1/4: η(3) = √((9 − 5/4)² − 1)/3.
    assert np.diag(shrink_singular_values(np.diag([3.0, 1.9]), 1 / np.sqrt(2))) == pytest.approx([np.sqrt(5), 0])
    tall = np.array([[3.0], [0], [0], [0]])
    assert shrink_singular_values(tall, 0.5)[0, 0] == pytest.approx(np.sqrt(7.75**2 - 1) / 3)


@pytest.mark.parametrize("with_prior", [False, True])
def test_the_item_solve_is_the_least_squares_solution(with_prior: bool) -> None:
    rng = np.random.default_rng(2)
    users, factors = 50, rng.normal(size=(50, 4))
    gram = factors.T @ factors
    weight_sums, vectors = rng.random(3) * 20, rng.normal(size=(3, 4))
    prior = rng.normal(size=(3, 4)) if with_prior else None
    solved = solve_items(
        vectors, gram, weight_sums, gram, users=users, unobserved_weight=0.3, regularization=2.0, prior=prior
    )
    for i in range(3):
        system = weight_sums[i] / users * gram + 0.3 * gram + 2 * np.eye(4)
        right = vectors[i] + (2 * prior[i] if with_prior else 0)
        assert solved[i] == pytest.approx(np.linalg.lstsq(system, right, rcond=None)[0])
