"""Blended scores by their formula, a whole matrix at a time: the oracle of the engine that evaluation and serving share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.personalization.platform_model import PlatformModel
from client.scoring.factors import shared_on_vocabulary
from client.scoring.scorer import Scorer, z
from common.errors import ConfigError, ContractError


@dataclass(frozen=True, eq=False)
class BlendScorer:
    """z(local) + w·z(shared): scores of a platform's own catalogue.

    Attributes:
        local: the platform's own model; alone at w = 0.
        shared: the federation's model; alone at w = ∞.
        weight: w in [0, ∞].
        candidates: bool ``[m]``; the items over which :func:`z` standardises; all of them by default.
    """

    local: Scorer
    shared: Scorer
    weight: float
    candidates: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ConfigError(f"blend weight must lie in [0, ∞], got {self.weight}")

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        if self.weight == 0:
            return z(self.local.scores(histories, users), self.candidates)
        shared = z(self.shared.scores(histories, users), self.candidates)
        if np.isinf(self.weight):
            return shared
        return z(self.local.scores(histories, users), self.candidates) + np.float32(self.weight) * shared


@dataclass(frozen=True, eq=False)
class SumScorer:
    """Σ w·z(part): several models of items that the platform does not have.

    Attributes:
        parts: scorers with their weights.
        candidates: bool ``[m]``; the items over which :func:`z` standardises.
    """

    parts: Sequence[tuple[Scorer, float]]
    candidates: NDArray[np.bool_] | None = None

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        total = np.zeros((len(users), histories.n_items), dtype=np.float32)
        for part, weight in self.parts:
            total += np.float32(weight) * z(part.scores(histories, users), self.candidates)
        return total


@dataclass(frozen=True, eq=False)
class CrossScorer:
    """z(shared) + β·log(foreign popularity): scores of items that the platform itself does not have.

    Attributes:
        shared: the federation's model over the m items.
        counts: ``[m]``; users of the *other* platforms who have the item, exact or noisy.
        beta: β ≥ 0; 0 ranks by the shared model alone.
        candidates: bool ``[m]``; the items over which :func:`z` standardises; all of them by default.
        floor: counts below it are raised to it, so that noise cannot make the logarithm blow up.
    """

    shared: Scorer
    counts: NDArray[np.number]
    beta: float
    candidates: NDArray[np.bool_] | None = None
    floor: float = 1.0

    def __post_init__(self) -> None:
        if not (self.beta >= 0 and np.isfinite(self.beta)):
            raise ConfigError(f"beta must be finite and at least 0, got {self.beta}")
        if not self.floor > 0:
            raise ConfigError(f"floor must be above 0, got {self.floor}: the logarithm of a count is taken")
        if not np.isfinite(self.counts).all():
            raise ContractError("popularity counts must be finite")

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        popularity = np.log(np.maximum(self.counts.astype(np.float64), self.floor))
        return z(self.shared.scores(histories, users), self.candidates) + (self.beta * popularity).astype(np.float32)


def cross_oracle(model: PlatformModel, beta: float | None = None) -> Scorer:
    """z(Σ w·z(part)) + β·log popularity of a stored model over its vocabulary, by the formula."""
    kept = {part.name: part for part in model.cross.parts}
    parts: list[tuple[Scorer, float]] = []
    for name, weight in model.cross.weights.items():
        if name == "shared":
            parts.append((shared_on_vocabulary(model.shared, model.own_positions), weight))
        elif name == "towers":
            assert model.towers is not None
            parts.append((model.towers.on_vocabulary(), weight))
        else:
            parts.append((kept[name], weight))
    blend = SumScorer(parts, model.foreign)
    beta = model.cross.beta if beta is None else beta
    return blend if beta is None else CrossScorer(blend, model.foreign_popularity, beta, candidates=model.foreign)
