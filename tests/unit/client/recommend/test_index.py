from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client.recommend.index import ApproximateIndex, ExactIndex, best_of, make_index, recall_against_exact


@st.composite
def cases(draw: st.DrawFn):
    m = draw(st.integers(1, 30))
    few = st.sampled_from([0.0, -0.0, 1.0, -1.5, 2.0, np.inf, -np.inf])
    scores = draw(hnp.arrays(np.float32, m, elements=few | st.floats(-10, 10, width=32)))
    excluded = np.array(draw(st.lists(st.integers(0, m - 1), unique=True)), dtype=np.int32)
    allowed = draw(st.none() | hnp.arrays(np.bool_, m))
    return scores, draw(st.integers(1, m + 3)), excluded, allowed


@given(cases())
def test_finds_what_a_stable_sort_of_everything_finds(case):
    scores, k, excluded, allowed = case
    before = scores.copy()
    rows, values = best_of(scores, k, excluded=excluded, allowed=allowed)
    open_to = [i for i in range(len(before)) if i not in excluded and (allowed is None or allowed[i])]
    expected = [i for i in np.argsort(-before, kind="stable") if i in open_to and before[i] > -np.inf][:k]
    assert rows.tolist() == expected
    np.testing.assert_array_equal(values, before[expected])


@pytest.fixture(scope="module")
def items() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((3000, 16)) * rng.gamma(2.0, 0.5, (3000, 1)) + 0.2).astype(np.float32)


@pytest.fixture(scope="module")
def approximate(items: np.ndarray) -> ApproximateIndex:
    return ApproximateIndex(items)


def test_the_approximate_index_finds_nearly_all_largest_products(items, approximate):
    queries = np.random.default_rng(1).standard_normal((50, 16)).astype(np.float32)
    assert recall_against_exact(approximate, items, queries, 20) >= 0.98


def test_the_recall_that_is_reported_notices_a_bad_index(items):
    class Wrong(ExactIndex):
        def best(self, vector, k, *, excluded=None, allowed=None):
            return super().best(-vector, k, excluded=excluded, allowed=allowed)

    queries = np.random.default_rng(1).standard_normal((20, 16)).astype(np.float32)
    assert recall_against_exact(Wrong(items), items, queries, 20) <= 0.05
    assert recall_against_exact(ExactIndex(items), items, queries, 20) == 1.0


def test_the_approximate_index_excludes_and_scores_exactly(items, approximate):
    query = np.random.default_rng(2).standard_normal(16).astype(np.float32)
    first, _ = approximate.best(query, 10)
    rows, scores = approximate.best(query, 10, excluded=first)
    assert len(rows) == 10
    assert not set(rows) & set(first)
    np.testing.assert_allclose(scores, items[rows] @ query, rtol=1e-5)
    assert (np.diff(scores) <= 0).all()


def test_the_approximate_index_answers_filtered_queries_exactly(items, approximate):
    query = np.random.default_rng(3).standard_normal(16).astype(np.float32)
    allowed = np.arange(3000) % 50 == 0
    exact = ExactIndex(items)
    assert (
        approximate.best(query, 40, allowed=allowed)[0].tolist() == exact.best(query, 40, allowed=allowed)[0].tolist()
    )
    assert approximate.best(query, 2500)[0].tolist() == exact.best(query, 2500)[0].tolist()


def test_the_threshold_decides_between_exact_and_approximate(items):
    assert isinstance(make_index(items[:100], approximate_above=100), ExactIndex)
    assert isinstance(make_index(items[:101], approximate_above=100), ApproximateIndex)
