"""The lists of a block of users: the same as the service gives, by one product for all of them.

Who cannot be answered by a product alone (a history with events since training, or one that tells nothing; a list that is
steered or ranked anew) is answered as by the service, one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.recorded import Event, EventRules
from client.recommend.answers import Bars, Scope
from client.recommend.lists import ListMaker
from client.recommend.mixing import Mixing
from client.recommend.recommender import Recommender
from client.recommend.scopes import ItemScope
from client.scoring.topk import MOST_INSERTED, block_rows

Histories = Mapping[str, UserItemMatrix]
"""Histories by scope, each in its columns; rows are the model's."""

_USERS: Final = 256
"""Users of a block: a product packs the items once for all of them."""


@dataclass(frozen=True, eq=False)
class BlockLists:
    """The lists of some users.

    Attributes:
        items: int64 ``[b, k]``: rows in :attr:`BatchLists.keys`, best first, then −1.
        scores: float64 ``[b, k]``.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float64]


class BatchLists:
    """Lists of one model.

    Args:
        recommender: of the model.
        lists: as the platform steers them.
        k: longest list.
        scope: of the items.
        events: what users did since training, by user id as ids are compared.
        rules: what events count for.

    Attributes:
        longest: items of the longest list: k, or all that there are.
    """

    def __init__(
        self,
        recommender: Recommender,
        lists: ListMaker,
        k: int,
        scope: Scope,
        events: Mapping[str, tuple[Event, ...]],
        rules: EventRules,
    ) -> None:
        self._recommender, self._lists, self._scope = recommender, lists, scope
        self._events, self._rules = events, rules
        names = ("own", "cross") if scope == "all" else (scope,)
        scopes = {"own": recommender.own, "cross": recommender.cross}
        self._scopes = {name: scopes[name] for name in names if len(scopes[name].linear)}
        # A list longer than there are items would be padding, held for each user.
        self.longest = min(k, max(1, sum(len(one.linear) for one in self._scopes.values())))
        self._first = {"own": 0, "cross": len(recommender.own.linear)}
        self._mixing = recommender.mixings[0] if len(self._scopes) == 2 else Mixing()
        self._together = bool(self._scopes) and lists.plain and all(one.stage is None for one in self._scopes.values())

    @cached_property
    def keys(self) -> pl.Series:
        """Strings: the keys of the own items, then those of the others'."""
        return pl.Series([*self._recommender.own.items.keys, *self._recommender.cross.items.keys], dtype=pl.String)

    @property
    def block_users(self) -> int:
        """How many users :meth:`of` is best given: fewer where scores of all items of a scope are in memory."""
        every = self.longest > MOST_INSERTED
        longest = max((len(one.linear) for one in self._scopes.values() if every or not one.linear.linear), default=0)
        return min(_USERS, max(16, 2 * block_rows(longest)))

    def histories_of(self, rows: NDArray[np.int64]) -> Histories:
        """Of the model's users ``rows`` alone, in each scope's columns: a copy for everybody would grow with them."""
        histories = self._recommender.model.histories.only_users(rows[rows >= 0])
        return {
            name: histories if name == "own" else self._recommender.model.on_vocabulary(histories)
            for name in self._scopes
        }

    def of(self, users: Sequence[str], rows: NDArray[np.int64], histories: Histories) -> BlockLists:
        """The lists of ``users``, in their order.

        Args:
            users: ids as they are compared; each has a row or recorded events.
            rows: int64 ``[b]``: of each in the model; −1 where it has none.
            histories: of these and perhaps more users, by :meth:`histories_of`.
        """
        lists = BlockLists(np.full((len(users), self.longest), -1), np.full((len(users), self.longest), -np.inf))
        changed = np.array([user in self._events for user in users], dtype=np.bool_)
        indptr = self._recommender.model.histories.indptr
        # Row −1 reads some other user's length here; who has no row has events, and is answered alone.
        blank = indptr[rows + 1] == indptr[rows]
        together = (rows >= 0) & ~changed & ~blank & self._together
        places = np.flatnonzero(together)
        if len(places):
            lists.items[places], lists.scores[places], flat = self._by_product(rows[places], histories)
            together[places[flat]] = False
        for place in np.flatnonzero(~together).tolist():
            self._alone(lists, place, users[place], int(rows[place]))
        return lists

    def _by_product(
        self, rows: NDArray[np.int64], histories: Histories
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """Items and scores of the model's users ``rows``, and those whom a scope's scores tell nothing of: bool ``[b]``."""
        bars = self._lists.bars(self._recommender)
        flat = np.zeros(len(rows), dtype=np.bool_)
        items, scores = [], []
        for name, scope in self._scopes.items():
            found, score, ranks = self._best(name, scope, rows, histories[name], bars)
            flat |= ~ranks
            items.append(found)
            scores.append(score)
        if len(items) == 1:
            return items[0], scores[0], flat
        item, score = np.hstack(items), np.hstack(scores)
        # Stable, so that own items come first among equals, as the service has it.
        order = np.argsort(-score, axis=1, kind="stable")[:, : self.longest]
        return np.take_along_axis(item, order, axis=1), np.take_along_axis(score, order, axis=1), flat

    def _best(
        self, name: str, scope: ItemScope, rows: NDArray[np.int64], histories: UserItemMatrix, bars: Bars
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """Items and scores of the best of a scope, and bool ``[b]``: whose scores tell items apart."""
        # It brings numba, which other commands may do without.
        from client.batch.selection import best_of_each

        query = scope.linear.block_query(histories, rows)
        barred = np.zeros(len(scope.linear), dtype=np.bool_)
        if (never := bars.of(name)[0]) is not None:
            barred[never] = True
        seen = histories.select_users(rows).csr() if name == "own" else sp.csr_array((len(rows), len(barred)))
        items, products = best_of_each(query, self.longest, seen, barred)
        scores = (products + query.offsets[:, None]).astype(np.float64)
        if name == "cross":
            scores = np.where(items < 0, -np.inf, self._mixing.all_on_own_scale(scores))
        return np.where(items < 0, -1, items + self._first[name]), scores, query.ranks

    def _alone(self, lists: BlockLists, place: int, user: str, row: int) -> None:
        recommender = self._recommender
        history = recommender.history_at(None if row < 0 else row, self._events.get(user, ()), self._rules)
        found = self._lists.candidates(recommender, recommender.prepare(history), self.longest, self._scope)
        for rank, one in enumerate(found):
            lists.items[place, rank] = one.row + self._first[one.scope]
            lists.scores[place, rank] = one.score
