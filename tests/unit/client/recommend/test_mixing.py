"""One list from two catalogues: an item of the others stands where an own item stands that users want as much."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.recommend.mixing import _GRID, Mixing, _Tally, calibrated, calibrated_popularity
from client.recommend.recommender import Recommender
from client.scoring.linear_form import LinearScope
from client.scoring.part import Carried, Part, UserHistory
from simulations.engine.random_model import random_platform_model

D = 4


@dataclass(frozen=True, eq=False)
class KnownTaste(Part):
    """A part that knows each user's taste, whatever the history."""

    tastes: NDArray[np.float64]
    rows: NDArray[np.float32]
    name: str = "shared"

    @property
    def items(self) -> NDArray[np.float32]:
        return self.rows

    def at(self, rows: NDArray[np.integer]) -> KnownTaste:
        raise NotImplementedError

    def factor(self, history: UserHistory) -> NDArray[np.float64]:
        assert history.user is not None
        return self.tastes[history.user]

    def carried(self, *given: object) -> Carried:
        raise NotImplementedError


def world(rng: np.random.Generator, spread: float, shift: float) -> tuple[UserItemMatrix, list[LinearScope]]:
    """Users have an item with odds that rise with taste · item. The others' items differ ``spread`` times as much, and are
    liked by everyone ``shift`` more: their standardised scores say nothing of either."""
    n, own, others = 400, 300, 500
    # The last coordinate is the same for all: what it adds is how much an item is liked by everyone.
    tastes = np.column_stack([rng.standard_normal((n, D)), np.ones(n)])
    here = np.column_stack([rng.standard_normal((own, D)), np.zeros(own)])
    there = np.column_stack([spread * rng.standard_normal((others, D)), np.full(others, shift)])
    # Half of the own items are of the others' kind and are there, too.
    here[: own // 2] = np.column_stack([spread * rng.standard_normal((own // 2, D)), np.full(own // 2, shift)])
    wanted = rng.random((n, own)) < 1 / (1 + np.exp(3.0 - tastes @ here.T))
    users, items = np.nonzero(wanted)
    histories = UserItemMatrix.from_entries(
        users, items, np.ones(len(users)), rng.permutation(len(users)), n_users=n, n_items=own
    )
    scopes = [LinearScope([KnownTaste(tastes, rows.astype(np.float32))]) for rows in (here, there, here[: own // 2])]
    return histories, scopes


@pytest.mark.parametrize(("spread", "shift"), [(1.0, 0.0), (0.5, 0.0), (0.5, -1.0), (1.5, 0.7)])
def test_a_foreign_item_stands_where_the_shared_model_puts_it(spread: float, shift: float) -> None:
    """Both scopes are scored by one model, so that its scores before standardising tell where each item belongs."""
    rng = np.random.default_rng(3)
    histories, (own, cross, common) = world(rng, spread, shift)
    mixing = calibrated(histories, own, cross, common, np.arange(150))
    queries = [(own.query(*seen, user), cross.query(*seen, user)) for user, seen in _some(histories)]
    errors, plain = [], []
    for mine, theirs in queries:
        # Where an own item would have to be to have the same score before standardising, in the own items' units.
        raw = (cross.items @ theirs.vector) / theirs.part_scales[0]
        belongs = raw * mine.part_scales[0] + mine.offset
        scores = cross.items @ theirs.vector + theirs.offset
        errors.append(np.mean([abs(mixing.on_own_scale(s) - b) for s, b in zip(scores, belongs, strict=True)]))
        plain.append(np.abs(scores - belongs).mean())
    assert np.mean(errors) < 0.25
    assert np.mean(errors) < np.mean(plain) + 0.05


def _some(histories: UserItemMatrix) -> list[tuple[int, tuple[NDArray[np.int32], NDArray[np.float32]]]]:
    empty = (np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
    return [(user, empty) for user in range(0, histories.n_users, 40)]


def test_the_regression_finds_the_probabilities_that_made_the_data() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(0.0, 1.5, 60_000)
    tally = _Tally()
    odds = -3.0 + 0.3 * scores + 1.2 * np.maximum(scores - 1.0, 0.0)
    tally.add(scores, (rng.random(len(scores)) < 1 / (1 + np.exp(-odds))).astype(float), 1.0)
    found = tally.fitted()
    assert found is not None
    places = np.array([-2.0, 0.0, 1.0, 2.5])
    assert np.interp(places, _GRID, found) == pytest.approx([-3.6, -3.0, -2.7, -0.45], abs=0.1)
    assert (np.diff(found) >= 0).all()


def test_scores_without_information_and_few_interactions_do_not_count() -> None:
    rng = np.random.default_rng(1)
    histories, (own, cross, common) = world(rng, 0.5, 0.0)
    noise = KnownTaste(rng.standard_normal((400, D + 1)), own.items)
    assert calibrated(histories, LinearScope([noise]), cross, common, np.arange(150)) == Mixing()
    few = histories.select_users(np.arange(3))
    assert calibrated(few, own, cross, common, np.arange(150)) == Mixing()


def test_what_is_popular_stands_where_as_many_users_want_it() -> None:
    """The others' popularity is twice as spread here as it says."""
    rng = np.random.default_rng(2)
    log_share = rng.normal(-3.0, 0.6, 400)
    wanted = rng.random((2000, 400)) < np.exp(log_share)
    users, items = np.nonzero(wanted)
    histories = UserItemMatrix.from_entries(
        users, items, np.ones(len(users)), np.arange(len(users)), n_users=2000, n_items=400
    )
    own = (log_share - log_share.mean()) / log_share.std()
    found = calibrated_popularity(histories, own, own[:200] / 2, np.arange(200))
    assert [found.on_own_scale(score) for score in (-0.5, 0.0, 0.5)] == pytest.approx([-1.0, 0.0, 1.0], abs=0.15)


def test_a_list_of_both_scopes_is_in_order_of_the_own_items_scale() -> None:
    recommender = Recommender(random_platform_model(np.random.default_rng(7)))
    known = Mixing((-100.0, 100.0), (-41.5, 38.5))
    recommender.mixings = (known, Mixing((-100.0, 100.0), (9.0, 9.0)))
    own, cross = (recommender.recommend("user-1", 500, scope) for scope in ("own", "cross"))
    both = recommender.recommend("user-1", 500, "all")
    expected = [*own, *(replace(item, score=known.on_own_scale(item.score)) for item in cross)]
    assert expected[-1].score == pytest.approx(-1.5 + 0.4 * cross[-1].score)
    assert both == sorted(expected, key=lambda item: -item.score)
    assert [item.key for item in recommender.recommend("user-1", 3, "all")] == [item.key for item in both[:3]]
    # Of whom nothing is known, the popularity of the two catalogues is compared.
    unknown = recommender.prepare(recommender.history_from([])[0])
    assert {item.score for item in recommender.recommend_for(unknown, 40, "all") if "here" not in item.platforms} == {
        9.0
    }


def test_ratings_are_listed_as_before() -> None:
    recommender = Recommender(random_platform_model(np.random.default_rng(7), feedback="explicit"))
    assert recommender.mixings == (Mixing(), Mixing())
