"""A platform with a deep model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from client.personalization.platform_model import PlatformModel
from client.towers.stored import TowerModel
from common.config.towers import EncoderConfig, TowerConfig
from simulations.engine.random_model import random_platform_model

D, LENGTH = 8, 6


ENCODERS = (
    EncoderConfig(attribute="title", kind="text", buckets=64, width=8),
    EncoderConfig(attribute="genres", kind="multi_hot", buckets=16, width=4),
)


def platform(
    verdict: str = "towers", gamma: float = 0.7, seed: int = 1, *, kind: str = "transformer", personal: bool = True
) -> PlatformModel:
    model = federated(seed)
    chosen = replace(model.verdict, name=verdict, weight=0.6 if verdict == "tower_blend" else None)
    blend = replace(model.cross, weights={"shared": 1.0, **({"towers": gamma} if gamma else {})})
    return replace(model, verdict=chosen, cross=blend, towers=deep(seed, kind, personal=personal))


@cache
def federated(seed: int) -> PlatformModel:
    return random_platform_model(np.random.default_rng(seed), verdict="local", users=6)


@cache
def deep(seed: int, kind: str, *, personal: bool) -> TowerModel:
    """A deep model of the platform's items, with weights that matter."""
    model = federated(seed)
    from client.towers.features import ItemFeatures
    from client.towers.two_tower import TwoTower

    own, m = model.own_positions.copy(), len(model.owners)
    alone = np.flatnonzero(own < 0)
    own[alone] = m + np.arange(len(alone))
    n_items = m + len(alone)
    columns: dict[str, list[Any]] = {
        "title": [f"Film {i}" for i in range(n_items)],
        "genres": [None if i % 5 == 0 else (("drama",) if i % 2 else ("war", "comedy")) for i in range(n_items)],
    }
    config = TowerConfig.model_validate({
        "dimension": D, "encoders": ENCODERS, "user_embedding": personal, "adapter": personal,
        "sequence": {"kind": kind, "length": LENGTH, "blocks": 1},
    })  # fmt: skip
    features = ItemFeatures.of(ENCODERS, columns, n_items)
    tower = TwoTower(config, features, n_shared=m, n_users=model.histories.n_users)
    rng = np.random.default_rng(seed)
    for variable in tower.trainable_variables:
        variable.assign(np.asarray(variable) + 0.3 * rng.standard_normal(variable.shape).astype(np.float32))
    return TowerModel.of(tower, own.astype(np.int32))
