"""A user's factor from a history, in closed form: the half-step of ALS that serving needs. numpy only.

The same code folds in users for evaluation and for serving, so what was measured is what is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv

from client.data.dataset import UserItemMatrix
from common.config.model import FactorizationConfig

_ONE = np.zeros(1, dtype=np.int64)
"""Where the entries of a single history begin."""
_LEAST = 2.0**-54
"""Added to 1, it is nothing."""


@dataclass(frozen=True, kw_only=True)
class Recency:
    """How much more a user's latest entries weigh, the older ones so much less that all together weigh the same.

    The a-th from the end weighs w_ui·(1 + β·exp(−a/τ)), a from 0, times what keeps Σ w_ui of the history. So how much is known
    of a user beside the prior and the unobserved items does not depend on β and τ, whatever the model was trained with.

    Attributes:
        boost: β ≥ 0; 0 weighs all alike.
        span: τ > 0, in entries.
    """

    boost: float
    span: float

    @cached_property
    def _latest(self) -> NDArray[np.float64]:
        """float64 ``[l + 1]``: 1 + β·exp(−a/τ), the latest first; the last one is 1, as are all before it."""
        length = int(np.ceil(self.span * max(np.log(max(self.boost, _LEAST) / _LEAST), 0.0)))
        return np.append(1 + self.boost * np.exp(-np.arange(length) / self.span), 1.0)

    def weights(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """float64 ``[k]`` of the ``values`` of one history, oldest first."""
        given, count = values.astype(np.float64), min(len(values), len(self._latest))
        raised = given.copy()
        raised[len(values) - count :] *= self._latest[count - 1 :: -1] if count else 1.0
        return raised * (np.add.reduceat(given, _ONE) / np.add.reduceat(raised, _ONE)) if count else raised

    def weights_of_block(self, values: NDArray[np.floating], starts: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[nnz]``: :meth:`weights`, to the bit, of histories none of which is empty.

        Args:
            values: ``[nnz]``: of one history after the other.
            starts: int64 ``[n]``: where each begins.
        """
        if not len(values):
            return values.astype(np.float64)
        given, lengths = values.astype(np.float64), np.diff(starts, append=len(values))
        raised = given * self._latest[np.minimum(_after(starts, len(values)), len(self._latest) - 1)]
        return raised * np.repeat(np.add.reduceat(given, starts) / np.add.reduceat(raised, starts), lengths)


class FoldIn:
    """Solves user factors for fixed item parameters.

    Args:
        item_parameters: float32 ``[m, row]``: one row a column of the histories; ``[v_i, b_i]`` for explicit feedback.
        config: the hyperparameters that the item parameters were trained with.
        value_mean: μ; 0 for implicit feedback.
        recency: how entries of implicit feedback weigh by their order, in place of what training does; None: as in training.
    """

    def __init__(
        self,
        item_parameters: NDArray[np.float32],
        config: FactorizationConfig,
        value_mean: float = 0.0,
        recency: Recency | None = None,
    ) -> None:
        self.config = config
        self._explicit = config.feedback == "explicit"
        self._mean = value_mean
        self._items = item_parameters
        self._recency = recency

    @property
    def row(self) -> int:
        """Width of a user's factor."""
        return int(self._items.shape[1])

    @cached_property
    def _base(self) -> NDArray[np.float64]:
        """float64 ``[row, row]``: α₀ Σ_i v_i v_iᵀ over the catalogue; nothing for explicit feedback."""
        if self._explicit:
            return np.zeros((self._items.shape[1],) * 2)
        items = self._items.astype(np.float64)
        return self.config.unobserved_weight * (items.T @ items)

    def entry_weights(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """float64 ``[k]``: w_ui of the entries of one history, oldest first."""
        if self._recency is not None and not self._explicit:
            return self._recency.weights(values)
        return self._trained_weights(values, _ONE)

    def _block_weights(self, histories: UserItemMatrix) -> NDArray[np.float64]:
        """float64 ``[nnz]``: :meth:`entry_weights` of each row."""
        starts = histories.indptr[:-1][histories.row_lengths > 0]
        if self._recency is not None and not self._explicit:
            return self._recency.weights_of_block(histories.values, starts)
        return self._trained_weights(histories.values, starts)

    def _trained_weights(self, values: NDArray[np.floating], starts: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[nnz]`` as in training, of histories that begin at ``starts``."""
        if self._explicit:
            return np.ones(len(values))
        if not self.config.recency_boost:
            return values.astype(np.float64)
        boost = 1 + self.config.recency_boost * np.exp(-_after(starts, len(values)) / self.config.recency_span)
        return np.asarray(values * boost, dtype=np.float64)

    def _targets(self, items: NDArray[np.integer], values: NDArray[np.floating]) -> NDArray[np.floating]:
        """``[k]``: what the products with the entries' rows of the design are to be."""
        if not self._explicit:
            return np.ones(len(items))
        biases: NDArray[np.float64] = self._items[items, -1].astype(np.float64)
        return values - self._mean - biases

    def _design(self, items: NDArray[np.integer]) -> NDArray[np.float64]:
        """float64 ``[k, row]``: a user's unknowns are [u, b_u], so that the bias meets a constant 1 in place of b_i."""
        rows: NDArray[np.float64] = self._items[items].astype(np.float64)
        if self._explicit:
            rows[:, -1] = 1.0
        return rows

    def system(
        self, items: NDArray[np.integer], values: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The normal equations (matrix ``[row, row]``, right-hand side ``[row]``) of one history, oldest entry first."""
        weights = self.entry_weights(values)
        return self._system(items, weights, weights * self._targets(items, values))

    def _system(
        self, items: NDArray[np.integer], weights: NDArray[np.float64], weighted_targets: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = self._design(items)
        unobserved = 0.0 if self._explicit else self.config.unobserved_weight * len(self._items)
        ridge = self.config.regularization * max(len(items) + unobserved, 1.0) ** self.config.regularization_exponent
        matrix = self._base + (rows * weights[:, None]).T @ rows
        matrix.flat[:: len(matrix) + 1] += ridge
        return matrix, rows.T @ weighted_targets

    def pull(self, prior: NDArray[np.floating]) -> NDArray[np.float64]:
        """float64 ``[row]``: A₀·prior, which a prior mean adds to the right-hand side; A₀ is the matrix of no history.

        The factor then minimises Σ w(t − uᵀv)² + (u − prior)ᵀA₀(u − prior): the prior itself without a history, and less of it
        the more is known.
        """
        nothing = np.zeros(0, dtype=np.int64)
        return np.asarray(self.system(nothing, np.zeros(0))[0] @ prior)

    def user(
        self, items: NDArray[np.integer], values: NDArray[np.floating], prior: NDArray[np.floating] | None = None
    ) -> NDArray[np.float32]:
        """float32 ``[row]``: the factor of one history; zero where its system breaks down.

        An error would tell whoever chose the item parameters something of that history.

        Args:
            items: int ``[k]``; oldest first.
            values: ``[k]``.
            prior: ``[row]``: the factor's mean before anything is known of it; None: zero.
        """
        weights = self.entry_weights(values)
        pull = None if prior is None else self.pull(prior)
        solved: NDArray[np.float32] = _told(
            self._solved(items, weights, weights * self._targets(items, values), pull)[None]
        )[0]
        return solved

    def users(self, histories: UserItemMatrix) -> NDArray[np.float32]:
        """float32 ``[n, row]``: :meth:`user` of each row, to the bit; what is the same for all of them is done once."""
        items, values = histories.indices, histories.values
        weights = self._block_weights(histories)
        weighted_targets = weights * self._targets(items, values)
        solved = np.zeros((histories.n_users, self.row))
        for user, (start, end) in enumerate(pairwise(histories.indptr.tolist())):
            one = slice(start, end)
            solved[user] = self._solved(items[one], weights[one], weighted_targets[one])
        return _told(solved)

    def _solved(
        self,
        items: NDArray[np.integer],
        weights: NDArray[np.float64],
        weighted_targets: NDArray[np.float64],
        pull: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """float64 ``[row]``: the factor of one history, 0 where its system breaks down; ``pull``: of a prior."""
        matrix, right = self._system(items, weights, weighted_targets)
        _, factor, broken = dposv(matrix, right if pull is None else right + pull)
        return np.zeros(self.row) if broken else factor

    def scoring_factors(self, factors: NDArray[np.float32]) -> NDArray[np.float32]:
        """User factors in the form whose dot product with :attr:`scoring_items` is the prediction, biases included."""
        if not self._explicit:
            return factors
        ones = np.ones((len(factors), 1), dtype=np.float32)
        return np.hstack([factors[:, :-1], ones, factors[:, -1:] + np.float32(self._mean)])

    @cached_property
    def scoring_items(self) -> NDArray[np.float32]:
        """float32 ``[m, row (+ 1)]``: items in the form that :meth:`scoring_factors` meets."""
        items: NDArray[np.float32] = self._items.astype(np.float32, copy=False)
        return np.hstack([items, np.ones((len(items), 1), dtype=np.float32)]) if self._explicit else items

    def scores(self, histories: UserItemMatrix, users: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32 ``[k, m]``: predictions of every item for the rows ``users`` (a :class:`~client.scoring.scorer.Scorer`)."""
        factors = self.users(histories.select_users(np.asarray(users)))
        scores: NDArray[np.float32] = self.scoring_factors(factors) @ self.scoring_items.T
        return scores


def _after(starts: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """int64 ``[count]``: how many entries of its history come after each, of histories that begin at ``starts``."""
    ends = np.append(starts[1:], count)
    return np.repeat(ends - 1, ends - starts) - np.arange(count)


def _told(factors: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 ``[n, row]``; zero where float32 has no room for one."""
    with np.errstate(over="ignore"):
        told: NDArray[np.float32] = factors.astype(np.float32)
    finite = np.isfinite(told)
    if not finite.all():
        told[~finite.all(axis=1)] = 0.0
    return told
