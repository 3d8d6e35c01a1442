"""One user-item matrix as the common form of everything a platform knows about its users.

The types here are what the rest of the client is written against: trainers see a :class:`UserItemMatrix`, the agent a
:class:`PlatformData`. User ids never leave this process except into the platform's own store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.sparse as sp

from client.data.described import NOTHING, Described, with_always

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    from client.data.report import CleaningReport

Feedback = Literal["implicit", "explicit"]


@dataclass(frozen=True, eq=False)
class UserItemMatrix:
    """n users × m items in compressed rows; within a row, entries are in the order in which the user made them.

    Attributes:
        indptr: int64 ``[n + 1]``; row ``u`` is ``indptr[u]:indptr[u + 1]``.
        indices: int32 ``[nnz]``; column (item) of each entry; unique within a row, *not* sorted.
        values: float32 ``[nnz]``; the rating (explicit) or the weight of the event (implicit, 1 unless given).
        times: int64 ``[nnz]``; seconds since 1970, or the position within the user's history when no time is known.
        n_items: m.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    times: NDArray[np.int64]
    n_items: int

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        return len(self.indices)

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """int64 ``[n]``: the number of items of each user."""
        return np.diff(self.indptr)

    def entry_users(self) -> NDArray[np.int32]:
        """int32 ``[nnz]``: the user of each entry."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), self.row_lengths)

    def entries_after(self) -> NDArray[np.int64]:
        """int64 ``[nnz]``: how many of the user's entries come after each."""
        return np.repeat(self.indptr[1:], self.row_lengths) - 1 - np.arange(self.nnz)

    def item_counts(self) -> NDArray[np.int64]:
        """int64 ``[m]``: how many users have each item."""
        return np.bincount(self.indices, minlength=self.n_items).astype(np.int64)

    def row(self, user: int) -> NDArray[np.int32]:
        """int32 ``[n_u]``: the items of one user, oldest first."""
        return self.indices[self.indptr[user] : self.indptr[user + 1]]

    def select_entries(self, keep: NDArray[np.bool_]) -> UserItemMatrix:
        """The same users and items with only the entries where ``keep`` (bool ``[nnz]``) is true."""
        kept_before = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return UserItemMatrix(
            indptr=kept_before[self.indptr],
            indices=self.indices[keep],
            values=self.values[keep],
            times=self.times[keep],
            n_items=self.n_items,
        )

    def select_users(self, users: NDArray[np.integer]) -> UserItemMatrix:
        """The rows ``users`` (int ``[k]``), in that order, as a k × m matrix."""
        lengths = self.row_lengths[users]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.arange(indptr[-1]) + np.repeat(self.indptr[users] - indptr[:-1], lengths)
        return UserItemMatrix(indptr, self.indices[entries], self.values[entries], self.times[entries], self.n_items)

    def only_users(self, users: NDArray[np.integer]) -> UserItemMatrix:
        """The same n × m with the entries of the rows ``users`` (int ``[k]``) alone: all others are empty."""
        chosen = np.unique(users)
        picked, lengths = self.select_users(chosen), np.zeros(self.n_users, dtype=np.int64)
        lengths[chosen] = picked.row_lengths
        return replace(picked, indptr=np.concatenate([[0], np.cumsum(lengths)]))

    def select_items(self, items: NDArray[np.integer]) -> UserItemMatrix:
        """The columns ``items`` (int ``[k]``, unique), in that order, as an n × k matrix."""
        position = np.full(self.n_items, -1, dtype=np.int32)
        position[items] = np.arange(len(items), dtype=np.int32)
        kept = self.select_entries(position[self.indices] >= 0)
        return replace(kept, indices=position[kept.indices], n_items=len(items))

    def csr(self) -> sp.csr_array:
        """float32 CSR ``[n, m]`` with sorted column indices (a copy; the order in time is lost)."""
        matrix = sp.csr_array((self.values, self.indices, self.indptr), shape=(self.n_users, self.n_items))
        return matrix.sorted_indices()

    def incidence(self, dtype: type[np.floating] = np.float64) -> sp.csr_array:
        """CSR ``[n, m]`` of ``dtype``: 1 for each entry, whatever its value, in the order in which the user made them."""
        ones = np.ones(self.nnz, dtype=dtype)
        return sp.csr_array((ones, self.indices, self.indptr), shape=(self.n_users, self.n_items))

    @classmethod
    def from_entries(
        cls,
        users: NDArray[np.integer],
        items: NDArray[np.integer],
        values: NDArray[np.floating],
        times: NDArray[np.integer],
        *,
        n_users: int,
        n_items: int,
    ) -> UserItemMatrix:
        """Build from coordinate lists (each ``[nnz]``); entries of a user are put in order of time, ties as given."""
        order = np.lexsort((np.arange(len(users)), times, users))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))]).astype(np.int64)
        return cls(
            indptr=indptr,
            indices=np.asarray(items, dtype=np.int32)[order],
            values=np.asarray(values, dtype=np.float32)[order],
            times=np.asarray(times, dtype=np.int64)[order],
            n_items=n_items,
        )


@dataclass(frozen=True, eq=False)
class ItemTable:
    """A platform's catalogue, in column order of its matrix.

    Attributes:
        keys: namespaced item keys, unique: ``imdb:0114709``.
        titles: one per key; the key itself where no title is known.
        genres: one tuple per key, possibly empty.
        attributes: free columns, one row per key (m rows), as in the items file. Private, unless :attr:`further` has them.
        further: what the platform declares to be public besides, in the form in which it stands on cards.
        declared: the columns of ``attributes`` that are in ``further``, too.
    """

    keys: tuple[str, ...]
    titles: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    attributes: pl.DataFrame
    further: Described = NOTHING
    declared: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def described(self) -> Described:
        """All that is publicly told, title and genres among it."""
        return with_always(self.titles, self.genres, self.further)

    @property
    def undeclared(self) -> pl.DataFrame:
        """The columns that are for the platform's own eyes."""
        return self.attributes.drop(self.declared)

    @property
    def descriptions(self) -> ItemDescriptions:
        """The same without the file's other columns."""
        return ItemDescriptions(keys=self.keys, titles=self.titles, genres=self.genres, further=self.further)


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemDescriptions:
    """Holds what items are, in order of position; the key is empty where nobody described the item to this platform."""

    keys: tuple[str, ...]
    titles: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    further: Described = NOTHING

    @property
    def described(self) -> Described:
        """All that is told of them, title and genres among it; an item without a key has no title."""
        titles = [title if key else "" for key, title in zip(self.keys, self.titles, strict=True)]
        return with_always(titles, self.genres, self.further)

    def select(self, rows: NDArray[np.integer] | Sequence[int]) -> ItemDescriptions:
        """The same of the items ``rows``."""
        return ItemDescriptions(
            keys=tuple(self.keys[row] for row in rows),
            titles=tuple(self.titles[row] for row in rows),
            genres=tuple(self.genres[row] for row in rows),
            further=self.further.select(rows),
        )


@dataclass(frozen=True, eq=False)
class PlatformData:
    """Everything one platform brings: its users' matrix, its catalogue, and the profiles it may use at home.

    Attributes:
        user_ids: one string per row of ``interactions``. Private: never logged, never sent.
        items: the catalogue, in column order.
        interactions: n users × m items.
        feedback: what ``interactions.values`` mean.
        users: profile attributes, one row per user id, or None. Private.
        report: what cleaning dropped and why.
    """

    user_ids: tuple[str, ...]
    items: ItemTable
    interactions: UserItemMatrix
    feedback: Feedback
    users: pl.DataFrame | None
    report: CleaningReport
