from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from common.errors import PrivacyError
from common.privacy.sampler import SystemNoise, _uniform_below, discrete_gaussian


class SeededNoise:
    """Reproducible words, for tests alone."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def words(self, count: int) -> np.ndarray:
        return self._rng.integers(0, 2**64, size=count, dtype=np.uint64)


def discrete_gaussian_p_value(draws: np.ndarray, sigma: float) -> float:
    """Chi-square test of ``draws`` against N_Z(0, σ²) with exactly computed probabilities."""
    support = np.arange(-40 * int(sigma + 1), 40 * int(sigma + 1) + 1)
    weights = np.exp(-(support**2) / (2 * sigma**2))
    expected = len(draws) * weights / weights.sum()
    bulk = expected >= 20
    observed = np.array([(draws == x).sum() for x in support[bulk]])
    observed, expected = (
        np.append(observed, len(draws) - observed.sum()),
        np.append(expected[bulk], expected[~bulk].sum()),
    )
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    return float(stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("log2_sigma", [0, 1, 3])
def test_draws_follow_the_discrete_gaussian_exactly(log2_sigma: int) -> None:
    draws = discrete_gaussian(200_000, log2_sigma, SeededNoise(7))
    assert discrete_gaussian_p_value(draws, 2.0**log2_sigma) > 1e-3


@pytest.mark.parametrize("wrong", [2 / 3, 0.98, 1.02])
def test_the_same_test_rejects_a_wrong_sigma(wrong: float) -> None:
    draws = discrete_gaussian(200_000, 3, SeededNoise(7))
    assert discrete_gaussian_p_value(draws, 8 * wrong) < 1e-6


def test_a_fine_grid_is_indistinguishable_from_a_gaussian() -> None:
    draws = discrete_gaussian(200_000, 16, SystemNoise()) / 2**16
    assert stats.kstest(draws, "norm").pvalue > 1e-6
    assert stats.kstest(draws * 2 / 3, "norm").pvalue < 1e-12


def test_draws_are_independent_between_positions() -> None:
    draws = discrete_gaussian(100_001, 16, SeededNoise(3)) / 2**16
    assert abs(np.mean(draws[1:] * draws[:-1])) < 5 / np.sqrt(100_000)
    assert abs(np.mean(draws[1:] ** 2 * draws[:-1] ** 2) - 1) < 0.05


def test_system_noise_never_repeats() -> None:
    assert not np.array_equal(SystemNoise().words(4), SystemNoise().words(4))


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_size_is_what_was_asked_for(size: int) -> None:
    draws = discrete_gaussian(size, 16, SystemNoise())
    assert draws.shape == (size,)
    assert draws.dtype == np.int64


def test_words_beyond_the_last_whole_multiple_are_drawn_again() -> None:
    class Edge:
        def __init__(self) -> None:
            self.batches = [np.array([2**64 - 1, 5], dtype=np.uint64), np.array([4], dtype=np.uint64)]

        def words(self, count: int) -> np.ndarray:
            return self.batches.pop(0)

    # 2^64 mod 3 is 1, so the topmost word would favour 0.
    assert _uniform_below(2, 3, Edge()).tolist() == [1, 2]


@pytest.mark.parametrize("log2_sigma", [-1, 25])
def test_a_grid_beyond_exact_arithmetic_is_refused(log2_sigma: int) -> None:
    with pytest.raises(PrivacyError, match="log2_sigma"):
        discrete_gaussian(1, log2_sigma, SystemNoise())
