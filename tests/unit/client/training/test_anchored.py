"""The anchored local model and the tuning of local models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.training.als import recency_weights
from client.training.anchored import anchor_and_start, anchored_trainer, fit_anchored
from client.training.factory import make_trainer
from client.training.fit import fit
from client.training.tuning import SearchSpace, tune_anchored, tune_local
from common.config.model import AnchoredConfig, FactorizationConfig
from common.errors import ContractError

CONFIG = AnchoredConfig(
    dimension=3, free_dimensions=2, regularization=0.5, anchor_regularization=4.0, unobserved_weight=0.3,
    backend="numba", iterations=4,
)  # fmt: skip
SMALL = SearchSpace(dimensions=(2, 4), free_dimensions=(0, 2), ridge=(0.1, 10.0))


def random_matrix(seed: int, n: int = 30, m: int = 12) -> UserItemMatrix:
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((n, m)) < 0.4)
    values = np.ones(len(users), dtype=np.float32)
    return UserItemMatrix.from_entries(users, items, values, rng.permutation(len(users)), n_users=n, n_items=m)


def shared_factors(m: int = 12, width: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(99).standard_normal((m, width), dtype=np.float32)


def dense_anchored_objective(
    matrix: UserItemMatrix, config: AnchoredConfig, users: NDArray[np.float32], items: NDArray[np.float32]
) -> float:
    """Term by term: data, users' λ, λ_a to the shared factors, λ on the free dimensions."""
    mask = np.zeros((matrix.n_users, matrix.n_items))
    mask[matrix.entry_users(), matrix.indices] = 1
    u, v, shared = users.astype(float), items.astype(float), shared_factors(matrix.n_items)
    scores = u @ v.T
    data = (mask * (1 - scores) ** 2).sum() + config.unobserved_weight * (scores**2).sum()
    anchored = config.anchor_regularization * ((v[:, :3] - shared) ** 2).sum()
    free = config.regularization * (v[:, 3:] ** 2).sum()
    return float(data + config.regularization * (u**2).sum() + anchored + free)


def test_anchored_objective_is_the_dense_sum_and_never_rises() -> None:
    matrix = random_matrix(0)
    history = fit_anchored(matrix, shared_factors(), CONFIG, np.random.default_rng(0), track_objective=True).objective
    for iterations in (1, 4):
        config = CONFIG.model_copy(update={"iterations": iterations})
        anchor, start = anchor_and_start(shared_factors(), config, np.random.default_rng(0))
        trainer = anchored_trainer(matrix, config)
        items, users = start, np.empty(0)
        for _ in range(iterations):
            users = trainer.solve_users(matrix, items)
            items = trainer.solve_items(matrix, users, None, anchor)
        expected = dense_anchored_objective(matrix, config, users, items)
        assert history[iterations - 1] == pytest.approx(expected, rel=1e-5)
    assert all(after <= before for before, after in itertools.pairwise(history))


@pytest.mark.parametrize("backend", ["numba", "tensorflow"])
def test_anchored_items_solve_the_dense_system(backend: str) -> None:
    matrix = random_matrix(1)
    config = CONFIG.model_copy(update={"backend": backend, "device": "cpu"})
    users = np.random.default_rng(1).standard_normal((30, 5), dtype=np.float32)
    anchor, _ = anchor_and_start(shared_factors(), config, np.random.default_rng(0))
    items = anchored_trainer(matrix, config).solve_items(matrix, users, None, anchor)
    mask = np.zeros((30, 12))
    mask[matrix.entry_users(), matrix.indices] = 1
    ridge = np.diag([4.0, 4.0, 4.0, 0.5, 0.5])
    prior = np.pad(shared_factors().astype(float), ((0, 0), (0, 2)))
    for i in range(12):
        left = users.T @ np.diag(mask[:, i] + 0.3) @ users.astype(float) + ridge
        expected = np.linalg.solve(left, users.T @ mask[:, i] + ridge @ prior[i])
        np.testing.assert_allclose(items[i], expected, atol=2e-5)


def test_an_item_without_interactions_stays_near_its_hard_anchor() -> None:
    matrix = random_matrix(2).select_entries(random_matrix(2).indices != 7)
    hard = CONFIG.model_copy(update={"anchor_regularization": 1e7})
    fitted = fit_anchored(matrix, shared_factors(), hard, np.random.default_rng(0))
    np.testing.assert_allclose(fitted.item_factors[:, :3], shared_factors(), atol=1e-4)
    assert fitted.item_factors.shape == (12, 5)


def test_a_vanishing_anchor_leaves_a_plain_local_model() -> None:
    matrix = random_matrix(3)
    config = CONFIG.model_copy(update={"anchor_regularization": CONFIG.regularization, "free_dimensions": 0})
    nothing = np.zeros((12, 3), dtype=np.float32)
    trainer, start = anchored_trainer(matrix, config), shared_factors()
    anchor, _ = anchor_and_start(nothing, config, np.random.default_rng(0))
    anchored = fit(matrix, trainer.config, np.random.default_rng(0), item_factors=start, anchor=anchor)
    plain = fit(matrix, trainer.config, np.random.default_rng(0), item_factors=start)
    np.testing.assert_allclose(anchored.item_factors, plain.item_factors, atol=1e-6)


def test_conjugate_gradients_reach_the_anchored_optimum() -> None:
    matrix = random_matrix(4)
    config = CONFIG.model_copy(update={"iterations": 50})
    exact = fit_anchored(matrix, shared_factors(), config, np.random.default_rng(0), track_objective=True)
    cg = config.model_copy(update={"solver": "cg"})
    approximate = fit_anchored(matrix, shared_factors(), cg, np.random.default_rng(0), track_objective=True)
    assert approximate.objective[-1] == pytest.approx(exact.objective[-1], rel=1e-4)


def test_an_explicit_anchor_keeps_the_bias_in_the_last_column() -> None:
    config = CONFIG.model_copy(update={"feedback": "explicit"})
    anchor, start = anchor_and_start(shared_factors(width=4), config, np.random.default_rng(0))
    np.testing.assert_array_equal(start[:, -1], shared_factors(width=4)[:, -1])
    np.testing.assert_array_equal(anchor.item_factors[:, 3:5], 0)
    assert anchor.shape.tolist() == [8, 8, 8, 1, 1, 8]


def test_shared_factors_of_another_shape_are_refused() -> None:
    with pytest.raises(ContractError, match="4 columns"):
        fit_anchored(random_matrix(0), shared_factors(width=4), CONFIG, np.random.default_rng(0))
    with pytest.raises(ContractError, match="11 items"):
        fit_anchored(random_matrix(0), shared_factors(m=11), CONFIG, np.random.default_rng(0))


def test_recent_interactions_weigh_more_by_their_place_in_the_row() -> None:
    matrix = UserItemMatrix(
        indptr=np.array([0, 3, 3, 4]),
        indices=np.array([2, 0, 1, 1], dtype=np.int32),
        values=np.array([1, 2, 1, 1], dtype=np.float32),
        times=np.array([5, 6, 7, 0]),
        n_items=3,
    )
    expected = [1 + 4 * np.exp(-1.0), 2 * (1 + 4 * np.exp(-0.5)), 5.0, 5.0]
    np.testing.assert_allclose(recency_weights(matrix, 4.0, 2.0), expected, rtol=1e-6)
    np.testing.assert_array_equal(recency_weights(matrix, 0.0, 2.0), matrix.values)


def test_a_boosted_trainer_is_a_plain_one_on_weighted_entries() -> None:
    matrix = random_matrix(5)
    boosted = FactorizationConfig(dimension=3, recency_boost=3.0, recency_span=2.0, backend="numba")
    weights = recency_weights(matrix, 3.0, 2.0)
    weighted = UserItemMatrix(matrix.indptr, matrix.indices, weights, matrix.times, matrix.n_items)
    plain = boosted.model_copy(update={"recency_boost": 0.0})
    ours = fit(matrix, boosted, np.random.default_rng(0), track_objective=True)
    theirs = fit(weighted, plain, np.random.default_rng(0), track_objective=True)
    np.testing.assert_array_equal(ours.item_factors, theirs.item_factors)
    assert ours.objective == theirs.objective


def planted(users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
    """A score that prefers small models, whatever the data: what wins is known beforehand."""
    return -float(users.shape[1])


def test_tuning_returns_the_best_trial_and_repeats_itself_to_the_bit() -> None:
    matrix, truth = random_matrix(6), np.random.default_rng(0).random((30, 12))

    def score(users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
        return float((truth * (users @ items.T)).sum())

    first, second = (
        tune_local(matrix, matrix, score, np.random.default_rng(1), budget=6, space=SMALL) for _ in range(2)
    )
    assert first.trials == second.trials
    assert (first.config, first.score) == max(first.trials, key=lambda trial: trial[1])


def test_tuning_finds_the_planted_winner() -> None:
    tuned = tune_local(random_matrix(6), random_matrix(7), planted, np.random.default_rng(1), budget=8, space=SMALL)
    assert tuned.config.dimension == 2
    anchored = tune_anchored(
        random_matrix(6), random_matrix(7), planted, np.random.default_rng(1), shared_factors(), budget=8,
        base=CONFIG, space=SMALL,
    )  # fmt: skip
    assert isinstance(anchored.config, AnchoredConfig)
    assert anchored.config.free_dimensions == 0


def test_every_trials_score_is_reached_by_training_anew() -> None:
    matrix, truth = random_matrix(8), np.random.default_rng(0).random((30, 12))

    def score(users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
        return float((truth * (users @ items.T)).sum())

    tuned = tune_local(matrix, matrix, score, np.random.default_rng(3), budget=5, space=SMALL)
    seed = int(np.random.default_rng(3).integers(2**63))
    # The search draws candidates after the seed; every one of them starts from it.
    for config, value in tuned.trials:
        fitted = fit(matrix, config, np.random.default_rng(seed))
        users = make_trainer(config).solve_users(matrix, fitted.item_factors)
        assert score(users, fitted.item_factors) == pytest.approx(value, rel=1e-4, abs=1e-4)


def test_local_and_anchored_get_the_same_number_of_trials() -> None:
    matrix = random_matrix(9)
    local = tune_local(matrix, matrix, planted, np.random.default_rng(1), budget=7, space=SMALL)
    anchored = tune_anchored(
        matrix, matrix, planted, np.random.default_rng(1), shared_factors(), budget=7, base=CONFIG, space=SMALL
    )
    assert len(local.trials) == len(anchored.trials)


def test_tuning_works_with_a_single_candidate() -> None:
    matrix = random_matrix(10)
    assert len(tune_local(matrix, matrix, planted, np.random.default_rng(1), budget=1, space=SMALL).trials) == 3
