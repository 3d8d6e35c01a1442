"""The one engine of blended scores: evaluation asks it for blocks of users, serving for one, explanations for its scales.

Most scorers are linear in the items once the user's factors are known (:class:`client.scoring.part.Part`). For parts p with
factors u_p, item rows x_ip, weight w_p and a column of log popularity with weight β,

    score_i = z(Σ_p w_p z(u_pᵀx_ip) + β·pop_i) = qᵀ(x_i − x̄) / √(qᵀC q),   q = [w_p u_p / √(u_pᵀC_pp u_p) …, β],

where x̄ and C are mean and covariance of the concatenated item rows: known once a model is loaded, so that a request costs
one product and no pass for mean and deviation. Where popularity meets several parts, their sum is standardised before. A
direct part has no rows: its scores are computed, standardised and added for each user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.scoring.part import Part, UserHistory
from common.errors import ContractError

if TYPE_CHECKING:
    from client.data.dataset import UserItemMatrix

_BLOCK = 1 << 15
# As in scorer.z: a deviation that is nothing but rounding of the scores does not rank.
_FLAT = 1e-6


@dataclass(frozen=True, eq=False)
class Query:
    """A user's side of the form: ``items @ vector + offset``, and what direct parts add, are the scores.

    Attributes:
        vector: float32 ``[width]``.
        offset: −qᵀx̄ / √(qᵀC q), less the mean of what direct parts add.
        part_scales: float64 ``[P]``: w_p over all deviations, by which part p's raw scores are multiplied.
        popularity_scale: β over the deviation.
        direct: float64 ``[m]``: what direct parts add, or None without any.
        history: in the parts' columns: direct parts score other items for it, too.
        scope: whose query it is.
    """

    vector: NDArray[np.float32]
    offset: float
    part_scales: NDArray[np.float64]
    popularity_scale: float
    direct: NDArray[np.float64] | None
    history: UserHistory
    scope: LinearScope

    @property
    def ranks(self) -> bool:
        """Whether it tells any item from another."""
        return bool(self.vector.any()) or (self.direct is not None and bool(self.direct.any()))


@dataclass(frozen=True, eq=False)
class BlockQuery:
    """Queries of k users. Their scores less each user's offset, which orders nothing, are made some items at a time.

    Attributes:
        vectors: float32 ``[k, width]``.
        offsets: float32 ``[k]``.
        direct: float64 ``[k, m]``: what direct parts add, or None without any.
        items: float32 ``[m, width]``, of the scope.
    """

    vectors: NDArray[np.float32]
    offsets: NDArray[np.float32]
    direct: NDArray[np.float64] | None
    items: NDArray[np.float32]

    @property
    def ranks(self) -> NDArray[np.bool_]:
        """Bool ``[k]``: as :attr:`Query.ranks`."""
        ranks: NDArray[np.bool_] = (self.vectors != 0).any(axis=1)
        return ranks if self.direct is None else ranks | (self.direct != 0).any(axis=1)

    def without_offsets(self, items: slice) -> NDArray[np.float32]:
        """float32 ``[w, k]``: of the items of a slice, a row an item."""
        scores: NDArray[np.float32] = self.items[items] @ self.vectors.T
        if self.direct is not None:
            scores += self.direct[:, items].T.astype(np.float32)
        return scores


@dataclass(frozen=True, eq=False)
class _Block:
    """Of k users: vectors float64 ``[k, width]``, offsets ``[k]``, scales ``[k, P]`` and β ``[k]``, direct ``[k, m]``."""

    vectors: NDArray[np.float64]
    offsets: NDArray[np.float64]
    scales: NDArray[np.float64]
    betas: NDArray[np.float64]
    direct: NDArray[np.float64] | None


class LinearScope:
    """The items of one scope and what is needed to standardise any user's scores over them.

    Args:
        parts: the models, in order of their columns; at least one, all over the same m items.
        weights: w_p of each; 1 by default.
        log_popularity: float ``[m]``, or None where popularity has no part.
        beta: its weight.
        columns: int32 ``[n_columns]``: the parts' column of each column of a history, −1 where they have none; None: the
            same.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        weights: Sequence[float] | None = None,
        log_popularity: NDArray[np.floating] | None = None,
        beta: float = 0.0,
        columns: NDArray[np.int32] | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.weights = np.array([1.0] * len(self.parts) if weights is None else weights, dtype=np.float64)
        if not self.parts or len(self.weights) != len(self.parts):
            raise ContractError(f"a blend of {len(self.parts)} scorers has {len(self.weights)} weights")
        self.beta = beta
        self.has_popularity = log_popularity is not None
        rows = [part.items for part in self.parts]
        if log_popularity is not None:
            rows.append(log_popularity.astype(np.float32)[:, None])
        self.items = np.ascontiguousarray(rows[0] if len(rows) == 1 else np.hstack(rows))
        """float32 ``[m, width]``."""
        bounds = np.cumsum([0, *(part.items.shape[1] for part in self.parts)])
        self.slices = tuple(slice(int(a), int(b)) for a, b in pairwise(bounds))
        nothing = UserHistory(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32))
        self._direct = tuple(place for place, part in enumerate(self.parts) if part.direct(nothing) is not None)
        self._columns = columns

    def __len__(self) -> int:
        return len(self.items)

    @property
    def linear(self) -> bool:
        """Whether scores are products alone, so that an index over ``items`` can find the best."""
        return not self._direct

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """float64 ``[width]``: x̄."""
        return self.items.mean(axis=0, dtype=np.float64) if len(self) else np.zeros(self.items.shape[1])

    @cached_property
    def covariance(self) -> NDArray[np.float64]:
        """float64 ``[width, width]``: C, over m."""
        total = np.zeros((self.items.shape[1],) * 2)
        for start in range(0, len(self), _BLOCK):
            centred = self.items[start : start + _BLOCK] - self.mean
            total += centred.T @ centred
        return total / max(len(self), 1)

    def known(self, history: UserHistory) -> tuple[NDArray[np.intp] | None, UserHistory]:
        """Which entries of a history the parts can read (None: all of them), and these in the parts' columns."""
        if self._columns is None:
            return None, history
        mapped = self._columns[history.columns]
        entries = np.flatnonzero(mapped >= 0)
        return entries, UserHistory(mapped[entries], history.values[entries], history.user, history.prior)

    def query(
        self,
        columns: NDArray[np.int32],
        values: NDArray[np.float32],
        user: int | None = None,
        prior: NDArray[np.float32] | None = None,
    ) -> Query:
        """The query of a history.

        Args:
            columns: int32 ``[n]``; oldest first.
            values: float32 ``[n]``.
            user: the platform's user that it belongs to; None: nobody that the models know by more than the history.
            prior: as in :class:`~client.scoring.part.UserHistory`.
        """
        _, history = self.known(UserHistory(columns, values, user, prior))
        factors = [part.factor(history)[None] for part in self.parts]
        direct = [self.parts[place].direct(history) for place in self._direct]
        block = self._combined(factors, [scores[None] for scores in direct if scores is not None])
        return Query(
            block.vectors[0].astype(np.float32),
            float(block.offsets[0]),
            block.scales[0],
            float(block.betas[0]),
            None if block.direct is None else block.direct[0],
            history,
            self,
        )

    def scored(self, query: Query, rows: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """float32 ``[m]``, or of the items ``rows`` alone: scores of a query of this scope or of one with the same parts."""
        items = self.items if rows is None else self.items[rows]
        scores: NDArray[np.float32] = items @ query.vector + np.float32(query.offset)
        if self._direct:
            added = self._added(query)
            scores = scores + (added if rows is None else added[rows]).astype(np.float32)
        return scores

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]`` of the rows ``users``, of histories in the parts' columns."""
        if len(users) == 0:
            return np.zeros((0, len(self)), dtype=np.float32)
        block = self.block_query(histories, users)
        scores: NDArray[np.float32] = block.vectors @ self.items.T
        if block.direct is not None:
            scores += block.direct.astype(np.float32)
        scores += block.offsets[:, None]
        return scores

    def block_query(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> BlockQuery:
        """The queries of the rows ``users``, of histories in the parts' columns."""
        factors = [part.factors(histories, users) for part in self.parts]
        direct = [self.parts[place].scores(histories, users).astype(np.float64) for place in self._direct]
        block = self._combined(factors, direct)
        return BlockQuery(block.vectors.astype(np.float32), block.offsets.astype(np.float32), block.direct, self.items)

    def inverse_deviation(self, vector: NDArray[np.float64], where: slice) -> float:
        """1 / standard deviation of ``items[:, where] @ vector``; 0 where these are all the same."""
        return float(self._inverse_deviations(vector[None], where)[0])

    def _inverse_deviations(self, vectors: NDArray[np.float64], where: slice) -> NDArray[np.float64]:
        variance = np.einsum("kw,kw->k", vectors @ self.covariance[where, where], vectors)
        return _inverse(variance, vectors @ self.mean[where])

    def _combined(self, factors: Sequence[NDArray[np.float64]], direct: Sequence[NDArray[np.float64]]) -> _Block:
        """Put factors (``[k, w_p]`` each) and direct scores (``[k, m]`` each) together, standardised part by part."""
        k, scales = len(factors[0]), np.empty((len(factors[0]), len(self.parts)))
        vectors = np.zeros((k, self.items.shape[1]))
        for place, (factor, where) in enumerate(zip(factors, self.slices, strict=True)):
            if place not in self._direct:
                scales[:, place] = self.weights[place] * self._inverse_deviations(factor, where)
                vectors[:, where] = scales[:, place, None] * factor
        for place, scores in zip(self._direct, direct, strict=True):
            scales[:, place] = self.weights[place] * _inverse_of(scores)
        if self.has_popularity:
            if len(self.parts) > 1:
                # Popularity is added to the blend brought to deviation 1.
                inner = self._blend_scale(vectors[:, :-1], scales, direct, slice(0, -1))
                vectors, scales = vectors * inner[:, None], scales * inner[:, None]
            vectors[:, -1] = self.beta
        whole = self._blend_scale(vectors, scales, direct, slice(None))
        vectors, scales = vectors * whole[:, None], scales * whole[:, None]
        offsets = -(vectors @ self.mean)
        if not self._direct:
            return _Block(vectors, offsets, scales, self.beta * whole, None)
        added = self._sum_of_direct(scales, direct)
        return _Block(vectors, offsets - _mean(added), scales, self.beta * whole, added)

    def _blend_scale(
        self,
        vectors: NDArray[np.float64],
        scales: NDArray[np.float64],
        direct: Sequence[NDArray[np.float64]],
        where: slice,
    ) -> NDArray[np.float64]:
        """float64 ``[k]``: 1 / standard deviation of the sum of all parts."""
        if not self._direct:
            return self._inverse_deviations(vectors, where)
        scores = vectors @ self.items[:, where].T + self._sum_of_direct(scales, direct)
        return _inverse_of(scores)

    def _sum_of_direct(self, scales: NDArray[np.float64], direct: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        parts = zip(self._direct, direct, strict=True)
        return np.asarray(sum(scales[:, place, None] * scores for place, scores in parts))

    def _added(self, query: Query) -> NDArray[np.float64]:
        """float64 ``[m]``: what the direct parts add for a query, of whichever scope it is."""
        if query.scope is self and query.direct is not None:
            return query.direct
        total = np.zeros(len(self))
        for place in self._direct:
            scores = self.parts[place].direct(query.history)
            if scores is not None:
                total += query.part_scales[place] * scores
        return total


def _inverse_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return _inverse(scores.var(axis=1), scores.mean(axis=1)) if scores.shape[1] else np.zeros(len(scores))


def _mean(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores.mean(axis=1) if scores.shape[1] else np.zeros(len(scores))


def _inverse(variance: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / deviation; 0 where it is nothing but rounding of scores of that mean."""
    deviation = np.sqrt(np.maximum(variance, 0.0))
    flat = deviation <= _FLAT * np.abs(mean)
    return np.divide(1.0, deviation, out=np.zeros_like(deviation), where=~flat)
