from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from client.towers.attribution import ID_ROW, explain_score, integrated_gradients
from client.towers.features import ItemFeatures
from client.towers.two_tower import TwoTower
from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig

M, LENGTH = 9, 6
ENCODERS = (
    EncoderConfig(attribute="title", kind="text", buckets=50, width=8),
    EncoderConfig(attribute="genres", kind="multi_hot", buckets=16, width=4),
    EncoderConfig(attribute="year", kind="numeric", width=4),
)
HISTORY = np.array([3, 1, 7, 2])


def model_of(kind: str, **changes: Any) -> tuple[TwoTower, ItemFeatures]:
    """A model with weights that matter, instead of the small ones at the start."""
    columns = {
        "title": [f"Film {i}" for i in range(M)],
        "genres": [("drama",) if i % 2 else ("war", "comedy") for i in range(M)],
        "year": [None if i == 4 else 1990 + i for i in range(M)],
    }
    sequence = SequenceConfig.model_validate({"kind": kind, "length": LENGTH, "blocks": 1, "dropout": 0.5})
    config = TowerConfig.model_validate(
        {"dimension": 8, "encoders": ENCODERS, "sequence": sequence, "user_embedding": True} | changes
    )
    features = ItemFeatures.of(ENCODERS, columns, M)
    # Kernels start from Keras' own generator: unseeded, a run in twenty integrates over steeper weights than it should.
    keras.utils.set_random_seed(1)
    model = TwoTower(config, features, n_shared=M - 2, n_users=3, seed=1)
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(np.asarray(variable) + 0.5 * rng.normal(size=variable.shape))
    return model, features


def score(model: TwoTower, history: Sequence[int], item: int, user: int) -> float:
    padded = np.full((1, LENGTH), -1, dtype=np.int32)
    padded[0, : len(history)] = history
    vectors = model.item_vectors()
    users = model.user_vectors(tf.constant([user]), tf.constant(padded), tf.constant([len(history)]), vectors)
    return float(np.asarray(users)[0] @ np.asarray(vectors)[item])


@pytest.mark.parametrize("kind", ["mean", "gru", "transformer", "hstu"])
@pytest.mark.parametrize(("item", "user"), [(5, 1), (8, -1)])
def test_attributions_sum_to_the_score_above_the_baseline(kind: str, item: int, user: int) -> None:
    model, features = model_of(kind)
    found = explain_score(model, features, HISTORY, item, user=user)
    assert found.score == pytest.approx(score(model, HISTORY.tolist(), item, user), rel=1e-4, abs=1e-4)
    assert found.baseline == 0.0
    total = found.history.sum() + sum(found.attributes.values())
    size = np.abs(found.history).sum() + sum(abs(part) for part in found.attributes.values())
    assert abs(total - found.score) <= 2e-3 * size
    assert (np.abs(found.history) > 1e-4).all()
    assert found.attributes.keys() == {"title", "genres", "year", ID_ROW}


def test_the_mean_of_a_history_is_attributed_as_by_hand() -> None:
    """Without a user embedding the score is bilinear, and each side gets half of every product."""
    model, features = model_of("mean", user_embedding=False)
    found = explain_score(model, features, HISTORY, 5)
    vectors = np.asarray(model.item_vectors())
    np.testing.assert_allclose(found.history, vectors[HISTORY] @ vectors[5] / len(HISTORY) / 2, rtol=1e-4, atol=1e-5)
    user = vectors[HISTORY].mean(axis=0)
    own_row = np.asarray(model.item_rows)[5]
    assert found.attributes[ID_ROW] == pytest.approx(user @ own_row / 2, rel=1e-3, abs=1e-4)


def test_what_is_missing_unknown_or_too_old_contributes_nothing() -> None:
    model, features = model_of("transformer")
    found = explain_score(model, features, np.array([0, -1, *[1, 2, 3, 5, 6, 7]]), 4)
    assert found.attributes["year"] == 0.0
    assert found.history[:2].tolist() == [0.0, 0.0]
    assert (found.history[2:] != 0).all()


@pytest.mark.parametrize("history", [np.zeros(0, dtype=np.int64), np.array([-1, -1]), np.tile(np.arange(M), 1112)])
def test_histories_of_any_length_are_explained(history: np.ndarray) -> None:
    model, features = model_of("transformer")
    found = explain_score(model, features, history, 5, user=2)
    assert found.history.shape == history.shape
    total = found.history.sum() + sum(found.attributes.values())
    assert total + found.baseline == pytest.approx(found.score + found.gap, abs=1e-4)
    assert np.count_nonzero(found.history) <= LENGTH


def test_the_integral_is_exact_where_it_is_known() -> None:
    """x²y from (0, 0): ∂x along the path is 2α²xy, so x has two thirds; a linear part has just itself."""
    x, y = np.array([3.0]), np.array([2.0, 5.0])
    found = integrated_gradients(lambda v: v[0][:, 0] ** 2 * v[1][:, 0] + 4 * v[1][:, 1], [x, y])
    np.testing.assert_allclose(found.parts[0], [12.0], rtol=1e-5)
    np.testing.assert_allclose(found.parts[1], [6.0, 20.0], rtol=1e-5)
    assert (found.value, found.baseline) == (38.0, 0.0)


def test_attributions_start_at_the_baseline_that_is_given() -> None:
    found = integrated_gradients(lambda v: v[0][:, 0] ** 2, [np.array([3.0])], [np.array([1.0])])
    np.testing.assert_allclose(found.parts[0], [8.0], rtol=1e-5)
    assert (found.value, found.baseline) == (9.0, 1.0)


def test_a_sharp_score_gets_more_nodes() -> None:
    found = integrated_gradients(lambda v: tf.tanh(200.0 * (v[0][:, 0] - 0.5)), [np.array([1.0])], nodes=4)
    assert found.nodes > 4
    assert abs(found.gap) < 1e-2
