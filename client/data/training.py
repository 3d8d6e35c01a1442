"""Holds what an agent trains on: its catalogue, its users' training interactions and a validation slice. No test data.

Whoever measures (the simulator, an analyst) keeps the test interactions; an agent cannot look at what it does not have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from logging import getLogger

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.data.dataset import ItemTable, UserItemMatrix
from client.data.reading.exclusions import Exclusions
from client.data.split import EvaluationSlice
from common.attributes import LONGEST_CATEGORY, LONGEST_TEXT, MOST_CATEGORIES
from common.catalogue import ItemCard
from common.config.platform import CatalogueConfig
from common.errors import DataError

_log = getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingData:
    """One platform's own side of the federation.

    Attributes:
        user_ids: one per row. Private.
        items: the catalogue, one item a column.
        train: n users × m_own items.
        validation: users and interactions for choices (tuning, the verdict); never for measuring.
        shared: bool ``[m_own]``; the items whose digests and statistics the platform shares.
        cards_shared: whether what is described of the shared items goes to the other platforms, encrypted.
        users: profile attributes, one row per user id in that order (null where unknown), or None. Private.
        timed: whether it is known when interactions were, and not only in which order of rows they came.
    """

    user_ids: tuple[str, ...]
    items: ItemTable
    train: UserItemMatrix
    validation: EvaluationSlice
    shared: NDArray[np.bool_]
    cards_shared: bool = True
    users: pl.DataFrame | None = None
    timed: bool = False

    def __post_init__(self) -> None:
        if len(self.items) != self.train.n_items or len(self.shared) != self.train.n_items:
            raise DataError(
                f"{len(self.items)} items and {len(self.shared)} share flags for {self.train.n_items} columns"
            )
        if len(self.user_ids) != self.train.n_users:
            raise DataError(f"{len(self.user_ids)} user ids for {self.train.n_users} rows")
        if self.users is not None and self.users.height != self.train.n_users:
            raise DataError(f"{self.users.height} profiles for {self.train.n_users} rows")

    @property
    def shared_columns(self) -> NDArray[np.int64]:
        """int64: columns of the shared items, in order."""
        return np.flatnonzero(self.shared)

    def cards(self) -> list[ItemCard | None]:
        """The cards of the shared items, in order of column; None for all where the platform keeps its cards."""
        if not self.cards_shared:
            return [None] * len(self.shared_columns)
        cards = [_card(self.items, int(column)) for column in self.shared_columns]
        cut = sum(
            (card.title, card.genres) != (self.items.titles[column], self.items.genres[column])
            for card, column in zip(cards, self.shared_columns, strict=True)
        )
        if cut:
            _log.warning("%d item cards have a title or genres that are cut, being longer than a card holds", cut)
        return [*cards]

    def without(self, excluded: Exclusions) -> TrainingData:
        """The same without some users, as if their rows were in no file; filters over counts are not fitted anew.

        Raises:
            DataError: nobody is left.
        """
        gone = excluded.mask(self.user_ids)
        if not gone.any():
            return self
        kept = np.flatnonzero(~gone)
        if not len(kept):
            raise DataError("no user is left to train on")
        place = np.cumsum(~gone) - 1
        held = self.validation.users[~gone[self.validation.users]]
        history = self.validation.history.select_users(kept)
        validation = EvaluationSlice(place[held], history, self.validation.truth.select_users(kept))
        return replace(
            self,
            user_ids=tuple(self.user_ids[user] for user in kept),
            train=self.train.select_users(kept),
            validation=validation,
            users=None if self.users is None else self.users[kept],
        )

    @property
    def known(self) -> UserItemMatrix:
        """All that is known of every user: training interactions and what validation had withheld."""
        return self.validation_union(self.train, self.validation)

    @staticmethod
    def validation_union(train: UserItemMatrix, validation: EvaluationSlice) -> UserItemMatrix:
        """Training rows, and for validation users their history and truth."""
        parts = [train, validation.history, validation.truth]
        users = np.concatenate([part.entry_users() for part in parts])
        items = np.concatenate([part.indices for part in parts])
        _, first = np.unique(users.astype(np.int64) * train.n_items + items, return_index=True)
        return UserItemMatrix.from_entries(
            users[first],
            items[first],
            np.concatenate([part.values for part in parts])[first],
            np.concatenate([part.times for part in parts])[first],
            n_users=train.n_users,
            n_items=train.n_items,
        )


def _card(items: ItemTable, column: int) -> ItemCard:
    return ItemCard(
        key=items.keys[column],
        title=items.titles[column][:LONGEST_TEXT],
        genres=tuple(genre[:LONGEST_CATEGORY] for genre in items.genres[column][:MOST_CATEGORIES]),
        attributes=items.further.row(column),
    )


def shared_items(items: ItemTable, config: CatalogueConfig, hidden: frozenset[str] = frozenset()) -> NDArray[np.bool_]:
    """Bool ``[m_own]``: which items of a catalogue its platform shares: as configured, and no hidden one."""
    shown = np.array([key not in hidden for key in items.keys], dtype=bool)
    return shown & _shared_by_rule(items, config)


def _shared_by_rule(items: ItemTable, config: CatalogueConfig) -> NDArray[np.bool_]:
    if config.share != "filter":
        return np.full(len(items), config.share == "all")
    genres = set(config.genres)
    by_genre = np.array([not genres or bool(genres.intersection(own)) for own in items.genres], dtype=bool)
    by_key = np.array(
        [not config.key_prefixes or key.startswith(config.key_prefixes) for key in items.keys], dtype=bool
    )
    told = items.described
    by_rule = [told.passing(name, rule) for name, rule in config.where.items()]
    shared: NDArray[np.bool_] = np.logical_and.reduce([by_genre, by_key, *by_rule])
    return shared
