"""Choosing a list from a pool of the best items: by score, by being unlike what is chosen, by share of foreign items.

Maximal marginal relevance (Carbonell & Goldstein 1998, eq. 1): one after another, the item with the largest

    λ·relevance − (1 − λ)·max over the chosen of cosine,       λ = 1 − diversity,

where relevance is the score brought to 0 … 1 over the pool, beside novelty where that has a weight.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def relevance(scores: NDArray[np.floating], novelty: NDArray[np.floating], weight: float) -> NDArray[np.float64]:
    """float64 ``[c]``: (1 − weight)·score + weight·novelty, each from 0 to 1 over the pool; all ``[c]``."""
    return (1 - weight) * _unit(scores) + weight * _unit(novelty)


def choose(
    relevant: NDArray[np.float64],
    k: int,
    *,
    diversity: float = 0.0,
    cosines: Callable[[], NDArray[np.floating]] | None = None,
    foreign: NDArray[np.bool_] | None = None,
    foreign_share: float | None = None,
) -> NDArray[np.intp]:
    """Places int ``[≤ k]`` of the pool's items, in the order of the list.

    Args:
        relevant: float64 ``[c]``, 0 … 1.
        k: how many.
        diversity: 1 − λ.
        cosines: gives ``[c, c]``; asked for only where diversity has a weight.
        foreign: bool ``[c]``: which items only others have; needed with ``foreign_share``.
        foreign_share: of every beginning of the list, as nearly as whole items allow; one kind fills up for the other.
    """
    count = len(relevant)
    if not diversity and foreign_share is None:
        return np.argsort(-relevant, kind="stable")[:k]
    alike = np.zeros((count, count)) if not diversity or cosines is None else np.asarray(cosines(), dtype=np.float64)
    nearest = np.full(count, -np.inf)
    left, chosen, taken = np.ones(count, dtype=np.bool_), list[int](), 0
    for rank in range(1, min(k, count) + 1):
        able = left
        if foreign_share is not None and foreign is not None:
            wants = taken < int(np.floor(foreign_share * rank + 0.5))
            kind = left & (foreign if wants else ~foreign)
            able = kind if kind.any() else left
        penalty = np.where(np.isfinite(nearest), nearest, 0.0)
        marginal = np.where(able, (1 - diversity) * relevant - diversity * penalty, -np.inf)
        best = int(np.argmax(marginal))
        chosen.append(best)
        left[best] = False
        taken += int(foreign is not None and foreign[best])
        nearest = np.maximum(nearest, alike[best])
    return np.array(chosen, dtype=np.intp)


def _unit(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """float64 ``[c]``, from 0 to 1; 0 where all are the same."""
    if not len(values):
        return np.zeros(0)
    low, high = float(values.min()), float(values.max())
    scaled: NDArray[np.float64] = (
        (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(len(values))
    )
    return scaled
