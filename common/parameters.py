"""What a deep model shares: every variable by name, declared once for both ends of the wire.

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
