"""The mechanism of the item-item sums: sensitivity on neighbours, exactness, noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.config.ease import EaseConfig, EasePrivacy
from common.contributions.cooccurrence import (
    CooccurrenceMechanism,
    cooccurrence_noise,
    masked_size,
    packed_products,
    users_from,
)
from common.errors import PrivacyError
from common.linalg import pack_symmetric, packed_size
from common.privacy.gdp import compose
from common.privacy.sampler import SystemNoise

K = 12


class _ConstantWords:
    """Words of a fixed stream: the same noise whatever the data is."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def words(self, count: int) -> np.ndarray:
        return self._rng.integers(0, 2**64, count, dtype=np.uint64)


def _rows(histories: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.cumsum([0, *(len(row) for row in histories)]).astype(np.int64)
    return indptr, np.array([item for row in histories for item in row], dtype=np.int32)


def _config(weighting: float = 0.25, norm: float = 1.0) -> EaseConfig:
    return EaseConfig(user_weighting=weighting, privacy=EasePrivacy(history_norm=norm))


def _release(histories: list[list[int]], config: EaseConfig, seed: int = 1) -> np.ndarray:
    noise = cooccurrence_noise(config, mu=0.5)
    mechanism = CooccurrenceMechanism(noise, config, _ConstantWords(seed))
    released = mechanism.release(*_rows(histories), n_items=K)
    return released.arrays["cooccurrence"] * released.grid_steps["cooccurrence"]


history = st.lists(st.integers(0, K - 1), unique=True, max_size=K)


@settings(max_examples=60, deadline=None)
@given(st.lists(history, max_size=6), history, st.floats(0, 1), st.floats(0.1, 5))
def test_one_user_moves_the_release_by_at_most_the_sensitivity(
    others: list[list[int]], user: list[int], weighting: float, norm: float
) -> None:
    config = _config(weighting, norm)
    moved = np.linalg.norm(_release([*others, user], config) - _release(others, config))
    assert moved <= cooccurrence_noise(config, mu=0.5).sensitivity
    assert moved <= norm**2


@pytest.mark.parametrize("length", [1, 2, K])
def test_a_long_history_reaches_the_bound_almost(length: int) -> None:
    config = _config(0.0, 1.0)
    moved = np.linalg.norm(_release([list(range(length))], config) - _release([], config))
    assert 0.999 < moved <= 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(history, min_size=1, max_size=8), st.integers(0, 10**6))
def test_sums_equal_dense_products(histories: list[list[int]], seed: int) -> None:
    weights = np.random.default_rng(seed).integers(1, 1000, len(histories))
    dense = np.zeros((len(histories), K), dtype=np.int64)
    for row, items in zip(dense, histories, strict=True):
        row[items] = 1
    packed = packed_products(*_rows(histories), weights, weights, K)
    np.testing.assert_array_equal(packed, pack_symmetric(dense.T @ (weights[:, None] * dense)))


def test_blocks_of_items_are_put_together_in_order() -> None:
    rng = np.random.default_rng(3)
    dense = (rng.random((40, 600)) < 0.1).astype(np.float64)
    histories = [np.flatnonzero(row).tolist() for row in dense]
    packed = packed_products(*_rows(histories), np.ones(40), np.ones(40), 600)
    np.testing.assert_array_equal(packed, pack_symmetric(dense.T @ dense))


def test_every_pair_gets_noise_of_the_promised_deviation() -> None:
    config = EaseConfig()
    noise = cooccurrence_noise(config, mu=0.7)
    mechanism = CooccurrenceMechanism(noise, config, SystemNoise())
    released = mechanism.release(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32), n_items=90)
    draws = released.arrays["cooccurrence"] * released.grid_steps["cooccurrence"]
    assert len(draws) == packed_size(90)
    assert stats.kstest(draws, "norm", args=(0, noise.sigma)).pvalue > 1e-4
    assert stats.kstest(draws, "norm", args=(0, noise.sigma * 2 / 3)).pvalue < 1e-6


def test_the_share_is_what_the_ledger_is_charged() -> None:
    config = EaseConfig(privacy=EasePrivacy(share=0.3))
    mechanism = CooccurrenceMechanism(cooccurrence_noise(config, mu=0.8), config)
    spent = compose(release.noise_multiplier for release in mechanism.releases())
    assert spent <= 0.8 * math.sqrt(0.3)
    assert spent == pytest.approx(0.8 * math.sqrt(0.3), rel=1e-9)


def test_noise_made_for_a_smaller_norm_is_refused() -> None:
    noise = cooccurrence_noise(_config(norm=1.0), mu=1.0)
    with pytest.raises(PrivacyError, match="history_norm"):
        CooccurrenceMechanism(noise, _config(norm=1.5))


@pytest.mark.parametrize("indices", [[0, 0], [0, K], [-1, 2]])
def test_rows_on_which_the_bound_does_not_hold_are_refused(indices: list[int]) -> None:
    config = EaseConfig()
    mechanism = CooccurrenceMechanism(cooccurrence_noise(config, mu=1.0), config)
    with pytest.raises(PrivacyError, match="indices"):
        mechanism.release(np.array([0, 2], dtype=np.int64), np.array(indices, dtype=np.int32), n_items=K)


def test_sums_that_could_overflow_are_refused() -> None:
    config = EaseConfig()
    mechanism = CooccurrenceMechanism(cooccurrence_noise(config, mu=1e15), config)
    with pytest.raises(PrivacyError, match="overflow"):
        mechanism.release(*_rows([[1, 2]]), n_items=K)


def _masked(histories: list[list[int]], config: EaseConfig, member: tuple[int, int] | None = (1, 3)) -> np.ndarray:
    noise = cooccurrence_noise(config, mu=0.5, shares=2, masked=True)
    mechanism = CooccurrenceMechanism(noise, config, _ConstantWords(1))
    released = mechanism.release(*_rows(histories), n_items=K, member=member)
    assert released.masked == set(released.arrays) == {"cooccurrence", "linear_users"}
    vector = np.concatenate([released.arrays[name] for name in sorted(released.arrays)])
    assert len(vector) == masked_size(K, 3)
    return vector * noise.grid_step


@settings(max_examples=40, deadline=None)
@given(st.lists(history, max_size=4), history, st.floats(0, 1), st.floats(0.1, 5))
def test_one_user_moves_all_that_is_masked_by_at_most_the_sensitivity(
    others: list[list[int]], user: list[int], weighting: float, norm: float
) -> None:
    config = _config(weighting, norm)
    moved = np.linalg.norm(_masked([*others, user], config) - _masked(others, config))
    sensitivity = cooccurrence_noise(config, mu=0.5, masked=True).sensitivity
    assert moved <= sensitivity
    if user and weighting == 0:
        assert moved > 0.99 * sensitivity or norm**2 > len(user)


def test_masked_noise_is_made_for_the_number_of_users_too() -> None:
    config = _config()
    plain, masked = (cooccurrence_noise(config, mu=0.5, masked=masked) for masked in (False, True))
    assert masked.sensitivity == pytest.approx(plain.sensitivity * math.sqrt(17 / 16))
    too_little = type(masked)(sensitivity=1.0, noise_multiplier=masked.noise_multiplier, shares=2, masked=True)
    with pytest.raises(PrivacyError, match="history_norm"):
        CooccurrenceMechanism(too_little, config)


def test_users_with_a_kept_item_count_at_their_platforms_place_alone() -> None:
    config = _config(norm=2.0)
    histories = [[1, 2], [], [3], []]
    moved = (_masked(histories, config) - _masked([], config))[-3:]
    step = cooccurrence_noise(config, mu=0.5, shares=2, masked=True).grid_step
    found = users_from(np.rint(moved / step).astype(np.int64), config, step)
    assert found == pytest.approx([1.0, 2.0, 1.0], abs=1e-4), "at least 1: logarithms and quotients are taken of it"


@pytest.mark.parametrize("member", [None, (3, 3), (-1, 3)])
def test_masked_statistics_without_a_place_are_refused(member: tuple[int, int] | None) -> None:
    with pytest.raises(PrivacyError, match="member"):
        _masked([[1]], _config(), member)
