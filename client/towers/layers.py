"""Keras' own layers with weights that were trained elsewhere, for models that plain Keras loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

Values = Mapping[str, NDArray[np.float32]]


def with_weights(layer: keras.layers.Layer, *weights: NDArray[np.float32]) -> keras.layers.Layer:
    """``layer`` with these weights, in Keras' order."""
    if not layer.built:
        layer.build((None, None, weights[0].shape[0]))
    layer.set_weights(list(weights))
    return layer


def embedding(name: str, table: NDArray[np.float32]) -> keras.layers.Layer:
    """The look-up in ``table`` float32 ``[rows, width]``."""
    return with_weights(layers.Embedding(*table.shape, name=name), table)


def dense(name: str, values: Values, x: Any, activation: str | None = None) -> Any:
    """``x`` float32 ``[…, inputs]`` through the layer ``name``."""
    layer = layers.Dense(values[f"{name}_bias"].shape[0], activation=activation, name=name)
    layer.build(x.shape)
    return with_weights(layer, values[f"{name}_kernel"], values[f"{name}_bias"])(x)


def norm(name: str, values: Values, x: Any) -> Any:
    """``x`` normalised over its last axis."""
    layer = layers.LayerNormalization(epsilon=1e-6, name=name)
    layer.build(x.shape)
    return with_weights(layer, values[f"{name}_gamma"], values[f"{name}_beta"])(x)


def pointwise_block(name: str, values: Values, x: Any, places: Any, length: int) -> Any:
    """The same function as :class:`client.towers.sequence.PointwiseBlock`, without dropout.

    Args:
        name: of the block.
        values: its weights among them.
        x: float32 ``[b, L, width]``.
        places: int32 ``[b, L]``, 0 … L − 1.
        length: that the model was made for.
    """
    distances = values[f"{name}_distances"]
    heads, width = len(distances), x.shape[-1]
    mixed = dense(f"{name}_mix", values, norm(f"{name}_norm1", values, x), "silu")
    gate, read, queries, keys = (mixed[..., part * width : (part + 1) * width] for part in range(4))
    split = layers.Reshape((-1, heads, width // heads), name=f"{name}_heads")
    scores = ops.einsum("bthd,bshd->bths", split(queries), split(keys))
    back = ops.expand_dims(places, 2) - ops.expand_dims(places, 1)
    told = embedding(f"{name}_distances", np.ascontiguousarray(distances.T))(ops.clip(back, 0, length - 1))
    scores = scores + ops.transpose(told, (0, 1, 3, 2))
    weights = ops.silu(scores) * ops.expand_dims(ops.cast(back >= 0, "float32"), 2) / length
    attended = ops.einsum("bths,bshd->bthd", weights, split(read))
    joined = layers.Reshape((-1, width), name=f"{name}_joined")(attended)
    return x + dense(f"{name}_out", values, norm(f"{name}_norm2", values, joined) * gate)


def block(name: str, heads: int, values: Values, x: Any, width: int, *, causal: bool) -> Any:
    """The same function as :class:`client.towers.sequence.TransformerBlock`, without dropout."""
    attention = layers.MultiHeadAttention(heads, width // heads, name=f"{name}_attention")
    normed = norm(f"{name}_norm1", values, x)
    attention.build(normed.shape, x.shape)
    names = [f"{part}_{kind}" for part in ("query", "key", "value", "attention_output") for kind in ("kernel", "bias")]
    with_weights(attention, *(values[f"{name}_attention_{one}"] for one in names))
    x = x + attention(normed, x, use_causal_mask=causal)
    hidden = dense(f"{name}_ffn1", values, norm(f"{name}_norm2", values, x), "relu")
    return x + dense(f"{name}_ffn2", values, hidden)
