"""The attributes' encoders as one plain Keras model: from a new item's attributes to its vector.

An item that joins after training has no row of its own; what content says of it is its vector, which scores against any
user's. The model takes numbers; how text and categories become numbers is in the contract, in words that need no code of
this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from client.towers.layers import block, dense, embedding, with_weights
from client.towers.stored import TowerModel
from common.config.towers import EncoderConfig

Values = Mapping[str, NDArray[np.float32]]
_INPUT = "attribute_"
_CODES = (
    "fold = NFKC, casefold, strip; the code of a token is 1 + CRC-32 of its UTF-8 bytes modulo {modulus}; at most {length} "
    "codes, 0 behind the last one; "
)
_TEXT = (
    "tokens of a text: the folded text is cut at white space, of each word only letters, digits and combining marks stay, and "
    "after each word of more than 3 characters come its trigrams, each with # before it"
)
_MEANINGS = {
    "multi_hot": _CODES + "a token is = and the folded category",
    "text": _CODES + _TEXT,
    "text_transformer": _CODES + _TEXT,
    "numeric": "the number as it is",
    "vector": "the vector as it is",
    "sentence": "the vector that the sentence model gives",
    "text_vector": "the vector that the plan's text encoder gives, less the mean over the catalogue, projected "
    "(client.towers.texts), of length 1",
    "image": "red, green, blue from 0 to 255, scaled to this size",
}


def content_tower(towers: TowerModel) -> keras.Model:
    """From one input an attribute, and float32 ``present`` ``[b, E]`` (0 where an item lacks it), to float32 ``[b, d]``.

    The same function as :class:`client.towers.encoders.ContentEncoder`, in layers that Keras has.
    """
    encoders = towers.config.encoders
    inputs = [keras.Input(_shape(one), dtype=_dtype(one), name=f"{_INPUT}{one.attribute}") for one in encoders]
    present = keras.Input((len(encoders),), name="present")
    parts = [
        _part(one, own, ops.expand_dims(present[:, place], -1), towers)
        for place, (one, own) in enumerate(zip(encoders, inputs, strict=True))
    ]
    total = parts[0] if len(parts) == 1 else layers.Add(name="content")(parts)
    return keras.Model([*inputs, present], total, name="content_tower")


def content_contract(towers: TowerModel) -> dict[str, Any]:
    """Return what :func:`content_tower` takes and gives."""
    encoders = towers.config.encoders
    taken = [
        {
            "name": f"{_INPUT}{one.attribute}",
            "attribute": one.attribute,
            "kind": one.kind,
            "dtype": _dtype(one),
            "shape": [None, *_shape(one)],
            "meaning": _MEANINGS[one.kind].format(modulus=one.buckets - 1, length=one.length),
        }
        for one in encoders
    ]
    taken.append({
        "name": "present", "dtype": "float32", "shape": [None, len(encoders)],
        "meaning": "1 where the item has the attribute, in this order, and 0 where it lacks it",
    })  # fmt: skip
    return {
        "file": "content.keras",
        "inputs": taken,
        "output": {
            "dtype": "float32",
            "shape": [None, towers.config.dimension],
            "meaning": "the vector of an item that was not there in training; of the others item_vectors.npy also has "
            "their own rows",
        },
    }


def _shape(encoder: EncoderConfig) -> tuple[int, ...]:
    match encoder.kind:
        case "numeric":
            return (1,)
        case "vector" | "sentence" | "text_vector":
            return (encoder.width,)
        case "image":
            return (encoder.length, encoder.length, 3)
    return (encoder.length,)


def _dtype(encoder: EncoderConfig) -> str:
    return "int32" if encoder.kind in ("multi_hot", "text", "text_transformer") else "float32"


def _part(encoder: EncoderConfig, own: Any, present: Any, towers: TowerModel) -> Any:
    """float32 ``[b, d]``: what one attribute adds."""
    name, values = encoder.attribute, towers.encoder_values
    gate = np.reciprocal(1 + np.exp(-values[f"{name}_gate"]))
    # σ(gate) ⊙ (x·W + b), the gate folded into the layer.
    kernel, bias = ((values[f"{name}_project_{kind}"] * gate).astype(np.float32) for kind in ("kernel", "bias"))
    project = with_weights(layers.Dense(towers.config.dimension, name=f"{name}_project"), kernel, bias)
    part = project(_read(encoder, own, values, towers.scales.get(name)))
    # A number that is missing may be NaN, which a product with 0 would keep.
    return ops.where(present > 0, part, 0.0)


def _read(encoder: EncoderConfig, own: Any, values: Values, scale: NDArray[np.float32] | None) -> Any:
    name, width = encoder.attribute, encoder.width
    match encoder.kind:
        case "vector" | "sentence" | "text_vector":
            return own
        case "numeric":
            mean, deviation = (0.0, 1.0) if scale is None else scale.tolist()
            return dense(f"{name}_hidden", values, (own - mean) / deviation, "relu")
        case "image":
            x = layers.Rescaling(1 / 127.5, offset=-1.0, name=f"{name}_pixels")(own)
            for number, filters in enumerate((16, width), start=1):
                x = _convolved(f"{name}_conv{number}", values, x, layers.Conv2D, filters, strides=2)
            return ops.mean(x, axis=(1, 2))
    mask = ops.expand_dims(ops.cast(own > 0, "float32"), -1)
    x = embedding(f"{name}_table", values[f"{name}_table"])(own) * mask
    if encoder.kind == "text":
        x = _convolved(f"{name}_conv", values, x, layers.Conv1D, width, strides=1)
    if encoder.kind == "text_transformer":
        places = ops.cumsum(ops.ones_like(own), axis=1) - 1
        x = x + embedding(f"{name}_positions", values[f"{name}_positions"])(places)
        x = block(f"{name}_block", 1, values, x, width, causal=False)
    return ops.sum(x * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


def _convolved(name: str, values: Values, x: Any, kind: Any, filters: int, *, strides: int) -> Any:
    size = values[f"{name}_kernel"].shape[0]
    layer = kind(filters, size, strides, padding="same", activation="relu", name=name)
    layer.build(x.shape)
    return with_weights(layer, values[f"{name}_kernel"], values[f"{name}_bias"])(x)
