"""Whitening of text vectors: what it does to many, and that it does no harm to few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.text.whitening import Whitening


def cone(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Unit vectors in a narrow cone, some directions of it much wider than others."""
    rng = np.random.default_rng(seed)
    raw = 5.0 * np.eye(d)[0] + rng.normal(size=(n, d)) * np.geomspace(1.0, 0.05, d)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def test_whole_whitening_of_many_texts_makes_the_covariance_round() -> None:
    vectors = cone(5000, 12)
    fitted = Whitening.fit(vectors, power=1.0)
    white = (vectors - vectors.mean(axis=0)) @ fitted.matrix
    values = np.linalg.eigvalsh(np.cov(white.T))
    assert values[-1] / values[0] < 1.5
    raw = np.linalg.eigvalsh(np.cov(vectors.T))
    assert raw[-1] / raw[0] > 100


def test_cosines_of_a_cone_are_spread_by_it() -> None:
    vectors = cone(500, 12)
    white = Whitening.fit(vectors).transform(vectors).astype(np.float64)
    others = ~np.eye(500, dtype=bool)
    assert (vectors @ vectors.T)[others].mean() > 0.8
    assert abs((white @ white.T)[others].mean()) < 0.05


def test_power_zero_only_centres() -> None:
    vectors = cone(500, 6)
    expected = vectors - vectors.sum(axis=0) / (500 + 10)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(Whitening.fit(vectors, 0.0).transform(vectors), expected, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_few_texts_do_not_blow_up(n: int) -> None:
    vectors = cone(max(n, 1), 64)[:n]
    fitted = Whitening.fit(vectors, power=1.0)
    values = np.linalg.eigvalsh(fitted.matrix)
    assert values[-1] / values[0] < 30
    white = fitted.transform(vectors)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, atol=1e-5)


def test_equal_texts_stay_equal_and_near() -> None:
    white = Whitening.fit(np.tile(cone(1, 8), (30, 1))).transform(np.tile(cone(1, 8), (30, 1)))
    np.testing.assert_allclose(white @ white.T, 1, atol=1e-5)


def test_items_without_text_do_not_count_and_stay_zero() -> None:
    vectors = cone(100, 8)
    gaps = np.vstack([np.zeros((50, 8)), vectors])
    alone, among = Whitening.fit(vectors), Whitening.fit(gaps)
    np.testing.assert_allclose(alone.matrix, among.matrix)
    assert not among.transform(gaps)[:50].any()


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.float32, st.tuples(st.integers(0, 12), st.just(5)), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_whitened_vectors_are_finite_and_of_unit_length_or_zero(vectors: np.ndarray, power: float) -> None:
    white = Whitening.fit(vectors, power).transform(vectors)
    lengths = np.linalg.norm(white, axis=1)
    assert np.isfinite(white).all()
    assert ((lengths == 0) | (np.abs(lengths - 1) < 1e-4)).all()
