"""Describes to a platform the items that only others have, from its own interactions and what is publicly known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.data.training import TrainingData
from client.personalization.cross_parts import CrossParts, users_of_owners
from client.personalization.described import DescribedItems, TextVectors
from client.personalization.platform_model import on_vocabulary
from client.scoring.attributes import AttributePart, fit_attribute_transfer
from client.scoring.demand import expected_demand
from client.scoring.described.released_counts import CountNoise, ReleasedCounts


@dataclass(frozen=True, eq=False, kw_only=True)
class OtherCatalogues:
    """The vocabulary as seen from one platform.

    Attributes:
        own_positions: int32 ``[m_own]``: position of each own item, −1 where nobody shares it.
        owners: bool ``[m, P − 1]``: which of the other platforms shares which item.
        cards: the m items as others describe them. Own descriptions have no part: what is learned of common items
            from one catalogue's genres does not hold for another's.
        item_counts: float64 ``[m]``: users of all platforms who have each item.
        noise: how the counts were released; None where they are exact.
        user_counts: users of each of the other platforms, maybe noisy; None where the aggregator does not tell.
        texts: turns titles into vectors; None without a text encoder.
    """

    own_positions: NDArray[np.int32]
    owners: NDArray[np.bool_]
    cards: ItemDescriptions
    item_counts: NDArray[np.float64]
    noise: CountNoise | None = None
    user_counts: tuple[float, ...] | None = None
    texts: TextVectors | None = None

    @property
    def private(self) -> bool:
        """Whether the counts are noisy."""
        return self.noise is not None

    @property
    def lacking(self) -> bool:
        """Whether there is an item that the platform does not have."""
        return int(np.sum(self.own_positions >= 0)) < len(self.owners)

    @property
    def others(self) -> NDArray[np.bool_]:
        """Bool ``[m]``: whether some other platform shares the item."""
        return np.asarray(np.any(self.owners, axis=1), dtype=np.bool_)

    def parts(self, data: TrainingData) -> CrossParts:
        """Return what scorers of the others' items are fitted on; of training interactions alone."""
        histories = on_vocabulary(data.train, self.own_positions, len(self.owners))
        contributed = self._contributed(data)
        counts = np.maximum(self.item_counts - contributed, 0.0)
        users = self._foreign_users(counts, histories)
        shared = np.sort(self.own_positions[self.own_positions >= 0])
        return CrossParts(
            histories=histories,
            own=shared,
            others=self.others,
            foreign_counts=counts,
            foreign_users=users,
            described=DescribedItems.of(self.cards, data.items.descriptions, self.own_positions, self.texts),
            released=None
            if self.noise is None
            else ReleasedCounts(totals=self.item_counts, own=contributed, users=users, sigma=self.noise.sigma),
        )

    def _foreign_users(self, counts: NDArray[np.float64], histories: UserItemMatrix) -> NDArray[np.float64]:
        if self.user_counts is None:
            return users_of_owners(self.owners, counts, histories)
        return np.asarray(self.owners @ np.array(self.user_counts), dtype=np.float64)

    def demand(self, data: TrainingData) -> NDArray[np.float64]:
        """float64 ``[m]``: how much own users would want each item, judged by the others' users."""
        if self.private:
            return self.item_counts
        columns, foreign = data.shared_columns, self._foreign_counts(data)
        common = self.own_positions[columns]
        return expected_demand(
            data.train.item_counts()[columns],
            foreign,
            common,
            self._told.columns(common[foreign[common] > 0]),
            self._told.text_features,
        )

    def attributes(self, data: TrainingData) -> AttributePart:
        """Own tastes, and where public attributes place the items on them; of training interactions alone."""
        own = self.own_positions[self.own_positions >= 0]
        common = own[self.others[own]]
        features = self._told.columns(common)
        if not self.private:
            there = np.log1p(np.maximum(self._foreign_counts(data), 0.0))
            features = np.column_stack([there, there**2, features])
        histories = on_vocabulary(data.train, self.own_positions, len(self.others))
        return fit_attribute_transfer(histories, common, features)

    @cached_property
    def _told(self) -> DescribedItems:
        """The items as cards tell of them, by title and genres, too."""
        further = self.cards.further
        categories = {"genres": self.cards.genres, **dict(further.categories())}
        return DescribedItems(self.cards.titles, categories, self.texts, further)

    def _foreign_counts(self, data: TrainingData) -> NDArray[np.float64]:
        return self.item_counts - self._contributed(data)

    def _contributed(self, data: TrainingData) -> NDArray[np.float64]:
        """float64 ``[m]``: what own users put into the counts."""
        columns, contributed = data.shared_columns, np.zeros(len(self.item_counts))
        shared = data.train.select_items(columns)
        own = shared.item_counts() if self.noise is None else self.noise.contributed(shared)
        contributed[self.own_positions[columns]] = own
        return contributed
