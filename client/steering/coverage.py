"""How a platform's lists spread over its catalogue: what steering changes, said in numbers. Holds no user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.metrics import coverage, novelty


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of many users' lists.

    Attributes:
        lists: how many.
        coverage: share of the items that is in any list.
        gini: inequality of exposure over all items (0: alike, 1: all on one), as of Fleder & Hosanagar 2009.
        novelty: mean −log₂ share of users who have an item, in bits; NaN where nothing is listed.
        foreign_share: share of listed items that only others have.
        most_shown: share of the lists that hold the most shown item.
    """

    lists: int
    coverage: float
    gini: float
    novelty: float
    foreign_share: float
    most_shown: float


def spread(
    ranked: NDArray[np.integer],
    counts: NDArray[np.number],
    n_users: float,
    foreign: NDArray[np.bool_] | None = None,
) -> Spread:
    """The spread of lists over m items.

    Args:
        ranked: int ``[n, k]``: items of each list, −1 pads.
        counts: ``[m]``: users who have each item; noisy counts work.
        n_users: users counted.
        foreign: bool ``[m]``: which items only others have; None: none.
    """
    m, depth = len(counts), ranked.shape[1]
    shown = np.bincount(ranked[ranked >= 0], minlength=m)
    total = int(shown.sum())
    return Spread(
        lists=len(ranked),
        coverage=coverage(ranked, depth, m),
        gini=_gini(shown),
        novelty=novelty(ranked, depth, counts, n_users),
        foreign_share=float(shown[foreign].sum() / total) if foreign is not None and total else 0.0,
        most_shown=float(shown.max(initial=0) / len(ranked)) if len(ranked) else 0.0,
    )


def _gini(amounts: NDArray[np.integer]) -> float:
    """Σ_i (2i − m − 1) x_(i) / (m Σ x), of amounts in rising order."""
    rising, m = np.sort(amounts).astype(np.float64), len(amounts)
    total = float(rising.sum())
    return float((2 * np.arange(1, m + 1) - m - 1) @ rising / (m * total)) if total else 0.0
