"""Every scorer keeps one contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.data.dataset import UserItemMatrix
from client.personalization.platform_model import PlatformModel
from client.scoring.factors import shared_on_own, shared_on_vocabulary
from client.scoring.fold_in import FoldIn
from client.scoring.scorer import PopularityScorer, Scorer, SolvedFactorScorer
from tests.support.stores import model_of

MODEL = model_of(5)
EXPLICIT = model_of(6, "local", explicit=True)
Case = Callable[[], tuple[Scorer, UserItemMatrix]]


def on_own(scorer: Scorer, model: PlatformModel = MODEL) -> tuple[Scorer, UserItemMatrix]:
    return scorer, model.histories


def on_vocabulary(scorer: Scorer) -> tuple[Scorer, UserItemMatrix]:
    return scorer, MODEL.on_vocabulary(MODEL.histories)


def local() -> FoldIn:
    return FoldIn(MODEL.local.item_parameters, MODEL.local.config)


SCORERS: dict[str, Case] = {
    "folded in": lambda: on_own(local()),
    "folded in, explicit": lambda: on_own(
        FoldIn(EXPLICIT.local.item_parameters, EXPLICIT.local.config, 3.25), EXPLICIT
    ),
    "shared on own": lambda: on_own(shared_on_own(MODEL.shared, MODEL.own_positions)),
    "shared on vocabulary": lambda: on_vocabulary(shared_on_vocabulary(MODEL.shared, MODEL.own_positions)),
    "blend": lambda: on_own(MODEL.own_scorer("blend", 0.5)),
    "cross": lambda: on_vocabulary(MODEL.cross_scorer()),
    "popularity": lambda: on_own(PopularityScorer(MODEL.histories.item_counts())),
    "solved": lambda: on_own(SolvedFactorScorer(local().users(MODEL.histories), MODEL.local.item_parameters)),
}


@pytest.fixture(params=SCORERS)
def case(request: pytest.FixtureRequest) -> tuple[Scorer, UserItemMatrix]:
    return SCORERS[request.param]()


def test_scores_are_finite_float32_of_users_by_items(case: tuple[Scorer, UserItemMatrix]) -> None:
    scorer, histories = case
    scores = scorer.scores(histories, np.array([2, 0]))
    assert scores.dtype == np.float32
    assert scores.shape == (2, histories.n_items)
    assert np.isfinite(scores).all()


def test_no_user_at_all_is_no_error(case: tuple[Scorer, UserItemMatrix]) -> None:
    scorer, histories = case
    assert scorer.scores(histories, np.zeros(0, dtype=np.int64)).shape == (0, histories.n_items)


def test_a_users_scores_do_not_depend_on_who_else_is_scored(case: tuple[Scorer, UserItemMatrix]) -> None:
    scorer, histories = case
    together = scorer.scores(histories, np.arange(3))
    for user in range(3):
        alone = scorer.scores(histories, np.array([user]))
        assert alone[0] == pytest.approx(together[user], rel=1e-4, abs=1e-5)


def test_nothing_that_is_passed_in_is_changed(case: tuple[Scorer, UserItemMatrix]) -> None:
    scorer, histories = case
    before = [array.copy() for array in (histories.indptr, histories.indices, histories.values)]
    first = scorer.scores(histories, np.arange(3)).copy()
    assert np.array_equal(scorer.scores(histories, np.arange(3)), first)
    for array, kept in zip((histories.indptr, histories.indices, histories.values), before, strict=True):
        assert np.array_equal(array, kept)


@pytest.mark.parametrize("name", [name for name in SCORERS if name != "solved"])
def test_an_empty_history_is_scored_too(name: str) -> None:
    scorer, histories = SCORERS[name]()
    empty = replace(histories.select_entries(np.zeros(histories.nnz, dtype=bool)), n_items=histories.n_items)
    scores = scorer.scores(empty, np.arange(3))
    assert np.isfinite(scores).all()
    assert np.array_equal(scores[0], scores[1]), "nothing is known of either"
