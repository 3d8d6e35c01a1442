"""Defines a scorer: it gives every item of a catalogue a score for some users, a block of users at a time.

Scores of different models have different units; :func:`z` brings each user's scores to mean 0 and standard deviation 1.
Models that are blended are parts (:mod:`client.scoring.part`) of the one engine (:mod:`client.scoring.linear_form`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
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
