from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.split import EvaluationSlice, random_per_user
from client.scoring.evaluation import evaluate
from client.scoring.reranker import RankedItems, RankedScorer, Ranker
from client.scoring.scorer import z
from client.training.reranker import _inputs, _Network, fit_ranker
from common.config.ranker import RankerConfig
from common.errors import ContractError, DataError
from tests.support import matrix

N, M = 400, 60
CONFIG = RankerConfig(enabled=True, candidates=30, epochs=15, seed=1)


@dataclass(frozen=True, eq=False)
class Fixed:
    """Scores of a table, whatever the history."""

    table: NDArray[np.float32]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.table[users]


@dataclass(frozen=True, eq=False)
class Blend:
    scorers: tuple[Fixed, ...]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        return np.sum([z(scorer.scores(histories, users)) for scorer in self.scorers], axis=0)


@dataclass(frozen=True)
class World:
    """Users with short histories choose by the first scorer, those with long ones by the second."""

    scorers: tuple[Fixed, Fixed]
    train: UserItemMatrix
    test: EvaluationSlice
    items: RankedItems


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(N, M)).astype(np.float32) for _ in range(2))
    rows = []
    for user in range(N):
        short = user % 2 == 0
        taste = 2.5 * (first if short else second)[user] + rng.gumbel(size=M)
        rows.append(np.argsort(-taste)[: 6 if short else 18].tolist())
        rng.shuffle(rows[-1])
    split = random_per_user(matrix(rows, M), rng=rng, test_share=0.3, validation_users_share=0.0)
    items = RankedItems.of(split.train.item_counts(), [("a",), ("b", "c")] * (M // 2), 4)
    return World((Fixed(first), Fixed(second)), split.train, split.test, items)


@pytest.fixture(scope="module")
def ranker(world: World) -> RankedScorer:
    return fit_ranker(named(world.scorers), world.train, world.items, CONFIG)


def named(scorers: tuple[Fixed, ...]) -> dict[str, Fixed]:
    return {f"scorer {place}": scorer for place, scorer in enumerate(scorers)}


def ndcg(scorer: RankedScorer | Blend | Fixed, world: World) -> NDArray[np.float64]:
    return evaluate(scorer, world.test, metrics=("ndcg@10",), depth=20).values["ndcg@10"]


def test_it_beats_the_blend_and_either_scorer_where_features_interact(ranker: RankedScorer, world: World) -> None:
    gain = ndcg(ranker, world) - ndcg(Blend(world.scorers), world)
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))
    assert gain.mean() > 0.05
    for scorer in world.scorers:
        assert ndcg(ranker, world).mean() > ndcg(scorer, world).mean() + 0.05


def test_its_probabilities_are_how_often_users_choose(ranker: RankedScorer, world: World) -> None:
    """On interactions that were kept from it, with a history thinned as in training."""
    rng = np.random.default_rng(9)
    split = random_per_user(world.train, rng=rng, test_share=CONFIG.withheld, validation_users_share=0.0).test
    items, probabilities = ranker.probabilities(split.history, np.arange(N))
    chosen = np.array([np.isin(items[u], split.truth.row(u)) for u in range(N)])
    kept = items >= 0
    p, y = probabilities[kept], chosen[kept]
    assert abs(p.mean() - y.mean()) < 0.15 * y.mean()
    order = np.argsort(p)
    for part in np.array_split(order, 5)[2:]:
        sampling = 4 * np.sqrt(p[part].mean() / len(part))
        assert abs(p[part].mean() - y[part].mean()) < 0.25 * y[part].mean() + sampling


def test_items_that_are_no_candidates_keep_the_blends_order_below(ranker: RankedScorer, world: World) -> None:
    users = np.arange(20)
    scores, base = ranker.scores(world.train, users), Blend(world.scorers).scores(world.train, users)
    items, probabilities = ranker.probabilities(world.train, users)
    for row, user in enumerate(users):
        others = np.setdiff1d(np.arange(M), items[row])
        assert scores[row, others].max() < scores[row, items[row]].min()
        assert (np.argsort(scores[row, others]) == np.argsort(base[row, others])).all()
        assert (np.argsort(scores[row, items[row]]) == np.argsort(probabilities[row])).all()
        assert not np.isin(items[row], world.train.row(int(user))).any()


def test_candidates_hold_the_best_of_every_scorer(ranker: RankedScorer, world: World) -> None:
    nobody = world.train.select_entries(np.zeros(world.train.nnz, dtype=bool))
    items, _ = ranker.probabilities(nobody, np.arange(N))
    for scorer in world.scorers:
        best = np.argsort(-scorer.table, axis=1)[:, :15]
        assert all(np.isin(best[u], items[u]).all() for u in range(N))


def test_a_ranker_that_was_kept_as_arrays_scores_alike(ranker: RankedScorer, world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "kept.npz", **ranker.ranker.arrays())
    with np.load(tmp_path / "kept.npz") as arrays:
        again = RankedScorer(Ranker.of_arrays(arrays), world.scorers)
    users = np.arange(10)
    np.testing.assert_array_equal(again.scores(world.train, users), ranker.scores(world.train, users))
    assert again.ranker.parts == ("scorer 0", "scorer 1")
    with pytest.raises(ContractError, match="candidates of 2 scorers, here are 1"):
        RankedScorer(ranker.ranker, world.scorers[:1])


def test_the_numpy_network_is_the_keras_network() -> None:
    rng = np.random.default_rng(2)
    network = _Network(7, CONFIG, 0.7, -1.5)
    for weight in network.model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    plain = network.into(ranker_of_width(7))
    features = rng.normal(size=(20, 7)).astype(np.float32)
    expected = np.asarray(network.model(_inputs(plain, features)))[:, 0]
    np.testing.assert_allclose(plain.raw(features), expected, rtol=1e-4, atol=1e-5)


def test_untrained_it_is_the_calibrated_blend() -> None:
    features = np.random.default_rng(2).normal(size=(20, 7)).astype(np.float32)
    plain = _Network(7, CONFIG, 0.7, -1.5).into(ranker_of_width(7))
    np.testing.assert_allclose(plain.raw(features), 0.7 * features[:, 0] - 1.5, rtol=1e-5)


def test_what_was_taken_out_is_scored_by_models_that_never_saw_it(world: World) -> None:
    given: list[UserItemMatrix] = []

    def refitted(train: UserItemMatrix) -> dict[str, Fixed]:
        given.append(train)
        return {"scorer 0": Fixed(-world.scorers[0].table)}

    config = CONFIG.model_copy(update={"epochs": 3})
    found = fit_ranker(named(world.scorers), world.train, world.items, config, refitted=refitted)
    assert given[0].nnz < world.train.nnz
    assert found.scorers == world.scorers
    assert (
        found.ranker.kernels != fit_ranker(named(world.scorers), world.train, world.items, config).ranker.kernels
    ).any()


def ranker_of_width(features: int) -> Ranker:
    return Ranker(
        config=CONFIG,
        parts=("one",),
        items=RankedItems.of(np.ones(3), [()] * 3, features - 5),
        latest=0,
        span=1,
        mean=np.zeros(features, dtype=np.float32),
        scale=np.ones(features, dtype=np.float32),
        kernels=np.zeros((2, features, features), dtype=np.float32),
        biases=np.zeros((2, features), dtype=np.float32),
        head=np.zeros(features, dtype=np.float32),
        head_bias=0.0,
        blend_weight=1.0,
    )


def test_histories_of_no_item_and_of_every_item_are_scored(ranker: RankedScorer, world: World) -> None:
    scores = ranker.scores(matrix([[], list(range(M))], M), np.array([0, 1]))
    assert np.isfinite(scores).all()


def test_too_few_users_are_refused(world: World) -> None:
    with pytest.raises(DataError, match="leave it out"):
        fit_ranker(named(world.scorers), matrix([[0], [1]], M), world.items, CONFIG)


def test_genres_are_hashed_without_case_and_negative_noise_is_zero() -> None:
    items = RankedItems.of(np.array([-3.0, 0.0, 7.0]), [("Drama",), (" drama",), ()], 16)
    assert (items.values[0] == items.values[1]).all()
    assert items.values.sum(axis=1).tolist() == [1, 1, 0]
    np.testing.assert_allclose(items.log_popularity, [0, 0, np.log(8)], rtol=1e-6)
