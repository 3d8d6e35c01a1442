"""The two-tower model: what it declares, what it reads, and that padding, order and missing attributes do no harm."""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from client.towers.features import ItemFeatures
from client.towers.scorer import TowerScorer
from client.towers.two_tower import PRIVATE_LAYERS, TwoTower
from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig
from common.contributions.tower_variables import tower_variables
from common.errors import ContractError
from tests.support import matrix

M, OWN, D, LENGTH, WIDTH = 12, 3, 4, 6, 4
"""Twelve items of the vocabulary, three of the platform's own behind them."""
KINDS = ("multi_hot", "numeric", "text", "text_transformer", "image", "vector", "sentence", "text_vector")
SEQUENCES = ("none", "mean", "gru", "transformer", "hstu")


def sequence_of(kind: str, **fields: Any) -> SequenceConfig:
    return SequenceConfig(**{"kind": kind, "length": LENGTH, "blocks": 1, "heads": 2, "dropout": 0.0} | fields)


def encoder_of(kind: str, **fields: Any) -> EncoderConfig:
    return EncoderConfig(**{"attribute": "about", "kind": kind, "buckets": 16, "width": WIDTH, "length": 8} | fields)


def a_model(config: TowerConfig, columns: dict[str, list[Any]] | None = None, **options: Any) -> TwoTower:
    features = ItemFeatures.of(config.encoders, columns or {}, M + OWN)
    return TwoTower(config, features, **{"n_shared": M, "n_users": 5} | options)


@cache
def model_of(kind: str) -> TwoTower:
    """Everything private is there and is not zero, so that it would show."""
    config = TowerConfig(dimension=D, sequence=sequence_of(kind), user_embedding=True, profile=("age",), adapter=True)
    model = a_model(config, profile=np.ones((5, 1), dtype=np.float32))
    for number, variable in enumerate(model.trainable_variables):
        variable.assign(np.random.default_rng(number).normal(size=variable.shape) * 0.5)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_has_exactly_the_declared_variables(kind: str) -> None:
    config = TowerConfig(dimension=D, encoders=(encoder_of(kind),), sequence=sequence_of("mean"))
    assert_as_declared(a_model(config))


@pytest.mark.parametrize("attribute", ["content", "sequence", "users", "profile", "adapter", "gru_cell", "two_tower"])
def test_an_attribute_may_have_the_name_of_a_layer(attribute: str) -> None:
    encoder = encoder_of("text", attribute=attribute)
    assert_as_declared(a_model(TowerConfig(dimension=D, encoders=(encoder,), sequence=sequence_of("gru"))))


@pytest.mark.parametrize("kind", SEQUENCES)
def test_every_sequence_encoder_has_exactly_the_declared_variables(kind: str) -> None:
    assert_as_declared(model_of(kind))


def assert_as_declared(model: TwoTower) -> None:
    declared = {v.name: v.full_shape(M) for v in tower_variables(model.config)}
    assert {name: tuple(v.shape) for name, v in model.shared.items()} == declared
    assert list(model.values()) == list(declared)
    every = {id(v) for v in model.trainable_variables}
    assert {id(v) for v in (*model.shared.values(), *model.private.values())} == every


@pytest.mark.parametrize("kind", SEQUENCES)
def test_embeddings_profile_weights_adapter_and_own_rows_are_private(kind: str) -> None:
    model = model_of(kind)
    assert {name.split("_")[0] for name in model.private} == {"users", "profile", "adapter", "private"}
    assert model.private.keys().isdisjoint(model.shared)
    assert not [name for name in model.values() if name.startswith(PRIVATE_LAYERS)]
    assert model.private["private_rows_table"].shape == (OWN, D)


class WithOneMore(TwoTower):
    def _build(self) -> None:
        self.extra = keras.layers.Dense(2, name="extra")
        self.extra(tf.zeros((1, 3)))
        super()._build()


class WithAnotherShape(TwoTower):
    def __init__(self, config: TowerConfig, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self.config = config.model_copy(update={"dimension": D * 2})
        self._check_declared()


class WithOneLess(TwoTower):
    def _check_declared(self) -> Any:
        self.config = self.config.model_copy(update={"encoders": (encoder_of("numeric"),)})
        return super()._check_declared()


@pytest.mark.parametrize(
    ("broken", "match"),
    [
        (WithOneMore, "variable 'extra_kernel' of the deep model is not declared.*nothing was sent"),
        (WithAnotherShape, "'item_rows' of the deep model has another shape"),
        (WithOneLess, "lacks the declared variable 'about_gate'"),
    ],
)
def test_a_model_that_differs_from_its_declaration_is_never_made(broken: type[TwoTower], match: str) -> None:
    config = TowerConfig(dimension=D, sequence=sequence_of("mean"))
    with pytest.raises(ContractError, match=match):
        broken(config, ItemFeatures(M + OWN, ()), n_shared=M, n_users=5)


LONG = [item % (M + OWN) for item in range(10_000)]
HISTORIES = [[], [3], [14, 0, 7], list(range(LENGTH + 3)), LONG]
ROWS = np.arange(M + OWN, dtype=np.int32)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_histories_of_any_length_have_the_vector_of_their_end(kind: str) -> None:
    scorer = TowerScorer(model_of(kind), ROWS)
    vectors = scorer.vectors_of(matrix(HISTORIES, M + OWN), [-1] * 5)
    assert vectors.shape == (5, D)
    assert np.isfinite(vectors).all()
    assert not vectors[0].any(), "nobody without a history is nothing"
    again = scorer.vectors_of(matrix([history[-LENGTH:] for history in HISTORIES], M + OWN), [-1] * 5)
    assert vectors == pytest.approx(again, abs=1e-6)
    assert scorer.scores(matrix(HISTORIES, M + OWN), np.arange(5)).shape == (5, M + OWN)


def outputs(kind: str, items: list[int], width: int, users: int = -1) -> np.ndarray:
    model = model_of(kind)
    window = np.full((1, width), -1, dtype=np.int32)
    window[0, : len(items)] = items
    return np.asarray(
        model.prefix_vectors(
            np.array([users], dtype=np.int32), window, np.array([len(items)], dtype=np.int32), model.item_vectors()
        )
    )[0]


@pytest.mark.parametrize("kind", ["mean", "gru", "transformer", "hstu"])
def test_what_comes_later_changes_no_earlier_output(kind: str) -> None:
    first, second = outputs(kind, [1, 2, 3, 4], LENGTH), outputs(kind, [1, 2, 3, 9], LENGTH)
    assert first[:3] == pytest.approx(second[:3], abs=1e-6)
    assert np.abs(first[3] - second[3]).max() > 1e-2
    changed = outputs(kind, [5, 2, 3, 4], LENGTH)
    assert (np.abs(first - changed)[:4].max(axis=1) > 1e-3).all(), "what came before changes every output"


@pytest.mark.parametrize("kind", ["mean", "gru", "transformer", "hstu"])
def test_padding_changes_nothing(kind: str) -> None:
    narrow, wide = outputs(kind, [1, 2, 3], 3), outputs(kind, [1, 2, 3], LENGTH)
    assert narrow == pytest.approx(wide[:3], abs=1e-6)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_a_user_who_is_unknown_has_neither_embedding_nor_profile(kind: str) -> None:
    known, other, unknown = (outputs(kind, [1, 2], 3, user) for user in (0, 1, -1))
    assert np.abs(known - other).max() > 1e-2
    plain = TowerConfig(dimension=D, sequence=sequence_of(kind if kind != "none" else "mean"), adapter=True)
    if kind == "none":
        assert not unknown.any()
        return
    bare = a_model(plain)
    for name, variable in {**bare.shared, **bare.private}.items():
        variable.assign({**model_of(kind).shared, **model_of(kind).private}[name])
    vectors = bare.item_vectors()
    nobody = (np.array(part, dtype=np.int32) for part in ([3], [[1, 2, -1]], [2]))
    expected = bare.prefix_vectors(*nobody, vectors)[0]
    assert unknown == pytest.approx(np.asarray(expected), abs=1e-6)


def test_unknown_items_get_the_mean_score_and_are_skipped() -> None:
    model = model_of("mean")
    known = np.array([4, -1, 0, 7], dtype=np.int32)
    histories, without = matrix([[0, 1, 3], [1]], 4), matrix([[0, 3], []], 4)
    scorer = TowerScorer(model, known)
    scores = scorer.scores(histories, np.arange(2))
    assert scores[:, 1] == pytest.approx(scores[:, [0, 2, 3]].mean(axis=1), abs=1e-6)
    assert np.array_equal(scores, scorer.scores(without, np.arange(2)))
    nothing = TowerScorer(model, np.full(4, -1, dtype=np.int32)).scores(histories, np.arange(2))
    assert not nothing.any()
    assert TowerScorer(model, known).vectors_of(matrix([], 4), []).shape == (0, D)


@pytest.mark.parametrize("kind", ["mean", "gru", "transformer", "hstu"])
def test_a_users_vector_is_the_output_after_the_last_item(kind: str) -> None:
    history = [3, 14, 0, 7]
    vector = TowerScorer(model_of(kind), ROWS).vectors_of(matrix([history], M + OWN), [2])[0]
    assert vector == pytest.approx(outputs(kind, history, LENGTH, 2)[3], abs=1e-5)
    assert np.abs(vector - outputs(kind, history, LENGTH, 2)[2]).max() > 1e-3


def test_the_mean_is_that_of_what_came_before() -> None:
    model = a_model(TowerConfig(dimension=D, sequence=sequence_of("mean")))
    vectors = np.asarray(model.item_vectors())
    out = TowerScorer(model, ROWS).vectors_of(matrix([[3, 14, 0]], M + OWN), [-1])[0]
    assert out == pytest.approx(vectors[[3, 14, 0]].mean(axis=0), abs=1e-6)


def test_positions_are_counted_from_the_end_of_a_history() -> None:
    """With a block that passes its input on, an output is its item and its position alone."""
    model = a_model(TowerConfig(dimension=D, sequence=sequence_of("transformer")))
    for name, variable in model.shared.items():
        if "attention_output" in name or "ffn2" in name:
            variable.assign(np.zeros(variable.shape))
        elif name == "positions":
            variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    histories = matrix([[3], [5, 1, 3], [5, 1, 3, 4]], M + OWN)
    alone, last, other = TowerScorer(model, ROWS).vectors_of(histories, [-1] * 3)
    assert alone == pytest.approx(last, abs=1e-5)
    assert np.abs(alone - other).max() > 1e-3
