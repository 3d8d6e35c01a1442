"""Blends what ranks the items that only others have: one record of scorers and weights, in the stored model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from client.scoring.part import Part
from common.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class Blend:
    """z(Σ w·z(part)) + β·log foreign popularity, over the vocabulary; without popularity where β is None.

    Attributes:
        weights: w by name, in the order in which parts are put together. ``shared`` and ``towers`` are models that serve
            other purposes, too: they are the platform model's own. At least one.
        beta: β.
        parts: all other parts, over the m items of the vocabulary and histories in its columns.
    """

    weights: Mapping[str, float]
    beta: float | None = None
    parts: tuple[Part, ...] = field(default=())

    def __post_init__(self) -> None:
        wrong = {name: weight for name, weight in self.weights.items() if not (weight >= 0 and np.isfinite(weight))}
        if wrong or not self.weights:
            raise ConfigError(f"weights of a blend must be finite and at least 0, got {wrong or 'none'}")
        if self.beta is not None and not (self.beta >= 0 and np.isfinite(self.beta)):
            raise ConfigError(f"beta must be finite and at least 0, got {self.beta}")

    def with_part(self, part: Part, weight: float) -> Blend:
        """The blend with one more part."""
        return replace(self, weights={**self.weights, part.name: weight}, parts=(*self.parts, part))

    def without(self, name: str) -> Blend:
        """The blend without the part ``name``."""
        return replace(
            self,
            weights={other: weight for other, weight in self.weights.items() if other != name},
            parts=tuple(part for part in self.parts if part.name != name),
        )
