"""Filters over counts: minimum interactions per item, and the k-core.

They make one user's data depend on another's, so user-level differential privacy refuses them, and every evaluation
fits them on training data alone (soundness rule 1). They are therefore fitted apart from the cleaning of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from common.config.data import CleaningConfig


@dataclass(frozen=True, eq=False)
class CountFilter:
    """Who stays. An entry stays where its user and its item do.

    Attributes:
        reason: for the cleaning report.
        users: bool ``[n]``.
        items: bool ``[m]``.
    """

    reason: str
    users: NDArray[np.bool_]
    items: NDArray[np.bool_]

    def entries(self, matrix: UserItemMatrix) -> NDArray[np.bool_]:
        """Which entries of ``matrix`` stay: bool ``[nnz]``."""
        kept: NDArray[np.bool_] = self.users[matrix.entry_users()] & self.items[matrix.indices]
        return kept


def fit_count_filters(matrix: UserItemMatrix, cleaning: CleaningConfig) -> tuple[CountFilter, ...]:
    """The filters that ``cleaning`` asks for, in order; each is fitted on what the one before it leaves."""
    filters = []
    if cleaning.min_item_interactions > 0:
        least = cleaning.min_item_interactions
        items = matrix.item_counts() >= least
        reason = f"of an item with fewer than {least} interactions"
        filters.append(CountFilter(reason, np.ones(matrix.n_users, dtype=bool), items))
        matrix = matrix.select_entries(items[matrix.indices])
    if cleaning.k_core is not None:
        users, items = k_core(matrix, cleaning.k_core)
        filters.append(CountFilter(f"outside the {cleaning.k_core}-core", users, items))
    return tuple(filters)


def k_core(matrix: UserItemMatrix, k: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The largest set of users and items in which each has at least ``k`` interactions with the others.

    Returns:
        users (bool ``[n]``) and items (bool ``[m]``); both all false where there is no k-core.
    """
    users, items = matrix.entry_users(), matrix.indices
    while True:
        enough = (np.bincount(users, minlength=matrix.n_users) >= k)[users]
        enough &= (np.bincount(items, minlength=matrix.n_items) >= k)[items]
        if enough.all():
            break
        users, items = users[enough], items[enough]
    in_core = np.zeros(matrix.n_users, dtype=bool), np.zeros(matrix.n_items, dtype=bool)
    in_core[0][users] = True
    in_core[1][items] = True
    return in_core
