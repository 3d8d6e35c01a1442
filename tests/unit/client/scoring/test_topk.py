from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client.data.dataset import UserItemMatrix
from client.scoring import topk
from client.scoring.topk import top_k, top_k_factors
from common.errors import ContractError


def entries(mask: np.ndarray) -> UserItemMatrix:
    users, items = np.nonzero(mask)
    ones = np.ones(len(users))
    return UserItemMatrix.from_entries(
        users, items, ones, np.arange(len(users))[::-1], n_users=mask.shape[0], n_items=mask.shape[1]
    )


def by_full_sort(scores: np.ndarray, k: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A stable sort of the whole row, then the allowed items in that order."""
    ids = np.full((len(scores), k), -1)
    values = np.full((len(scores), k), -np.inf, dtype=np.float32)
    for user, row in enumerate(scores):
        order = [item for item in np.argsort(-row, kind="stable") if allowed[user, item] and row[item] > -np.inf][:k]
        ids[user, : len(order)] = order
        values[user, : len(order)] = row[order]
    return ids, values


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Scores with many ties, both zeros, infinities and subnormal numbers; what to exclude; candidates."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 12)))
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, -2.5, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf])
    wide = st.floats(width=32, allow_nan=False)
    scores = draw(hnp.arrays(np.float32, shape, elements=few | wide))
    exclude = draw(hnp.arrays(np.bool_, shape))
    candidates = draw(hnp.arrays(np.bool_, shape[1]))
    return scores, draw(st.integers(1, 14)), exclude, candidates


@given(cases())
def test_top_k_equals_a_full_stable_sort(case: tuple[np.ndarray, int, np.ndarray, np.ndarray]) -> None:
    scores, k, exclude, candidates = case
    given_scores = scores.copy()
    ids, values = top_k(scores, k, entries(exclude), candidates=candidates)
    expected_ids, expected_values = by_full_sort(scores, k, ~exclude & candidates)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(scores, given_scores)
    assert ids.dtype == np.int32
    assert values.dtype == np.float32


def test_equal_scores_come_in_the_order_of_items() -> None:
    ids, _ = top_k(np.zeros((1, 6), dtype=np.float32), 4)
    assert ids.tolist() == [[0, 1, 2, 3]]


def test_both_zeros_are_equal() -> None:
    ids, _ = top_k(np.array([[-0.0, 0.0, -0.0, 1e-45]], dtype=np.float32), 4)
    assert ids.tolist() == [[3, 0, 1, 2]]


def test_chosen_items_come_last_among_equals_and_only_among_equals() -> None:
    scores = np.array([[2, 1, 1, 1, 0, 0]], dtype=np.float32)
    last = entries(np.array([[True, True, False, False, True, False]]))
    ids, _ = top_k(scores, 6, last_among_equals=last)
    assert ids.tolist() == [[0, 2, 3, 1, 5, 4]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_blocks_of_factors_equal_the_whole(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    # Small whole numbers: float32 products are exact, so that ties are ties whatever the block.
    users = rng.integers(-3, 4, (7, 3)).astype(np.float32)
    items = rng.integers(-3, 4, (11, 3)).astype(np.float32)
    seen = rng.random((7, 11)) < 0.4
    ids, values = top_k_factors(users, items, 5, entries(seen), block=block)
    expected_ids, expected_values = by_full_sort(users @ items.T, 5, ~seen)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, expected_values)


@given(st.integers(1, 100), st.integers(1, 10_000))
def test_blocks_bound_the_scores_held_at_a_time(n_items: int, scores: int) -> None:
    rows = topk.block_rows(n_items, scores)
    assert rows == 1 or rows * n_items <= scores < (rows + 1) * n_items


def test_blocks_are_of_the_size_that_bounds_them() -> None:
    """A matrix that says how large each product is."""

    class Counted(np.ndarray):
        held: ClassVar[list[int]] = []

        def __matmul__(self, other: np.ndarray) -> np.ndarray:
            Counted.held.append(len(self) * other.shape[1])
            return np.asarray(self) @ np.asarray(other)

    users = np.zeros((3, 2), dtype=np.float32).view(Counted)
    top_k_factors(users, np.ones((topk.SCORES_AT_ONCE // 2, 2), dtype=np.float32), 1)
    assert Counted.held == [2 * (topk.SCORES_AT_ONCE // 2), topk.SCORES_AT_ONCE // 2]


def test_no_users_and_no_items_are_not_errors() -> None:
    assert top_k(np.empty((0, 5), dtype=np.float32), 3)[0].shape == (0, 3)
    assert top_k(np.empty((2, 0), dtype=np.float32), 3)[0].tolist() == [[-1, -1, -1]] * 2
    assert top_k_factors(np.empty((0, 2), dtype=np.float32), np.ones((4, 2), dtype=np.float32), 3)[0].shape == (0, 3)


def test_bad_scores_and_shapes_are_refused() -> None:
    scores = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(ContractError, match="NaN"):
        top_k(np.array([[0.0, np.nan]], dtype=np.float32), 1)
    with pytest.raises(ContractError, match="float32 matrix, got float64"):
        top_k(scores.astype(np.float64), 1)
    with pytest.raises(ContractError, match="k must be at least 1"):
        top_k(scores, 0)
    with pytest.raises(ContractError, match="exclude is 2 × 4"):
        top_k(scores, 1, entries(np.zeros((2, 4), dtype=np.bool_)))
    with pytest.raises(ContractError, match="candidates"):
        top_k(scores, 1, candidates=np.ones(2, dtype=np.bool_))
