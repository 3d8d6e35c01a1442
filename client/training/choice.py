"""How scorers weigh in what users choose, and what lists by them find: a conditional logit (McFadden 1974), none below 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from common.metrics import PairedInterval, two_way_interval

_RIDGE = 1e-3
_START = 0.1
_DROPPED = 1e-3
"""A weight below it is 0: its part would cost time and rank nothing."""
LONGEST_LIST = 20
_SHORTEST = 5
FEWEST_USERS = 30
"""With something to find: fewer cannot tell weights from luck."""
_USERS = 400
"""A fold, at most: more change the weights by less than other folds would."""
_SCORES = 250_000
"""A fold and scorer: of a large catalogue fewer users are asked, so that time and memory do not grow with both."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Some users and hidden items.

    Attributes:
        features: float32 ``[u, c, k]``: standardised scores of each of k scorers.
        truth: bool ``[u, c]``.
        users: int ``[u]``.
        items: int ``[c]``: positions of the hidden items.
    """

    features: NDArray[np.float32]
    truth: NDArray[np.bool_]
    users: NDArray[np.integer]
    items: NDArray[np.integer]

    def of_scorers(self, kept: Sequence[int]) -> Fold:
        """The same with the scorers ``kept`` alone."""
        return Fold(self.features[..., list(kept)], self.truth, self.users, self.items)


def users_asked(n_items: int) -> int:
    """How many users of a fold with ``n_items`` hidden items are asked at most: 400 or those of 250,000 scores, but 30."""
    return max(FEWEST_USERS, min(_USERS, _SCORES // max(n_items, 1)))


def list_length(depth: float, n_items: int) -> int:
    """How many of ``n_items`` candidates a list holds that is the share ``depth`` of them: 5 to 20."""
    return int(np.clip(round(depth * n_items), min(_SHORTEST, n_items), LONGEST_LIST))


def conditional_logit(folds: Sequence[Fold], start: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """float64 ``[k]``: w ≥ 0 that maximises the mean of log softmax(Σ w_k z_k) over what users had, less 0.001·‖w‖².

    The softmax of a user is over a fold's items. The problem is convex.

    Args:
        folds: at least one, with something to find.
        start: float64 ``[k]``: where the search begins.
    """
    k, n = folds[0].features.shape[2], sum(float(fold.truth.sum()) for fold in folds)
    begin = np.full(k, _START) if start is None else start

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, slope = 0.0, np.zeros(k)
        for fold in folds:
            scores = fold.features @ weights.astype(np.float32)
            scores -= scores.max(axis=1, keepdims=True)
            odds = np.exp(scores)
            normal = odds.sum(axis=1, keepdims=True)
            wanted = fold.truth.sum(axis=1, keepdims=True)
            total += float((wanted * np.log(normal)).sum() - scores[fold.truth].sum())
            surplus = (wanted * (odds / normal) - fold.truth).astype(np.float32)
            slope += np.tensordot(surplus, fold.features, axes=2)
        return total / n + _RIDGE * float(weights @ weights), slope / n + 2 * _RIDGE * weights

    found = scipy.optimize.minimize(
        loss, begin, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * k, options={"maxiter": 100, "ftol": 1e-7}
    )
    weights: NDArray[np.float64] = np.where(found.x < _DROPPED, 0.0, found.x)
    return weights


@dataclass(frozen=True, eq=False)
class Found:
    """Holds what a ranking found of all that the folds' users had.

    Attributes:
        users, items: int ``[n]``: of each interaction.
        shares: float64 ``[n]``: what finding it adds to the recall, a mean over users of means over folds.
        found: float64 ``[n]``: in which share of the deals.
    """

    users: NDArray[np.integer]
    items: NDArray[np.integer]
    shares: NDArray[np.float64]
    found: NDArray[np.float64]

    @property
    def recall(self) -> float:
        return float(self.shares @ self.found)

    def above(self, other: Found, level: float, ahead: float = 0.0) -> PairedInterval:
        """Recall of this ranking less that of ``other``, of the same interactions, for other users and other items.

        ``ahead`` is as of :func:`~common.metrics.two_way_interval`.
        """
        found = self.found - other.found
        return two_way_interval(self.users, self.items, self.shares, found, level=level, ahead=ahead)

    @classmethod
    def mean(cls, deals: Sequence[Found]) -> Found:
        """Of several deals as of one: an interaction of each counts once, with its mean."""
        if len(deals) == 1:
            return deals[0]
        users, items, shares, found = (
            np.concatenate([getattr(one, name) for one in deals]) for name in ("users", "items", "shares", "found")
        )
        pairs, place = np.unique(np.column_stack([users, items]), axis=0, return_inverse=True)
        place = place.ravel()
        total = np.bincount(place, shares)
        return cls(pairs[:, 0], pairs[:, 1], total / len(deals), np.bincount(place, shares * found) / total)


def found_in(folds: Sequence[Fold], scores: Sequence[NDArray[np.float32]], depth: float) -> Found:
    """Count what lists find that are as large a share (``depth``) of the candidates as 20 are of the others' items."""
    judged, times = np.unique(np.concatenate([fold.users for fold in folds]), return_counts=True)
    parts = []
    for fold, scored in zip(folds, scores, strict=True):
        length = list_length(depth, fold.truth.shape[1])
        # Of equal scores those that nobody wanted come first, as in every evaluation.
        listed = np.zeros(fold.truth.shape, dtype=np.bool_)
        np.put_along_axis(listed, np.lexsort((fold.truth, -scored), axis=1)[:, :length], True, axis=1)
        rows, columns = np.nonzero(fold.truth)
        folds_of = times[np.searchsorted(judged, fold.users)]
        shares = 1.0 / (np.minimum(fold.truth.sum(axis=1), length) * folds_of * len(judged))
        parts.append((fold.users[rows], fold.items[columns], shares[rows], listed[rows, columns].astype(np.float64)))
    return Found(*(np.concatenate(of_folds) for of_folds in zip(*parts, strict=True)))
