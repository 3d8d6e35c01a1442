"""Gradients of single users against a loop over whole tables, against Opacus, and for their independence of others."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.towers.features import ItemFeatures
from client.towers.per_user_gradients import CHUNK, GradientComputer
from client.towers.two_tower import TwoTower
from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig, TowerTraining
from common.contributions.tower_variables import ITEM_ROWS, initial_values, tower_variables
from common.contributions.updates import UpdateLayout, UpdateMechanism, UpdatePlan, UserGradients, decoded
from tests.support import matrix

M, D, WIDTH, LENGTH = 14, 4, 3, 5
POSITIONS = np.array([13, 2, 5, 7, 1, 0, 9, 11, 4], dtype=np.int32)
"""The platform's nine columns in a vocabulary of fourteen."""
HISTORIES = [[0, 3, 1], [4], [], [8, 7, 6, 5, 4, 3, 2, 1, 0], [2, 5, 2, 6], [1, 0]]
SEED = [4, 2]
ENCODERS = (
    EncoderConfig(attribute="look", kind="vector", width=WIDTH),
    EncoderConfig(attribute="genres", kind="multi_hot", buckets=8, width=WIDTH, length=2),
)


def a_config(sequence: str = "transformer", *, encoders: Any = ENCODERS, **fields: Any) -> TowerConfig:
    kind = SequenceConfig(kind=sequence, length=LENGTH, blocks=1, heads=2, dropout=0.3)  # type: ignore[arg-type]
    return TowerConfig(**{"dimension": D, "encoders": encoders, "sequence": kind, "user_embedding": True} | fields)


def a_model(config: TowerConfig, *, n_users: int = len(HISTORIES), profile: NDArray[Any] | None = None) -> TwoTower:
    rng = np.random.default_rng(3)
    looks = [None if item % 4 == 1 else rng.normal(size=WIDTH).tolist() for item in range(M)]
    genres = [[f"g{item % 3}", f"g{item % 5}"] for item in range(M)]
    features = ItemFeatures.of(config.encoders, {"look": looks, "genres": genres}, M)
    model = TwoTower(config, features, n_shared=M, n_users=n_users, profile=profile)
    values = initial_values(tower_variables(config), M, seed=1)
    # Larger than first values, and no zeros, so that nothing agrees by being nothing.
    model.load({name: (value * 3 + 0.1 * rng.normal(size=value.shape)).astype("f4") for name, value in values.items()})
    return model


@cache
def model_of(sequence: str) -> TwoTower:
    return a_model(a_config(sequence))


def gradients_of(model: TwoTower, histories: UserItemMatrix, training: TowerTraining, users: Any) -> UserGradients:
    computer = GradientComputer(model, histories, POSITIONS, training)
    parts = list(computer.gradients(np.asarray(users, dtype=np.int64), public_seed=SEED))
    return UserGradients(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("dense", "positions", "rows"))
    )


def by_variable(part: UserGradients, user: int, model: TwoTower) -> dict[str, NDArray[np.float64]]:
    """One user's gradient as whole arrays, by variable."""
    layout = UpdateLayout(tower_variables(model.config), M)
    vector = np.zeros(layout.size)
    rows = vector[: M * layout.row].reshape(M, layout.row)
    for position, row in zip(part.positions[user], part.rows[user], strict=True):
        if position >= 0:
            rows[position] += row
    vector[M * layout.row :] = part.dense[user]
    return layout.split(vector)


def the_negatives(training: TowerTraining) -> NDArray[np.int32]:
    """Drawn from public randomness alone: anybody can repeat it."""
    if training.negatives == 0:
        return POSITIONS
    return np.random.default_rng([*SEED, 3]).choice(POSITIONS, size=training.negatives, replace=False)


def loop_over_whole_tables(model: TwoTower, history: list[int], training: TowerTraining) -> dict[str, NDArray[Any]]:
    """The gradient of one user's mean loss, the whole item table in the graph; losses written out anew."""
    variables = {name: v.value for name, v in model.shared.items()}
    if len(history) < 2:
        return {name: np.zeros(v.shape) for name, v in variables.items()}
    window = POSITIONS[history][-(LENGTH + 1) :]
    with tf.GradientTape() as tape:
        vectors = model.item_vectors()
        size = len(window) - 1
        read = np.append(window[:-1], [-1])[None]
        out = model.prefix_vectors(tf.constant([-1]), read, tf.constant([size]), vectors)[0, :size]
        out = out / training.temperature
        positive = tf.reduce_sum(out * tf.gather(vectors, window[1:]), axis=1)
        negative = out @ tf.transpose(tf.gather(vectors, the_negatives(training)))
        if training.loss == "bpr":
            losses = tf.reduce_mean(-tf.math.log_sigmoid(positive[:, None] - negative), axis=1)
        elif training.negatives == 0:
            losses = tf.reduce_logsumexp(negative, axis=1) - positive
        else:
            raised = negative + np.log(len(POSITIONS) / training.negatives)
            losses = tf.reduce_logsumexp(tf.concat([positive[:, None], raised], axis=1), axis=1) - positive
        loss = tf.reduce_mean(losses)
    found = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return {name: np.asarray(tf.convert_to_tensor(g)) for name, g in found.items()}


CASES = [
    ("transformer", TowerTraining(negatives=4)),
    ("transformer", TowerTraining(negatives=4, loss="bpr")),
    ("gru", TowerTraining(negatives=5, temperature=0.5)),
    ("mean", TowerTraining(negatives=9)),
    ("mean", TowerTraining(negatives=0)),
    ("mean", TowerTraining(negatives=0, loss="bpr")),
]


@pytest.mark.parametrize(("sequence", "training"), CASES)
def test_gradients_are_those_of_a_loop_over_whole_tables(sequence: str, training: TowerTraining) -> None:
    model = model_of(sequence)
    part = gradients_of(model, matrix(HISTORIES, len(POSITIONS)), training, range(len(HISTORIES)))
    for user, history in enumerate(HISTORIES):
        expected = loop_over_whole_tables(model, history, training)
        found = by_variable(part, user, model)
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name] == pytest.approx(expected[name], abs=2e-6, rel=1e-5), (user, name)
        assert any(np.abs(g).max() > 1e-3 for g in expected.values()) == (len(history) >= 2)


def test_users_without_a_target_have_a_gradient_of_zero() -> None:
    model, training = model_of("mean"), TowerTraining(negatives=4)
    histories = matrix([[], [3]] * 3 + [[0, 1]], len(POSITIONS))
    part = gradients_of(model, histories, training, range(7))
    assert part.dense.shape[0] == part.positions.shape[0] == part.rows.shape[0] == 7
    assert not part.dense[:6].any()
    assert not part.rows[:6].any()
    assert part.dense[6].any()
    assert not list(
        GradientComputer(model, histories, POSITIONS, training).gradients(np.zeros(0, int), public_seed=SEED)
    )


def test_only_rows_of_the_users_items_and_negatives_are_touched() -> None:
    training = TowerTraining(negatives=2)
    part = gradients_of(model_of("mean"), matrix(HISTORIES, len(POSITIONS)), training, range(len(HISTORIES)))
    for user, history in enumerate(HISTORIES):
        window = POSITIONS[history][-(LENGTH + 1) :] if len(history) > 1 else []
        touched = part.positions[user][part.positions[user] >= 0]
        assert set(touched.tolist()) == {*the_negatives(training).tolist(), *[int(row) for row in window]}
        assert len(set(touched.tolist())) == len(touched)


@pytest.mark.parametrize("sequence", ["transformer", "hstu", "gru", "mean"])
def test_a_users_gradient_is_the_same_to_the_bit_for_any_others(sequence: str) -> None:
    own, training = [0, 3, 1, 7], TowerTraining(negatives=4)
    model = a_model(a_config(sequence), n_users=CHUNK + 9)

    def with_others(seed: int, place: int) -> dict[str, NDArray[np.float64]]:
        rng = np.random.default_rng(seed)
        others = [rng.permutation(9)[: rng.integers(0, 10)].tolist() for _ in range(CHUNK + 8)]
        histories = matrix([*others[:place], own, *others[place:]], len(POSITIONS))
        return by_variable(gradients_of(model, histories, training, range(CHUNK + 9)), place, model)

    expected = with_others(1, 0)
    for seed, place in ((2, 5), (3, CHUNK + 8)):
        found = with_others(seed, place)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_others_profiles_and_embeddings_change_no_gradient() -> None:
    """Profiles are put on the platform's scale, and embeddings are trained on the platform: both depend on others."""
    config = a_config("mean", profile=("age",), adapter=True)
    training, histories = TowerTraining(negatives=4), matrix(HISTORIES, len(POSITIONS))
    found = []
    for scale in (1.0, 3.0):
        model = a_model(config, profile=(scale * np.arange(len(HISTORIES))[:, None]).astype(np.float32))
        model.users.table.assign(np.full((len(HISTORIES), D), scale, dtype=np.float32))
        found.append(gradients_of(model, histories, training, range(len(HISTORIES))))
    assert np.array_equal(found[0].dense, found[1].dense)
    assert np.array_equal(found[0].rows, found[1].rows)


def test_without_item_ids_content_alone_has_gradients() -> None:
    model = a_model(a_config("mean", item_ids=False))
    histories, training = matrix(HISTORIES, len(POSITIONS)), TowerTraining(negatives=4)
    part = gradients_of(model, histories, training, range(len(HISTORIES)))
    assert ITEM_ROWS not in by_variable(part, 0, model)
    expected = loop_over_whole_tables(model, HISTORIES[0], training)
    for name, gradient in by_variable(part, 0, model).items():
        assert gradient == pytest.approx(expected[name], abs=2e-6, rel=1e-5), name


def opacus_gradients(model: TwoTower, training: TowerTraining) -> list[NDArray[np.float64]]:
    """Per-user gradients of item rows, kernel, bias and gate by Opacus' hooks, of the same model in PyTorch."""
    import torch
    from opacus import GradSampleModule

    class Gate(torch.nn.Module):
        """σ(gate) ⊙ x: a layer that Opacus differentiates per sample by functorch."""

        def __init__(self) -> None:
            super().__init__()
            self.gate = torch.nn.Parameter(torch.zeros(D))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.gate) * x

    class Towers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.project, self.gate = torch.nn.Embedding(M, D), torch.nn.Linear(WIDTH, D), Gate()

        def forward(self, items: torch.Tensor, looks: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
            return self.rows(items) + present[..., None] * self.gate(self.project(looks))

    values = model.values()
    towers = Towers()
    with torch.no_grad():
        for parameter, value in [
            (towers.rows.weight, values[ITEM_ROWS]),
            (towers.project.weight, values["look_project_kernel"].T),
            (towers.project.bias, values["look_project_bias"]),
            (towers.gate.gate, values["look_gate"]),
        ]:
            parameter.copy_(torch.tensor(value))
    sampled = GradSampleModule(towers, batch_first=True, loss_reduction="sum")

    windows = [POSITIONS[h][-(LENGTH + 1) :] if len(h) > 1 else np.zeros(0, np.int32) for h in HISTORIES]
    sizes = torch.tensor([max(len(w) - 1, 0) for w in windows])
    padded = np.stack([np.pad(w, (0, LENGTH + 1 - len(w))) for w in windows])
    negatives = np.tile(the_negatives(training), (len(HISTORIES), 1))
    items = torch.tensor(np.concatenate([padded, negatives], axis=1).astype(np.int64))
    looks, present = (torch.tensor(np.asarray(x)) for x in (model.content.inputs[0], model.content._present[0][:, 0]))
    vectors = sampled(items, looks[items], present[items])
    window, candidates = vectors[:, : LENGTH + 1], vectors[:, LENGTH + 1 :]
    means = torch.cumsum(window[:, :-1], dim=1) / torch.arange(1, LENGTH + 1)[None, :, None]
    positive = (means * window[:, 1:]).sum(-1, keepdim=True)
    raised = means @ candidates.transpose(1, 2) + np.log(len(POSITIONS) / training.negatives)
    losses = torch.logsumexp(torch.cat([positive, raised], dim=2), dim=2) - positive[..., 0]
    known = torch.arange(LENGTH)[None, :] < sizes[:, None]
    ((losses * known).sum(1) / sizes.clamp(min=1)).sum().backward()
    kernel = towers.project.weight.grad_sample.transpose(1, 2)
    parts = [towers.rows.weight.grad_sample, kernel, towers.project.bias.grad_sample, towers.gate.gate.grad_sample]
    return [part.detach().double().numpy() for part in parts]


@pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:CUDA initialization")
def test_per_user_gradients_and_their_clipped_sum_are_those_of_opacus() -> None:
    model, training = a_model(a_config("mean", encoders=ENCODERS[:1])), TowerTraining(negatives=4)
    part = gradients_of(model, matrix(HISTORIES, len(POSITIONS)), training, range(len(HISTORIES)))
    expected = opacus_gradients(model, training)
    names = (ITEM_ROWS, "look_project_kernel", "look_project_bias", "look_gate")
    for user in range(len(HISTORIES)):
        found = by_variable(part, user, model)
        assert found.keys() == set(names)
        for name, gradient in zip(names, expected, strict=True):
            assert found[name] == pytest.approx(gradient[user], abs=1e-5), (user, name)

    norms = np.sqrt(sum((gradient**2).reshape(len(HISTORIES), -1).sum(axis=1) for gradient in expected))
    clip = float(np.median(norms[norms > 0]))
    assert (norms > clip).any() and ((norms < clip) & (norms > 0)).any(), "some are clipped and some are not"  # noqa: PT018
    scale = np.minimum(1, clip / np.maximum(norms, 1e-12))
    # The grid follows the noise; with little of it quantising is finer than what is compared.
    plan = UpdatePlan.of(
        epsilon=1, delta=1e-3, clip_norm=clip, noise_multiplier=0.01, sampling_rate=1, rounds=1, shares=1, masked=False
    )
    layout = UpdateLayout(tower_variables(model.config), M)
    sums = np.zeros(layout.size, dtype=np.int64)
    UpdateMechanism(plan)._add(sums, part, layout)
    found = decoded(sums, plan, layout)
    for name, gradient in zip(names, expected, strict=True):
        assert found[name] == pytest.approx(np.tensordot(scale, gradient, axes=1), abs=1e-5), name
