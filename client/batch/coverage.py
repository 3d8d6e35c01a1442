"""How steering changes a platform's lists as a whole: the spread of some users' lists without it and with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.personalization.store import PlatformStore
from client.recommend.answers import Scope
from client.recommend.lists import ListMaker
from client.recommend.recommender import Recommender
from client.steering.coverage import Spread, spread
from client.steering.hidden import HiddenItems
from common.config.serving import SteeringConfig


def spread_of(recommender: Recommender, lists: ListMaker, k: int, scope: Scope, *, users: int = 1000) -> Spread:
    """The spread of the lists of ``users`` users, chosen evenly from the model's, in order of row."""
    model = recommender.model
    own, cross = len(recommender.own.linear), len(recommender.cross.linear)
    counts = np.concatenate([model.histories.item_counts(), model.foreign_popularity[model.foreign]])
    chosen = np.unique(np.linspace(0, len(model.user_ids) - 1, min(users, len(model.user_ids))).astype(np.int64))
    ranked = np.full((len(chosen), k), -1, dtype=np.int64)
    for place, row in enumerate(chosen):
        prepared = recommender.prepare(recommender.history_of(model.user_ids[row]))
        found = lists.candidates(recommender, prepared, k, scope)
        ranked[place, : len(found)] = [one.row + own * (one.scope == "cross") for one in found]
    return spread(ranked, counts, model.histories.n_users, np.arange(own + cross) >= own)


def before_and_after(
    store: Path, steering: SteeringConfig, k: int, scope: Scope, *, users: int = 1000
) -> tuple[Spread, Spread]:
    """The spread by score alone with nothing hidden, and as the platform steers.

    Raises:
        StoreError: there is no model.
    """
    recommender = Recommender(PlatformStore(store).load())
    plain, steered = ListMaker(), ListMaker(steering, HiddenItems(store))
    before, after = (spread_of(recommender, lists, k, scope, users=users) for lists in (plain, steered))
    return before, after
