"""The same Transformer trained by Keras' own ``fit``: what our training step is measured against, and nothing else."""

from __future__ import annotations

import time

import keras
import numpy as np
from keras import ops

from client.towers.histories import Windows
from client.towers.sequence import SequenceEncoder
from common.config.towers import TowerConfig


class NextItem(keras.Model):  # type: ignore[misc]
    """Next-item prediction over histories, item vectors tied."""

    def __init__(self, config: TowerConfig, n_items: int) -> None:
        super().__init__(name="next_item")
        self.items = keras.layers.Embedding(n_items + 1, config.dimension)
        self.encoder = SequenceEncoder(config.sequence, config.dimension)

    def call(self, items: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        known = ops.cast(items > 0, "int32")
        vectors = self.items(items) * ops.cast(known, "float32")[:, :, None]
        out = self.encoder(vectors, ops.sum(known, axis=1), training=training)
        return ops.matmul(out, ops.transpose(self.items.embeddings))


def seconds_a_step(config: TowerConfig, n_items: int, windows: Windows, steps: int) -> float:
    """Seconds a batch of all of ``windows`` in Keras' ``fit``, after one that compiles."""
    model = NextItem(config, n_items)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    model.compile(optimizer=keras.optimizers.Adam(config.training.learning_rate), loss=loss)
    inputs, targets = windows.items + 1, windows.targets + 1
    model.fit(inputs, targets, batch_size=len(windows), epochs=1, verbose=0)
    started = time.perf_counter()
    model.fit(np.tile(inputs, (steps, 1)), np.tile(targets, (steps, 1)), batch_size=len(windows), epochs=1, verbose=0)
    return (time.perf_counter() - started) / steps
