"""Every scorer keeps one contract."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import client
from client.data.dataset import UserItemMatrix
from client.personalization.platform_model import PlatformModel
from client.scoring.factors import shared_on_own, shared_on_vocabulary
from client.scoring.fold_in import FoldIn
from client.scoring.part import Part
from client.scoring.reranker import RankedItems, RankedScorer, Ranker, width
from client.scoring.scorer import PopularityScorer, Scorer, SolvedFactorScorer
from client.towers.scorer import TowerScorer
from common.config.ranker import RankerConfig
from tests.support.stores import model_of
from tests.support.towers import deep, federated

MODEL = model_of(5)
EXPLICIT = model_of(6, "local", explicit=True)
Case = Callable[[], tuple[Scorer, UserItemMatrix]]


def on_own(scorer: Scorer, model: PlatformModel = MODEL) -> tuple[Scorer, UserItemMatrix]:
    return scorer, model.histories


def on_vocabulary(scorer: Scorer) -> tuple[Scorer, UserItemMatrix]:
    return scorer, MODEL.on_vocabulary(MODEL.histories)


def local() -> FoldIn:
    return FoldIn(MODEL.local.item_parameters, MODEL.local.config)


def towers() -> tuple[Scorer, UserItemMatrix]:
    """A deep model over own items, which knows none of the users in person."""
    model = federated(1)
    kept = deep(1, "mean", personal=False)
    return TowerScorer(kept.model, kept.own), model.histories


def ranked() -> RankedScorer:
    """A ranking stage over two scorers, with weights that matter."""
    items = RankedItems.of(MODEL.histories.item_counts(), MODEL.own.genres, buckets=8)
    rng, parts = np.random.default_rng(7), ("local", "shared")
    f = width(len(parts), items.values.shape[1])
    ranker = Ranker(
        config=RankerConfig(enabled=True, candidates=4),
        parts=parts,
        items=items,
        latest=0,
        span=1,
        mean=np.zeros(f, dtype=np.float32),
        scale=np.ones(f, dtype=np.float32),
        kernels=rng.standard_normal((2, f, f)).astype(np.float32),
        biases=rng.standard_normal((2, f)).astype(np.float32),
        head=rng.standard_normal(f).astype(np.float32),
        head_bias=0.0,
        blend_weight=1.0,
    )
    return RankedScorer(ranker, tuple(MODEL.own_part(part) for part in parts))


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
    "towers": towers,
    "ranked": lambda: on_own(ranked()),
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


def scorers_of_the_product() -> set[str]:
    """Names of the classes of ``client`` that score users of histories; parts have a suite of their own."""
    found: set[str] = set()
    for path in Path(client.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(one, ast.FunctionDef)
                and one.name == "scores"
                and [argument.arg for argument in one.args.args] == ["self", "histories", "users"]
                for one in node.body
            ):
                found.add(node.name)
    return found - {Scorer.__name__} - names_of_parts()


def names_of_parts(base: type = Part) -> set[str]:
    return {base.__name__}.union(*(names_of_parts(one) for one in base.__subclasses__()))


def test_no_scorer_of_the_product_is_missing_here() -> None:
    made = {type(make()[0]).__name__ for make in SCORERS.values()}
    assert scorers_of_the_product() <= made
    assert "RankedScorer" in scorers_of_the_product()
