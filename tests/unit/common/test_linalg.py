"""Packing, batched solves and ridges against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, ContractError
from common.linalg import (
    initial_item_factors,
    pack_symmetric,
    packed_size,
    scaled_ridge,
    solve_posdef,
    unpack_symmetric,
)


@given(st.integers(0, 9), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_packing_round_trips_to_the_bit(d: int, k: int, seed: int) -> None:
    half = np.random.default_rng(seed).standard_normal((k, d, d)).astype(np.float32)
    symmetric = half + half.transpose(0, 2, 1)
    packed = pack_symmetric(symmetric)
    assert packed.shape == (k, packed_size(d))
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(unpack_symmetric(packed, d), symmetric)


def test_packing_keeps_the_upper_triangle_row_by_row() -> None:
    assert pack_symmetric(np.array([[1, 2, 3], [9, 4, 5], [9, 9, 6]])).tolist() == [1, 2, 3, 4, 5, 6]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ContractError, match="6 entries"):
        unpack_symmetric(np.zeros((2, 5)), 3)
    with pytest.raises(ContractError, match="square"):
        pack_symmetric(np.zeros((2, 3)))
    with pytest.raises(ContractError, match="shapes"):
        solve_posdef(np.zeros((2, 3, 3)), np.zeros((2, 2)))


@given(st.integers(1, 12), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_batched_solve_is_numpys_solve(d: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((k, d, d))
    a, b = root @ root.transpose(0, 2, 1) + np.eye(d), rng.standard_normal((k, d))
    expected = np.linalg.solve(a, b[:, :, None])[:, :, 0]
    np.testing.assert_allclose(solve_posdef(a, b), expected, rtol=1e-8, atol=1e-10)


def test_blocks_cover_every_system() -> None:
    scales = np.arange(1.0, 12.0)
    solutions = solve_posdef(scales[:, None, None] * np.eye(3), np.ones((11, 3)), block_bytes=8 * 9 * 4)
    np.testing.assert_allclose(solutions, 1 / scales[:, None] * np.ones(3))


def test_float32_input_is_solved_in_float64() -> None:
    a = np.array([[[1.0, 0.9999], [0.9999, 1.0]]], dtype=np.float32)
    expected = np.linalg.solve(a[0].astype(np.float64), np.ones(2))
    solution = solve_posdef(a, np.ones((1, 2), dtype=np.float32))
    assert solution.dtype == np.float64
    np.testing.assert_allclose(solution[0], expected, rtol=1e-9)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_system_that_is_not_positive_definite_or_finite_is_refused(bad: float) -> None:
    a = np.stack([np.eye(3), np.diag([1.0, bad, 1.0])])
    with pytest.raises(ConfigError, match="regularization"):
        solve_posdef(a, np.ones((2, 3)))


def test_a_right_hand_side_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ConfigError, match="finite"):
        solve_posdef(np.eye(2)[None], np.array([[1.0, np.nan]]))


def test_ridges_scale_with_the_weight_sums_power() -> None:
    np.testing.assert_allclose(scaled_ridge(2.0, np.array([0, 4, 9]), 0.5), [2.0, 4.0, 6.0])
    np.testing.assert_array_equal(scaled_ridge(2.0, np.array([0, 4, 9]), 0.0), [2.0, 2.0, 2.0])


def test_an_items_first_factor_ignores_the_catalogues_length() -> None:
    short = initial_item_factors(5, 4, np.random.default_rng(3), 0.1)
    long = initial_item_factors(50, 4, np.random.default_rng(3), 0.1)
    np.testing.assert_array_equal(long[:5], short)


def test_first_factors_have_the_configured_scale() -> None:
    factors = initial_item_factors(2_000, 16, np.random.default_rng(0), 0.1)
    assert factors.dtype == np.float32
    assert factors.std() == pytest.approx(0.1 / 4, rel=0.02)
