"""Figures of small deep models on the library that Keras computes with: ``python -m tests.support.backends FILE``."""

from __future__ import annotations

import sys

import numpy as np

from client.towers.features import ItemFeatures
from client.towers.local_training import LocalTrainer
from client.towers.scorer import TowerScorer
from client.towers.two_tower import TwoTower
from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig, TowerTraining
from common.contributions.tower_variables import initial_values, tower_variables
from tests.support import matrix

N, USERS, D = 12, 20, 4
ROWS = np.arange(N, dtype=np.int32)
KINDS = ("transformer", "hstu", "gru", "mean")
GENRES = EncoderConfig(attribute="genres", kind="multi_hot", buckets=8, width=2, length=2)


def figures(kind: str) -> list[np.ndarray]:
    """Scores before and after a round of training, on the library of this process."""
    sequence = SequenceConfig(kind=kind, length=5, blocks=1, heads=2, dropout=0.0)  # type: ignore[arg-type]
    training = TowerTraining(batch_users=8, learning_rate=0.01, weight_decay=0.01, temperature=0.5)
    config = TowerConfig(dimension=D, encoders=(GENRES,), sequence=sequence, training=training)
    features = ItemFeatures.of(config.encoders, {"genres": [[f"g{item % 3}"] for item in range(N)]}, N)
    model = TwoTower(config, features, n_shared=N, n_users=USERS)
    model.load(initial_values(tower_variables(config), N, 1))
    rng = np.random.default_rng(0)
    histories = matrix([[int(i) for i in rng.permutation(N)[: 2 + user % 8]] for user in range(USERS)], N)
    scores = [TowerScorer(model, ROWS).scores(histories, np.arange(USERS))]
    LocalTrainer(model, histories, ROWS, training, rng).train(epochs=1)
    return [*scores, TowerScorer(model, ROWS).scores(histories, np.arange(USERS))]


if __name__ == "__main__":
    found = {kind: np.stack(figures(kind)) for kind in KINDS}
    assert "tensorflow" not in sys.modules, "the code loads TensorFlow"
    np.savez(sys.argv[1], **found)
