"""Where the deep model computes: chosen on this machine, whatever the others have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.config.towers import SequenceConfig, TowerConfig
from common.errors import ConfigError

CONFIG = TowerConfig(dimension=4, sequence=SequenceConfig(length=3, blocks=1, heads=1))


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every device scope that the model's code opens."""
    import tensorflow as tf

    opened: list[str] = []
    original = tf.device
    monkeypatch.setattr(tf, "device", lambda name: (opened.append(str(name)), original(name))[1])
    return opened


def test_the_model_is_made_on_the_device_that_was_asked_for(two_devices: list[str]) -> None:
    from client.towers.features import ItemFeatures
    from client.towers.two_tower import TwoTower

    model = TwoTower(CONFIG, ItemFeatures(5, ()), n_shared=5, n_users=2, device="cpu")
    assert "CPU" in two_devices[0].upper()
    assert all("CPU" in variable.value.device.upper() for variable in model.trainable_variables)


def test_auto_takes_the_gpu_where_there_is_one_and_else_the_cpu() -> None:
    from client.training.kernels.devices import choose_device

    assert "CPU" in choose_device("auto", []).upper()
    assert "GPU:0" in choose_device("auto", ["/physical_device:GPU:0"]).upper()


def test_a_gpu_that_is_not_there_is_refused_by_name() -> None:
    from client.towers.features import ItemFeatures
    from client.towers.two_tower import TwoTower

    with pytest.raises(ConfigError, match="gpu"):
        TwoTower(CONFIG, ItemFeatures(5, ()), n_shared=5, n_users=2, device="gpu:3")


def test_memory_growth_is_on_for_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from client.training.kernels.devices import visible_gpus

    class _Gpu:
        def __init__(self, name: str) -> None:
            self.name = name

    grown: list[tuple[Any, bool]] = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [_Gpu("g0"), _Gpu("g1")])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu.name, on)))
    assert visible_gpus() == ["g0", "g1"]
    assert grown == [("g0", True), ("g1", True)]


def test_variables_of_two_kinds_of_device_are_equal_on_the_wire() -> None:
    from client.towers.features import ItemFeatures
    from client.towers.two_tower import TwoTower

    one, other = (
        TwoTower(CONFIG, ItemFeatures(5, ()), n_shared=5, n_users=2, device=device) for device in ("cpu", "auto")
    )
    other.load(one.values())
    np.testing.assert_array_equal(np.asarray(one.item_vectors()), np.asarray(other.item_vectors()))
