from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.personalization.described import DescribedItems
from client.scoring.demand import _regressed, expected_demand


def world(rng: np.random.Generator, m: int = 400) -> tuple[np.ndarray, np.ndarray, list[str], list[tuple[str, ...]]]:
    """Items whose popularity here is that foreign, times 4 for comedies and less and less with every later year."""
    foreign = rng.lognormal(4, 1, m).round() + 1
    years = rng.integers(1950, 2010, m)
    comedy = rng.random(m) < 0.5
    here = foreign * np.where(comedy, 4.0, 1.0) * np.exp((1980 - years) / 20)
    return here, foreign, [f"Film ({year})" for year in years], [("Comedy",) if c else ("Drama",) for c in comedy]


def told(titles: list[str], genres: list[tuple[str, ...]], rows: np.ndarray) -> np.ndarray:
    return DescribedItems(titles, {"genres": genres}).columns(rows)


def test_own_popularity_is_learned_on_common_items_for_the_others() -> None:
    here, foreign, titles, genres = world(np.random.default_rng(0))
    common, others = np.arange(300), np.arange(300, 400)
    expected = expected_demand(here[:300], foreign, common, told(titles, genres, common))
    error = np.log(expected[others]) - np.log1p(here[others])
    naive = np.log1p(foreign[others]) - np.log1p(here[others])
    assert np.std(error) < 0.25 * np.std(naive)
    assert abs(np.mean(error)) < 0.2


def test_without_common_items_it_is_popularity_elsewhere() -> None:
    foreign = np.array([5.0, 0.0, 2.0, -3.5])
    expected = expected_demand(np.zeros(0), foreign, np.zeros(0, dtype=np.int64), np.zeros((4, 0)))
    np.testing.assert_allclose(expected, [6.0, 1.0, 3.0, 1.0])


def test_a_single_common_item_does_not_change_the_order() -> None:
    foreign = np.array([5.0, 9.0, 2.0, 30.0])
    features = told(["A (1999)"] * 4, [("x",), (), (), ("x",)], np.array([1]))
    expected = expected_demand(np.array([700]), foreign, np.array([1]), features)
    assert np.argsort(expected).tolist() == np.argsort(foreign).tolist()


def test_titles_without_years_and_items_without_genres_are_fine() -> None:
    here, foreign, _, _ = world(np.random.default_rng(1))
    features = told([""] * 400, [()] * 400, np.arange(300))
    expected = expected_demand(here[:300], foreign, np.arange(300), features)
    assert np.isfinite(expected).all()
    assert np.corrcoef(np.log(expected), np.log1p(foreign))[0, 1] > 0.99


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.floats(0, 1000))
def test_noisy_counts_give_finite_demand_of_at_least_one(seed: int, c: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    here, foreign, titles, genres = world(rng, 60)
    noisy = foreign + rng.normal(0, noise, 60)
    expected = expected_demand(here[:c], noisy, np.arange(c), told(titles, genres, np.arange(c)))
    assert np.isfinite(expected).all()
    assert (expected >= 1).all()


@pytest.mark.parametrize("title", ["Twelve (1 of 3)", "(1999) Once", "Number 1999"])
def test_only_a_year_at_the_end_of_a_title_counts(title: str) -> None:
    here, foreign, titles, genres = world(np.random.default_rng(2))
    titles = [*titles[:-1], title]
    common = np.arange(300)
    plain = expected_demand(here[:300], foreign, common, told([*titles[:-1], ""], genres, common))
    odd = expected_demand(here[:300], foreign, common, told(titles, genres, common))
    np.testing.assert_array_equal(odd, plain)


@pytest.mark.parametrize("useful", [False, True])
def test_further_features_count_where_leaving_out_shows_a_gain(useful: bool) -> None:
    rng = np.random.default_rng(3)
    here, foreign, titles, genres = world(rng)
    common, features = np.arange(300), told(titles, genres, np.arange(300))
    further = rng.standard_normal((400, 200))
    if useful:
        here = np.round(here * np.exp(further[:, 0]))
    plain = expected_demand(here[:300], foreign, common, features)
    with_further = expected_demand(here[:300], foreign, common, features, further)
    errors = [np.square(np.log(one[300:]) - np.log1p(here[300:])).mean() for one in (plain, with_further)]
    assert (errors[1] < errors[0]) if useful else (errors[1] == errors[0])


def test_leaving_out_is_reckoned_as_by_fitting_without_each() -> None:
    rng = np.random.default_rng(4)
    columns, target = rng.standard_normal((40, 5)), rng.standard_normal(40)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    target -= target.mean()
    errors = []
    for row in range(40):
        rest = np.arange(40) != row
        below = np.vstack([columns[rest], np.sqrt(10.0) * np.eye(5)])
        weights, *_ = np.linalg.lstsq(below, np.concatenate([target[rest], np.zeros(5)]), rcond=None)
        errors.append((target[row] - columns[row] @ weights) ** 2)
    assert _regressed(columns, target, np.arange(40))[1] == pytest.approx(np.mean(errors))
