"""Learning from holders: a bridge from tastes where no profile can be used, and how much texts count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.data.dataset import UserItemMatrix
from client.passport.books import Receipt, Redeemed
from client.passport.contents import Basis, Contents, Profile
from client.passport.spaces import TASTES, AttributeSpace, TextSpace
from client.passport.use import PassportUse
from client.personalization.platform_model import PlatformModel
from client.recommend.recommender import Recommender
from simulations.engine.random_model import random_platform_model

pytestmark = pytest.mark.usefixtures("one_thread")
_USERS, _ITEMS, _GROUPS, _HAD = 200, 60, 4, 10
_ENCODER = Basis("usem3", bytes(32))


def _model(seed: int, *, kinds: int) -> PlatformModel:
    """User k is of taste k mod 4 and so is item k, whose genre is k mod ``kinds``."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(_USERS):
        weights = np.where(np.arange(_ITEMS) % _GROUPS == user % _GROUPS, 6.0, 1.0)
        rows.append(rng.choice(_ITEMS, size=_HAD, replace=False, p=weights / weights.sum()))
    histories = UserItemMatrix(
        np.arange(0, _HAD * _USERS + 1, _HAD, dtype=np.int64),
        np.concatenate(rows).astype(np.int32),
        np.ones(_HAD * _USERS, dtype=np.float32),
        np.tile(np.arange(_HAD), _USERS),
        _ITEMS,
    )
    model = random_platform_model(rng, own=_ITEMS, users=_USERS)
    own = replace(model.own, titles=("",) * _ITEMS, genres=tuple((f"g{item % kinds}",) for item in range(_ITEMS)))
    return replace(model, histories=histories, own=own, user_ids=tuple(f"u{user}" for user in range(_USERS)))


def _texts(_: object) -> TextSpace:
    vectors = np.eye(_GROUPS, dtype=np.float32)[np.arange(_ITEMS) % _GROUPS]
    return TextSpace(_ENCODER, vectors)


def _redeemed(user: str, contents: Contents) -> Redeemed:
    return Redeemed(
        Receipt(f"{hash(user) % 2**32:032x}", "redeemed", user, "cinema", contents.kinds, 0, 1 << 39), contents
    )


def _of_group(use: PassportUse, contents: Contents, group: int) -> float:
    """Share of the fifteen best that are of the group, of which there are fifteen."""
    brought = use.brought([_redeemed("anna", contents)])
    if brought is None:
        return 0.0
    best = np.argsort(-brought.scores, kind="stable")[: _ITEMS // _GROUPS]
    return float((best % _GROUPS == group).mean())


def test_tastes_lead_over_where_no_profile_does() -> None:
    # Genres are alike on both platforms and stand for other items here: likeness finds nothing, the bridge does.
    there, here = _model(0, kinds=4), _model(1, kinds=3)
    space = AttributeSpace(there.own)
    tastes = [space.tastes(there.histories.row(user)) for user in range(_USERS)]
    use = PassportUse(Recommender(here))
    learned = use.learn([_redeemed(f"u{user}", Contents(tastes=tastes[user])) for user in range(4, _USERS)])
    assert learned.bridges[TASTES].bridge is not None
    assert set(learned.names) == {"genre:g0", "genre:g1", "genre:g2", "genre:g3"}
    unknown = Profile(Basis("club/1", bytes(32)), np.ones(8, np.float32))
    for user in range(4):
        assert _of_group(use, Contents(tastes=tastes[user]), user) >= 0.8
        assert _of_group(use, Contents(tastes=tastes[user], profile=unknown), user) >= 0.8


@pytest.mark.parametrize("holders", [_USERS, 30, 0])
def test_texts_count_where_they_help(holders: int) -> None:
    there, here = _model(0, kinds=4), _model(1, kinds=4)
    asked = list[int]()

    def spaces(items: object) -> TextSpace:
        asked.append(1)
        return _texts(items)

    texts = [_texts(None).texts(there.histories.row(user)) for user in range(_USERS)]
    use = PassportUse(Recommender(here), spaces)
    use.learn([])
    assert not asked
    carried = [_redeemed(f"u{user}", Contents(texts=texts[user])) for user in range(1, holders)]
    learned = use.learn([*carried, _redeemed("anna", Contents(texts=texts[0]))])
    assert asked == [1]
    assert learned.weights_with_popularity["texts"] > 0
    assert _of_group(use, Contents(texts=texts[0]), 0) >= 0.8
    assert PassportUse(Recommender(here)).learn(carried).weights_with_popularity["texts"] == 0
