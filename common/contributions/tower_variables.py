"""Declares what a deep model shares: every variable by name, declared once for both ends of the wire.

The aggregator has no TensorFlow. It makes the first values from this declaration, and a platform's model must have
exactly these variables: one that is in the model and not here is private, or refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.config.towers import EncoderConfig, SequenceConfig, TowerConfig

Initializer = Literal["zeros", "ones", "glorot_uniform", "normal"]


@dataclass(frozen=True, kw_only=True)
class SharedVariable:
    """One shared variable of a deep model.

    Attributes:
        name: lower-case identifier, unique; the array's name on the wire.
        shape: fixed lengths; for ``rows`` the shape of one item's row.
        initializer: of the first value. ``normal`` has the standard deviation ``scale``; ``glorot_uniform`` takes fan-in
            and fan-out from the last two axes, times the product of the others (Glorot & Bengio 2010).
        scale: standard deviation of ``normal``.
        rows: True: one row per item of the vocabulary, of which a platform sends those of its own catalogue alone.
    """

    name: str
    shape: tuple[int, ...]
    initializer: Initializer
    scale: float = 0.02
    rows: bool = False

    def full_shape(self, n_items: int) -> tuple[int, ...]:
        """The variable's shape over a vocabulary of ``n_items``."""
        return (n_items, *self.shape) if self.rows else self.shape

    def initial(self, n_items: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """The first value, float32 ``full_shape(n_items)``."""
        shape = self.full_shape(n_items)
        if self.initializer == "zeros":
            return np.zeros(shape, dtype=np.float32)
        if self.initializer == "ones":
            return np.ones(shape, dtype=np.float32)
        if self.initializer == "normal":
            return rng.normal(0.0, self.scale, shape).astype(np.float32)
        field = math.prod(shape[:-2])
        limit = math.sqrt(6 / (field * (shape[-2] + shape[-1])))
        return rng.uniform(-limit, limit, shape).astype(np.float32)


def initial_values(
    variables: Sequence[SharedVariable], n_items: int, seed: int, known: Mapping[str, NDArray[np.float32]] | None = None
) -> dict[str, NDArray[np.float32]]:
    """First values by name; rows of ``known`` items, and all else that is known, stay as they are.

    Each variable has random numbers of its own (from the seed, its place in the declaration and how many items were known),
    so that a run repeats.
    """
    values = {}
    for place, variable in enumerate(variables):
        old = None if known is None else known.get(variable.name)
        if old is not None and not variable.rows:
            values[variable.name] = old
            continue
        before = 0 if old is None else len(old)
        rng = np.random.default_rng([seed, 1, place, before])
        fresh = variable.initial(n_items - before if variable.rows else n_items, rng)
        values[variable.name] = fresh if old is None else np.concatenate([old, fresh])
    return values


def tower_variables(config: TowerConfig) -> tuple[SharedVariable, ...]:
    """Every shared variable of a two-tower model, in one order for all; names and shapes are those of its layers.

    Not here and so private: user embeddings, profile weights, adapters, rows of items that a platform keeps to itself.
    """
    d = config.dimension
    variables = [SharedVariable(name=ITEM_ROWS, shape=(d,), initializer="normal", rows=True)] if config.item_ids else []
    for encoder in config.encoders:
        variables += _encoder_variables(encoder, d)
    return (*variables, *_sequence_variables(config.sequence, d))


ITEM_ROWS = "item_rows"
_KERNEL: Initializer = "glorot_uniform"


def _dense(name: str, inputs: int, outputs: int) -> list[SharedVariable]:
    return [
        SharedVariable(name=f"{name}_kernel", shape=(inputs, outputs), initializer=_KERNEL),
        SharedVariable(name=f"{name}_bias", shape=(outputs,), initializer="zeros"),
    ]


def _norm(name: str, d: int) -> list[SharedVariable]:
    return [
        SharedVariable(name=f"{name}_gamma", shape=(d,), initializer="ones"),
        SharedVariable(name=f"{name}_beta", shape=(d,), initializer="zeros"),
    ]


def _attention(name: str, d: int, heads: int) -> list[SharedVariable]:
    variables = []
    for part in ("query", "key", "value"):
        variables.append(
            SharedVariable(
                name=f"{name}_{part}_kernel", shape=(d, heads, d // heads), initializer="normal", scale=d**-0.5
            )
        )
        variables.append(SharedVariable(name=f"{name}_{part}_bias", shape=(heads, d // heads), initializer="zeros"))
    out = SharedVariable(
        name=f"{name}_attention_output_kernel", shape=(heads, d // heads, d), initializer="normal", scale=d**-0.5
    )
    return [*variables, out, SharedVariable(name=f"{name}_attention_output_bias", shape=(d,), initializer="zeros")]


def _block(name: str, d: int, heads: int, feed_forward: int = 1) -> list[SharedVariable]:
    """One Transformer block: attention and a feed-forward layer (Kang & McAuley 2018)."""
    return [
        *_norm(f"{name}_norm1", d),
        *_attention(f"{name}_attention", d, heads),
        *_norm(f"{name}_norm2", d),
        *_dense(f"{name}_ffn1", d, feed_forward * d),
        *_dense(f"{name}_ffn2", feed_forward * d, d),
    ]


def _hstu_block(name: str, d: int, sequence: SequenceConfig) -> list[SharedVariable]:
    """One block of pointwise attention (Zhai et al. 2024, eq. 2 to 4)."""
    distances = (sequence.heads, sequence.length)
    return [
        *_norm(f"{name}_norm1", d),
        *_dense(f"{name}_mix", d, 4 * d),
        SharedVariable(name=f"{name}_distances", shape=distances, initializer="normal"),
        *_norm(f"{name}_norm2", d),
        *_dense(f"{name}_out", d, d),
    ]


def _encoder_variables(encoder: EncoderConfig, d: int) -> list[SharedVariable]:
    name, width = encoder.attribute, encoder.width
    table = SharedVariable(name=f"{name}_table", shape=(encoder.buckets, width), initializer="normal", scale=0.05)
    match encoder.kind:
        case "multi_hot":
            variables = [table]
        case "numeric":
            variables = _dense(f"{name}_hidden", 1, width)
        case "text":
            convolution = SharedVariable(name=f"{name}_conv_kernel", shape=(3, width, width), initializer=_KERNEL)
            variables = [
                table,
                convolution,
                SharedVariable(name=f"{name}_conv_bias", shape=(width,), initializer="zeros"),
            ]
        case "text_transformer":
            positions = SharedVariable(name=f"{name}_positions", shape=(encoder.length, width), initializer="normal")
            variables = [table, positions, *_block(f"{name}_block", width, 1)]
        case "image":
            variables = [
                SharedVariable(name=f"{name}_conv1_kernel", shape=(3, 3, 3, 16), initializer=_KERNEL),
                SharedVariable(name=f"{name}_conv1_bias", shape=(16,), initializer="zeros"),
                SharedVariable(name=f"{name}_conv2_kernel", shape=(3, 3, 16, width), initializer=_KERNEL),
                SharedVariable(name=f"{name}_conv2_bias", shape=(width,), initializer="zeros"),
            ]
        case "sentence" | "text_vector" | "vector":
            variables = []
    gate = SharedVariable(name=f"{name}_gate", shape=(d,), initializer="zeros")
    return [*variables, *_dense(f"{name}_project", width, d), gate]


def _sequence_variables(sequence: SequenceConfig, d: int) -> list[SharedVariable]:
    match sequence.kind:
        case "none" | "mean":
            return []
        case "gru":
            return [
                SharedVariable(name="gru_kernel", shape=(d, 3 * d), initializer=_KERNEL),
                SharedVariable(name="gru_recurrent_kernel", shape=(d, 3 * d), initializer=_KERNEL),
                SharedVariable(name="gru_bias", shape=(2, 3 * d), initializer="zeros"),
            ]
        case "transformer" | "hstu":
            positions = SharedVariable(name="positions", shape=(sequence.length, d), initializer="normal")
            names = [f"block{number}" for number in range(sequence.blocks)]
            if sequence.kind == "hstu":
                blocks = [v for name in names for v in _hstu_block(name, d, sequence)]
            else:
                blocks = [v for name in names for v in _block(name, d, sequence.heads, sequence.feed_forward)]
            told = [] if sequence.positions == "none" else [positions]
            return [*told, *blocks, *_norm("final_norm", d)]
