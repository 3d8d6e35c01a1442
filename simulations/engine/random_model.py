"""A finished model of random numbers, for benches and tests of what is done with models."""

from __future__ import annotations

import numpy as np

from client.data.dataset import ItemDescriptions, UserItemMatrix
from client.personalization.platform_model import OwnVerdict, PlatformModel
from client.scoring.blend import Blend
from client.scoring.factors import FactorModel
from common.config.model import FactorizationConfig

_GENRES = ("Drama", "Comedy", "Thriller", "Romance", "Action")


def random_platform_model(
    rng: np.random.Generator,
    *,
    own: int = 60,
    foreign: int = 40,
    unshared: int = 5,
    users: int = 20,
    dimension: int = 8,
    verdict: str = "blend",
    feedback: str = "implicit",
    history: int = 12,
) -> PlatformModel:
    """A model with random factors of a platform called ``here``; items are popular with a long tail.

    Args:
        own: how many items the platform has; half of them are ``there`` too.
        foreign: how many items only ``there`` has.
        unshared: own items that nobody shares; the last ones.
        users: how many.
        history: interactions of each.
        verdict: ``local``, ``shared``, ``blend`` or ``anchored``.
        feedback: ``implicit`` or ``explicit``.
    """
    config = FactorizationConfig.model_validate({"feedback": feedback, "dimension": dimension, "regularization": 2.0})
    vocabulary = own - unshared + foreign
    order = rng.permutation(vocabulary)
    own_positions = np.full(own, -1, dtype=np.int32)
    own_positions[: own - unshared] = order[: own - unshared]
    owners = np.zeros((vocabulary, 2), dtype=np.bool_)
    owners[order[: own - unshared], 0] = True
    owners[order[(own - unshared) // 2 :], 1] = True

    def factors(m: int) -> FactorModel:
        parameters = rng.standard_normal((m, dimension + (feedback == "explicit"))) + 0.3
        return FactorModel(
            item_parameters=(parameters * rng.gamma(2.0, 0.3, (m, 1))).astype(np.float32),
            config=config,
            value_mean=3.5 if feedback == "explicit" else 0.0,
        )

    def described(keys: list[str]) -> ItemDescriptions:
        return ItemDescriptions(
            keys=tuple(keys),
            titles=tuple(f"Title of {key}" for key in keys),
            genres=tuple(tuple(rng.choice(_GENRES, size=rng.integers(0, 3), replace=False)) for _ in keys),
        )

    keys = [f"imdb:{position:07d}" for position in range(vocabulary)]
    own_keys = [keys[p] if p >= 0 else f"here:{column}" for column, p in enumerate(own_positions)]
    return PlatformModel(
        platform="here",
        server_round=3,
        platforms=("here", "there"),
        vocabulary=described(keys),
        owners=owners,
        shared=factors(vocabulary),
        foreign_popularity=rng.gamma(0.5, 40.0, vocabulary),
        own=described(own_keys),
        own_positions=own_positions,
        local=factors(own),
        anchored=factors(own) if verdict == "anchored" else None,
        verdict=OwnVerdict(
            name=verdict,
            weight=0.5 if verdict == "blend" else None,
            metric="ndcg@10",
            local_mean=0.3,
            chosen_mean=0.31,
            interval=(0.001, 0.02),
        ),
        cross=Blend(weights={"shared": 1.0}, beta=0.3),
        user_ids=tuple(f"user-{row}" for row in range(users)),
        histories=_histories(rng, users, own, min(history, own), feedback),
    )


def _histories(rng: np.random.Generator, users: int, items: int, each: int, feedback: str) -> UserItemMatrix:
    rows = [np.sort(rng.choice(items, size=each, replace=False)) for _ in range(users)]
    values = rng.integers(1, 6, users * each).astype(np.float64) if feedback == "explicit" else np.ones(users * each)
    return UserItemMatrix.from_entries(
        np.repeat(np.arange(users), each),
        np.concatenate(rows),
        values,
        rng.integers(10**9, 2 * 10**9, users * each),
        n_users=users,
        n_items=items,
    )
