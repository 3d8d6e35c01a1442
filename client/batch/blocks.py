"""The lists of a block of users: the same as the service gives, by one product for all of them.

Who cannot be answered by a product alone (a history with events since training, or one that tells nothing; a list that is
steered or ranked anew) is answered as by the service, one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.recorded import Event, EventRules
from client.recommend.answers import Bars, Scope
from client.recommend.lists import ListMaker
from client.recommend.mixing import Mixing
from client.recommend.recommender import Recommender
from client.recommend.scopes import ItemScope
from client.steering.steering import AS_CONFIGURED

Histories = Mapping[str, UserItemMatrix]
"""Histories by scope, each in its columns; rows are the model's."""

_WIDTH: Final = 64
"""Size of a group of scores of which only the largest is looked at first."""


@dataclass(frozen=True, eq=False)
class BlockLists:
    """The lists of some users, one row an item.

    Attributes:
        users: int64 ``[n]``: place of the user among those asked for.
        ranks: int64 ``[n]``, from 1.
        keys: ``[n]``.
        scores: float32 ``[n]``.
    """

    users: NDArray[np.int64]
    ranks: NDArray[np.int64]
    keys: tuple[str, ...]
    scores: NDArray[np.float32]


class BatchLists:
    """Lists of one model.

    Args:
        recommender: of the model.
        lists: as the platform steers them.
        k: longest list.
        scope: of the items.
        events: what users did since training, by user id as ids are compared.
        rules: what events count for.
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
        self._recommender, self._lists, self._k, self._scope = recommender, lists, k, scope
        self._events, self._rules = events, rules
        names = ("own", "cross") if scope == "all" else (scope,)
        scopes = {"own": recommender.own, "cross": recommender.cross}
        self._scopes = {name: scopes[name] for name in names if len(scopes[name].linear)}
        self._keys = {name: np.array(one.items.keys, dtype=object) for name, one in self._scopes.items()}
        self._mixing = recommender.mixings[0] if len(self._scopes) == 2 else Mixing()
        self._together = bool(self._scopes) and lists.plain and all(one.stage is None for one in self._scopes.values())

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
        changed = np.array([user in self._events for user in users], dtype=np.bool_)
        indptr = self._recommender.model.histories.indptr
        # Row −1 reads some other user's length here; who has no row has events, and is answered alone.
        blank = indptr[rows + 1] == indptr[rows]
        together = (rows >= 0) & ~changed & ~blank & self._together
        places = np.flatnonzero(together)
        parts = []
        if len(places):
            lists, flat = self._by_product(places, rows[places], histories)
            parts.append(lists)
            together[flat] = False
        parts += [self._alone(int(place), users[int(place)], int(rows[place])) for place in np.flatnonzero(~together)]
        return _in_order(parts)

    def _by_product(
        self, places: NDArray[np.int64], rows: NDArray[np.int64], histories: Histories
    ) -> tuple[BlockLists, NDArray[np.int64]]:
        """The lists of the model's users ``rows``, and the places of those whom a scope's scores tell nothing of."""
        bars = self._lists.bars(self._recommender)
        users, scores, keys = [], [], []
        flat = np.zeros(len(rows), dtype=np.bool_)
        for name, scope in self._scopes.items():
            whose, columns, found, telling_nothing = self._best(name, scope, rows, histories[name], bars)
            flat |= telling_nothing
            users.append(whose)
            keys.append(self._keys[name][columns])
            scores.append(self._mixing.all_on_own_scale(found) if name == "cross" else found)
        whose, score, key = np.concatenate(users), np.concatenate(scores), np.concatenate(keys)
        # Stable, so that own items come first among equals, as the service has it.
        order = np.lexsort((-score, whose))
        whose, score, key = whose[order], score[order], key[order]
        ranks = np.arange(len(whose)) - np.searchsorted(whose, whose) + 1
        kept = (ranks <= self._k) & ~flat[whose]
        lists = BlockLists(places[whose[kept]], ranks[kept], tuple(key[kept]), score[kept].astype(np.float32))
        return lists, places[flat]

    def _best(
        self, name: str, scope: ItemScope, rows: NDArray[np.int64], histories: UserItemMatrix, bars: Bars
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """Whose, columns and scores of the best, and bool ``[b]``: whose scores are all the same."""
        scores, offsets = scope.linear.without_offsets(histories, rows)
        flat = _flat(scores)
        scores[flat] = -np.inf
        barred, _ = bars.of(name)
        if barred is not None:
            scores[:, barred] = -np.inf
        if name == "own":
            seen = histories.select_users(rows)
            scores[seen.entry_users(), seen.indices] = -np.inf
        whose, columns = best_of_each(scores, self._k)
        return whose, columns, (scores[whose, columns] + offsets[whose]).astype(np.float64), flat

    def _alone(self, place: int, user: str, row: int) -> BlockLists:
        recommender = self._recommender
        history = recommender.history_at(None if row < 0 else row, self._events.get(user, ()), self._rules)
        found = self._lists.recommend(
            recommender, recommender.prepare(history), self._k, self._scope, asked=AS_CONFIGURED
        )
        return BlockLists(
            np.full(len(found), place),
            np.arange(1, len(found) + 1),
            tuple(item.key for item in found),
            np.array([item.score for item in found], dtype=np.float32),
        )


def best_of_each(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns (int64 ``[≤ b·k]`` each) of the k best of each row, best first, the lower column among equals.

    The k-th largest of the maxima of groups is a bound from below of the k-th best score, and few scores reach it: one pass
    and a small sort do.

    Args:
        scores: float32 ``[b, m]``, no NaN; −inf is never among the best.
        k: at least 1.
    """
    rows, columns = _candidates(scores, k)
    found = scores[rows, columns]
    order = np.lexsort((columns, -found, rows))
    rows, columns = rows[order], columns[order]
    kept = np.arange(len(rows)) - np.searchsorted(rows, rows) < k
    return rows[kept], columns[kept]


def _candidates(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns that the k best of each row are among."""
    b, m = scores.shape
    runs = m // _WIDTH
    if runs <= k:
        rows, columns = np.nonzero(scores > -np.inf)
        return rows, columns
    # A group is every runs-th column: its maximum is taken along contiguous rows.
    within = scores[:, : runs * _WIDTH].reshape(b, _WIDTH, runs)
    maxima = within.max(axis=1)
    bound = np.partition(maxima, runs - k, axis=1)[:, runs - k]
    rows, run = np.nonzero((maxima >= bound[:, None]) & (maxima > -np.inf))
    looked_at = within[rows, :, run]
    hits, places = np.nonzero((looked_at >= bound[rows, None]) & (looked_at > -np.inf))
    rest = scores[:, runs * _WIDTH :]
    more, ends = np.nonzero((rest >= bound[:, None]) & (rest > -np.inf))
    columns = np.concatenate([places * runs + run[hits], ends + runs * _WIDTH])
    return np.concatenate([rows[hits], more]), columns


def _flat(scores: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Bool ``[b]``: the rows whose scores are all the same; three of them tell most rows apart."""
    flat: NDArray[np.bool_] = (scores[:, 0] == scores[:, -1]) & (scores[:, 0] == scores[:, scores.shape[1] // 2])
    suspects = np.flatnonzero(flat)
    flat[suspects] = (scores[suspects] == scores[suspects, :1]).all(axis=1)
    return flat


def _in_order(parts: Sequence[BlockLists]) -> BlockLists:
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return BlockLists(nothing, nothing, (), np.zeros(0, dtype=np.float32))
    users = np.concatenate([part.users for part in parts])
    order = np.argsort(users, kind="stable")
    keys = np.concatenate([np.array(part.keys, dtype=object) for part in parts])
    return BlockLists(
        users[order],
        np.concatenate([part.ranks for part in parts])[order],
        tuple(keys[order]),
        np.concatenate([part.scores for part in parts])[order],
    )
