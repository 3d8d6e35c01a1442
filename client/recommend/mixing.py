"""One list from two catalogues: the scores of items that only others have, brought to the scale of the own items' scores.

Each scope's scores are standardised over its own items, and a standard deviation says nothing of how likely a user is to
want an item. So both are calibrated to that, as in Platt 1999 ("Probabilistic outputs for support vector machines"): a fifth
of some users' histories is set aside, and a logistic regression tells how likely an item with score s is among what was set
aside,

    P(own) = σ(g(s)),        P(other) = σ(g′(s′)),        g, g′ rising and linear between −∞, 1, 2, 3, ∞,

where items that the platform has in common with others play the part of the others': they are scored as those are, and
whether users have them is known. A score s′ stands where the own score of the same probability stands: s = g⁻¹(g′(s′)).

Only the platform's own interactions go in. The item factors have seen what was set aside, in both scopes; validation
interactions, which they have not seen, gave about the same lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.scoring.linear_form import LinearScope

_USERS = 300
_SET_ASIDE = 0.2
_ITEMS = 10_000
"""Items that are looked at beside those that were set aside; where a scope has more, each stands for several."""
_FEWEST_HITS = 50
_KNOTS = (1.0, 2.0, 3.0)
_LEAST_GAP = 0.05
"""Between the mean of g over what users have and over all items. Own scores that tell less are no scale."""
_STIFFNESS = 1.0
"""In hits: how much evidence it takes to bend g."""
_FLATTEST = 0.05
"""Of g anywhere: it must have an inverse."""
_BINS_PER_UNIT, _LOWEST, _HIGHEST = 20, -20.0, 60.0
_GRID: NDArray[np.float64] = np.linspace(_LOWEST, _HIGHEST, round((_HIGHEST - _LOWEST) * _BINS_PER_UNIT) + 1)


@dataclass(frozen=True)
class Mixing:
    """How scores of the others' items stand among those of the own items; as they are, unless there are points.

    Attributes:
        theirs: scores of the others' items, rising; further out the end's value holds.
        ours: the own items' scores of the same probability.
    """

    theirs: tuple[float, ...] = ()
    ours: tuple[float, ...] = ()

    def on_own_scale(self, score: float) -> float:
        """A score of the others' items as an own item of the same probability would have it."""
        return float(np.interp(score, self.theirs, self.ours)) if self.theirs else score

    def all_on_own_scale(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same of many."""
        return np.interp(scores, self.theirs, self.ours) if self.theirs else scores


class _Tally:
    """Items and hits by score, in bins."""

    def __init__(self) -> None:
        self.items, self.hits = np.zeros(len(_GRID)), np.zeros(len(_GRID))

    def add(
        self,
        scores: NDArray[np.floating],
        hits: NDArray[np.floating] | float,
        items: NDArray[np.floating] | float,
    ) -> None:
        """Count ``items`` and ``hits`` (``[n]``, or one number for all) at ``scores`` ``[n]``."""
        places = np.rint((np.clip(scores, _LOWEST, _HIGHEST) - _LOWEST) * _BINS_PER_UNIT).astype(np.intp)
        self.hits += np.bincount(places, np.broadcast_to(hits, len(places)), len(self.hits))
        self.items += np.bincount(places, np.broadcast_to(items, len(places)), len(self.items))

    def gap(self, values: NDArray[np.float64]) -> float:
        """Mean of ``values`` (by score of the grid) over hits less that over items."""
        return float(np.average(values, weights=self.hits) - np.average(values, weights=self.items))

    def fitted(self, *, flattest: float = 0.0) -> NDArray[np.float64] | None:
        """The logistic regression: g at each score of the grid; None where there is too little to tell."""
        total = float(self.hits.sum())
        if total < _FEWEST_HITS or total >= self.items.sum():
            return None
        used = self.items > 0
        segments, items, hits = _segments(_GRID[used]), self.items[used], self.hits[used]

        def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            odds = segments @ parameters
            residuals = items * scipy.special.expit(odds) - hits
            # Where few items are, the slope goes on as beside it.
            bends = np.diff(parameters[1:])
            value = float(items @ np.logaddexp(0.0, odds) - hits @ odds) + 0.5 * _STIFFNESS * float(bends @ bends)
            slope = segments.T @ residuals
            slope[1:] -= _STIFFNESS * np.diff(bends, prepend=0.0, append=0.0)
            return value / total, slope / total

        start = np.array([np.log(total / (items.sum() - total)), *[0.1] * (len(_KNOTS) + 1)])
        bounds = [(None, None), *[(flattest, None)] * (len(_KNOTS) + 1)]
        found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        fitted: NDArray[np.float64] = _segments(_GRID) @ found.x
        return fitted


def _segments(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[n, 5]``: 1, and how far a score reaches into each segment between the knots."""
    edges = (-np.inf, *_KNOTS, np.inf)
    reach = [np.clip(scores, low, high) - (low if np.isfinite(low) else high) for low, high in pairwise(edges)]
    return np.column_stack([np.ones(len(scores)), *reach])


def calibrated(
    histories: UserItemMatrix,
    own: LinearScope,
    cross: LinearScope,
    common: LinearScope,
    common_columns: NDArray[np.int64],
    *,
    seed: int = 0,
) -> Mixing:
    """Mixing for users of whom something is known; the plain one where too little is known to calibrate.

    Args:
        histories: n × m_own, of implicit feedback.
        own: the own items.
        cross: the items that only others have.
        common: the common items, as ``cross`` would score them.
        common_columns: int64 ``[c]``: their own columns.
        seed: of the choice of users and of what is set aside.
    """
    rng = np.random.default_rng(seed)
    place = np.full(histories.n_items, -1, dtype=np.int64)
    place[common_columns] = np.arange(len(common_columns))
    here, there = _Tally(), _Tally()
    own_rows, common_rows = _some(rng, len(own)), _some(rng, len(common))
    own_looked, common_looked = _unless_all(own_rows, own), _unless_all(common_rows, common)
    for user, kept, aside in _set_aside(histories, rng):
        columns, values = histories.indices[kept], histories.values[kept]
        known = np.zeros(histories.n_items, dtype=np.bool_)
        known[columns] = True
        known[histories.indices[aside]] = True
        query = own.query(columns, values, user)
        hits = histories.indices[aside].astype(np.int64)
        here.add(own.scored(query, hits), 1.0, 1.0)
        unknown = ~known[own_rows]
        weight = len(own) / max(len(own_rows), 1)
        here.add(own.scored(query, own_looked)[unknown], 0.0, weight)
        query = cross.query(columns, values, user)
        hits = place[hits][place[hits] >= 0]
        there.add(common.scored(query, hits), 1.0, 1.0)
        unknown = ~known[common_columns[common_rows]]
        weight = len(common) / max(len(common_rows), 1)
        there.add(common.scored(query, common_looked)[unknown], 0.0, weight)
    return _mixing(here, there)


def calibrated_popularity(
    histories: UserItemMatrix,
    own: NDArray[np.floating],
    common: NDArray[np.floating],
    common_columns: NDArray[np.int64],
) -> Mixing:
    """Mixing for users of whom nothing is known, who are shown what is popular.

    Args:
        histories: n × m_own.
        own: ``[m_own]``: what ranks the own items then.
        common: ``[c]``: what would rank the common items, were they the others' alone.
        common_columns: int64 ``[c]``: their own columns.
    """
    counts, everybody = histories.item_counts().astype(np.float64), float(histories.n_users)
    here, there = _Tally(), _Tally()
    here.add(own, counts, everybody)
    there.add(common, counts[common_columns], everybody)
    return _mixing(here, there)


def _set_aside(
    histories: UserItemMatrix, rng: np.random.Generator
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """For some users: row, the entries that stay (oldest first), and those set aside; at least one of each."""
    able = np.flatnonzero(histories.row_lengths >= 2)
    for user in np.sort(rng.permutation(able)[:_USERS]).tolist():
        start, end = int(histories.indptr[user]), int(histories.indptr[user + 1])
        order = start + rng.permutation(end - start)
        aside = max(1, round(_SET_ASIDE * (end - start)))
        yield user, np.sort(order[aside:]), order[:aside]


def _some(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    return np.sort(rng.permutation(count)[:_ITEMS]).astype(np.int64)


def _unless_all(rows: NDArray[np.int64], scope: LinearScope) -> NDArray[np.int64] | None:
    """``rows``, or None where these are all: no copy is made then."""
    return None if len(rows) == len(scope) else rows


def _mixing(here: _Tally, there: _Tally) -> Mixing:
    own, other = here.fitted(flattest=_FLATTEST), there.fitted()
    if own is None or other is None or here.gap(own) < _LEAST_GAP:
        return Mixing()
    ours = np.interp(other, own, _GRID)
    return Mixing(tuple(_GRID.tolist()), tuple(ours.tolist()))
