"""The ranking stage from training to service: kept by the store, judged by the verdict, served as it was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.personalization.personalize import Personalizer
from client.personalization.platform_model import OwnVerdict, PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.answers import ItemFilter
from client.recommend.recommender import Recommender
from client.scoring.reranker import RankedItems
from client.scoring.topk import top_k
from client.training.reranker import fit_ranker
from common.config.platform import PersonalizationConfig
from common.config.ranker import RankerConfig
from common.errors import ConfigError
from simulations.engine.random_model import random_platform_model
from tests.support.tuned import MODEL, training_data, view_of

CONFIG = RankerConfig(enabled=True, candidates=12, epochs=2)


@pytest.fixture(scope="module")
def model() -> PlatformModel:
    """A platform whose lists are ordered by a ranker over its local and the shared model."""
    plain = random_platform_model(np.random.default_rng(1), verdict="local")
    items = RankedItems.of(plain.histories.item_counts(), plain.own.genres, CONFIG.genre_buckets)
    scorers = {name: plain.own_scorer(name) for name in ("local", "shared")}
    ranked = fit_ranker(scorers, plain.histories, items, CONFIG)
    verdict = OwnVerdict(
        name="ranker", weight=None, metric="ndcg@10", local_mean=0.1, chosen_mean=0.2, interval=(0.05, 0.15)
    )
    return replace(plain, ranker=ranked.ranker, verdict=verdict)


def test_a_service_lists_what_evaluation_ranked(model: PlatformModel) -> None:
    recommender = Recommender(model)
    for user in range(8):
        row = np.array([user])
        history = model.histories.select_users(row)
        ranked, _ = top_k(model.own_scorer().scores(model.histories, row), 10, history)
        listed = recommender.recommend(f"user-{user}", k=10, scope="own")
        assert [item.key for item in listed] == [model.own.keys[i] for i in ranked[0]]


def test_the_stage_changes_the_order_and_keeps_the_scores(model: PlatformModel) -> None:
    recommender = Recommender(model)
    moved = 0
    for user in range(8):
        prepared = recommender.prepare(recommender.history_of(f"user-{user}"))
        history = prepared.history.columns
        query = prepared.query("own")
        plain = recommender.own.best(query, 12, excluded=history, allowed=None)
        staged = recommender.own.best(query, 12, excluded=history, allowed=None, context=prepared.context)
        scores = [score for _, score in staged]
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] <= max(score for _, score in plain)
        moved += [row for row, _ in plain] != [row for row, _ in staged]
    assert moved > 0


def test_explanations_add_up_to_the_score_that_was_listed(model: PlatformModel) -> None:
    recommender = Recommender(model)
    history = recommender.history_of("user-1")
    for item in recommender.recommend("user-1", k=12, scope="own"):
        why = recommender.explain(history, item.key)
        assert why.decided_by == "ranker"
        assert why.score == pytest.approx(item.score, abs=3e-5)
        assert sum(share.amount for share in why.models.values()) == pytest.approx(why.score, abs=3e-5)
        parts = sum(part.amount for part in why.contributions) + why.others + why.item_bias + why.popularity
        assert parts == pytest.approx(why.score, abs=3e-5)


def test_more_items_filters_and_unknown_users_are_answered(model: PlatformModel) -> None:
    recommender = Recommender(model)
    whole = recommender.recommend("user-0", k=len(model.own.keys), scope="own", exclude_seen=False)
    assert sorted(item.key for item in whole) == sorted(model.own.keys)
    assert [item.score for item in whole] == sorted((item.score for item in whole), reverse=True)
    genre = whole[0].genres[0]
    wanted = recommender.recommend("user-0", k=5, scope="own", wanted=ItemFilter(any_genres=(genre,)))
    assert wanted
    assert all(genre in item.genres for item in wanted)
    history, _ = recommender.history_from([(model.own.keys[3], 1.0)])
    assert len(recommender.recommend_for(recommender.prepare(history), 5, "own")) == 5
    nobody, _ = recommender.history_from([])
    assert len(recommender.recommend_for(recommender.prepare(nobody), 5, "own")) == 5


def test_a_store_gives_back_the_same_lists(model: PlatformModel, tmp_path) -> None:
    store = PlatformStore(tmp_path)
    store.commit(model)
    loaded = store.load()
    assert loaded.ranker is not None
    assert loaded.ranker.parts == ("local", "shared")
    expected = Recommender(model).recommend("user-2", k=10)
    assert Recommender(loaded).recommend("user-2", k=10) == expected


def test_the_verdict_takes_a_ranker_only_where_validation_gains() -> None:
    data = training_data(np.random.default_rng(7), n=240)
    factors = np.eye(6)[np.arange(125) % 6] * np.random.default_rng(5).uniform(0.4, 0.6, (125, 1))
    config = PersonalizationConfig(tuning_candidates=3, anchored=False, blend_weights=(1.0,), ranker=CONFIG)
    built = Personalizer("here", data, MODEL, config).build(view_of(data, factors))
    assert built.ranker is not None
    assert built.ranker.parts == ("local", "shared")
    untouched = Personalizer("here", data, MODEL, config.model_copy(update={"ranker": RankerConfig()}))
    assert untouched.build(view_of(data, factors)).ranker is None


def test_a_platform_with_too_little_to_train_on_goes_without(caplog: pytest.LogCaptureFixture) -> None:
    data = training_data(np.random.default_rng(7), n=3)
    config = PersonalizationConfig(tuning_candidates=1, anchored=False, blend_weights=(1.0,), ranker=CONFIG)
    scarce = replace(data, train=data.train.select_entries(np.arange(data.train.nnz) < 1))
    built = Personalizer("here", scarce, MODEL, config).build(view_of(data, np.ones((125, 6))))
    assert built.ranker is None
    assert "leave it out" in caplog.text


def test_ratings_have_no_ranking_stage() -> None:
    config = PersonalizationConfig(ranker=CONFIG)
    explicit = MODEL.model_copy(update={"feedback": "explicit"})
    with pytest.raises(ConfigError, match=r"personalization\.ranker"):
        Personalizer("here", training_data(np.random.default_rng(1)), explicit, config)
