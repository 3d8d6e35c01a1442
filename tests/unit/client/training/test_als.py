"""The trainers against independent oracles: dense normal equations, numeric minimisation, and each other."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.training.als import ImplicitTrainer, rating_sum_and_count
from client.training.factory import choose_backend, make_trainer
from client.training.fit import fit
from client.training.kernels.numba_exact import MAX_WIDTH
from client.training.kernels.numba_kernels import NumbaKernels
from client.training.kernels.systems import Entries
from client.training.trainer import Trainer
from common.config.model import FactorizationConfig
from common.errors import ConfigError
from common.linalg import scaled_ridge, solve_posdef, unpack_symmetric


def random_matrix(seed: int, n: int = 23, m: int = 17, *, explicit: bool = False) -> UserItemMatrix:
    """A matrix with an empty user, an empty item, long and short rows, and weights that are not all one."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n, m)) < rng.random((n, 1))
    mask[1], mask[:, 2] = False, False
    users, items = np.nonzero(mask)
    values = rng.integers(1, 6, len(users)) if explicit else rng.choice([0.5, 1.0, 2.0], len(users))
    times = rng.permutation(len(users))
    return UserItemMatrix.from_entries(users, items, values.astype(np.float32), times, n_users=n, n_items=m)


def dense(matrix: UserItemMatrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values (0 where absent) and the 0/1 mask, float64 [n, m]."""
    values = np.zeros((matrix.n_users, matrix.n_items))
    mask = np.zeros_like(values)
    values[matrix.entry_users(), matrix.indices] = matrix.values
    mask[matrix.entry_users(), matrix.indices] = 1
    return values, mask


def dense_implicit_objective(
    matrix: UserItemMatrix, config: FactorizationConfig, users: NDArray[np.floating], items: NDArray[np.floating]
) -> float:
    """The objective of the module docstring, term by term over all n·m pairs."""
    weights, mask = dense(matrix)
    scores = users.astype(float) @ items.astype(float).T
    alpha, nu = config.unobserved_weight, config.regularization_exponent
    user_ridge = config.regularization * (mask.sum(1) + alpha * mask.shape[1]) ** nu
    item_ridge = (config.item_regularization or config.regularization) * (mask.sum(0) + alpha * mask.shape[0]) ** nu
    return float(
        (weights * (1 - scores) ** 2).sum()
        + alpha * (scores**2).sum()
        + (user_ridge * (users.astype(float) ** 2).sum(1)).sum()
        + (item_ridge * (items.astype(float) ** 2).sum(1)).sum()
    )


IMPLICIT = FactorizationConfig(
    dimension=5, regularization=0.7, item_regularization=0.4, regularization_exponent=0.5, unobserved_weight=0.3,
    backend="numba", init_scale=1.0,
)  # fmt: skip
EXPLICIT = IMPLICIT.model_copy(update={"feedback": "explicit", "regularization_exponent": 1.0})


def kernel_trainers(config: FactorizationConfig) -> list[Trainer]:
    from client.training.kernels.tensorflow_kernels import TensorFlowKernels

    return [make_trainer(config, kernels=kernels) for kernels in (NumbaKernels(), TensorFlowKernels("cpu"))]


def full_objective(
    trainer: Trainer, matrix: UserItemMatrix, users: NDArray[np.float32], items: NDArray[np.float32]
) -> float:
    return trainer.objective(matrix, users, items) + trainer.item_penalty(matrix, items)


def test_implicit_objective_with_the_gram_trick_is_the_dense_sum() -> None:
    matrix, rng = random_matrix(0), np.random.default_rng(1)
    users, items = rng.standard_normal((23, 5), dtype=np.float32), rng.standard_normal((17, 5), dtype=np.float32)
    for trainer in kernel_trainers(IMPLICIT):
        expected = dense_implicit_objective(matrix, IMPLICIT, users, items)
        assert full_objective(trainer, matrix, users, items) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("config", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_exact_solves_are_stationary_points_of_the_objective(config: FactorizationConfig, seed: int) -> None:
    matrix = random_matrix(seed, explicit=config.feedback == "explicit")
    trainer = make_trainer(config, global_mean=2.5)
    rng = np.random.default_rng(seed)
    start = trainer.first_item_factors(matrix.n_items, rng)
    users = trainer.solve_users(matrix, start)
    items = trainer.solve_items(matrix, users)
    for move_users, base in ((True, start), (False, items)):
        best = full_objective(trainer, matrix, users, base)
        for _ in range(3):
            step = 0.3 * rng.standard_normal(users.shape if move_users else base.shape).astype(np.float32)
            moved = (users + step, base) if move_users else (users, base + step)
            back = (users - step, base) if move_users else (users, base - step)
            # For a quadratic, f(x + s) − f(x − s) is twice the slope along s, which vanishes at the minimum.
            up, down = full_objective(trainer, matrix, *moved), full_objective(trainer, matrix, *back)
            assert min(up, down) > best
            assert abs(up - down) < 1e-3 * (up + down - 2 * best) + 1e-4


def test_implicit_users_solve_the_dense_normal_equations() -> None:
    matrix = random_matrix(3)
    trainer = make_trainer(IMPLICIT)
    items = trainer.first_item_factors(17, np.random.default_rng(0)).astype(float)
    weights, mask = dense(matrix)
    expected = np.empty((23, 5))
    for u in range(23):
        ridge = 0.7 * np.sqrt(mask[u].sum() + 0.3 * 17)
        left = items.T @ np.diag(weights[u] + 0.3) @ items + ridge * np.eye(5)
        expected[u] = np.linalg.solve(left, items.T @ weights[u])
    for trainer in kernel_trainers(IMPLICIT):
        np.testing.assert_allclose(trainer.solve_users(matrix, items.astype(np.float32)), expected, atol=2e-6)


def test_explicit_users_and_biases_solve_stacked_least_squares() -> None:
    matrix = random_matrix(4, explicit=True)
    config = EXPLICIT.model_copy(update={"regularization_exponent": 0.0})
    items = np.random.default_rng(0).standard_normal((17, 6), dtype=np.float32)
    ratings, mask = dense(matrix)
    for trainer in kernel_trainers(config):
        trainer.global_mean = 3.1  # type: ignore[attr-defined]
        users = trainer.solve_users(matrix, items)
        for u in range(23):
            rated = mask[u] > 0
            design = np.vstack([np.column_stack([items[rated, :5], np.ones(rated.sum())]), np.sqrt(0.7) * np.eye(6)])
            target = np.concatenate([ratings[u, rated] - 3.1 - items[rated, 5], np.zeros(6)])
            np.testing.assert_allclose(users[u], np.linalg.lstsq(design, target)[0], atol=1e-5)


@pytest.mark.parametrize("config", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])
def test_item_statistics_summed_over_platforms_give_the_pooled_items(config: FactorizationConfig) -> None:
    matrix = random_matrix(5, n=40, explicit=config.feedback == "explicit")
    trainer = make_trainer(config, global_mean=2.0)
    start = trainer.first_item_factors(17, np.random.default_rng(0))
    pooled = trainer.solve_items(matrix, trainer.solve_users(matrix, start))
    parts = [matrix.select_users(rows) for rows in (np.arange(3), np.arange(3, 11), np.arange(11, 40))]
    sums = [trainer.item_statistics(part, trainer.solve_users(part, start)) for part in parts]
    p, alpha = trainer.width, config.unobserved_weight if config.feedback == "implicit" else 0.0
    counts = sum(s.item_counts for s in sums) + alpha * sum(s.n_users for s in sums)
    ridge = scaled_ridge(0.4, counts, config.regularization_exponent)
    left = sum(unpack_symmetric(s.gram_packed.astype(float), p) for s in sums)
    left = left + config.unobserved_weight * sum(s.user_gram for s in sums) + ridge[:, None, None] * np.eye(p)
    federated = solve_posdef(left, sum(s.rhs.astype(float) for s in sums))
    np.testing.assert_allclose(federated, pooled, atol=5e-6)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
@pytest.mark.parametrize("config", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])
def test_numba_and_tensorflow_agree(config: FactorizationConfig, solver: str) -> None:
    matrix = random_matrix(6, n=120, m=60, explicit=config.feedback == "explicit")
    config = config.model_copy(update={"solver": solver})
    rng = np.random.default_rng(0)
    numba, tensorflow = kernel_trainers(config)
    items = numba.first_item_factors(60, rng)
    start = 0.1 * rng.standard_normal((120, numba.width), dtype=np.float32)
    users = numba.solve_users(matrix, items, start)
    np.testing.assert_allclose(tensorflow.solve_users(matrix, items, start), users, rtol=1e-4, atol=1e-5)
    warm = [trainer.solve_items(matrix, users, items) for trainer in (numba, tensorflow)]
    np.testing.assert_allclose(warm[1], warm[0], rtol=1e-4, atol=1e-5)
    ours, theirs = numba.item_statistics(matrix, users), tensorflow.item_statistics(matrix, users)
    np.testing.assert_allclose(theirs.gram_packed, ours.gram_packed, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(theirs.rhs, ours.rhs, rtol=1e-6, atol=1e-6)
    assert tensorflow.objective(matrix, users, items) == pytest.approx(numba.objective(matrix, users, items), rel=1e-6)


def test_conjugate_gradients_are_exact_in_as_many_steps_as_dimensions() -> None:
    matrix = random_matrix(7)
    items = make_trainer(IMPLICIT).first_item_factors(17, np.random.default_rng(0))
    exact = make_trainer(IMPLICIT).solve_users(matrix, items)
    for trainer in kernel_trainers(IMPLICIT.model_copy(update={"solver": "cg", "cg_steps": 8})):
        cold = trainer.solve_users(matrix, items, np.zeros((23, 5), np.float32))
        np.testing.assert_allclose(cold, exact, atol=1e-4)
        warm = trainer.solve_users(matrix, items, np.random.default_rng(1).standard_normal((23, 5)).astype(np.float32))
        np.testing.assert_allclose(warm, exact, atol=1e-3)


def test_few_warm_started_steps_end_where_exact_solves_do() -> None:
    matrix = random_matrix(8, n=60)
    cg = IMPLICIT.model_copy(update={"solver": "cg", "cg_steps": 2, "iterations": 60})
    exact = IMPLICIT.model_copy(update={"iterations": 60})
    results = [fit(matrix, config, np.random.default_rng(0), track_objective=True) for config in (cg, exact)]
    assert results[0].objective[-1] == pytest.approx(results[1].objective[-1], rel=1e-3)


@pytest.mark.parametrize("config", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_exact_sweeps_never_raise_the_objective(config: FactorizationConfig, seed: int) -> None:
    matrix = random_matrix(seed, explicit=config.feedback == "explicit")
    history = fit(matrix, config, np.random.default_rng(seed), track_objective=True).objective
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(history))


def test_users_and_items_without_entries_are_zero() -> None:
    matrix = random_matrix(9)
    for solver in ("cholesky", "cg"):
        fitted = fit(matrix, IMPLICIT.model_copy(update={"solver": solver}), np.random.default_rng(0))
        assert not fitted.user_factors[1].any()
        assert not fitted.item_factors[2].any()


def test_one_user_and_one_item_train() -> None:
    one = UserItemMatrix.from_entries(
        np.array([0]), np.array([0]), np.ones(1, np.float32), np.zeros(1, np.int64), n_users=1, n_items=1
    )
    for config in (IMPLICIT, EXPLICIT):
        assert np.isfinite(fit(one, config, np.random.default_rng(0)).item_factors).all()


def test_ratings_all_equal_are_predicted_by_the_mean_alone() -> None:
    matrix = random_matrix(10, explicit=True)
    equal = UserItemMatrix(matrix.indptr, matrix.indices, np.full(matrix.nnz, 4, np.float32), matrix.times, 17)
    fitted = fit(equal, EXPLICIT, np.random.default_rng(0))
    total, count = rating_sum_and_count(equal)
    trainer = make_trainer(EXPLICIT, global_mean=total / count)
    users, items = trainer.scoring_factors(fitted.user_factors, fitted.item_factors)
    np.testing.assert_allclose(users @ items.T, 4.0, atol=1e-5)


def test_scoring_factors_of_explicit_feedback_include_all_biases() -> None:
    trainer = make_trainer(EXPLICIT, global_mean=3.0)
    rng = np.random.default_rng(0)
    users, items = rng.standard_normal((4, 6), dtype=np.float32), rng.standard_normal((3, 6), dtype=np.float32)
    expected = 3.0 + users[:, -1:] + items[:, -1] + users[:, :-1] @ items[:, :-1].T
    left, right = trainer.scoring_factors(users, items)
    np.testing.assert_allclose(left @ right.T, expected, atol=1e-5)


def test_folding_in_a_training_history_gives_the_training_factor() -> None:
    matrix = random_matrix(11)
    trainer = make_trainer(IMPLICIT)
    fitted = fit(matrix, IMPLICIT, np.random.default_rng(0))
    alone = trainer.solve_users(matrix.select_users(np.array([5])), fitted.item_factors)
    np.testing.assert_allclose(alone[0], fitted.user_factors[5], atol=1e-6)


def test_a_changed_matrix_is_not_served_from_the_cache() -> None:
    trainer = make_trainer(IMPLICIT)
    users = np.random.default_rng(0).standard_normal((23, 5), dtype=np.float32)
    for seed in (0, 1):
        fresh = make_trainer(IMPLICIT).solve_items(random_matrix(seed), users)
        np.testing.assert_array_equal(trainer.solve_items(random_matrix(seed), users), fresh)


def test_same_seed_same_factors_to_the_bit() -> None:
    matrix = random_matrix(12)
    for solver in ("cholesky", "cg"):
        config = IMPLICIT.model_copy(update={"solver": solver})
        first, second = (fit(matrix, config, np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(first.item_factors, second.item_factors)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_systems_that_break_down_are_zero_in_both_backends(bad: float, solver: Any) -> None:
    matrix = random_matrix(13)
    items = np.full((17, 5), bad, dtype=np.float32)
    start = np.zeros((matrix.n_users, 5), dtype=np.float32)
    for trainer in kernel_trainers(IMPLICIT.model_copy(update={"solver": solver})):
        users = trainer.solve_users(matrix, items, start)
        assert np.isfinite(users).all()
        assert np.abs(users).max() < 1


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_a_user_whose_system_breaks_down_changes_no_other(solver: Any) -> None:
    """Nor any count of rows, nor is there an error: each would tell of that user."""
    matrix = random_matrix(13)
    items = np.random.default_rng(1).standard_normal((17, 5), dtype=np.float32)
    victim = int(np.argmax(matrix.row_lengths))
    entries = slice(*matrix.indptr[victim : victim + 2])
    values = matrix.values.copy()
    values[entries] = -1e4
    start = np.zeros((matrix.n_users, 5), dtype=np.float32)
    for trainer in kernel_trainers(IMPLICIT.model_copy(update={"solver": solver})):
        sound = trainer.solve_users(matrix, items, start)
        broken = trainer.solve_users(replace(matrix, values=values), items, start)
        assert not broken[victim].any()
        others = np.arange(matrix.n_users) != victim
        np.testing.assert_array_equal(broken[others], sound[others])


def test_rows_longer_than_a_panel_and_odd_widths_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([0, 1, 3, 4, 31, 32, 33, 100])
    for width in (1, 2, 5, 8, 67):
        factors = rng.standard_normal((150, width), dtype=np.float32)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        indices = np.concatenate([rng.permutation(150)[:k] for k in lengths]).astype(np.int32)
        weights, targets = rng.random((2, len(indices)), dtype=np.float32)
        packed, rhs = NumbaKernels().statistics(Entries(indptr, indices, weights, targets), factors)
        for row, (start, stop) in enumerate(itertools.pairwise(indptr)):
            f, w = factors[indices[start:stop]].astype(float), weights[start:stop].astype(float)
            np.testing.assert_allclose(unpack_symmetric(packed[row], width), f.T @ (w[:, None] * f), atol=1e-5)
            np.testing.assert_allclose(rhs[row], f.T @ (w * targets[start:stop]), atol=1e-5)


def test_factors_wider_than_the_scratch_memory_are_refused() -> None:
    too_wide = np.zeros((17, MAX_WIDTH + 1), dtype=np.float32)
    entries = Entries(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))
    with pytest.raises(ConfigError, match="2113"):
        NumbaKernels().statistics(entries, too_wide)


def test_auto_takes_tensorflow_for_a_gpu_and_numba_for_a_cpu() -> None:
    auto = FactorizationConfig()
    assert choose_backend(auto, gpu=True) == "tensorflow"
    assert choose_backend(auto, gpu=False) == "numba"
    assert choose_backend(auto.model_copy(update={"device": "cpu"}), gpu=True) == "numba"
    assert choose_backend(auto.model_copy(update={"backend": "numba"}), gpu=True) == "numba"
    assert choose_backend(auto.model_copy(update={"backend": "cuda"}), gpu=False) == "cuda"


def test_devices_are_chosen_from_those_there_are() -> None:
    from client.training.kernels.devices import choose_device

    assert choose_device("auto", []) == "/CPU:0"
    assert choose_device("auto", ["a", "b"]) == "/GPU:0"
    assert choose_device("cpu", ["a"]) == "/CPU:0"
    assert choose_device("gpu:1", ["a", "b"]) == "/GPU:1"
    with pytest.raises(ConfigError, match="but 1 GPU"):
        choose_device("gpu:1", ["a"])


def test_numba_training_and_trainer_imports_load_no_tensorflow() -> None:
    root = Path(__file__).parents[4]
    script = """
import sys
import client.training.fit, client.training.factory, client.training.anchored
assert not {"tensorflow", "numba", "torch"} & set(sys.modules)
import numpy as np
from client.data.dataset import UserItemMatrix
from common.config.model import FactorizationConfig
one = np.zeros(1, np.int64)
matrix = UserItemMatrix.from_entries(one, one, np.ones(1, np.float32), one, n_users=1, n_items=1)
client.training.fit.fit(matrix, FactorizationConfig(backend="numba"), np.random.default_rng(0))
assert "numba" in sys.modules and "tensorflow" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=root)


def test_kernels_compile_without_a_disk_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    from client.training.kernels import numba_compile

    real = numba.njit

    def read_only(function: object, **options: object) -> object:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return real(function, **options)

    monkeypatch.setattr(numba, "njit", read_only)
    assert numba_compile.jit(lambda x: x + 1)(1) == 2


def test_implicit_feedback_makes_the_implicit_trainer() -> None:
    assert isinstance(make_trainer(IMPLICIT), ImplicitTrainer)
