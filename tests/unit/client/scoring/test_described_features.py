"""Numbers and vectors that describe items as columns: no scale counts, what is missing is zero, nothing becomes NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.scoring.described.features import directions, number_columns, unit_vectors, vector_columns

RNG = np.random.default_rng(3)
ROWS = np.arange(0, 40, 2)


def test_a_number_is_between_two_knots_and_beyond_them_at_the_nearest() -> None:
    values = np.array([0.0, 10.0, 20.0, 5.0, -7.0, 99.0, np.nan])
    columns = number_columns(values, np.arange(3))
    assert columns[:6].sum(axis=1) == pytest.approx(np.ones(6))
    assert not columns[6].any()
    assert columns[4].tolist() == columns[0].tolist()
    assert columns[5].tolist() == columns[2].tolist()
    assert (np.count_nonzero(columns, axis=1) <= 2).all()


def test_the_scale_of_a_number_is_none() -> None:
    values = RNG.standard_normal(40)
    assert number_columns(values, ROWS) == pytest.approx(number_columns(1e6 * values + 3, ROWS), abs=1e-6)


@given(
    st.lists(
        st.floats(allow_infinity=False, min_value=-1e30, max_value=1e30) | st.just(np.nan), min_size=1, max_size=30
    )
)
def test_any_numbers_give_finite_columns(values: list[float]) -> None:
    columns = number_columns(np.array(values), np.arange(len(values)))
    assert np.isfinite(columns).all()
    assert columns.shape[1] <= 8
    assert (columns.any(axis=1) == np.isfinite(values)).all()


def test_directions_keep_the_products_of_few_dimensions() -> None:
    wide = RNG.standard_normal((50, 5)) @ RNG.standard_normal((5, 100))
    found = directions(wide)
    assert found.shape == (50, 5)
    assert found @ found.T == pytest.approx(wide @ wide.T)


def test_missing_vectors_are_nowhere() -> None:
    vectors = RNG.standard_normal((20, 4)).astype(np.float32) + 5
    vectors[[3, 7]] = 0
    for found in (vector_columns(vectors), unit_vectors(vectors)):
        assert not found[[3, 7]].any()
        assert found.any(axis=1).sum() == 18
    assert np.linalg.norm(unit_vectors(vectors), axis=1)[[0, 3]] == pytest.approx([1.0, 0.0])
    assert vector_columns(np.zeros((4, 3))).shape == (4, 0)
