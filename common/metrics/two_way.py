"""How sure a difference between two rankings is where both users and items are drawn.

A bootstrap over users takes the items for given. Where a ranking is judged on some items and serves for others, which
items these were is chance, too, and with few items the larger part of it.
"""

from __future__ import annotations

import numpy as np
import scipy.special
from numpy.typing import NDArray

from common.metrics.bootstrap import PairedInterval


def two_way_interval(
    users: NDArray[np.integer],
    items: NDArray[np.integer],
    shares: NDArray[np.float64],
    differences: NDArray[np.float64],
    *,
    level: float,
    ahead: float = 0.0,
) -> PairedInterval:
    """Σ share·difference, and its normal interval with errors clustered by user and by item.

    Variance by user plus variance by item less that of single interactions, which both have counted (Cameron, Gelbach & Miller
    2011, "Robust inference with multiway clustering").

    Args:
        users: ``[n]``; of each interaction.
        items: ``[n]``.
        shares: ``[n]``, above 0; what an interaction counts.
        differences: ``[n]``; of what two rankings make of it: 1, 0 or −1 where one found it.
        level: coverage of the two-sided interval.
        ahead: above 0, the interval is one of prediction, for the mean over a further 1/ahead times as many items: that
            varies by which items they are, too, however well the mean over all of them is known.

    >>> one = np.arange(4)
    >>> two_way_interval(one, one, np.full(4, 0.25), np.array([1.0, 1.0, 0.0, 0.0]), level=0.9).mean
    0.5
    """
    total = float(shares.sum())
    if not total > 0:
        return PairedInterval(0.0, 0.0, 0.0)
    mean = float(shares @ differences)
    influence = shares * (differences - mean / total)
    by_user, by_item = (_sums(influence, of) for of in (users, items))
    variance = float(by_user @ by_user + by_item @ by_item - influence @ influence)
    # A difference of matrices need not be above 0; either alone is.
    variance = max(variance, float(by_user @ by_user), float(by_item @ by_item))
    variance += ahead * float(by_item @ by_item)
    half = float(scipy.special.ndtri(0.5 + level / 2)) * variance**0.5
    return PairedInterval(mean, mean - half, mean + half)


def _sums(values: NDArray[np.float64], groups: NDArray[np.integer]) -> NDArray[np.float64]:
    return np.asarray(np.bincount(np.unique(groups, return_inverse=True)[1], values), dtype=np.float64)
