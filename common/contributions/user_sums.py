"""Sums over a platform's users before noise, in whole grid steps: exact, so the same however users are divided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from common.errors import PrivacyError
from common.privacy.plan import ReleasePlan, RoundNoise
from common.privacy.postprocess import isometric_scale
from common.privacy.quantise import SHRINK, toward_zero
from common.privacy.user_rows import checked_lengths

_EXACT_FLOAT = 2.0**53
_SMALLEST_WEIGHT = 1e-100
"""Squares of smaller item weights lose digits, and with them a user's weights their norm."""


class UserSums:
    """Clips, weighs, quantises and sums; what it gives is *not* private yet and stays on the platform.

    Guarantees:
        Sums over parts of the users add up to the sum over all of them, to the bit.

    Args:
        plan: public; the same on all platforms of a secure sum.
    """

    def __init__(self, plan: ReleasePlan) -> None:
        self._plan = plan

    @property
    def plan(self) -> ReleasePlan:
        return self._plan

    def count_sums(
        self, indptr: NDArray[np.int64], indices: NDArray[np.int32], *, n_items: int
    ) -> dict[str, NDArray[np.int64]]:
        """How many users have each item, and how many there are.

        Args:
            indptr: int64 ``[n + 1]``, row ``u`` is ``indptr[u]:indptr[u + 1]``.
            indices: int32 ``[nnz]``, items of the union vocabulary, unique within a row.
            n_items: m, the vocabulary's size.

        Returns:
            ``counts``, int64 ``[m + 1]``, the last entry being the number of users.

        Raises:
            PrivacyError: the rows are not valid.
        """
        lengths = checked_lengths(indptr, indices, n_items)
        step = self._plan.counts.grid_step
        sums = _exact_sums(indices, np.repeat(toward_zero(self._count_weights(lengths) / step), lengths), n_items)
        return {"counts": np.append(sums, len(lengths) * int(SHRINK / step))}

    def statistics_sums(
        self,
        server_round: int,
        indptr: NDArray[np.int64],
        indices: NDArray[np.int32],
        user_factors: NDArray[np.float32],
        item_weights: NDArray[np.float64],
    ) -> dict[str, NDArray[np.int64]]:
        """One round's sums.

        Args:
            server_round: 1 … T of the plan.
            indptr: int64 ``[n + 1]``.
            indices: int32 ``[nnz]``, items of the union vocabulary, unique within a row.
            user_factors: float32 ``[n, d]``; row ``u`` must depend on user ``u``'s history and released values alone. A
                row that is not finite counts as no contribution: a refusal would tell that its user is there.
            item_weights: float64 ``[m]``, ĉ_i^(−q), 0 for items that are not kept; from released counts, never from own
                ones (:func:`common.privacy.postprocess.item_weights`). A user without kept items contributes nothing.

        Returns:
            ``item_vectors`` int64 ``[m, d]``; ``user_gram`` int64 ``[d(d+1)/2]``; under ``item_gram`` also
            ``item_grams`` int64 ``[m, d(d+1)/2]``; triangles with off-diagonals times √2.

        Raises:
            PrivacyError: a round beyond the plan, rows or weights that are not valid, factors of another form.
        """
        noise = self.round_noise(server_round)
        lengths = checked_lengths(indptr, indices, len(item_weights))
        if user_factors.ndim != 2 or len(user_factors) != len(lengths):
            raise PrivacyError(f"user_factors: must be a matrix with one row for each of {len(lengths)} users")
        valid = (item_weights == 0) | (item_weights >= _SMALLEST_WEIGHT) & (item_weights <= 1 / _SMALLEST_WEIGHT)
        if not valid.all():
            raise PrivacyError(f"item_weights: must be 0 or lie between {_SMALLEST_WEIGHT} and {1 / _SMALLEST_WEIGHT}")
        entries = self._weighted_entries(indices, lengths, item_weights)
        sound = np.isfinite(user_factors).all(axis=1, keepdims=True)
        factors = self._clip(np.where(sound, user_factors, 0.0).astype(np.float64))
        factors *= entries.contributing(len(lengths))[:, None]
        sums = {
            "item_vectors": entries.sums(factors.T, noise.item_vectors.grid_step),
            "user_gram": np.array(
                [toward_zero(column / noise.user_gram.grid_step).sum() for column in _gram_columns(factors)]
            ),
        }
        if noise.item_grams is not None:
            sums["item_grams"] = entries.sums(_gram_columns(factors), noise.item_grams.grid_step)
        return sums

    def round_noise(self, server_round: int) -> RoundNoise:
        """The noise of a round.

        Raises:
            PrivacyError: the plan has no such round.
        """
        if not 1 <= server_round <= len(self._plan.rounds):
            raise PrivacyError(f"server_round {server_round}: the plan has rounds 1 to {len(self._plan.rounds)} only")
        return self._plan.rounds[server_round - 1]

    def _count_weights(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """min(1, √(K/n_u)) for each user."""
        limit = self._plan.parameters.max_count_contribution
        return np.minimum(1.0, np.sqrt(limit / np.maximum(lengths, 1))) * SHRINK

    def _clip(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows scaled to an L2 norm of at most Γ."""
        clip_norm = self._plan.parameters.clip_norm * SHRINK
        norms = np.linalg.norm(factors, axis=1, keepdims=True)
        return np.asarray(factors * np.minimum(1.0, clip_norm / np.maximum(norms, np.finfo(np.float64).tiny)))

    def _weighted_entries(
        self, indices: NDArray[np.int32], lengths: NDArray[np.int64], item_weights: NDArray[np.float64]
    ) -> _WeightedEntries:
        """The kept entries with w_ui = √B·a_i / √(Σ_{j∈Ω_u} a_j²), where Ω_u are the kept items of u."""
        users = np.repeat(np.arange(len(lengths)), lengths)
        raw = item_weights[indices]
        totals = np.bincount(users, weights=raw * raw, minlength=len(lengths))
        scale = np.zeros(len(lengths))
        norm = math.sqrt(self._plan.parameters.weight_total) * SHRINK
        np.divide(norm, np.sqrt(totals), out=scale, where=totals > 0)
        kept = raw > 0
        users = users[kept]
        return _WeightedEntries(indices[kept], users, raw[kept] * scale[users], len(item_weights))


@dataclass(frozen=True, eq=False)
class _WeightedEntries:
    """Kept (user, item) pairs with their weights, by which rows of users are summed into items."""

    items: NDArray[np.int32]
    users: NDArray[np.int64]
    weights: NDArray[np.float64]
    n_items: int

    def contributing(self, n_users: int) -> NDArray[np.bool_]:
        """Bool ``[n]``: the users with a kept item."""
        return np.bincount(self.users, minlength=n_users) > 0

    def sums(self, columns: Iterable[NDArray[np.float64]], grid_step: float) -> NDArray[np.int64]:
        """int64 ``[m, width]``: Σ w_ui·row_u per item, each product quantised toward zero before it is added.

        ``columns`` are the columns of the users' rows, float64 ``[n]`` each: one at a time, to hold memory at O(nnz).
        """
        summed = (
            _exact_sums(self.items, toward_zero(self.weights * (column / grid_step)[self.users]), self.n_items)
            for column in columns
        )
        return np.stack(list(summed), axis=1)


def _gram_columns(factors: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Columns (float64 ``[n]``) of the users' packed u uᵀ, off-diagonal entries times √2 (isometric to Frobenius)."""
    d = factors.shape[1]
    for (row, column), scale in zip(combinations_with_replacement(range(d), 2), isometric_scale(d), strict=True):
        yield factors[:, row] * factors[:, column] * scale


def _exact_sums(indices: NDArray[np.int32], steps: NDArray[np.int64], n_items: int) -> NDArray[np.int64]:
    """int64 ``[m]``: whole numbers summed by item. Exact, as no partial sum can reach 2^53 in a 64-bit float."""
    if len(steps) and float(np.abs(steps).max()) * len(steps) >= _EXACT_FLOAT:
        sums = np.zeros(n_items, dtype=np.int64)
        np.add.at(sums, indices, steps)
        return sums
    return np.bincount(indices, weights=steps, minlength=n_items).astype(np.int64)
