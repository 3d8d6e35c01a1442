"""The linear form that serves gives the scores that were measured, and its explanations add up to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.data.dataset import UserItemMatrix
from client.data.recorded import Event
from client.passport.making import ContentsMaker
from client.recommend.answers import ItemFilter
from client.recommend.recommender import Recommender
from client.scoring.attributes import AttributePart
from client.scoring.ease import EasePart
from client.scoring.fold_in import Recency
from client.scoring.scorer import z
from client.scoring.topk import top_k
from common.config.passport import PassportConfig
from simulations.engine.random_model import random_platform_model
from tests.scoring_oracle import cross_oracle

KINDS = [("local", "implicit"), ("shared", "implicit"), ("blend", "implicit"), ("anchored", "implicit")] + [
    (name, "explicit") for name in ("local", "shared", "anchored")
]


def with_attributes(model, *, dimension: int = 5, weight: float = 1.7):
    """The model with public attributes in its cross-platform scores; items that the platform lacks have no tastes."""
    rng = np.random.default_rng(100)
    tastes, placed = rng.standard_normal((2, len(model.owners), dimension)).astype(np.float32)
    tastes[model.foreign] = 0
    return replace(model, cross=model.cross.with_part(AttributePart(tastes, placed), weight))


def oracle(model, user: int) -> dict[str, float]:
    """Every item's score from the scorers that evaluation uses."""
    history = model.histories.select_users(np.array([user]))
    row = np.array([0])
    own = z(model.own_scorer().scores(history, row))[0]
    cross = z(cross_oracle(model).scores(model.on_vocabulary(history), row), model.foreign)[0]
    scores = dict(zip(model.own.keys, own, strict=True))
    return scores | {model.vocabulary.keys[i]: cross[i] for i in np.flatnonzero(model.foreign)}


def by_latest(model):
    """The model with users' latest entries weighing more, in each of its models otherwise."""
    for span, name in enumerate(("local", "shared", "anchored"), start=1):
        model = model.with_recency(name, Recency(boost=30.0, span=float(span))) if model.has(name) else model
    return model


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize(("verdict", "feedback"), KINDS)
def test_serves_the_scores_that_evaluation_measured(verdict, feedback, attributes):
    model = random_platform_model(np.random.default_rng(1), verdict=verdict, feedback=feedback)
    model = with_attributes(model) if attributes else model
    recommender = Recommender(model)
    for user in range(5):
        expected = oracle(model, user)
        listed = recommender.recommend(f"user-{user}", k=200, exclude_seen=False)
        assert len(listed) == len(expected)
        np.testing.assert_allclose([item.score for item in listed], [expected[item.key] for item in listed], atol=2e-5)
        assert [item.score for item in listed] == sorted((item.score for item in listed), reverse=True)


@pytest.mark.parametrize(("verdict", "feedback"), KINDS)
@pytest.mark.parametrize("attributes", [False, True])
def test_contributions_sum_to_the_score(verdict, feedback, attributes):
    model = random_platform_model(np.random.default_rng(2), verdict=verdict, feedback=feedback)
    model = with_attributes(model) if attributes else model
    recommender = Recommender(model)
    for user in range(3):
        history = recommender.history_of(f"user-{user}")
        for item in recommender.recommend(f"user-{user}", k=200, exclude_seen=False):
            why = recommender.explain(history, item.key)
            parts = sum(part.amount for part in why.contributions) + why.others + why.item_bias + why.popularity
            assert parts == pytest.approx(item.score, abs=3e-5)
            assert why.score == pytest.approx(item.score, abs=3e-5)
            assert sum(share.amount for share in why.models.values()) == pytest.approx(item.score, abs=3e-5)
            assert {part.key for part in why.contributions} == {model.own.keys[c] for c in history.columns}


@pytest.mark.parametrize("verdict", ["local", "shared", "blend", "anchored"])
def test_latest_items_weigh_more_in_lists_and_explanations(verdict):
    plain = random_platform_model(np.random.default_rng(2), verdict=verdict)
    recommender, before = Recommender(by_latest(plain)), Recommender(plain)
    expected = oracle(by_latest(plain), 1)
    history = recommender.history_of("user-1")
    listed = recommender.recommend("user-1", k=200, exclude_seen=False)
    np.testing.assert_allclose([item.score for item in listed], [expected[item.key] for item in listed], atol=2e-5)
    own = {item.key: item.score for item in before.recommend("user-1", 200, "own", exclude_seen=False)}
    assert any(abs(item.score - own[item.key]) > 0.1 for item in listed if item.key in own), "they do weigh more"
    for item in listed:
        why = recommender.explain(history, item.key)
        parts = sum(part.amount for part in why.contributions) + why.others + why.item_bias + why.popularity
        assert parts == pytest.approx(item.score, abs=3e-5)
        assert why.score == pytest.approx(item.score, abs=3e-5)


def test_others_items_are_ranked_with_all_entries_alike():
    plain = random_platform_model(np.random.default_rng(2), verdict="shared")
    lists = [Recommender(each).recommend("user-1", 30, "cross") for each in (plain, by_latest(plain))]
    assert lists[0] == lists[1]


def test_an_event_folds_in_as_the_newest_entry():
    model = by_latest(random_platform_model(np.random.default_rng(6), verdict="local"))
    recommender = Recommender(model)
    known = recommender.history_of("user-2")
    new = next(column for column in range(60) if column not in known.columns)
    event = Event(item_key=model.own.keys[new], value=1.0, time=10**10)
    history = recommender.history_of("user-2", [event])
    assert history.columns.tolist() == [*known.columns.tolist(), new]
    later = UserItemMatrix.from_entries(
        np.zeros(len(history.columns), dtype=int), history.columns, history.values, np.arange(len(history.columns)),
        n_users=1, n_items=60,
    )  # fmt: skip
    expected = z(model.own_scorer().scores(later, np.array([0])))[0]
    listed = recommender.recommend_for(recommender.prepare(history), 200, "own", exclude_seen=False)
    rows = [model.own.keys.index(item.key) for item in listed]
    np.testing.assert_allclose([item.score for item in listed], expected[rows], atol=2e-5)


def test_passports_tell_the_factor_that_training_would_solve():
    plain = random_platform_model(np.random.default_rng(2), verdict="shared")
    made = [
        ContentsMaker(model, None).make(
            Recommender(model).history_of("user-3"), PassportConfig(contents=("factor",)), account=None
        )
        for model in (plain, by_latest(plain))
    ]
    assert made[0].factor is not None
    assert made[1].factor is not None
    assert made[0].factor.values.tobytes() == made[1].factor.values.tobytes()


def test_a_contribution_is_what_an_item_adds_with_the_solve_fixed():
    # Independent of explain.py: with A fixed, the score is linear in the confidences on the right-hand side alone.
    model = random_platform_model(np.random.default_rng(3), verdict="local")
    recommender = Recommender(model)
    history = recommender.history_of("user-0")
    v = model.local.item_parameters.astype(np.float64)
    seen = v[history.columns]
    a = v.T @ v * model.local.config.unobserved_weight + seen.T @ seen + 2.0 * np.eye(v.shape[1])
    raw = np.linalg.inv(a) @ seen.T
    spread = (v @ raw.sum(axis=1)).std()
    target = 7
    expected = (v[target] - v.mean(axis=0)) @ raw / spread
    why = recommender.explain(history, model.own.keys[target])
    got = {part.key: part.amount for part in why.contributions}
    np.testing.assert_allclose([got[model.own.keys[c]] for c in history.columns], expected, atol=1e-6)
    assert [abs(part.amount) for part in why.contributions] == sorted(np.abs(expected), reverse=True) or np.allclose(
        [abs(part.amount) for part in why.contributions], np.sort(np.abs(expected))[::-1]
    )


def test_says_which_factors_decided_and_with_what_weight():
    model = random_platform_model(np.random.default_rng(4), verdict="blend")
    recommender = Recommender(model)
    history = recommender.history_of("user-1")
    own = recommender.explain(history, model.own.keys[0])
    assert (own.decided_by, own.models["local"].weight, own.models["shared"].weight) == ("blend", 1.0, 0.5)
    foreign = model.vocabulary.keys[int(np.flatnonzero(model.foreign)[0])]
    cross = recommender.explain(history, foreign)
    assert cross.decided_by == "shared"
    assert cross.models["popularity"].weight == model.cross.beta
    assert cross.popularity == pytest.approx(cross.models["popularity"].amount)
    placed = Recommender(with_attributes(model)).explain(history, foreign)
    assert (placed.models["shared"].weight, placed.models["attributes"].weight) == (1.0, 1.7)
    assert placed.models["attributes"].amount != 0


def test_limits_the_listed_contributions_and_keeps_the_sum():
    recommender = Recommender(random_platform_model(np.random.default_rng(5)))
    history = recommender.history_of("user-1")
    whole, short = (recommender.explain(history, recommender.own.items.keys[3], limit=limit) for limit in (None, 2))
    assert short.contributions == whole.contributions[:2]
    assert short.others == pytest.approx(sum(part.amount for part in whole.contributions[2:]))


def test_never_recommends_what_the_user_has_unless_asked_to():
    model = random_platform_model(np.random.default_rng(6))
    recommender = Recommender(model)
    seen = {model.own.keys[c] for c in model.histories.row(0)}
    assert not seen & {item.key for item in recommender.recommend("user-0", k=200)}
    assert seen <= {item.key for item in recommender.recommend("user-0", k=200, exclude_seen=False)}


def test_scopes_hold_own_items_foreign_items_and_both():
    model = random_platform_model(np.random.default_rng(7))
    recommender = Recommender(model)
    own, cross, both = (
        recommender.recommend("user-0", k=500, scope=scope, exclude_seen=False) for scope in ("own", "cross", "all")
    )
    assert {item.key for item in own} == set(model.own.keys)
    assert {item.key for item in cross} == {model.vocabulary.keys[i] for i in np.flatnonzero(model.foreign)}
    assert len(both) == len(own) + len(cross)
    assert all(item.platforms[0] == "here" for item in own)
    assert all(item.platforms == ("there",) for item in cross)


def test_a_user_of_whom_nothing_is_known_gets_what_is_popular():
    model = random_platform_model(np.random.default_rng(8))
    recommender = Recommender(model)
    nothing, ignored = recommender.history_from([("imdb:9999999", 1.0)])
    assert ignored == ("imdb:9999999",)
    listed = recommender.recommend_for(recommender.prepare(nothing), k=500)
    counts = dict(zip(model.own.keys, model.histories.item_counts(), strict=True))
    own = [counts[item.key] for item in listed if item.key in counts]
    assert own == sorted(own, reverse=True)
    why = recommender.explain(nothing, listed[0].key)
    assert (why.decided_by, why.score) == ("popularity", pytest.approx(listed[0].score, abs=1e-5))


def test_a_history_given_by_keys_gets_what_a_known_user_with_it_gets():
    model = random_platform_model(np.random.default_rng(9))
    recommender = Recommender(model)
    given = [(model.own.keys[c], 1.0) for c in model.histories.row(2)]
    history, ignored = recommender.history_from(given)
    assert not ignored
    listed = recommender.recommend_for(recommender.prepare(history), k=30)
    known = recommender.recommend("user-2", k=30)
    assert [item.key for item in listed] == [item.key for item in known]


def test_filters_hold_for_every_item_and_lose_none():
    model = random_platform_model(np.random.default_rng(10))
    recommender = Recommender(model)
    everything = recommender.recommend("user-0", k=500)

    def passes(wanted: ItemFilter):
        return recommender.recommend("user-0", k=500, wanted=wanted)

    assert passes(ItemFilter(any_genres=("drama", "ACTION"))) == [
        item for item in everything if {"Drama", "Action"} & set(item.genres)
    ]
    assert passes(ItemFilter(no_genres=("Drama",))) == [item for item in everything if "Drama" not in item.genres]
    assert passes(ItemFilter(key_prefixes=("here:", "imdb:000000"))) == [
        item for item in everything if item.key.startswith(("here:", "imdb:000000"))
    ]
    assert passes(ItemFilter(platforms=("there",))) == [item for item in everything if "there" in item.platforms]
    both = ItemFilter(any_genres=("Drama",), platforms=("there",))
    assert passes(both) == [item for item in everything if "Drama" in item.genres and "there" in item.platforms]
    assert passes(ItemFilter(any_genres=("No such genre",))) == []


@pytest.mark.parametrize("verdict", ["local", "shared", "blend", "anchored"])
def test_similar_items_are_ordered_by_cosine_in_the_space_that_ranks(verdict):
    model = random_platform_model(np.random.default_rng(11), verdict=verdict)
    recommender = Recommender(model)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    local = {"anchored": model.anchored}.get(verdict, model.local).item_parameters
    shared = model.shared.item_parameters
    query, position = 4, model.own_positions[4]
    expected = {}
    for column, p in enumerate(model.own_positions):
        there = cosine(shared[position], shared[p]) if p >= 0 else 0.0
        here = cosine(local[query], local[column])
        expected[model.own.keys[column]] = {"shared": there, "blend": (here + 0.5 * there) / 1.5}.get(verdict, here)
    for i in np.flatnonzero(model.foreign):
        expected[model.vocabulary.keys[i]] = cosine(shared[position], shared[i])
    listed = recommender.similar(model.own.keys[query], k=500)
    assert len(listed) == len(expected) - 1
    np.testing.assert_allclose([item.score for item in listed], [expected[item.key] for item in listed], atol=1e-5)
    assert model.own.keys[query] not in {item.key for item in listed}


def test_a_cosine_is_at_most_one():
    model = random_platform_model(np.random.default_rng(11), verdict="local")
    rows, width = model.local.item_parameters.shape
    one_direction = np.outer(np.linspace(0.1, 7.0, rows), np.random.default_rng(0).standard_normal(width)).astype(
        np.float32
    )
    local = replace(model.local, item_parameters=one_direction)
    listed = Recommender(replace(model, local=local)).similar(model.own.keys[4], k=500, scope="own")
    assert max(item.score for item in listed) == 1.0
    assert min(item.score for item in listed) > 1 - 1e-6


def test_similar_to_a_foreign_item_uses_the_shared_space():
    model = random_platform_model(np.random.default_rng(12), verdict="local")
    i = int(np.flatnonzero(model.foreign)[0])
    listed = Recommender(model).similar(model.vocabulary.keys[i], k=500, scope="own")
    shared = model.shared.item_parameters / np.linalg.norm(model.shared.item_parameters, axis=1, keepdims=True)
    expected = {
        key: float(shared[p] @ shared[i]) if p >= 0 else 0.0
        for key, p in zip(model.own.keys, model.own_positions, strict=True)
    }
    np.testing.assert_allclose([item.score for item in listed], [expected[item.key] for item in listed], atol=1e-5)


def test_top_k_is_the_head_of_the_whole_list():
    model = random_platform_model(np.random.default_rng(13), own=300, foreign=0)
    recommender = Recommender(model)
    history = model.histories.select_users(np.array([1]))
    ids, _ = top_k(z(model.own_scorer().scores(history, np.array([0]))), 25, history)
    assert [item.key for item in recommender.recommend("user-1", k=25)] == [model.own.keys[i] for i in ids[0]]


def test_serves_a_model_without_foreign_items():
    model = random_platform_model(np.random.default_rng(14), foreign=0, verdict="local")
    alone = replace(model, own_positions=np.full(60, -1, dtype=np.int32))
    assert len(Recommender(alone).recommend("user-0", k=10)) == 10


def with_linear(model, *, weight: float = 0.8):
    """The model with weights from some own items to some of the others'; nothing points to the rest."""
    rng = np.random.default_rng(101)
    own, foreign = np.sort(model.own_positions[model.own_positions >= 0]), np.flatnonzero(model.foreign)
    inputs, targets = own[::2], foreign[1::3]
    weights = rng.standard_normal((len(inputs), len(targets))).astype(np.float32)
    return replace(
        model, cross=model.cross.with_part(EasePart(inputs, targets, weights, np.arange(len(model.owners))), weight)
    )


@pytest.mark.parametrize("attributes", [False, True])
def test_the_item_item_model_serves_and_explains_measured_scores(attributes):
    plain = random_platform_model(np.random.default_rng(7), verdict="shared")
    model = with_linear(with_attributes(plain) if attributes else plain)
    recommender, moved = Recommender(model), 0
    for user in range(5):
        expected, before = oracle(model, user), oracle(plain, user)
        history = recommender.history_of(f"user-{user}")
        for item in recommender.recommend(f"user-{user}", k=200, scope="cross", exclude_seen=False):
            assert item.score == pytest.approx(expected[item.key], abs=3e-5)
            moved += abs(expected[item.key] - before[item.key]) > 0.01
            why = recommender.explain(history, item.key)
            parts = sum(part.amount for part in why.contributions) + why.others + why.item_bias + why.popularity
            assert parts == pytest.approx(item.score, abs=5e-5)
            assert "linear" in why.models
    assert moved > 20
