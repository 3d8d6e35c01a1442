from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from client.data.described import Described
from client.personalization.personalize import Personalizer
from client.scoring.factors import shared_on_vocabulary
from client.training.content import ContentItems, place_by_content
from common.attributes import AttributeKind, Value, vector_of
from common.config.platform import PersonalizationConfig
from tests.support.tuned import MODEL, training_data, view_of

M = 120
KINDS = ("war", "love", "space")


def described(kinds: NDArray[np.int64], attributes: pl.DataFrame | None = None) -> ContentItems:
    return ContentItems([""] * len(kinds), [(KINDS[kind],) for kind in kinds], attributes)


class Refused(ContentItems):
    def features(self) -> NDArray[np.float64]:
        raise AssertionError("asked for what is not needed")


REFUSED = Refused([""] * M, [()] * M)


def factors_of(kinds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    centres = np.eye(3, 6)[kinds]
    return (centres + 0.05 * rng.standard_normal(centres.shape)).astype(np.float32)


def test_untouched_items_stand_where_others_of_their_kind_do() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, M)
    whole = factors_of(kinds, rng)
    cold = rng.choice(M, 30, replace=False)
    known = whole.copy()
    known[cold] = 0
    placed = place_by_content(known, described(kinds), implicit=False)
    assert np.abs(placed[cold] - np.eye(3, 6)[kinds[cold]]).max() < 0.1
    warm = np.setdiff1d(np.arange(M), cold)
    np.testing.assert_array_equal(placed[warm], whole[warm])
    assert not known[cold].any(), "what was given is left as it was"


@pytest.mark.parametrize(
    "values",
    [
        [["iron", "sea"], ["rose", "moon"], ["void", "star"]],
        ["The iron sea.", "A rose, a moon", "VOID star"],
        ["сталь и море", "роза под луной", "пустота звёзд"],
        [1.0, 50.0, 99.0],
    ],
)
def test_any_kind_of_attribute_places_an_item(values: Sequence[object]) -> None:
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 3, M)
    known = factors_of(kinds, rng)
    known[:10] = 0
    table = pl.DataFrame({"about": [values[kind] for kind in kinds]})
    placed = place_by_content(known, ContentItems([""] * M, [()] * M, table))
    assert np.abs(placed[:10] - np.eye(3, 6)[kinds[:10]]).max() < 0.15


def test_an_item_of_which_nothing_is_known_stays_at_zero() -> None:
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 3, M)
    known = factors_of(kinds, rng)
    known[:2] = 0
    items = described(kinds, pl.DataFrame({"about": [None, None] + ["word"] * (M - 2), "size": [None] * M}))
    items = replace(items, genres=[(), *items.genres[1:]])
    placed = place_by_content(known, items)
    assert not placed[0].any()
    assert placed[1].any()


def test_silence_does_not_outrank_a_choice() -> None:
    """Of implicit feedback, an item's norm grows with its users; what nobody has gets that of the least known items."""
    rng = np.random.default_rng(4)
    kinds = rng.integers(0, 3, M)
    known = factors_of(kinds, rng) * rng.uniform(0.1, 2.0, (M, 1)).astype(np.float32)
    norms = np.linalg.norm(known, axis=1)
    known[:10] = 0
    placed = place_by_content(known, described(kinds))
    cold = np.linalg.norm(placed[:10], axis=1)
    assert cold.max() < np.quantile(norms[10:], 0.2)
    directions = placed[:10] / cold[:, None]
    assert np.abs(directions - np.eye(3, 6)[kinds[:10]]).max() < 0.25


def test_nothing_is_asked_where_nothing_is_to_be_done() -> None:
    warm = np.ones((M, 4), dtype=np.float32)
    assert place_by_content(warm, REFUSED) is warm
    scarce = np.zeros((M, 4), dtype=np.float32)
    scarce[:5] = 1
    assert place_by_content(scarce, REFUSED) is scarce


def test_attributes_that_tell_nothing_place_an_item_in_the_middle() -> None:
    rng = np.random.default_rng(3)
    known = factors_of(rng.integers(0, 3, M), rng)
    known[:5] = 0
    placed = place_by_content(known, described(rng.integers(0, 3, M)), implicit=False)
    assert np.abs(placed[:5] - known[5:].mean(axis=0)).max() < 0.25


@pytest.mark.parametrize("content", [True, False])
def test_a_platform_recommends_untouched_items_by_attributes(content: bool) -> None:
    """Items come in six kinds; one own item and one foreign item have no interaction anywhere."""
    data = training_data(np.random.default_rng(7))
    kept = data.train.indices != 6
    genres = tuple((f"kind {i % 6}",) for i in range(125))
    data = replace(data, train=data.train.select_entries(kept), items=replace(data.items, genres=genres[:120]))
    factors = np.eye(6)[np.arange(125) % 6] * np.random.default_rng(5).uniform(0.4, 0.6, (125, 1))
    factors[[6, 120]] = 0
    view = view_of(data, factors)
    view = replace(view, vocabulary=replace(view.vocabulary, genres=genres))
    config = PersonalizationConfig(tuning_candidates=2, anchored=False, blend_weights=(1.0,), content=content)
    model = Personalizer("here", data, MODEL, config).build(view)
    users, fond = np.arange(60), np.arange(60) % 6 == 0
    own = model.own_scorer("local").scores(data.train, users)
    shared = shared_on_vocabulary(model.shared, model.own_positions).scores(model.on_vocabulary(data.train), users)
    for name, scores, cold in (("own", own, 6), ("foreign", shared, 120)):
        gaps = scores[fond].mean(axis=0) - scores[~fond].mean(axis=0)
        siblings = np.setdiff1d(np.arange(0, 120, 6), [6])
        assert gaps[siblings].mean() > 0, name
        assert (gaps[cold] > 0.3 * gaps[siblings].mean()) == content, name


def words_as_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """One direction a word, zero where there is none: what an encoder of any language might say."""
    places = {"сталь": 0, "steel": 0, "роза": 1, "rose": 1, "星": 2, "star": 2}
    vectors = np.zeros((len(texts), 8), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.casefold().split():
            vectors[row, places.get(word, 3 + len(word) % 5)] += 1
    return vectors


@pytest.mark.parametrize("told", ["maker", "topics", "year", "blurb", "cover", "title in another language"])
def test_each_described_attribute_places_items(told: str) -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, M)
    cold = rng.choice(M, 30, replace=False)
    known = factors_of(kinds, rng)
    known[cold] = 0
    foreign = np.isin(np.arange(M), cold)
    of_kind: dict[str, tuple[AttributeKind, list[Value]]] = {
        "maker": ("category", ["Ivo", "Tove", "数"]),
        "topics": ("categories", [("a", "x"), ("b", "x"), ("c",)]),
        "year": ("number", [1.0, 50.0, 99.0]),
        "blurb": ("text", ["steel and sea", "rose and moon", "star and void"]),
        "cover": ("vector", [vector_of(np.array(one)) for one in ([9.0, 0.0], [0.0, 9.0], [-9.0, -9.0])]),
    }
    titles, further = [""] * M, Described()
    if told in of_kind:
        kind, values = of_kind[told]
        further = Described({told: kind}, {told: tuple(values[own] for own in kinds)})
    else:
        words = np.where(foreign, np.array(["сталь", "роза", "星"])[kinds], np.array(["steel", "rose", "star"])[kinds])
        titles = words.tolist()
    items = ContentItems(titles, [()] * M, further=further, texts=words_as_vectors)
    placed = place_by_content(known, items, implicit=False)
    assert np.abs(placed[cold] - np.eye(3, 6)[kinds[cold]]).max() < 0.3, (
        "words of another language are not the same words"
    )
    assert (placed[~foreign] == known[~foreign]).all()


def test_an_item_of_which_nothing_is_told_stays_where_it_is() -> None:
    rng = np.random.default_rng(0)
    known = factors_of(rng.integers(0, 3, M), rng)
    known[:9] = 0
    further = Described({"maker": "category"}, {"maker": (None, *("A", "B") * 59, "A")})
    placed = place_by_content(known, ContentItems([""] * M, [()] * M, further=further, texts=words_as_vectors))
    assert not placed[0].any()
    assert placed[1:9].any(axis=1).all()


def test_where_only_titles_and_genres_are_told_nothing_is_new() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, M)
    known = factors_of(kinds, rng)
    known[:9] = 0
    plain = described(kinds)
    placed = place_by_content(known, plain, implicit=False)
    features = plain.features()
    model = RidgeCV(alphas=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)).fit(features[9:], known[9:].astype(np.float64))
    assert (placed[:9] == model.predict(features[:9]).astype(np.float32)).all()
