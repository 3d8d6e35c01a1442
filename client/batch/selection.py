"""The best items of some users, by one pass over scores that are never all in memory.

Scores are made a slice of items at a time, a row an item and a column a user, and looked at while they are in the processor's
cache. Few rows hold a score above a user's k-th best so far: one comparison of the whole row passes the others by, and what a
user has seen is looked up for those few alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from client.scoring.linear_form import BlockQuery
from client.scoring.topk import MOST_INSERTED, top_k
from client.training.kernels.numba_compile import jit

_SLICE: Final = 1024
"""Items at a time, at most."""


def best_of_each(
    query: BlockQuery, k: int, seen: sp.csr_array, barred: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best items of each user, best first, the lower row among equals.

    Args:
        query: of b users; a score of −inf is never among the best, nor is NaN.
        k: at least 1.
        seen: ``[b, m]``, its columns sorted within a row: what a user's list may not hold.
        barred: bool ``[m]``: what no list may hold.

    Returns:
        Items int64 ``[b, k]``, padded with −1, and scores without offsets float32 ``[b, k]``, padded with −inf.
    """
    # Even slices: a product of a few rows would be another routine's, which rounds in another order.
    edges = np.linspace(0, len(barred), 1 + -(-len(barred) // _SLICE)).astype(np.int64)
    slices = [slice(first, end) for first, end in pairwise(edges.tolist())]
    if k > MOST_INSERTED:
        return _best_of_all(np.concatenate([query.without_offsets(some) for some in slices]).T, k, seen, barred)
    users = len(query.offsets)
    items = np.full((users, k), -1, dtype=np.int64)
    scores = np.full((users, k), -np.inf, dtype=np.float32)
    bounds = scores[:, -1].copy()
    indptr, columns = seen.indptr.astype(np.int64), seen.indices.astype(np.int32)
    for some in slices:
        _take_better(query.without_offsets(some), some.start, items, scores, bounds, indptr, columns, barred)
    return items, scores


def _best_of_all(
    scores: NDArray[np.float32], k: int, seen: sp.csr_array, barred: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same of all scores at once, float32 ``[b, m]``."""
    every = np.ascontiguousarray(scores)
    every[np.isnan(every)] = -np.inf
    every[np.repeat(np.arange(len(every)), np.diff(seen.indptr)), seen.indices] = -np.inf
    items, best = top_k(every, k, candidates=~barred)
    return items.astype(np.int64), best


@jit
def _take_better(
    some: Any, first: Any, items: Any, scores: Any, bounds: Any, indptr: Any, seen: Any, barred: Any
) -> None:
    """Put each of the scores ``some`` (``[w, b]``, of the items from ``first`` on) that beats a user's bound in its place."""
    k = scores.shape[1]
    for item in range(first, first + len(some)):
        row = some[item - first]
        any_better = False
        for user in range(len(row)):
            any_better |= row[user] > bounds[user]
        if not any_better or barred[item]:
            continue
        for user in range(len(row)):
            if row[user] > bounds[user]:
                mine = seen[indptr[user] : indptr[user + 1]]
                place = np.searchsorted(mine, item)
                if place < len(mine) and mine[place] == item:
                    continue
                place = k - 1
                while place > 0 and scores[user, place - 1] < row[user]:
                    scores[user, place], items[user, place] = scores[user, place - 1], items[user, place - 1]
                    place -= 1
                scores[user, place], items[user, place] = row[user], item
                bounds[user] = scores[user, k - 1]
