from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.privacy import tuned_setting
from common.errors import PrivacyError
from common.privacy.postprocess import (
    ReleasedSums,
    clamp_counts,
    expected_weight_sums,
    isometric_scale,
    item_factors,
    item_weights,
    normalised_factors,
    observed_grams,
    project_psd,
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


def test_weights_fall_with_popularity_and_end_with_the_kept_items() -> None:
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


def exact_sums(seed: int, *, n: int = 400, m: int = 30, d: int = 3) -> tuple[ReleasedSums, np.ndarray]:
    """Sums over users who all have ten items, without noise, and the exact A_i."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, d)) + 1.0
    tastes = factors @ rng.normal(size=(d, m)) + rng.normal(size=(n, m))
    seen = np.zeros((n, m))
    np.put_along_axis(seen, np.argsort(-tastes, axis=1)[:, :10], 1, axis=1)
    weights = seen * np.sqrt(MECHANISM.weight_total / 10)
    counts = np.maximum(seen.sum(axis=0), 1.0)
    gram = factors.T @ factors
    released = ReleasedSums(
        counts=counts,
        users=n,
        item_vectors=weights.T @ factors,
        item_sigma=1e-9,
        user_gram=gram,
        catalogue_gram=gram,
    )
    return released, np.einsum("ui,ud,ue->ide", weights, factors, factors)


MECHANISM = tuned_setting(3.0).mechanism.model_copy(update={"popularity_exponent": 0.0, "kept_items": 100})
SETTING = tuned_setting(3.0).model_copy(update={"mechanism": MECHANISM, "dimension": 3})


def test_estimated_grams_are_nearer_to_the_truth_than_common_shares() -> None:
    released, exact = exact_sums(0)
    sums = expected_weight_sums(released.counts, np.ones(30), users=400, weight_total=MECHANISM.weight_total)
    estimated = observed_grams(released.item_vectors, sums, released.user_gram, users=400)
    shared = sums[:, None, None] / 400 * released.user_gram
    assert np.linalg.norm(estimated - exact) < 0.7 * np.linalg.norm(shared - exact)
    assert np.linalg.eigvalsh(estimated).min() > -1e-6


def test_an_item_of_average_users_has_its_share_of_the_common_gram() -> None:
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(50, 3)) + 1
    gram, sums = factors.T @ factors, np.array([5.0, 20.0])
    vectors = sums[:, None] * factors.mean(axis=0)
    assert observed_grams(vectors, sums, gram, users=50) == pytest.approx(sums[:, None, None] / 50 * gram)


def test_item_factors_solve_the_normal_equations_up_to_scale() -> None:
    released, exact = exact_sums(2)
    factors = item_factors(dataclasses.replace(released, item_grams=exact), SETTING)
    ridge = SETTING.item_regularization * np.trace(released.user_gram) / 3
    systems = exact + SETTING.unobserved_weight * released.user_gram + ridge * np.eye(3)
    oracle = np.stack(
        [np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(systems, released.item_vectors, strict=True)]
    )
    assert factors / np.linalg.norm(factors) == pytest.approx(oracle / np.linalg.norm(oracle), abs=1e-6)
    assert np.trace(factors.T @ factors) / 3 == pytest.approx(1)


def test_only_platforms_with_the_item_count_as_not_choosing_it() -> None:
    released, exact = exact_sums(3)
    catalogue_gram = np.repeat(released.catalogue_gram[None], 30, axis=0)
    catalogue_gram[4] *= 0.75
    two = dataclasses.replace(released, catalogue_gram=catalogue_gram, item_grams=exact)
    one = item_factors(dataclasses.replace(released, item_grams=exact), SETTING)
    factors = item_factors(two, SETTING)
    ratio = np.linalg.norm(factors[5]) / np.linalg.norm(one[5])
    others = np.arange(30) != 4
    assert factors[others] == pytest.approx(one[others] * ratio)
    gram = released.user_gram
    ridge = SETTING.item_regularization * np.trace(gram) / 3
    alone = np.linalg.solve(
        exact[4] + SETTING.unobserved_weight * 0.75 * gram + ridge * np.eye(3), released.item_vectors[4]
    )
    assert factors[4] / np.linalg.norm(factors[4]) == pytest.approx(alone / np.linalg.norm(alone))


def test_items_not_kept_get_no_factor_at_any_scale_of_users() -> None:
    released, _ = exact_sums(4)
    setting = SETTING.model_copy(update={"mechanism": MECHANISM.model_copy(update={"kept_items": 7})})
    factors = item_factors(released, setting)
    kept = np.argsort(-released.counts, kind="stable")[:7]
    assert sorted(np.flatnonzero(factors.any(axis=1))) == sorted(kept)
    larger = dataclasses.replace(
        released,
        item_vectors=released.item_vectors * 50,
        item_sigma=50e-9,
        user_gram=released.user_gram * 2500,
        catalogue_gram=released.catalogue_gram * 2500,
    )
    assert item_factors(larger, setting) == pytest.approx(factors, rel=1e-5, abs=1e-8)


def test_factors_that_are_all_zero_stay_so() -> None:
    assert normalised_factors(np.zeros((3, 2))).tolist() == [[0, 0]] * 3
