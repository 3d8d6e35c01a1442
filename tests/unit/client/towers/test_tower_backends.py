"""The deep models' code on other libraries than TensorFlow: one forward pass and one round of training, the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from client.towers.backends.functions import compiled, input_gradients
from client.towers.features import ItemFeatures
from client.towers.histories import batch_targets, training_windows
from client.towers.two_tower import TwoTower
from common.config.towers import SequenceConfig, TowerConfig
from tests.support import matrix
from tests.support.backends import KINDS, ROWS, D, N, figures


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_another_library_gives_the_same_numbers(backend: str, tmp_path: Path) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    found = tmp_path / "found.npz"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.backends", str(found)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(found) as there:
        for kind in KINDS:
            np.testing.assert_allclose(there[kind], np.stack(figures(kind)), rtol=1e-3, atol=1e-5, err_msg=kind)


def test_compiled_functions_see_later_values() -> None:
    model = TwoTower(
        TowerConfig(dimension=D, sequence=SequenceConfig(kind="mean")), ItemFeatures(N, ()), n_shared=N, n_users=1
    )
    of_items = compiled(lambda: model.item_vectors() * 1.0, model.variables)
    before = np.asarray(of_items())
    model.load({name: value + 1.0 for name, value in model.values().items()})
    np.testing.assert_allclose(np.asarray(of_items()), before + 1.0, rtol=1e-5)


def test_inputs_that_do_not_matter_have_no_gradient() -> None:
    x, y = np.array([1.0, 2.0], np.float32), np.ones(3, np.float32)
    gradients = input_gradients(lambda arrays: arrays[0] ** 2, [x, y])
    np.testing.assert_allclose(gradients[0], 2 * x)
    np.testing.assert_array_equal(gradients[1], np.zeros(3))


@pytest.mark.parametrize("weigh", ["users", "targets"])
def test_filled_batches_have_the_same_weights(weigh: str) -> None:
    histories = matrix([[0, 1, 2], [3, 4, 5, 6, 7], [8, 9]], N)
    windows = training_windows(histories, 5, ROWS, np.random.default_rng(0))
    plain, filled = (batch_targets(windows, size, weigh) for size in (None, 8))  # type: ignore[arg-type]
    assert plain.count == filled.count == 7
    assert plain.total == filled.total == (3 if weigh == "users" else 7)
    assert len(filled.windows) == 8
    assert len(filled.places) > len(plain.places)
    np.testing.assert_array_equal(filled.places[:7], plain.places)
    assert filled.weights.sum() == pytest.approx(plain.weights.sum())
    assert plain.weights.sum() == pytest.approx(float(plain.total)), "the mean over users, or over targets"
    np.testing.assert_array_equal(filled.windows.items.ravel()[filled.places[:7]], windows.items[windows.targets >= 0])
