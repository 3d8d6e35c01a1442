"""The k best items of each user, exactly and with a fixed order among equals.

Scores and item indices are packed into one int64 key each, so that equal scores are no special case: keys differ, and
one partition and one sort of k keys give the answer that a stable sort of the whole row would give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.errors import ContractError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix

SCORES_AT_ONCE = 1 << 22
"""Scores held at a time by blockwise code: 16 MiB of float32, 32 MiB of keys."""

MOST_INSERTED = 512
"""Longest list that is kept in order while scores pass by; a longer one takes a sort of all scores, in less time."""

_EXCLUDED = np.iinfo(np.int64).min
_PREFERRED = np.int64(1 << 31)
_INDEX_BITS = np.int64((1 << 31) - 1)


def block_rows(n_items: int, scores: int = SCORES_AT_ONCE) -> int:
    """How many users to score at a time, so that a block holds at most ``scores`` scores, or one user's.

    >>> block_rows(20, 60), block_rows(100, 60)
    (3, 1)
    """
    return max(1, scores // max(1, n_items))


def top_k(
    scores: NDArray[np.float32],
    k: int,
    exclude: UserItemMatrix | None = None,
    *,
    candidates: NDArray[np.bool_] | None = None,
    last_among_equals: UserItemMatrix | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k highest scores of each row, highest first; among equal scores the lower item index first.

    Args:
        scores: float32 ``[n, m]``; −inf marks an item that is never recommended. Not modified.
        k: items wanted, at least 1.
        exclude: n × m; its entries are never recommended.
        candidates: bool ``[m]``; only these items may be recommended.
        last_among_equals: n × m; its entries come after other items of the same score (for pessimistic evaluation).

    Returns:
        Item indices int32 ``[n, k]``, padded with −1 where fewer items are left, and their scores float32 ``[n, k]``,
        padded with −inf.

    Raises:
        ContractError: a score is NaN, or shapes do not fit.
    """
    _check(scores, k, exclude, candidates, last_among_equals)
    n_users, n_items = scores.shape
    keys = _keys(scores)
    if last_among_equals is not None:
        keys[last_among_equals.entry_users(), last_among_equals.indices] &= ~_PREFERRED
    if candidates is not None:
        keys[:, ~candidates] = _EXCLUDED
    if exclude is not None:
        keys[exclude.entry_users(), exclude.indices] = _EXCLUDED

    found = min(k, n_items)
    keys.partition(n_items - found, axis=1)
    best = np.sort(keys[:, n_items - found :], axis=1)[:, ::-1]
    items = (_INDEX_BITS - (best & _INDEX_BITS)).astype(np.int32)
    kept = best != _EXCLUDED
    picked = np.take_along_axis(scores, np.where(kept, items, 0), axis=1)
    kept &= picked != -np.inf

    ids = np.full((n_users, k), -1, dtype=np.int32)
    values = np.full((n_users, k), -np.inf, dtype=np.float32)
    ids[:, :found] = np.where(kept, items, -1)
    values[:, :found] = np.where(kept, picked, -np.inf)
    return ids, values


def top_k_factors(
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    k: int,
    exclude: UserItemMatrix | None = None,
    *,
    block: int | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """:func:`top_k` of ``user_factors @ item_factors.T`` without ever holding more than a block of users' scores.

    Args:
        user_factors: float32 ``[n, d]``.
        item_factors: float32 ``[m, d]``.
        k: items wanted, at least 1.
        exclude: n × m; its entries are never recommended.
        block: users scored at a time; by default about ``SCORES_AT_ONCE`` scores. Scores are float32 products, whose
            last bit may depend on the block.

    Raises:
        ContractError: a score is NaN, or shapes do not fit.
    """
    n_users = len(user_factors)
    rows = block or block_rows(len(item_factors))
    ids = np.empty((n_users, k), dtype=np.int32)
    values = np.empty((n_users, k), dtype=np.float32)
    for start in range(0, n_users, rows):
        users = np.arange(start, min(start + rows, n_users))
        scores = user_factors[users] @ item_factors.T
        ids[users], values[users] = top_k(scores, k, None if exclude is None else exclude.select_users(users))
    return ids, values


def _keys(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """int64 ``[n, m]``: the score in the upper 32 bits, then a 1, then the item index counted from the end."""
    # Adding zero turns −0.0 into +0.0. A float's bits, read as an integer, rise with the float where it is positive and
    # fall where it is negative; flipping the lower 31 bits of the negative ones mends that.
    bits = (scores + np.float32(0)).view(np.int32)
    keys = (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
    keys <<= 32
    keys |= _PREFERRED | (_INDEX_BITS - np.arange(scores.shape[1], dtype=np.int64))
    return keys


def _check(
    scores: NDArray[np.float32],
    k: int,
    exclude: UserItemMatrix | None,
    candidates: NDArray[np.bool_] | None,
    last_among_equals: UserItemMatrix | None,
) -> None:
    if scores.ndim != 2 or scores.dtype != np.float32:
        raise ContractError(f"scores must be a float32 matrix, got {scores.dtype} of shape {scores.shape}")
    if k < 1:
        raise ContractError(f"k must be at least 1, got {k}")
    for name, rows in (("exclude", exclude), ("last_among_equals", last_among_equals)):
        if rows is not None and (rows.n_users, rows.n_items) != scores.shape:
            raise ContractError(f"{name} is {rows.n_users} × {rows.n_items}, the scores are {scores.shape}")
    if candidates is not None and candidates.shape != scores.shape[1:]:
        raise ContractError(f"candidates has shape {candidates.shape}, the scores have {scores.shape[1]} items")
    if np.isnan(scores).any():
        raise ContractError("a score is NaN: the model behind it diverged; train again with more regularisation")
