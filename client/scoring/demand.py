"""How much a platform's own users would want items that only others have: popularity there, corrected for here.

What is popular on one platform is not what is popular on another: their users differ in age, in era, in taste. On the
items that a platform has in common with others both popularities are known, so the difference can be learned from what
item cards tell and applied to the items that the platform lacks.
Only public values go in besides the platform's own counts; nothing leaves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_YEAR = re.compile(r"\(((?:1[5-9]|20)\d\d)\)\s*$")
_YEARS_PER_KNOT = 7.0
_RIDGE = 10.0
"""In units of items: with far fewer common items the estimate is foreign popularity, with far more it is learned."""


def expected_demand(
    here: NDArray[np.number],
    foreign_popularity: NDArray[np.number],
    common: NDArray[np.integer],
    features: NDArray[np.floating],
    further: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Expected number of own users, plus one, who would have each item.

    Ridge regression of log(1 + here) − log(1 + foreign popularity) on the logarithm of the foreign popularity and on
    ``features``, fitted on the common items that somebody on another platform has. Without any of these the expectation is
    1 + foreign popularity. Where leaving out one item at a time shows that ``further`` ones help, they are regressed on, too.

    An item must be described by the same hand whether it is common or foreign: genres of two catalogues differ in name and
    in number, and what is learned from one's does not hold for the other's.

    Args:
        here: ``[c]``; own users who have each common item.
        foreign_popularity: ``[m]``; users of the other platforms who have each item; may be noisy.
        common: int ``[c]``; positions of the common items among the m.
        features: float ``[m, f]``; public (:meth:`client.personalization.described.DescribedItems.columns`).
        further: float ``[m, g]``; many that may tell little (of texts, for instance), or None.

    Returns:
        float64 ``[m]``, at least 1.
    """
    there = np.log1p(np.maximum(foreign_popularity.astype(np.float64), 0.0))
    known = foreign_popularity[common] > 0
    if not known.any():
        return np.exp(there)
    rows = common[known]
    change = np.log1p(here[known].astype(np.float64)) - there[rows]
    columns = np.column_stack([there, there**2, features])
    differs, error = _regressed(columns, change, rows)
    if further is not None and further.shape[1]:
        with_further = _regressed(np.column_stack([columns, further]), change, rows)
        differs = with_further[0] if with_further[1] < error else differs
    expected: NDArray[np.float64] = np.exp(np.maximum(there + change.mean() + differs, 0.0))
    return expected


def _regressed(
    columns: NDArray[np.float64], target: NDArray[np.float64], rows: NDArray[np.integer]
) -> tuple[NDArray[np.float64], float]:
    """Of all items float64 ``[m]``, less the mean of ``target``; and the squared error of ``rows``, each left out in turn."""
    scaled = standard_columns(columns, rows)
    normal = scaled[rows].T @ scaled[rows] + _RIDGE * np.eye(scaled.shape[1])
    weights = np.linalg.solve(normal, scaled[rows].T @ (target - target.mean()))
    leverage = np.einsum("ij,ji->i", scaled[rows], np.linalg.solve(normal, scaled[rows].T))
    left_out = (target - target.mean() - scaled[rows] @ weights) / np.maximum(1.0 - leverage, 1e-6)
    return np.asarray(scaled @ weights), float(np.mean(np.square(left_out)))


def standard_columns(columns: NDArray[np.float64], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """``columns`` ``[m, f]`` with mean 0 and deviation 1 over the items ``rows``; those that are the same there fall out."""
    centre, spread = columns[rows].mean(axis=0), columns[rows].std(axis=0)
    used = spread > 0
    return np.asarray((columns[:, used] - centre[used]) / spread[used])


def year_columns(titles: Sequence[str], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """float64 ``[m, k]``: hat functions of the year over the range of ``rows``; all 0 where a title has no year."""
    found = [_YEAR.search(title) for title in titles]
    years = np.array([float(match.group(1)) if match else np.nan for match in found])
    fitted = years[rows][~np.isnan(years[rows])]
    if len(fitted) == 0:
        return np.zeros((len(titles), 0))
    knots = np.arange(fitted.min(), fitted.max() + _YEARS_PER_KNOT, _YEARS_PER_KNOT)
    # Beyond the range that was learned the nearest knot stands for the year.
    inside = np.clip(years, knots[0], knots[-1])
    hats = np.maximum(0.0, 1.0 - np.abs(inside[:, None] - knots) / _YEARS_PER_KNOT)
    return np.where(np.isnan(years)[:, None], 0.0, hats)
