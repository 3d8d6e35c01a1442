from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.dataset import UserItemMatrix
from client.scoring.fold_in import FoldIn, Recency
from client.training.factory import make_trainer
from common.config.model import FactorizationConfig
from tests.support import matrix, random_matrix

configs = st.builds(
    FactorizationConfig,
    feedback=st.sampled_from(["implicit", "explicit"]),
    dimension=st.integers(1, 5),
    regularization=st.floats(0.05, 20),
    regularization_exponent=st.sampled_from([0.0, 0.5, 1.0]),
    unobserved_weight=st.floats(0.01, 2),
    backend=st.just("numba"),
)


def items_of(config: FactorizationConfig, m: int, seed: int) -> np.ndarray:
    width = config.dimension + (config.feedback == "explicit")
    return np.random.default_rng(seed).standard_normal((m, width)).astype(np.float32)


@given(configs, st.integers(0, 30))
def test_a_folded_in_user_is_the_one_that_training_solves(config: FactorizationConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    histories = random_matrix(rng, 4, 8, explicit=config.feedback == "explicit")
    items = items_of(config, 8, seed)
    mean = 3.2 if config.feedback == "explicit" else 0.0
    solved = FoldIn(items, config, mean).users(histories)
    trained = make_trainer(config, global_mean=mean).solve_users(histories, items)
    scale = np.abs(trained).max() or 1.0
    assert np.allclose(solved, trained, rtol=1e-3, atol=1e-4 * scale)


@given(configs, st.integers(0, 30), st.sampled_from([None, *(Recency(boost=40.0, span=span) for span in (0.2, 3.0))]))
def test_a_block_of_users_has_the_factors_of_each_alone(
    config: FactorizationConfig, seed: int, recency: Recency | None
) -> None:
    """To the bit: lists for everybody are those that the service gives one at a time."""
    rng = np.random.default_rng(seed)
    histories = random_matrix(rng, 5, 40, explicit=config.feedback == "explicit")
    boosted = config.model_copy(update={"recency_boost": 3.0, "recency_span": 2.5})
    fold_in = FoldIn(items_of(config, 40, seed), boosted, 3.2 if config.feedback == "explicit" else 0.0, recency)
    alone = [fold_in.user(histories.row(u), histories.values[slice(*histories.indptr[u : u + 2])]) for u in range(5)]
    assert fold_in.users(histories).tobytes() == np.stack(alone).tobytes()


@given(configs, st.integers(0, 30))
def test_a_users_factor_is_the_minimum_of_the_objective(config: FactorizationConfig, seed: int) -> None:
    """Least squares on the stacked system, an oracle that shares no line with the normal equations."""
    rng = np.random.default_rng(seed)
    explicit = config.feedback == "explicit"
    items = items_of(config, 7, seed)
    columns = rng.permutation(7)[: rng.integers(0, 6)]
    values = rng.integers(1, 6, len(columns)).astype(np.float32)
    wide = items.astype(float)
    if explicit:
        design = np.column_stack([wide[columns, :-1], np.ones(len(columns))])
        target, size = values - 3.2 - wide[columns, -1], float(len(columns))
        rows, goal = [design], [target]
    else:
        root = np.sqrt(values.astype(float))
        design, target, size = root[:, None] * wide[columns], root, len(columns) + config.unobserved_weight * 7
        rows, goal = [design, np.sqrt(config.unobserved_weight) * wide], [target, np.zeros(7)]
    ridge = config.regularization * max(size, 1.0) ** config.regularization_exponent
    width = wide.shape[1]
    stacked = np.vstack([*rows, np.sqrt(ridge) * np.eye(width)])
    expected = np.linalg.lstsq(stacked, np.concatenate([*goal, np.zeros(width)]), rcond=None)[0]
    solved = FoldIn(items, config, 3.2 if explicit else 0.0).user(columns, values)
    assert np.allclose(solved, expected, rtol=1e-3, atol=1e-4 * (np.abs(expected).max() + 1e-9))


@given(configs, st.integers(0, 30))
def test_prior_is_the_mean_that_history_moves(config: FactorizationConfig, seed: int) -> None:
    """Least squares on the stacked system again, its unknown being how far the factor is from its prior mean."""
    rng = np.random.default_rng(seed)
    config = config.model_copy(update={"feedback": "implicit", "regularization_exponent": 0.0})
    items, columns = items_of(config, 7, seed), rng.permutation(7)[: rng.integers(0, 6)]
    values, prior = rng.integers(1, 6, len(columns)).astype(np.float32), rng.standard_normal(config.dimension)
    root, wide = np.sqrt(values.astype(float)), items.astype(float)
    stacked = np.vstack(
        [
            root[:, None] * wide[columns],
            np.sqrt(config.unobserved_weight) * wide,
            np.sqrt(config.regularization) * np.eye(config.dimension),
        ]
    )
    goal = np.concatenate(
        [root, np.sqrt(config.unobserved_weight) * (wide @ prior), np.sqrt(config.regularization) * prior]
    )
    expected = np.linalg.lstsq(stacked, goal, rcond=None)[0]
    solved = FoldIn(items, config).user(columns, values, prior)
    assert np.allclose(solved, expected, rtol=1e-3, atol=1e-4 * (np.abs(expected).max() + 1e-9))
    if not len(columns):
        assert np.allclose(solved, prior, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_scores_are_the_predictions_biases_and_mean_included(feedback: str) -> None:
    config = FactorizationConfig(feedback=feedback, dimension=3)  # type: ignore[arg-type]
    items = items_of(config, 6, 1)
    mean = 3.2 if feedback == "explicit" else 0.0
    fold_in = FoldIn(items, config, mean)
    histories = matrix([{0: 4.0, 2: 1.0}, {5: 5.0}], 6)
    scores = fold_in.scores(histories, np.array([1, 0]))
    for row, user in enumerate((1, 0)):
        factor = fold_in.users(histories)[user]
        for item in range(6):
            if feedback == "explicit":
                expected = mean + factor[-1] + items[item, -1] + factor[:-1] @ items[item, :-1]
            else:
                expected = factor @ items[item]
            assert scores[row, item] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_an_empty_history_is_scored_by_what_is_known_without_it(feedback: str) -> None:
    config = FactorizationConfig(feedback=feedback, dimension=3)  # type: ignore[arg-type]
    items = items_of(config, 4, 1)
    scores = FoldIn(items, config, 3.0 if feedback == "explicit" else 0.0).scores(matrix([[0], []], 4), np.array([1]))
    expected = 3.0 + items[:, -1] if feedback == "explicit" else np.zeros(4)
    assert scores[0] == pytest.approx(expected, abs=1e-6)


def test_recent_entries_weigh_as_they_do_in_training() -> None:
    config = FactorizationConfig(dimension=4, regularization=0.5, recency_boost=20.0, recency_span=3.0, backend="numba")
    rng = np.random.default_rng(0)
    lengths = [3, 7, 1]
    items = np.concatenate([rng.permutation(12)[:length] for length in lengths])
    histories = UserItemMatrix.from_entries(
        np.repeat(np.arange(3), lengths), items, np.ones(11), np.arange(11), n_users=3, n_items=12
    )
    factors = rng.standard_normal((12, 4)).astype(np.float32)
    trained = make_trainer(config).solve_users(histories, factors)
    np.testing.assert_allclose(FoldIn(factors, config).users(histories), trained, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 30), st.integers(1, 6), st.floats(0, 50), st.floats(0.3, 20))
def test_later_entries_weigh_more_and_all_as_much(seed: int, length: int, boost: float, span: float) -> None:
    """Least squares on the stacked system with weights from a loop, whatever training gave entries by their order."""
    rng = np.random.default_rng(seed)
    config = FactorizationConfig(dimension=4, regularization=0.5, unobserved_weight=0.2, recency_boost=9.0)
    items, columns = items_of(config, 7, seed), rng.permutation(7)[:length]
    values = rng.integers(1, 4, length).astype(np.float32)
    raised = [value * (1 + boost * math.exp(-after / span)) for after, value in enumerate(values[::-1].tolist())][::-1]
    weights = np.array(raised) * float(values.sum()) / sum(raised)
    root, wide = np.sqrt(weights), items.astype(float)
    stacked = np.vstack([root[:, None] * wide[columns], np.sqrt(0.2) * wide, np.sqrt(0.5) * np.eye(4)])
    expected = np.linalg.lstsq(stacked, np.concatenate([root, np.zeros(11)]), rcond=None)[0]
    fold_in = FoldIn(items, config, recency=Recency(boost=boost, span=span))
    np.testing.assert_allclose(fold_in.user(columns, values), expected, rtol=1e-3, atol=1e-4)
    assert fold_in.entry_weights(values).sum() == pytest.approx(float(values.sum()))


def test_recency_leaves_ratings_and_histories_of_one_alone() -> None:
    one, latest = np.array([2]), Recency(boost=40.0, span=1.0)
    for feedback in ("implicit", "explicit"):
        config = FactorizationConfig(feedback=feedback, dimension=3)  # type: ignore[arg-type]
        plain, recent = (FoldIn(items_of(config, 5, 1), config, recency=each) for each in (None, latest))
        history = one if feedback == "implicit" else np.array([2, 0, 1])
        values = np.arange(1, 1 + len(history)).astype(np.float32)
        assert plain.user(history, values).tobytes() == recent.user(history, values).tobytes()
        nothing = np.zeros(0)
        assert recent.user(nothing.astype(int), nothing).tobytes() == plain.user(nothing.astype(int), nothing).tobytes()


@pytest.mark.parametrize("scale", [1e18, 1e38, 1e-45])
@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_a_history_whose_system_breaks_down_has_the_zero_factor(scale: float, feedback: str) -> None:
    """An aggregator chose item parameters so that users with one item, and no others, ended its finish with an error."""
    config = FactorizationConfig(
        feedback=feedback, dimension=4, regularization=1e-3, unobserved_weight=0.0, backend="numba"
    )
    width = 4 + (feedback == "explicit")
    items = (scale * np.random.default_rng(0).standard_normal((6, width))).astype(np.float32)
    items[~np.isfinite(items)] = np.finfo(np.float32).max
    every = matrix([[0], [1, 2], [3, 4, 5], []], 6)
    users = FoldIn(items, config).users(every)
    assert np.isfinite(users).all()
