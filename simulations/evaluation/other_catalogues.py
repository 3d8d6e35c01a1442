"""Tells what each simulated platform would know of the others' items, without a federation that sends it the messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.data.dataset import ItemDescriptions
from client.data.described import Described
from client.personalization.described import TextVectors
from client.personalization.other_catalogues import OtherCatalogues
from client.scoring.described.released_counts import CountNoise
from common.catalogue import FederationSecret, ItemCard
from common.config.federation import FederationPlan
from server.federation.state import FederationState
from simulations.engine.datasets import SimulatedPlatform
from simulations.evaluation.measure import positions_of


def other_catalogues_of(
    platform: SimulatedPlatform,
    platforms: Sequence[SimulatedPlatform],
    state: FederationState,
    secret: FederationSecret,
    *,
    plan: FederationPlan,
    texts: TextVectors | None = None,
) -> OtherCatalogues:
    """The vocabulary as seen from ``platform``, with the cards that the aggregator would relay to it.

    Args:
        platform: one of them.
        platforms: as they took part in training ``state``: what is hidden from one of them must be gone there, too.
        state: the aggregator's.
        secret: of the federation.
        plan: of the state's run.
        texts: turns titles into vectors; None without a text encoder.
    """
    vocabulary = state.vocabulary
    cards: dict[int, ItemCard] = {}
    owners = np.zeros((len(vocabulary), max(len(platforms) - 1, 0)), dtype=np.bool_)
    others = sorted((one for one in platforms if one.name != platform.name), key=lambda one: one.name)
    for column, other in enumerate(others):
        positions = vocabulary.owners[other.name]
        owners[positions, column] = True
        for position, card in zip(positions.tolist(), other.training.cards(), strict=True):
            if card is not None:
                cards.setdefault(position, card)
    told = [cards.get(position, ItemCard(key="", title="", genres=())) for position in range(len(vocabulary))]
    kinds = {name: kind for one in others for name, kind in one.training.items.further.kinds.items()}
    users = state.users_by_platform()
    return OtherCatalogues(
        own_positions=positions_of(platform.training, vocabulary, secret),
        owners=owners,
        cards=ItemDescriptions(
            keys=tuple(card.key for card in told),
            titles=tuple(card.title for card in told),
            genres=tuple(card.genres for card in told),
            further=Described.of_rows(kinds, [card.attributes for card in told]),
        ),
        item_counts=state.item_counts,
        noise=CountNoise.of(plan, vocabulary.ownership()),
        texts=texts,
        user_counts=tuple(users[list(vocabulary.owners).index(other.name)] for other in others),
    )
