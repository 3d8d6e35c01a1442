"""Encodes an item's attributes: one small encoder an attribute, put together by a gated sum."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from client.towers.features import ItemFeatures
from client.towers.sequence import TransformerBlock
from common.config.towers import EncoderConfig, TowerConfig

READER = "attribute_"
"""Before an attribute's name in its layer's, since an attribute may have the name of another layer."""


class ContentEncoder(keras.layers.Layer):  # type: ignore[misc]
    """Σ_e σ(gate_e) ⊙ W_e·encoder_e(attribute_e) over the attributes that an item has.

    Args:
        config: of the plan.
        features: of all items; constants of this layer.
    """

    def __init__(self, config: TowerConfig, features: ItemFeatures) -> None:
        super().__init__(name="content")
        self._features = features.features
        self.empty = not self._features
        self.inputs = [ops.convert_to_tensor(feature.values) for feature in self._features]
        self._present = [
            ops.convert_to_tensor(feature.present[:, None].astype("float32")) for feature in self._features
        ]
        self.readers = [_Reader(feature.config, config.dimension) for feature in self._features]

    @property
    def scales(self) -> dict[str, NDArray[np.float32]]:
        """float32 ``[2]`` by attribute that is a number: the mean and deviation that standardised it."""
        return {
            feature.config.attribute: np.array(feature.scale, dtype=np.float32)
            for feature in self._features
            if feature.config.kind == "numeric"
        }

    def of_rows(self, rows: Any) -> Any:
        """float32 ``[r, d]`` of the items ``rows`` (int32 ``[r]``) alone."""
        total = 0.0
        for reader, own, present in zip(self.readers, self.inputs, self._present, strict=True):
            total = total + ops.take(present, rows, axis=0) * reader(ops.take(own, rows, axis=0))
        return total

    def call(self, inputs: Any = None, training: bool = False) -> Any:
        """float32 ``[items, d]``.

        Args:
            inputs: one array per encoder in place of the items' own, for attributions.
            training: whether dropout is on.
        """
        total = 0.0
        for reader, own, present in zip(self.readers, inputs or self.inputs, self._present, strict=True):
            total = total + present * reader(own, training=training)
        return total


class _Reader(keras.layers.Layer):  # type: ignore[misc]
    """Reads one attribute: float32 ``[items, d]`` from its numbers."""

    def __init__(self, config: EncoderConfig, dimension: int) -> None:
        super().__init__(name=f"{READER}{config.attribute}")
        self.config = config
        kind, width = config.kind, config.width
        if kind in ("multi_hot", "text", "text_transformer"):
            initial = keras.initializers.RandomNormal(0.0, 0.05)
            self.table = self.add_weight(shape=(config.buckets, width), initializer=initial, name="table")
        if kind == "numeric":
            self.hidden = keras.layers.Dense(width, activation="relu", name="hidden")
        if kind == "text":
            self.conv = keras.layers.Conv1D(width, 3, padding="same", activation="relu", name="conv")
        if kind == "text_transformer":
            initial = keras.initializers.RandomNormal(0.0, 0.02)
            self.positions = self.add_weight(shape=(config.length, width), initializer=initial, name="positions")
            self.block = TransformerBlock(width, 1, 0.0, causal=False, name="block")
        if kind == "image":
            self.conv1 = keras.layers.Conv2D(16, 3, 2, padding="same", activation="relu", name="conv1")
            self.conv2 = keras.layers.Conv2D(width, 3, 2, padding="same", activation="relu", name="conv2")
        self.project = keras.layers.Dense(dimension, name="project")
        self.gate = self.add_weight(shape=(dimension,), initializer="zeros", name="gate")

    def call(self, values: Any, training: bool = False) -> Any:
        return ops.sigmoid(self.gate) * self.project(self._read(values, training))

    def _read(self, values: Any, training: bool) -> Any:
        match self.config.kind:
            case "numeric":
                return self.hidden(values)
            case "vector" | "sentence" | "text_vector":
                return values
            case "image":
                return ops.mean(self.conv2(self.conv1(values)), axis=(1, 2))
        embedded, mask = self.embed(values)
        if self.config.kind == "text":
            embedded = self.conv(embedded)
        if self.config.kind == "text_transformer":
            embedded = self.block(embedded + self.positions, training=training)
        return ops.sum(embedded * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)

    def embed(self, tokens: Any) -> tuple[Any, Any]:
        """Token vectors float32 ``[items, length, width]`` and their mask ``[items, length, 1]``."""
        mask = ops.cast(tokens > 0, "float32")[:, :, None]
        return ops.take(self.table, tokens, axis=0) * mask, mask
