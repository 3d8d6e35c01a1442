"""A training step of the sequence model in MovieLens-1M's sizes, timed on one device.

    python -m simulations.bench.sequences.step gpu

Computes with what Keras is told to (``KERAS_BACKEND``), or with what is there: JAX, PyTorch, TensorFlow in this order.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.util import find_spec
from typing import Any

import numpy as np

from client.data.dataset import UserItemMatrix
from common.config.towers import SequenceConfig, TowerConfig, TowerTraining
from common.deploy.console import say_json

USERS, ITEMS = 128, 3_706
MODEL = TowerConfig(
    dimension=128,
    sequence=SequenceConfig(kind="hstu", length=200, blocks=2, heads=4),
    training=TowerTraining(batch_users=USERS, weigh="targets"),
)
SMOKE = TowerConfig(
    dimension=4, sequence=SequenceConfig(kind="hstu", length=4, blocks=1), training=TowerTraining(batch_users=USERS)
)


def backend() -> str:
    """The library to compute with."""
    told = os.environ.get("KERAS_BACKEND")
    return told or next((name for name in ("jax", "torch") if find_spec(name)), "tensorflow")


def bench_step(device: str, *, smoke: bool = False, steps: int = 20) -> dict[str, Any]:
    """Seconds of a step with 128 users of full histories and the whole catalogue as negatives.

    Args:
        device: ``cpu`` or ``gpu``.
        smoke: a model of no size, to see that it runs.
        steps: that are timed; the best of three runs.
    """
    from client.towers.features import ItemFeatures
    from client.towers.local_training import LocalTrainer
    from client.towers.two_tower import TwoTower

    config, items = (SMOKE, 12) if smoke else (MODEL, ITEMS)
    length = config.sequence.length + 1
    rng = np.random.default_rng(0)
    chosen = np.concatenate([rng.choice(items, length, replace=False) for _ in range(USERS)])
    ones = np.ones(len(chosen), dtype=np.float32)
    users = np.repeat(np.arange(USERS), length)
    histories = UserItemMatrix.from_entries(users, chosen, ones, np.arange(len(chosen)), n_users=USERS, n_items=items)
    model = TwoTower(config, ItemFeatures(items, ()), n_shared=items, n_users=USERS, device=device)
    trainer = LocalTrainer(model, histories, np.arange(items, dtype=np.int32), config.training, rng)
    trainer.train(epochs=2.0)  # compiles
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        loss = trainer.train(epochs=float(steps)).loss
        seconds.append((time.perf_counter() - started) / steps)
    return {"backend": backend(), "device": model.device, "seconds": min(seconds), "loss": loss}


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = backend()
    say_json(bench_step(sys.argv[1], smoke="--smoke" in sys.argv, steps=2 if sys.argv[1] == "cpu" else 20))
