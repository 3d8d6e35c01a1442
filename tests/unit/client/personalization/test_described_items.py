"""Descriptions as numbers: films as ever, any number of values in bounded width, any script, missing in part or whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from client.data.described import Described
from client.personalization.cross_parts import CrossParts
from client.personalization.described import DescribedItems
from client.scoring.demand import expected_demand, year_columns
from client.scoring.factors import FactorModel
from client.training.content import ContentItems, place_by_content
from common.attributes import LONGEST_TEXT, AttributeKind, Value, vector_of
from tests.support import MODEL, random_matrix

SCRIPTS = ("Ursula", "厄休拉", "أورسولا", "उर्सुला", "Ürsüla", "👩\u200d🚀", "어슐러", "Урсула")
KINDS: dict[str, AttributeKind] = {
    "maker": "category", "topics": "categories", "year": "number", "blurb": "text", "cover": "vector"
}  # fmt: skip
N = 10_000


def films(m: int = 300) -> tuple[list[str], list[tuple[str, ...]]]:
    rng = np.random.default_rng(0)
    names = ("Action", "Comedy", "Film-Noir", "IMAX", "Sci-Fi", "War")
    titles = [f"Film {n} ({rng.integers(1930, 2015)})" if n % 9 else f"Film {n}" for n in range(m)]
    return titles, [tuple(rng.choice(names, rng.integers(0, 4), replace=False)) for _ in range(m)]


def genres_and_years(titles: Sequence[str], genres: Sequence[Sequence[str]], rows: np.ndarray) -> np.ndarray:
    """As versions without described attributes had them."""
    names = sorted({name for own in genres for name in own})
    return np.column_stack([[[float(name in own) for name in names] for own in genres], year_columns(titles, rows)])


def test_films_have_the_columns_that_they_always_had() -> None:
    titles, genres = films()
    rows = np.arange(0, 300, 2)
    before = genres_and_years(titles, genres, rows)
    found = DescribedItems(titles, {"genres": genres}).columns(rows)
    assert found.tobytes() == before.tobytes()
    rng = np.random.default_rng(1)
    here, there = rng.integers(0, 90, 150), rng.integers(1, 200, 300)
    one, other = (expected_demand(here, there, rows, columns) for columns in (before, found))
    assert one.tobytes() == other.tobytes()


def rows_of(m: int, *, told: bool = True) -> list[dict[str, Value]]:
    """Ten thousand makers in all scripts, texts as long as may be; every third item says nothing."""
    rng = np.random.default_rng(2)
    return [
        {
            "maker": f"{SCRIPTS[n % 8]} {n}",
            "topics": tuple(f"{SCRIPTS[(n + k) % 8]} {n % 50}" for k in range(3)),
            "year": float(1900 + n % 100),
            "blurb": (SCRIPTS[n % 8] * LONGEST_TEXT)[:LONGEST_TEXT].strip(),
            "cover": vector_of(rng.standard_normal(4)),
        }
        if told and n % 3
        else {}
        for n in range(m)
    ]


def words(texts: Sequence[str]) -> np.ndarray:
    """An encoder: the letters' numbers, folded."""
    vectors = np.zeros((len(texts), 8), dtype=np.float32)
    for row, text in enumerate(texts):
        for letter in text[:50]:
            vectors[row, ord(letter) % 8] += 1.0
    return vectors


def vocabulary(m: int, *, told: bool = True) -> DescribedItems:
    further = Described.of_rows(KINDS, rows_of(m, told=told))
    titles = [f"{SCRIPTS[n % 8]} ({1950 + n % 60})" if told else "" for n in range(m)]
    genres = [(f"{SCRIPTS[n % 8]}/{n}",) if told else () for n in range(m)]
    return DescribedItems(titles, {"genres": genres, **dict(further.categories())}, words, further)


def test_ten_thousand_values_make_a_bounded_number_of_columns() -> None:
    items = vocabulary(N)
    found = items.features(np.arange(N))
    assert found.shape[1] < 64 * (len(KINDS) + 2)
    assert np.isfinite(found).all()
    assert items.has["maker"].shape == (N, N - (N + 2) // 3)
    assert items.columns(np.arange(N)).shape == found.shape


@pytest.mark.parametrize("told", [True, False])
def test_scorers_are_fitted_on_whatever_is_told(told: bool) -> None:
    m = 240
    items = vocabulary(m, told=told)
    rng = np.random.default_rng(3)
    histories = random_matrix(rng, 60, m)
    shared = FactorModel(
        item_parameters=rng.standard_normal((m, MODEL.dimension)).astype(np.float32), config=MODEL, value_mean=0.0
    )
    data = CrossParts(
        histories=histories,
        own=np.arange(200),
        others=np.arange(m) >= 40,
        foreign_counts=rng.integers(0, 50, m).astype(np.float64),
        foreign_users=np.full(m, 100.0),
        described=items,
    )
    parts = data.fitted(np.arange(200), histories, shared)
    assert ({"maker", "topics", "genres", "cover", "texts"} <= {part.name for part in parts}) == told
    for part in parts:
        assert np.isfinite(part.scores(histories, np.arange(60))).all(), part.name


@pytest.mark.parametrize("told", [True, False])
def test_unseen_items_are_placed_by_whatever_is_told(told: bool) -> None:
    m = 600
    items = vocabulary(m, told=told)
    described = ContentItems(items.titles, items.categories["genres"], further=items.further, texts=words)
    rng = np.random.default_rng(4)
    known = rng.standard_normal((m, 6)).astype(np.float32)
    known[::5] = 0
    placed = place_by_content(known, described)
    assert np.isfinite(placed).all()
    assert placed[::5].any() == told
    assert described.features().shape[1] < 400
