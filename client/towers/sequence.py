"""Encoders of a user's recent history: a causal Transformer, a GRU, or the mean of what came before.

Histories are padded on the right, so that a causal model never sees padding before an item. Positions are counted from
the end of the history: the last item has the same position embedding however long the history is.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from common.config.towers import SequenceConfig


class TransformerBlock(keras.layers.Layer):  # type: ignore[misc]
    """Pre-norm attention and a feed-forward layer of the same width, as in SASRec (Kang & McAuley 2018, §III-B)."""

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool, name: str, seed: int = 0) -> None:
        super().__init__(name=name)
        self.causal = causal
        self.norm1 = keras.layers.LayerNormalization(epsilon=1e-6, name="norm1")
        self.attention = keras.layers.MultiHeadAttention(
            heads, width // heads, dropout=dropout, seed=seed, name="attention"
        )
        self.norm2 = keras.layers.LayerNormalization(epsilon=1e-6, name="norm2")
        self.ffn1 = keras.layers.Dense(width, activation="relu", name="ffn1")
        self.ffn2 = keras.layers.Dense(width, name="ffn2")
        self.drop = keras.layers.Dropout(dropout, seed=seed)

    def call(self, x: Any, training: bool = False) -> Any:
        """float32 ``[b, L, width]`` to the same shape."""
        normed = self.norm1(x)
        attended = self.attention(normed, x, use_causal_mask=self.causal, training=training)
        x = x + self.drop(attended, training=training)
        hidden = self.ffn2(self.drop(self.ffn1(self.norm2(x)), training=training))
        return x + self.drop(hidden, training=training)


class SequenceEncoder(keras.layers.Layer):  # type: ignore[misc]
    """Encodes the user after each prefix of a history.

    Args:
        config: kind, length, blocks.
        dimension: d.
        seed: of dropout.
    """

    def __init__(self, config: SequenceConfig, dimension: int, seed: int = 0) -> None:
        super().__init__(name="sequence")
        self.config = config
        self.dimension = dimension
        self.drop = keras.layers.Dropout(config.dropout, seed=seed)
        if config.kind == "transformer":
            self.positions = self.add_weight(
                shape=(config.length, dimension), initializer=keras.initializers.RandomNormal(0, 0.02), name="positions"
            )
            self.blocks = [
                TransformerBlock(
                    dimension, config.heads, config.dropout, causal=True, name=f"block{number}", seed=seed + 1 + number
                )
                for number in range(config.blocks)
            ]
            self.final_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="final_norm")
        elif config.kind == "gru":
            self.gru = keras.layers.GRU(dimension, return_sequences=True, name="gru")

    def call(self, items: Any, lengths: Any, training: bool = False) -> Any:
        """Outputs at every position.

        Args:
            items: float32 ``[b, L, d]``, vectors of the items in order of time, zeros behind the last one.
            lengths: int32 ``[b]``.
            training: whether dropout is on.

        Returns:
            float32 ``[b, L, d]``; position t knows items 0 … t.
        """
        kind, width = self.config.kind, ops.shape(items)[1]
        if kind == "mean":
            return ops.cumsum(items, axis=1) / ops.arange(1, width + 1, dtype="float32")[None, :, None]
        if kind == "gru":
            return self.gru(self.drop(items, training=training), training=training)
        # Both as in SASRec: item vectors are scaled by √d before positions are added.
        from_end = ops.clip(
            self.config.length - lengths[:, None] + ops.arange(width)[None, :], 0, self.config.length - 1
        )
        x = items * self.dimension**0.5 + ops.take(self.positions, from_end, axis=0)
        x = self.drop(x, training=training)
        for block in self.blocks:
            x = block(x, training=training)
        return self.final_norm(x)
