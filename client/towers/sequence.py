"""Encoders of a user's recent history: causal attention of two kinds, a GRU, or the mean of what came before.

Histories are padded on the right, so that a causal model never sees padding before an item. Counted from the end of the
history, the last item has the same position embedding however long the history is.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from common.config.towers import SequenceConfig


class TransformerBlock(keras.layers.Layer):  # type: ignore[misc]
    """Pre-norm attention and a feed-forward layer, as in SASRec (Kang & McAuley 2018, §III-B)."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        *,
        causal: bool,
        name: str,
        seed: int = 0,
        feed_forward: int = 1,
    ) -> None:
        super().__init__(name=name)
        self.causal = causal
        self.norm1 = keras.layers.LayerNormalization(epsilon=1e-6, name="norm1")
        self.attention = keras.layers.MultiHeadAttention(
            heads, width // heads, dropout=dropout, seed=seed, name="attention"
        )
        self.norm2 = keras.layers.LayerNormalization(epsilon=1e-6, name="norm2")
        self.ffn1 = keras.layers.Dense(feed_forward * width, activation="relu", name="ffn1")
        self.ffn2 = keras.layers.Dense(width, name="ffn2")
        self.drop = keras.layers.Dropout(dropout, seed=seed)

    def call(self, x: Any, training: bool = False) -> Any:
        """float32 ``[b, L, width]`` to the same shape."""
        normed = self.norm1(x)
        attended = self.attention(normed, x, use_causal_mask=self.causal, training=training)
        x = x + self.drop(attended, training=training)
        hidden = self.ffn2(self.drop(self.ffn1(self.norm2(x)), training=training))
        return x + self.drop(hidden, training=training)


class PointwiseBlock(keras.layers.Layer):  # type: ignore[misc]
    """Attention without a softmax, gated, with a bias by distance: HSTU (Zhai et al. 2024, eq. 2 to 4).

    U, V, Q, K = SiLU(mix(norm(x))); A = SiLU(QKᵀ + bias of the distance) / L; x + out(norm(A·V) ⊙ U). Their bias by elapsed
    time is left out: histories here have an order, and times only on some platforms.
    """

    def __init__(self, width: int, heads: int, length: int, dropout: float, *, name: str, seed: int = 0) -> None:
        super().__init__(name=name)
        self.width, self.heads, self.length = width, heads, length
        self.norm1 = keras.layers.LayerNormalization(epsilon=1e-6, name="norm1")
        self.mix = keras.layers.Dense(4 * width, activation="silu", name="mix")
        self.distances = self.add_weight(
            shape=(heads, length), initializer=keras.initializers.RandomNormal(0, 0.02), name="distances"
        )
        self.norm2 = keras.layers.LayerNormalization(epsilon=1e-6, name="norm2")
        self.out = keras.layers.Dense(width, name="out")
        self.drop = keras.layers.Dropout(dropout, seed=seed)

    def call(self, x: Any, training: bool = False) -> Any:
        """float32 ``[b, L, width]`` to the same shape."""
        gate, values, queries, keys = ops.split(self.mix(self.norm1(x)), 4, axis=-1)
        read = pointwise_attention(queries, keys, values, self.distances, self.length)
        return x + self.out(self.drop(self.norm2(read) * gate, training=training))


def pointwise_attention(queries: Any, keys: Any, values: Any, distances: Any, length: int) -> Any:
    """Σ_s≤t SiLU(⟨q_t, k_s⟩ + distances[t − s]) / length · v_s, head by head.

    Args:
        queries: float32 ``[b, L, width]``; ``keys`` and ``values`` likewise.
        keys: see above.
        values: see above.
        distances: float32 ``[heads, length]``.
        length: L at most.

    Returns:
        float32 ``[b, L, width]``.
    """
    heads, (_, width, whole) = distances.shape[0], ops.shape(queries)
    split = (-1, width, heads, whole // heads)
    scores = ops.einsum("bthd,bshd->bhts", ops.reshape(queries, split), ops.reshape(keys, split))
    back = ops.arange(width)[:, None] - ops.arange(width)[None, :]
    scores = scores + ops.take(distances, ops.clip(back, 0, length - 1), axis=1)[None]
    weights = ops.silu(scores) * ops.cast(back >= 0, "float32")[None, None] / length
    read = ops.einsum("bhts,bshd->bthd", weights, ops.reshape(values, split))
    return ops.reshape(read, (-1, width, whole))


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
        if config.kind in ("transformer", "hstu"):
            if config.positions != "none":
                initial = keras.initializers.RandomNormal(0, 0.02)
                self.positions = self.add_weight(
                    shape=(config.length, dimension), initializer=initial, name="positions"
                )
            self.blocks = [self._block(number, seed + 1 + number) for number in range(config.blocks)]
            self.final_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="final_norm")
        elif config.kind == "gru":
            self.gru = keras.layers.GRU(dimension, return_sequences=True, name="gru")

    def _block(self, number: int, seed: int) -> keras.layers.Layer:
        config, name = self.config, f"block{number}"
        if config.kind == "hstu":
            return PointwiseBlock(self.dimension, config.heads, config.length, config.dropout, name=name, seed=seed)
        return TransformerBlock(
            self.dimension,
            config.heads,
            config.dropout,
            causal=True,
            name=name,
            seed=seed,
            feed_forward=config.feed_forward,
        )

    def _places(self, lengths: Any, width: Any) -> Any:
        """int32 ``[b or 1, L]``: which position embedding each item has."""
        places = ops.arange(width)[None, :]
        if self.config.positions == "end":
            places = self.config.length - lengths[:, None] + places
        return ops.clip(places, 0, self.config.length - 1)

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
        x = items * self.dimension**0.5
        if self.config.positions != "none":
            x = x + ops.take(self.positions, self._places(lengths, width), axis=0)
        x = self.drop(x, training=training)
        for block in self.blocks:
            x = block(x, training=training)
        return self.final_norm(x)
