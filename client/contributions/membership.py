"""Keeps what a platform knows of its federation: the vocabulary, who shares what, and the others' item cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.data.described import Described
from client.data.training import TrainingData
from common.attributes import AttributeKind
from common.catalogue import FederationSecret, Vocabulary, split_boxes, unpack_blobs
from common.config.federation import FederationPlan
from common.contributions.broadcast import card_arrays, vocabulary_digest
from common.contributions.protocol import IDENTITY_BYTES
from common.errors import CatalogueError
from common.privacy.attributes import attribute_tokens, public_attributes
from common.wire.exchange import Arrays

_UNDESCRIBED = "(an item that its platform does not describe)"


@dataclass(frozen=True, eq=False, kw_only=True)
class Membership:
    """One platform's place in a federation.

    Attributes:
        platforms: names of all platforms, sorted.
        owners: bool ``[m, P]``: who shares which item.
        vocabulary: the m items as far as the own catalogue, or else their cards, describe them.
        cards: the m items as others describe them, blank where none does: what is learned of common items from these
            holds for items that only others have, as it is the same description.
        own_positions: int32 ``[m_own]``: position of each own item, −1 where nobody shares it.
        shared_positions: int32 ``[m_p]``: positions of the items that this platform shares, in order of column.
        digest: 32 bytes: what all platforms must have been told of the vocabulary alike.
    """

    platforms: tuple[str, ...]
    owners: NDArray[np.bool_]
    vocabulary: ItemDescriptions
    cards: ItemDescriptions
    own_positions: NDArray[np.int32]
    shared_positions: NDArray[np.int32]
    digest: bytes

    @classmethod
    def of(
        cls,
        platform: str,
        platforms: tuple[str, ...],
        arrays: Arrays,
        data: TrainingData,
        secret: FederationSecret,
        attributes: Mapping[str, AttributeKind] = MappingProxyType({}),
    ) -> Membership:
        """Read the aggregator's vocabulary message; of cards, title, genres and the ``attributes`` that the plan names.

        Raises:
            CatalogueError: it lacks an item that this platform shares or repeats one, says that this platform shares
                others than it does, or holds cards whose offsets do not fit them.
        """
        digests = arrays["digests"]
        own_digests = secret.digests(data.items.keys)
        place = {row.tobytes(): position for position, row in enumerate(digests)}
        if len(place) != len(digests):
            raise CatalogueError("the vocabulary repeats an item; join the federation again")
        own = np.array([place.get(row.tobytes(), -1) for row in own_digests], dtype=np.int32)
        shared = Vocabulary(digests).positions(own_digests[data.shared_columns])
        owners = arrays["owners"].astype(np.bool_)
        if platform not in platforms:
            raise CatalogueError("the vocabulary does not list this platform; join the federation again")
        if not np.array_equal(np.flatnonzero(owners[:, platforms.index(platform)]), np.sort(shared)):
            raise CatalogueError("the vocabulary says that this platform shares other items than it does")
        cards = _open_cards(arrays, secret, attributes)
        return cls(
            platforms=platforms,
            owners=owners,
            vocabulary=described_vocabulary(cards, data, own),
            cards=cards,
            own_positions=own,
            shared_positions=shared,
            digest=vocabulary_digest(platforms, digests, arrays["owners"]),
        )

    def on_vocabulary(self, shared: UserItemMatrix) -> UserItemMatrix:
        """Interactions in columns of the shared items (n × m_p) in columns of the vocabulary (n × m)."""
        return replace(shared, indices=self.shared_positions[shared.indices].astype(np.int32), n_items=len(self.owners))


def introduction(
    plan: FederationPlan, data: TrainingData, secret: FederationSecret, identity: NDArray[np.uint8] | None
) -> Arrays:
    """Return what a platform says of itself when it joins: the items that it shares, under digests and in sealed cards.

    Args:
        plan: of the run.
        data: the platform's.
        secret: shared by the platforms, unknown to the aggregator.
        identity: uint8 ``[32]``, its key in the secure sum; None without one.
    """
    digests = secret.digests(data.items.keys[column] for column in data.shared_columns)
    tokens, token_offsets = secret.feature_tokens(_features(plan, data))
    return {
        "digests": digests,
        **card_arrays(secret.seal_cards(data.cards(), digests)),
        "feature_tokens": tokens,
        "feature_offsets": token_offsets,
        "identity": np.zeros(IDENTITY_BYTES, dtype=np.uint8) if identity is None else identity,
    }


def _features(plan: FederationPlan, data: TrainingData) -> list[tuple[str, ...]]:
    """Public attributes of the shared items. Sent under privacy only, where they make up for some of the noise."""
    columns = data.shared_columns
    if not (plan.private and plan.privacy.item_features):
        return [()] * len(columns)
    items = data.items
    further = items.further.agreed(plan.attributes.kinds, len(items))
    return [
        (
            *public_attributes(items.titles[column], items.genres[column]),
            *attribute_tokens(further.kinds, further.row(column)),
        )
        for column in columns.tolist()
    ]


def _open_cards(arrays: Arrays, secret: FederationSecret, kinds: Mapping[str, AttributeKind]) -> ItemDescriptions:
    candidates = [split_boxes(joined) for joined in unpack_blobs(arrays["cards"], arrays["card_offsets"])]
    cards = secret.open_first_cards(candidates, arrays["digests"], kinds)
    return ItemDescriptions(
        keys=tuple(card.key if card else "" for card in cards),
        titles=tuple(card.title if card else "" for card in cards),
        genres=tuple(card.genres if card else () for card in cards),
        further=Described.of_rows(kinds, [card.attributes if card else {} for card in cards]),
    )


def described_vocabulary(
    cards: ItemDescriptions, data: TrainingData, own_positions: NDArray[np.int32]
) -> ItemDescriptions:
    """The own description where there is one, else the card's, else blank."""
    keys, genres = list(cards.keys), list(cards.genres)
    titles = [t if k else _UNDESCRIBED for k, t in zip(cards.keys, cards.titles, strict=True)]
    own = np.flatnonzero(own_positions >= 0)
    for column in own:
        position = own_positions[column]
        keys[position], titles[position] = data.items.keys[column], data.items.titles[column]
        genres[position] = data.items.genres[column]
    further = data.items.further.over(cards.further, own_positions[own], own)
    return ItemDescriptions(keys=tuple(keys), titles=tuple(titles), genres=tuple(genres), further=further)
