"""A scope's scores as one linear form, so that a request costs one product and no pass for mean and deviation.

Every scorer of :mod:`client.recommend.scorer` is linear in the items once the user's factors are known. For parts p with
factors u_p, item rows x_ip, weight w_p and a column of log popularity with weight β,

    score_i = z(Σ_p w_p z(u_pᵀx_ip) + β·pop_i) = qᵀ(x_i − x̄) / √(qᵀC q),   q = [w_p u_p / √(u_pᵀC_pp u_p) …, β],

where x̄ and C are mean and covariance of the concatenated item rows: known once a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from client.recommend.fold_in import FoldIn

_BLOCK = 1 << 15
# As in scorer.z: a deviation that is nothing but rounding of the scores does not rank.
_FLAT = 1e-6


@dataclass(frozen=True, eq=False)
class Part:
    """One model's share of a scope.

    Attributes:
        name: ``local``, ``shared`` or ``anchored``.
        fold_in: solves the user's factor over the items that this model counts as the platform's catalogue.
        columns: int32 ``[m_own]``: each own item's row in ``fold_in``, −1 where it has none; None: the same.
        items: float32 ``[m, width]``: the scope's items in the form of :attr:`FoldIn.scoring_items`.
        weight: w_p.
        value_mean: μ of explicit feedback, else 0.
    """

    name: str
    fold_in: FoldIn
    columns: NDArray[np.int32] | None
    items: NDArray[np.float32]
    weight: float = 1.0
    value_mean: float = 0.0

    def known(self, columns: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Which entries of a history this model knows, and their rows in ``fold_in``."""
        rows = columns if self.columns is None else self.columns[columns]
        entries = np.flatnonzero(rows >= 0)
        return entries, rows[entries]

    def factor(self, columns: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 ``[width]``: the user's factor in the form that meets ``items``."""
        entries, rows = self.known(columns)
        factor = self.fold_in.user(rows, values[entries])
        scoring: NDArray[np.float64] = self.fold_in.scoring_factors(factor[None])[0].astype(np.float64)
        return scoring


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

    def query(self, columns: NDArray[np.int32], values: NDArray[np.float32]) -> Query:
        """The query of a history: int32 ``[n]`` own columns, oldest first, and their values float32 ``[n]``."""
        factors = [part.factor(columns, values) for part in self.parts]
        scales = np.array(
            [part.weight * self._inverse(u, s) for part, u, s in zip(self.parts, factors, self.slices, strict=True)]
        )
        vector = np.zeros(self.items.shape[1])
        for factor, scale, where in zip(factors, scales, self.slices, strict=True):
            vector[where] = scale * factor
        if self.has_popularity:
            vector[-1] = self.beta
        whole = self._inverse(vector, slice(None))
        vector *= whole
        return Query(vector.astype(np.float32), -float(vector @ self.mean), scales * whole, self.beta * whole)

    def _inverse(self, vector: NDArray[np.float64], where: slice) -> float:
        """1 / standard deviation of ``items[:, where] @ vector``; 0 where these are all the same."""
        deviation = np.sqrt(max(float(vector @ self.covariance[where, where] @ vector), 0.0))
        return 0.0 if deviation <= _FLAT * abs(float(vector @ self.mean[where])) else 1.0 / deviation
