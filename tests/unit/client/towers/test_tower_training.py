"""Local training of the deep model: that it learns, what it leaves alone, and what may leave of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.dataset import UserItemMatrix
from client.towers.features import ItemFeatures
from client.towers.histories import training_windows
from client.towers.local_training import LocalTrainer, scheduled_rate, trained_arrays
from client.towers.scorer import TowerScorer
from client.towers.stored import TowerModel
from client.towers.two_tower import TwoTower
from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig, TowerTraining
from common.errors import TrainingError
from tests.support import matrix

N, D = 20, 8
"""Items of a chain in which k is followed by 7k + 1 modulo N."""
ROWS = np.arange(N, dtype=np.int32)


def chain(users: int, length: int) -> list[list[int]]:
    rows = []
    for user in range(users):
        row = [user % N]
        for _ in range(length - 1):
            row.append((7 * row[-1] + 1) % N if (7 * row[-1] + 1) % N not in row else (row[-1] + 1) % N)
        rows.append(row)
    return rows


def a_model(
    config: TowerConfig, *, n_items: int = N, n_shared: int = N, n_users: int = 100, **options: Any
) -> TwoTower:
    features = ItemFeatures.of(config.encoders, {"genres": [[f"g{i % 4}"] for i in range(n_items)]}, n_items)
    return TwoTower(config, features, n_shared=n_shared, n_users=n_users, **options)


def config_of(sequence: str = "mean", *, dropout: float = 0.0, length: int = 8, **fields: Any) -> TowerConfig:
    kind = SequenceConfig(kind=sequence, length=length, blocks=1, heads=2, dropout=dropout)  # type: ignore[arg-type]
    return TowerConfig(**{"dimension": D, "sequence": kind} | fields)


def trainer_of(model: TwoTower, histories: UserItemMatrix, rows: Any = ROWS, **training: Any) -> LocalTrainer:
    settings = TowerTraining(**{"batch_users": 32, "learning_rate": 0.02} | training)
    return LocalTrainer(model, histories, rows, settings, np.random.default_rng(0))


def snapshot(model: TwoTower) -> dict[str, np.ndarray]:
    return {name: np.asarray(v).copy() for name, v in {**model.shared, **model.private}.items()}


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("sequence", "training"),
    [("transformer", {}), ("gru", {"negatives": 10}), ("transformer", {"loss": "bpr", "negatives": 10})],
)
def test_a_markov_chain_is_learned(sequence: str, training: dict[str, Any]) -> None:
    histories = matrix([[start, (7 * start + 1) % N] for start in range(N) if (7 * start + 1) % N != start] * 4, N)
    model = a_model(config_of(sequence), n_users=histories.n_users)
    result = trainer_of(model, histories, **{"batch_users": 128, "learning_rate": 0.05} | training).train(epochs=60)
    first = histories.indices[histories.indptr[:-1]]
    scores = TowerScorer(model, ROWS).scores(matrix([[item] for item in first], N), np.arange(len(first)))
    hits = (scores.argmax(axis=1) == histories.indices[histories.indptr[1:] - 1]).mean()
    assert hits > 0.8, "chance is one in twenty"
    assert result.examples == histories.n_users
    assert np.isfinite(result.loss)


def test_ratings_are_learned_by_squared_error() -> None:
    rng = np.random.default_rng(0)
    liked = [{int(i): 5.0 if i % 2 == u % 2 else 1.0 for i in rng.permutation(N)[:10]} for u in range(40)]
    histories = matrix(liked, N)
    model = a_model(config_of("none", user_embedding=True), n_users=40)
    trainer = trainer_of(model, histories, loss="squared")
    model.users.table.assign(0.1 * rng.normal(size=(40, D)))
    before, after = trainer.train(epochs=1).loss, trainer.train(epochs=60).loss
    assert after < 0.2 * before


def test_a_loss_that_is_no_number_is_rolled_back_without_trace() -> None:
    histories = matrix(chain(40, 5), N)
    once, twice = (a_model(config_of("gru"), n_users=40) for _ in range(2))
    for variable, other in zip(twice.trainable_variables, once.trainable_variables, strict=True):
        variable.assign(other)
    straight, broken = trainer_of(once, histories), trainer_of(twice, histories)
    for trainer in (straight, broken):
        trainer.train()
    before = snapshot(twice)
    rng_state = broken._rng.bit_generator.state
    with pytest.raises(TrainingError, match=r"not a number.*learning_rate"):
        broken.train(learning_rate=1e38)
    assert same(snapshot(twice), before)
    broken._rng.bit_generator.state = rng_state
    straight.train(learning_rate=0.02)
    broken.train(learning_rate=0.02)
    assert same(snapshot(once), snapshot(twice)), "the optimiser's slots are as they were too"


def test_weights_that_break_down_in_the_last_step_are_rolled_back() -> None:
    histories = matrix(chain(30, 5), N)
    model = a_model(config_of("mean"), n_users=30)
    before = snapshot(model)
    with pytest.raises(TrainingError, match="not a number"):
        trainer_of(model, histories, batch_users=64).train(learning_rate=float("inf"), epochs=1)
    assert same(snapshot(model), before)


@pytest.mark.parametrize("kind", ["mean", "gru", "transformer"])
def test_a_platform_of_nobody_with_two_items_trains_on_nothing(kind: str) -> None:
    model = a_model(config_of(kind), n_users=3)
    before = snapshot(model)
    result = trainer_of(model, matrix([[], [3], []], N)).train()
    assert (result.examples, result.loss) == (0, 0)
    assert not result.row_weights.any()
    assert same(snapshot(model), before)


@pytest.mark.parametrize("kind", ["mean", "gru", "transformer"])
@pytest.mark.parametrize("length", [1, 4])
def test_histories_of_any_length_are_trained_on(kind: str, length: int) -> None:
    long = [item % N for item in range(10_000)]
    model = a_model(config_of(kind, length=length), n_users=4)
    result = trainer_of(model, matrix([[], [3], [1, 2], long], N)).train(epochs=2)
    assert result.examples == 2
    assert np.isfinite(result.loss)


def test_long_histories_are_seen_from_everywhere_and_short_ones_whole() -> None:
    histories = matrix([[0, 1, 2], list(range(N))], N)
    starts = set()
    for seed in range(60):
        windows = training_windows(histories, 4, ROWS, np.random.default_rng(seed))
        assert windows.items[0].tolist() == [0, 1, -1, -1]
        assert windows.targets[0].tolist() == [1, 2, -1, -1]
        assert windows.targets[1].tolist() == (windows.items[1] + 1).tolist()
        starts.add(int(windows.items[1, 0]))
    assert len(starts) > 8
    assert max(starts) == N - 5


def test_id_dropout_hides_rows_in_training_alone() -> None:
    genres = EncoderConfig(attribute="genres", kind="multi_hot", buckets=16, width=4, length=2)
    model = a_model(config_of("mean", encoders=(genres,), id_dropout=0.5), n_users=40)
    hidden = np.arange(N) < 5
    with_ids, without = np.asarray(model.item_vectors()), np.asarray(model.item_vectors(hidden))
    assert without[:5] == pytest.approx(np.asarray(model.content())[:5])
    assert np.array_equal(without[5:], with_ids[5:])
    trainer = trainer_of(model, matrix(chain(40, 5), N))
    draws = np.array([trainer._hidden() for _ in range(200)])
    assert draws.shape == (200, N)
    assert draws.mean() == pytest.approx(0.5, abs=0.05)

    before = snapshot(model)["item_rows"]
    trainer._hidden = lambda: hidden  # type: ignore[method-assign]
    trainer.train(epochs=1)
    moved = (snapshot(model)["item_rows"] != before).any(axis=1)
    assert moved.tolist() == (~hidden).tolist(), "a row that is hidden is not trained"


def test_the_proximal_term_holds_weights_where_the_server_had_them() -> None:
    histories = matrix(chain(40, 5), N)
    moved = []
    for proximal in (0.0, 50.0):
        model = a_model(config_of("gru"), n_users=40)
        before = snapshot(model)
        trainer_of(model, histories, proximal=proximal).train(epochs=10)
        moved.append(sum(float(np.square(v - before[name]).sum()) for name, v in snapshot(model).items()))
    assert moved[1] < 0.3 * moved[0]


def test_the_proximal_term_is_half_mu_times_the_shared_distance() -> None:
    model = a_model(config_of("mean", user_embedding=True), n_users=40)
    trainer = trainer_of(model, matrix(chain(40, 5), N), proximal=0.3)
    anchors = [np.asarray(variable).copy() for variable in model.shared.values()]
    model.shared["item_rows"].assign_add(np.full((N, D), 0.5))
    model.users.table.assign_add(np.full((40, D), 9.0))
    assert float(trainer._proximal(anchors)) == pytest.approx(0.3 / 2 * N * D * 0.25)


def test_schedules_of_the_learning_rate() -> None:
    rates = {
        schedule: [
            scheduled_rate(TowerTraining(rounds=30, learning_rate=0.1, schedule=schedule), t) for t in range(1, 31)
        ]
        for schedule in ("constant", "cosine", "warmup")
    }
    assert set(rates["constant"]) == {0.1}
    assert (rates["cosine"][0], rates["cosine"][-1]) == pytest.approx((0.1, 0.01))
    assert rates["cosine"] == sorted(rates["cosine"], reverse=True)
    assert rates["warmup"][:4] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1])
    for schedule in ("constant", "cosine", "warmup"):
        assert scheduled_rate(TowerTraining(rounds=1, learning_rate=0.1, schedule=schedule), 1) == pytest.approx(0.1)


def test_private_training_leaves_what_is_shared_as_it_is() -> None:
    histories = matrix(chain(40, 5), N)
    config = config_of("gru", user_embedding=True, profile=("age",), adapter=True)
    model = a_model(
        config, n_shared=N - 4, n_users=40, profile=np.random.default_rng(0).normal(size=(40, 1)).astype("f4")
    )
    trainer, before = trainer_of(model, histories), snapshot(model)
    trainer.train_private(epochs=2)
    after = snapshot(model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == set(model.private)


def test_only_declared_variables_and_trained_rows_leave() -> None:
    histories = matrix([[0, 1, 2], [2, 5], [6, 0]], 7)
    rows = np.array([10, 3, 4, 16, 17, 9, 2], dtype=np.int32)
    shared = rows[rows < 15]
    model = a_model(config_of("gru", user_embedding=True, adapter=True), n_items=18, n_shared=15, n_users=3)
    before = snapshot(model)
    result = trainer_of(model, histories, rows=rows, loss="bpr", negatives=1, batch_users=8).train(epochs=1)
    arrays = trained_arrays(model, result, shared)
    extra = {"example_weight", "loss", "row_positions", "row_weights"}
    assert arrays.keys() == extra | model.shared.keys()
    assert not arrays.keys() & model.private.keys()
    assert arrays["item_rows"].shape == (len(arrays["row_positions"]), D)
    assert (arrays["row_weights"] > 0).all()
    sent = shared[np.asarray(arrays["row_positions"], dtype=int)]
    assert set(sent.tolist()) >= {10, 3, 4, 9, 2} - {16, 17}
    after = snapshot(model)["item_rows"]
    assert np.array_equal(arrays["item_rows"], after[sent])
    others = np.setdiff1d(np.arange(15), shared)
    assert np.array_equal(after[others], before["item_rows"][others]), "other platforms' items are not trained"


def test_rows_that_nobody_touched_are_not_sent() -> None:
    model = a_model(config_of("mean"), n_users=2)
    result = trainer_of(model, matrix([[0, 1], [1, 2]], N), negatives=2, loss="bpr").train(epochs=1)
    arrays = trained_arrays(model, result, ROWS)
    assert 3 <= len(arrays["row_positions"]) <= 5


@pytest.mark.parametrize("sequence", ["gru", "transformer"])
def test_a_stored_model_gives_the_same_scores(sequence: str, tmp_path: Path) -> None:
    histories = matrix([[], [3], *chain(30, 6)], N)
    genres = EncoderConfig(attribute="genres", kind="multi_hot", buckets=16, width=4, length=2)
    config = config_of(sequence, encoders=(genres,), user_embedding=True, profile=("age",), adapter=True)
    profile = np.random.default_rng(0).normal(size=(32, 1)).astype(np.float32)
    model = a_model(config, n_shared=N - 3, n_users=32, profile=profile)
    trainer = trainer_of(model, histories)
    trainer.train(epochs=2)
    trainer.train_private(epochs=2)
    kept = TowerModel.of(model, ROWS)
    scores = TowerScorer(model, ROWS).scores(histories, np.arange(32))
    assert kept.on_own().scores(histories, np.arange(32)) == pytest.approx(scores, abs=1e-5)
    assert kept.on_vocabulary().scores(histories.select_items(np.arange(N - 3)), np.arange(32)).shape == (32, N - 3)
    stranger = kept.user_vector(histories.row(5), None)
    known = kept.user_vector(histories.row(5), 5)
    assert np.abs(known - stranger).max() > 1e-4


@pytest.mark.parametrize("sequence", ["mean", "transformer"])
def test_an_upload_is_at_most_the_trained_rows_and_five_percent(sequence: str) -> None:
    """Against dense FedAvg, which sends every variable whole."""
    items, rows = 200, np.arange(40, 90, dtype=np.int32)
    model = a_model(config_of(sequence, dimension=64), n_items=items, n_shared=items, n_users=20)
    result = trainer_of(model, matrix(chain(20, 5), 50), rows=rows, negatives=5, batch_users=64).train(epochs=1)
    arrays = trained_arrays(model, result, rows)
    dense = sum(value.nbytes for value in model.values().values())
    encoders = dense - model.values()["item_rows"].nbytes
    share = len(arrays["row_positions"]) / items
    assert 0 < share <= len(rows) / items
    uploaded = sum(array.nbytes for array in arrays.values())
    assert uploaded - encoders <= (share + 0.05) * (dense - encoders)
    if not encoders:
        assert uploaded <= (share + 0.05) * dense
