"""How much a platform's own users would want items that only others have: popularity there, corrected for here.

What is popular on one platform is not what is popular on another: their users differ in age, in era, in taste. On the
items that a platform has in common with others both popularities are known, so the difference can be learned from what
item cards tell (genres, and the year where a title ends with one) and applied to the items that the platform lacks.
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
    titles: Sequence[str],
    genres: Sequence[Sequence[str]],
    attributes: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Expected number of own users, plus one, who would have each item.

    Ridge regression of log(1 + here) − log(1 + foreign popularity) on the logarithm of the foreign popularity, genres and
    years (piecewise linear), fitted on the common items that somebody on another platform has. Without any of these the
    expectation is 1 + foreign popularity.

    An item must be described by the same hand whether it is common or foreign: genres of two catalogues differ in name and
    in number, and what is learned from one's does not hold for the other's.

    Args:
        here: ``[c]``; own users who have each common item.
        foreign_popularity: ``[m]``; users of the other platforms who have each item; may be noisy.
        common: int ``[c]``; positions of the common items among the m.
        titles: m of them; empty where nobody told.
        genres: m of them.
        attributes: float ``[m, f]``; further public columns (of a text, for instance), or None.

    Returns:
        float64 ``[m]``, at least 1.
    """
    there = np.log1p(np.maximum(foreign_popularity.astype(np.float64), 0.0))
    known = foreign_popularity[common] > 0
    if not known.any():
        return np.exp(there)
    rows = common[known]
    scaled = standard_columns(
        np.column_stack([there, there**2, public_columns(titles, genres, rows, attributes)]), rows
    )
    change = np.log1p(here[known].astype(np.float64)) - there[rows]
    normal = scaled[rows].T @ scaled[rows] + _RIDGE * np.eye(scaled.shape[1])
    weights = np.linalg.solve(normal, scaled[rows].T @ (change - change.mean()))
    expected: NDArray[np.float64] = np.exp(np.maximum(there + change.mean() + scaled @ weights, 0.0))
    return expected


def public_columns(
    titles: Sequence[str],
    genres: Sequence[Sequence[str]],
    rows: NDArray[np.integer],
    attributes: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """float64 ``[m, f]``: genres, years over the range of the items ``rows``, and ``attributes`` behind them."""
    columns = [_genre_columns(genres), year_columns(titles, rows)]
    if attributes is not None:
        columns.append(attributes.astype(np.float64))
    return np.column_stack(columns)


def standard_columns(columns: NDArray[np.float64], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """``columns`` ``[m, f]`` with mean 0 and deviation 1 over the items ``rows``; those that are the same there fall out."""
    centre, spread = columns[rows].mean(axis=0), columns[rows].std(axis=0)
    used = spread > 0
    return np.asarray((columns[:, used] - centre[used]) / spread[used])


def _genre_columns(genres: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """float64 ``[m, g]``: 1 where an item has a genre."""
    place = {name: column for column, name in enumerate(sorted({name for own in genres for name in own}))}
    columns = np.zeros((len(genres), len(place)))
    for item, own in enumerate(genres):
        columns[item, [place[name] for name in own]] = 1.0
    return columns


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
