"""What a platform ranks by: the shared model, its own model, popularity elsewhere, and how these are put together.

A scorer gives every item of a catalogue a score for some users, a block of users at a time. Scores of different models
have different units; :func:`z` brings each user's scores to mean 0 and standard deviation 1 before they are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from common.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix


class Scorer(Protocol):
    """Anything that scores items for users."""

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``, possibly read-only: a score of each of the m items for each of the rows ``users``.

        Args:
            histories: n × m; what the users are known to have.
            users: int ``[k]``; rows of ``histories`` to score.
        """
        ...


@dataclass(frozen=True, eq=False)
class FactorScorer:
    """uᵀv_i with the user factor solved from the history.

    Biases are factors too: a column of ones beside a column of item biases.

    Attributes:
        item_factors: float32 ``[m, d]``.
        fold_in: user factors float32 ``[k, d]`` of the rows of a k × m matrix of histories.
    """

    item_factors: NDArray[np.float32]
    fold_in: Callable[[UserItemMatrix], NDArray[np.float32]]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.fold_in(histories.select_users(users)) @ self.item_factors.T


@dataclass(frozen=True, eq=False)
class SolvedFactorScorer:
    """uᵀv_i with user factors that were solved before, so that many blends can be tried for one solve.

    Attributes:
        user_factors: float32 ``[n, d]``; row u belongs to row u of the histories, which are not looked at.
        item_factors: float32 ``[m, d]``.
    """

    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self.user_factors[users] @ self.item_factors.T
        return scores


@dataclass(frozen=True, eq=False)
class PopularityScorer:
    """The same score for everyone: how many users have the item. The baseline that needs no model.

    Attributes:
        counts: ``[m]``; exact or noisy.
    """

    counts: NDArray[np.number]

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        return np.broadcast_to(self.counts.astype(np.float32), (len(users), len(self.counts)))


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
    """z(shared) + β·log(popularity elsewhere): scores of items that the platform itself does not have.

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


def z(scores: NDArray[np.float32], candidates: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """(s − mean) / standard deviation of each row over the candidate items; 0 where these all have the same score.

    Args:
        scores: float32 ``[n, m]``, finite. Not modified.
        candidates: bool ``[m]``; the items that mean and deviation are taken over. Others are put on the same scale.

    Returns:
        float32 ``[n, m]``.
    """
    among = scores if candidates is None else scores[:, candidates]
    if among.shape[1] == 0:
        return np.zeros_like(scores)
    mean = among.mean(axis=1, keepdims=True, dtype=np.float64)
    deviation = among.std(axis=1, keepdims=True, dtype=np.float64)
    # Below the rounding of float32 scores a spread is noise: a user without history must not be ranked by it.
    spread = np.abs(among).max(axis=1, keepdims=True) * 1e-6
    flat = deviation <= spread
    inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=~flat)
    standard: NDArray[np.float32] = (scores - mean.astype(np.float32)) * inverse.astype(np.float32)
    return standard
