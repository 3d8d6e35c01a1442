from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.dataset import UserItemMatrix
from client.scoring.scorer import PopularityScorer, SolvedFactorScorer, z
from common.errors import ConfigError, ContractError
from tests.scoring_oracle import BlendScorer, CrossScorer


@dataclass(eq=False)
class TableScorer:
    """Scores that were written down; remembers whether it was asked."""

    table: np.ndarray
    asked: int = 0

    def scores(self, histories: UserItemMatrix, users: np.ndarray) -> np.ndarray:
        self.asked += 1
        rows: np.ndarray = self.table[users]
        return rows


def histories(rows: list[list[int]], n_items: int) -> UserItemMatrix:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    return UserItemMatrix.from_entries(
        users, items, np.ones(len(items)), np.arange(len(items)), n_users=len(rows), n_items=n_items
    )


NOBODY = histories([[], [], []], 4)
EVERYONE = np.arange(3)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-50, 50))
def test_z_scores_have_mean_0_and_deviation_1_over_candidates(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 20)).astype(np.float32)
    candidates = np.arange(20) % 3 > 0
    standard = z(scores, candidates)
    np.testing.assert_allclose(standard[:, candidates].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(standard[:, candidates].std(axis=1), 1, atol=1e-5)
    again = z((scores * scale + shift).astype(np.float32), candidates)
    np.testing.assert_allclose(again, standard, atol=1e-2 if abs(shift) > scale else 1e-3)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6, 1e-40])
def test_z_of_a_constant_row_is_0_and_not_rounding_noise(constant: float) -> None:
    scores = np.full((2, 1001), constant, dtype=np.float32)
    scores[0, 1:] += np.abs(scores[0, 1:]) * np.float32(1e-7)
    assert (z(scores) == 0).all()


def test_z_without_candidates_is_0() -> None:
    assert (z(np.ones((2, 3), dtype=np.float32), np.zeros(3, dtype=np.bool_)) == 0).all()


def test_solved_factors_score_the_users_asked_for() -> None:
    users = np.array([[1, 0], [0, 2]], dtype=np.float32)
    scorer = SolvedFactorScorer(users, np.array([[3, 4], [5, 6]], dtype=np.float32))
    np.testing.assert_array_equal(scorer.scores(NOBODY, np.array([1])), [[8, 12]])


def test_popularity_is_the_same_for_everyone() -> None:
    scores = PopularityScorer(np.array([3.5, -1.0, 0.0])).scores(NOBODY, EVERYONE)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [[3.5, -1.0, 0.0]] * 3)


def test_blend_adds_standardised_scores() -> None:
    rng = np.random.default_rng(0)
    local, shared = (TableScorer(rng.normal(size=(3, 4)).astype(np.float32)) for _ in range(2))
    candidates = np.array([True, True, False, True])
    blended = BlendScorer(local, shared, 0.7, candidates).scores(NOBODY, EVERYONE)

    def standard(table: np.ndarray) -> np.ndarray:
        among = table[:, candidates].astype(np.float64)
        scaled: np.ndarray = (table - among.mean(axis=1, keepdims=True)) / among.std(axis=1, keepdims=True)
        return scaled

    np.testing.assert_allclose(blended, standard(local.table) + 0.7 * standard(shared.table), atol=1e-5)


def test_blend_ends_are_the_two_models_and_ask_only_that_one() -> None:
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(3, 4)).astype(np.float32) for _ in range(2)]
    for weight, kept in [(0.0, 0), (np.inf, 1)]:
        scorers = [TableScorer(table) for table in tables]
        blended = BlendScorer(scorers[0], scorers[1], weight).scores(NOBODY, EVERYONE)
        np.testing.assert_array_equal(np.argsort(blended), np.argsort(tables[kept]))
        assert [scorer.asked for scorer in scorers] == [1 - kept, kept]


def test_large_weights_approach_the_shared_order() -> None:
    rng = np.random.default_rng(1)
    local, shared = (TableScorer(rng.normal(size=(3, 4)).astype(np.float32)) for _ in range(2))
    nearly = BlendScorer(local, shared, 1e4).scores(NOBODY, EVERYONE)
    np.testing.assert_array_equal(np.argsort(nearly), np.argsort(shared.table))


@pytest.mark.parametrize("weight", [-0.1, np.nan, -np.inf])
def test_blend_weights_below_0_and_nan_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="blend weight"):
        BlendScorer(TableScorer(np.zeros((1, 1))), TableScorer(np.zeros((1, 1))), weight)


def test_cross_score_adds_the_logarithm_of_clamped_counts() -> None:
    shared = TableScorer(np.array([[1, 3, 5, 7]] * 3, dtype=np.float32))
    counts = np.array([-4.2, 0.0, 1.0, np.e**2])
    scores = CrossScorer(shared, counts, beta=0.5).scores(NOBODY, EVERYONE)
    standard = np.array([-3, -1, 1, 3]) / np.sqrt(5)
    np.testing.assert_allclose(scores, [standard + np.array([0, 0, 0, 1])] * 3, atol=1e-6)
    assert scores.dtype == np.float32


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4))
def test_cross_score_is_finite_for_any_noise_in_the_counts(counts: list[float]) -> None:
    shared = TableScorer(np.zeros((3, 4), dtype=np.float32))
    scores = CrossScorer(shared, np.array(counts), beta=2.0).scores(NOBODY, EVERYONE)
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()


def test_cross_score_of_flat_factors_is_popularity() -> None:
    counts = np.array([5, 9, 1, 7])
    flat = SolvedFactorScorer(np.ones((3, 2), np.float32), np.full((4, 2), 0.3, dtype=np.float32))
    order = np.argsort(-CrossScorer(flat, counts, beta=0.1).scores(NOBODY, EVERYONE))
    assert order.tolist() == [[1, 3, 0, 2]] * 3


def test_bad_cross_settings_are_refused() -> None:
    shared = TableScorer(np.zeros((1, 2)))
    for beta in (-1.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match="beta"):
            CrossScorer(shared, np.ones(2), beta)
    with pytest.raises(ConfigError, match="floor"):
        CrossScorer(shared, np.ones(2), 1.0, floor=0.0)
    with pytest.raises(ContractError, match="finite"):
        CrossScorer(shared, np.array([1.0, np.nan]), 1.0)
