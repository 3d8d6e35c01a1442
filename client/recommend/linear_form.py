"""A scope's scores as one linear form, so that a request costs one product and no pass for mean and deviation.

Every scorer of :mod:`client.scoring.scorer` is linear in the items once the user's factors are known. For parts p with
factors u_p, item rows x_ip, weight w_p and a column of log popularity with weight β,

    score_i = z(Σ_p w_p z(u_pᵀx_ip) + β·pop_i) = qᵀ(x_i − x̄) / √(qᵀC q),   q = [w_p u_p / √(u_pᵀC_pp u_p) …, β],

where x̄ and C are mean and covariance of the concatenated item rows: known once a model is loaded. Where popularity meets
several parts, their sum is standardised before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 15
# As in scorer.z: a deviation that is nothing but rounding of the scores does not rank.
_FLAT = 1e-6


@dataclass(frozen=True, eq=False)
class Carried:
    """A part's raw score for one item, taken apart: Σ amounts + own.

    Attributes:
        entries: int ``[k]``: the entries of the history that the part reads.
        amounts: float64 ``[k]``: what each of them adds.
        own: what the item adds by itself.
        attributes: ``own`` by attribute of the item, where it can be told; their sum is ``own`` to 0.1 %.
    """

    entries: NDArray[np.intp]
    amounts: NDArray[np.float64]
    own: float
    attributes: Mapping[str, float]


class Part(Protocol):
    """One model's share of a scope: its scores are products of a user's factor with the items' rows."""

    @property
    def name(self) -> str:
        """``local``, ``shared``, ``anchored`` or ``towers``."""
        ...

    @property
    def weight(self) -> float:
        """w_p."""
        ...

    @property
    def items(self) -> NDArray[np.float32]:
        """float32 ``[m, width]``."""
        ...

    def factor(self, columns: NDArray[np.int32], values: NDArray[np.float32], user: int | None) -> NDArray[np.float64]:
        """float64 ``[width]``: the user's factor in the form that meets ``items``; arguments as in :class:`LinearScope`."""
        ...

    def carried(
        self,
        row: int,
        deviation: NDArray[np.float64],
        columns: NDArray[np.int32],
        values: NDArray[np.float32],
        user: int | None,
    ) -> Carried:
        """Take apart ``factor @ deviation``, where ``deviation`` is row ``row`` of ``items`` minus their mean."""
        ...


@dataclass(frozen=True, eq=False)
class Query:
    """A user's side of the linear form: ``items @ vector + offset`` are the scores.

    Attributes:
        vector: float32 ``[width]``.
        offset: −qᵀx̄ / √(qᵀC q).
        part_scales: float64 ``[P]``: w_p over all deviations, by which part p's raw scores are multiplied.
        popularity_scale: β over the deviation.
    """

    vector: NDArray[np.float32]
    offset: float
    part_scales: NDArray[np.float64]
    popularity_scale: float


class LinearScope:
    """The items of one scope and what is needed to standardise any user's scores over them.

    Args:
        parts: the models, in order of their columns; at least one, all over the same m items.
        log_popularity: float ``[m]``, or None where popularity has no part.
        beta: its weight.
    """

    def __init__(
        self, parts: Sequence[Part], log_popularity: NDArray[np.floating] | None = None, beta: float = 0.0
    ) -> None:
        self.parts = tuple(parts)
        self.beta = beta
        self.has_popularity = log_popularity is not None
        columns = [part.items for part in self.parts]
        if log_popularity is not None:
            columns.append(log_popularity.astype(np.float32)[:, None])
        self.items = np.ascontiguousarray(columns[0] if len(columns) == 1 else np.hstack(columns))
        """float32 ``[m, width]``."""
        bounds = np.cumsum([0, *(part.items.shape[1] for part in self.parts)])
        self.slices = tuple(slice(int(a), int(b)) for a, b in pairwise(bounds))

    def __len__(self) -> int:
        return len(self.items)

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

    def query(self, columns: NDArray[np.int32], values: NDArray[np.float32], user: int | None = None) -> Query:
        """The query of a history.

        Args:
            columns: int32 ``[n]``; own items, oldest first.
            values: float32 ``[n]``.
            user: the platform's user that it belongs to; None: nobody that the models know by more than the history.
        """
        factors = [part.factor(columns, values, user) for part in self.parts]
        scales = np.array(
            [
                part.weight * self.inverse_deviation(u, s)
                for part, u, s in zip(self.parts, factors, self.slices, strict=True)
            ]
        )
        vector = np.zeros(self.items.shape[1])
        for factor, scale, where in zip(factors, scales, self.slices, strict=True):
            vector[where] = scale * factor
        if self.has_popularity:
            if len(self.parts) > 1:
                # As CrossScorer: popularity is added to the blend brought to deviation 1.
                inner = self.inverse_deviation(vector[:-1], slice(0, -1))
                vector, scales = vector * inner, scales * inner
            vector[-1] = self.beta
        whole = self.inverse_deviation(vector, slice(None))
        vector *= whole
        return Query(vector.astype(np.float32), -float(vector @ self.mean), scales * whole, self.beta * whole)

    def inverse_deviation(self, vector: NDArray[np.float64], where: slice) -> float:
        """1 / standard deviation of ``items[:, where] @ vector``; 0 where these are all the same."""
        deviation = np.sqrt(max(float(vector @ self.covariance[where, where] @ vector), 0.0))
        return 0.0 if deviation <= _FLAT * abs(float(vector @ self.mean[where])) else 1.0 / deviation
