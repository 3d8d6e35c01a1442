"""Lists as they are shown: what may not be in them is in none, and what is not steered is as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.recommend.answers import NO_BARS, Bars, ItemFilter
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from client.steering.coverage import spread
from client.steering.hidden import HiddenItems
from client.steering.steering import Steering
from common.config.serving import NeverListed, SteeringConfig
from simulations.engine.random_model import random_platform_model


@pytest.fixture(params=["local", "shared", "blend"])
def recommender(request) -> Recommender:
    return Recommender(random_platform_model(np.random.default_rng(0), verdict=request.param))


def asked(recommender: Recommender, lists: ListMaker, user: str = "user-1", k: int = 10, **options):
    return lists.recommend(recommender, recommender.prepare(recommender.history_of(user)), k, **options)


def keys(items) -> list[str]:
    return [item.key for item in items]


class NotingRecommender(Recommender):
    """Notes what bars it is asked for."""

    def __init__(self, model) -> None:
        super().__init__(model)
        self.bars: list[Bars] = []

    def recommend_for(self, *arguments, bars: Bars = NO_BARS, **options):
        self.bars.append(bars)
        return super().recommend_for(*arguments, bars=bars, **options)


def test_what_is_not_steered_is_asked_for_as_it_was(recommender):
    noting = NotingRecommender(recommender.model)
    assert asked(noting, ListMaker()) == recommender.recommend("user-1", 10)
    assert noting.bars == [NO_BARS]
    assert noting.bars[0] is NO_BARS
    assert asked(recommender, ListMaker(), scope="cross", wanted=ItemFilter(any_genres=("Drama",))) == (
        recommender.recommend("user-1", 10, "cross", wanted=ItemFilter(any_genres=("Drama",)))
    )


def test_a_hidden_item_is_in_no_list_from_now_on(recommender, tmp_path):
    hidden = HiddenItems(tmp_path)
    lists = ListMaker(SteeringConfig(), hidden)
    for scope in ("own", "cross", "all"):
        before = keys(asked(recommender, lists, k=5, scope=scope))
        hidden.hide(before[:2])
        after = keys(asked(recommender, lists, k=5, scope=scope))
        assert after[:3] == before[2:]
        assert len(after) == 5
        assert keys(asked(recommender, lists, k=2, scope=scope, asked=Steering(allow_keys=tuple(before[:3])))) == [
            before[2]
        ]
        everything = keys(asked(recommender, lists, k=500, scope=scope, exclude_seen=False))
        assert not set(before[:2]) & set(everything)
        alike = keys(lists.similar(recommender, before[3], 500, scope))
        assert not set(before[:2]) & set(alike)
        hidden.show(before[:2])
        assert keys(asked(recommender, lists, k=5, scope=scope)) == before


def test_a_request_allows_and_denies_for_itself_alone(recommender):
    lists = ListMaker()
    best = keys(asked(recommender, lists, k=6))
    assert keys(asked(recommender, lists, k=3, asked=Steering(deny_keys=(best[0], f" {best[2]} ", "x:none")))) == [
        best[1], best[3], best[4],
    ]  # fmt: skip
    assert keys(asked(recommender, lists, asked=Steering(allow_keys=(best[5], best[1], "x:none")))) == [
        best[1],
        best[5],
    ]
    assert asked(recommender, lists, asked=Steering(allow_keys=("x:none",))) == []
    assert keys(asked(recommender, lists, k=6)) == best


def test_rules_of_the_platform_hold_whatever_is_asked_for(recommender):
    never = NeverListed(genres=("drama",), platforms=("there",))
    lists = ListMaker(SteeringConfig(never=never))
    shown = asked(recommender, lists, k=500, exclude_seen=False)
    assert shown
    assert not [item for item in shown if "Drama" in item.genres or item.platforms == ("there",)]
    prefix = ListMaker(SteeringConfig(never=NeverListed(key_prefixes=("imdb:",))))
    assert all(not item.key.startswith("imdb:") for item in asked(recommender, prefix, k=500))


def test_more_diversity_makes_a_list_less_alike(recommender):
    lists = ListMaker()

    def likeness(diversity: float) -> float:
        found = []
        for user in range(10):
            chosen = asked(recommender, lists, f"user-{user}", asked=Steering(diversity=diversity))
            own = [recommender.own.rows[one.key] for one in chosen if one.key in recommender.own.rows]
            cross = [recommender.cross.rows[one.key] for one in chosen if one.key in recommender.cross.rows]
            among = recommender.similarity.among(np.array(own, dtype=int), np.array(cross, dtype=int))
            found.append((among.sum() - np.trace(among)) / max(1, among.size - len(among)))
        return float(np.mean(found))

    assert likeness(0.0) > likeness(0.4) > likeness(0.9)


def test_likeness_among_some_is_as_it_is_among_all(recommender):
    similarity = recommender.similarity
    own, cross = np.array([3, 7, 1]), np.array([2, 5])
    among = similarity.among(own, cross)
    for place, row in enumerate(own):
        np.testing.assert_allclose(among[place, :3], similarity.to_own(row)[own], atol=1e-6)
        np.testing.assert_allclose(among[place, 3:], similarity.own_to_foreign(row)[cross], atol=1e-6)
    for place, row in enumerate(cross):
        np.testing.assert_allclose(among[3 + place, 3:], similarity.to_foreign(row)[cross], atol=1e-6)


def test_novelty_and_a_share_of_foreign_items_change_what_is_covered(recommender):
    model = recommender.model
    counts = np.concatenate([model.histories.item_counts(), model.foreign_popularity[model.foreign]])
    foreign = np.arange(len(counts)) >= len(model.own.keys)

    def covered(steering: Steering):
        rows = np.full((20, 10), -1)
        for user in range(20):
            chosen = asked(recommender, ListMaker(), f"user-{user}", asked=steering)
            places = [
                recommender.own.rows.get(one.key, len(model.own.keys) + recommender.cross.rows.get(one.key, 0))
                for one in chosen
            ]
            rows[user, : len(places)] = places
        return spread(rows, counts, model.histories.n_users, foreign)

    plain = covered(Steering())
    assert covered(Steering(novelty=1.0)).novelty > plain.novelty
    for share in (0.0, 0.3, 1.0):
        assert covered(Steering(foreign_share=share)).foreign_share == pytest.approx(share)


def test_a_cap_keeps_an_item_from_most_lists(recommender):
    # Without histories all users have one list; with a cap of a quarter nothing is in more of them.
    lists = ListMaker(SteeringConfig(exposure_cap=0.25, exposure_window=100))
    nobody = recommender.prepare(recommender.history_from([])[0])
    shown = [keys(lists.recommend(recommender, nobody, 3)) for _ in range(100)]
    counts = {key: sum(key in one for one in shown) for one in shown for key in one}
    assert max(counts.values()) <= 25
    assert len({tuple(one) for one in shown}) > 3
    plain = ListMaker()
    assert len({tuple(keys(plain.recommend(recommender, nobody, 3))) for _ in range(5)}) == 1


def test_bars_follow_the_model_that_answers(recommender, tmp_path):
    other = Recommender(replace(recommender.model, own=replace(recommender.model.own, keys=tuple(
        f"y:{place}" for place in range(len(recommender.model.own.keys))
    ))))  # fmt: skip
    hidden = HiddenItems(tmp_path)
    hidden.hide(["y:3"])
    lists = ListMaker(SteeringConfig(), hidden)
    assert lists.bars(other).own.tolist() == [3]
    assert lists.bars(recommender) is NO_BARS
