from __future__ import annotations

import numpy as np
import pytest

from common.errors import PrivacyError
from common.privacy.empirical_bayes import denoise_item_vectors, item_features


def a_federation_of_items(seed: int, *, m: int = 400, d: int = 4, explained: float = 1.0):
    """Items drawn from the model itself: taste from features and a correlated rest, popularity over two decades."""
    rng = np.random.default_rng(seed)
    attributes = rng.integers(0, 2, size=(m, 5)).astype(float)
    counts = np.exp(rng.uniform(1, 6, size=m))
    root = rng.normal(size=(d, d)) * 0.3
    tastes = explained * attributes @ rng.normal(size=(5, d)) + rng.normal(size=(m, d)) @ root
    exact = tastes * counts[:, None]
    return exact, counts, item_features(counts, attributes), root @ root.T, tastes, rng


@pytest.mark.parametrize("explained", [0.0, 1.0])
def test_denoised_vectors_are_much_nearer_than_what_was_released(explained: float) -> None:
    exact, sums, features, _, _, rng = a_federation_of_items(0, explained=explained)
    noisy = exact + rng.normal(size=exact.shape) * 30
    denoised = denoise_item_vectors(noisy, sums, 30.0, features, feature_variance=5.0)
    rare = sums < 20
    assert np.linalg.norm((denoised - exact)[rare]) < 0.35 * np.linalg.norm((noisy - exact)[rare])
    assert np.linalg.norm(denoised - exact) < 0.8 * np.linalg.norm(noisy - exact)


def test_the_posterior_mean_is_as_good_as_with_the_true_covariance() -> None:
    exact, sums, _, covariance, _, rng = a_federation_of_items(1, explained=0.0)
    sigma = 30.0
    noisy = exact + rng.normal(size=exact.shape) * sigma
    constant = np.ones((len(sums), 1))
    fitted = denoise_item_vectors(noisy, sums, sigma, constant, feature_variance=1e-6)
    # Oracle: the posterior mean under the covariance that generated the data, item by item.
    oracle = np.stack(
        [
            w * covariance @ np.linalg.solve(covariance + (sigma / w) ** 2 * np.eye(4), b / w)
            for w, b in zip(sums, noisy, strict=True)
        ]
    )
    assert np.linalg.norm(fitted - exact) < 1.03 * np.linalg.norm(oracle - exact)


def test_without_noise_nothing_changes() -> None:
    exact, sums, features, *_ = a_federation_of_items(2)
    assert denoise_item_vectors(exact, sums, 1e-9, features, feature_variance=1.0) == pytest.approx(exact, rel=1e-6)


def test_noise_that_differs_by_item_counts_by_item() -> None:
    exact, sums, features, _, _, rng = a_federation_of_items(3)
    sigma = np.where(np.arange(len(sums)) % 2 == 0, 5.0, 80.0)
    noisy = exact + rng.normal(size=exact.shape) * sigma[:, None]
    by_item = denoise_item_vectors(noisy, sums, sigma, features, feature_variance=5.0)
    as_if_equal = denoise_item_vectors(noisy, sums, float(np.sqrt(np.mean(sigma**2))), features, feature_variance=5.0)
    assert np.linalg.norm(by_item - exact) < 0.8 * np.linalg.norm(as_if_equal - exact)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(scale: float) -> None:
    exact, sums, features, _, _, rng = a_federation_of_items(4)
    noisy = exact + rng.normal(size=exact.shape) * 30
    reference = denoise_item_vectors(noisy, sums, 30.0, features, feature_variance=2.0)
    rescaled = denoise_item_vectors(noisy * scale, sums, 30.0 * scale, features, feature_variance=2.0)
    assert rescaled / scale == pytest.approx(reference, rel=1e-4, abs=1e-6 * np.abs(reference).max())


def test_pure_noise_and_a_single_item_give_finite_answers() -> None:
    rng = np.random.default_rng(5)
    noise = denoise_item_vectors(rng.normal(size=(50, 6)), np.ones(50), 1.0, np.ones((50, 1)), feature_variance=1.0)
    assert np.isfinite(noise).all()
    assert np.linalg.norm(noise) < 0.5 * np.sqrt(300)
    single = denoise_item_vectors(np.ones((1, 2)), np.ones(1), 1.0, np.ones((1, 1)), feature_variance=1.0)
    assert np.isfinite(single).all()
    zero = denoise_item_vectors(np.zeros((3, 2)), np.ones(3), 1.0, np.ones((3, 1)), feature_variance=1.0)
    assert zero == pytest.approx(np.zeros((3, 2)))


def test_an_item_without_weight_is_refused() -> None:
    with pytest.raises(PrivacyError, match="weight_sums"):
        denoise_item_vectors(np.ones((2, 2)), np.array([1.0, 0.0]), 1.0, np.ones((2, 1)), feature_variance=1.0)


def test_features_are_constant_centred_popularity_and_attributes() -> None:
    features = item_features(np.array([1.0, np.e**2]), np.array([[0.0], [1.0]]))
    assert features == pytest.approx(np.array([[1, -1, 0], [1, 1, 1]]))
