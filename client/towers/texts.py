"""Texts as inputs of the deep model: what a frozen encoder says of them, projected to few numbers by public signs.

Weights that read them are shared, so every platform must make the same numbers of the same words: the encoder is the plan's,
and the projection is made of hashes, of no random numbers and no catalogue (Achlioptas 2003, "Database-friendly random
projections").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

TextVectors = Callable[[Sequence[str]], NDArray[np.float32]]
"""From n texts to float32 ``[n, d]``, zero where there is no text."""


def projected_texts(texts: Sequence[str], vectors_of: TextVectors, width: int) -> NDArray[np.float32]:
    """float32 ``[n, width]`` of unit length; zero where there is no text.

    Args:
        texts: of the model's items, the vocabulary's first.
        vectors_of: the plan's encoder.
        width: how many numbers the model reads; products change by about 1/√width.
    """
    vectors = np.asarray(vectors_of(texts), dtype=np.float64)
    told = vectors.any(axis=1)
    if not told.any():
        return np.zeros((len(texts), width), dtype=np.float32)
    # What all texts have in common says nothing. A single one must not become nothing.
    vectors[told] -= vectors[told].sum(axis=0) / (told.sum() + 10.0)
    found = vectors if vectors.shape[1] == width else vectors @ signs(vectors.shape[1], width)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(found, lengths, out=np.zeros_like(found), where=lengths > 0).astype(
        np.float32
    )
    return unit


def signs(dimension: int, width: int) -> NDArray[np.float64]:
    """float64 ``[dimension, width]`` of ±1/√width, the same everywhere and for good."""
    rows = [_bits(f"crossfed text projection 1 {row}", width) for row in range(dimension)]
    return np.asarray((2.0 * np.stack(rows) - 1.0) / np.sqrt(width))


def _bits(name: str, count: int) -> NDArray[np.uint8]:
    digest = hashlib.shake_128(name.encode()).digest(-(-count // 8))
    return np.unpackbits(np.frombuffer(digest, dtype=np.uint8))[:count]
