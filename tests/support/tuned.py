"""Training data and finished factors for a platform that chooses its model."""

from __future__ import annotations

import numpy as np
import polars as pl

from client.data.dataset import ItemDescriptions, ItemTable, UserItemMatrix
from client.data.split import random_per_user
from client.data.training import TrainingData
from client.personalization.personalize import FederationView
from client.scoring.described.released_counts import CountNoise
from client.scoring.factors import FactorModel
from common.config.model import FactorizationConfig

MODEL = FactorizationConfig(dimension=6, regularization=1.0, unobserved_weight=0.3, backend="numba")


def training_data(rng: np.random.Generator, n: int = 60, m: int = 120) -> TrainingData:
    """Six tastes: users have mostly items that leave the same remainder when divided by six."""
    fits = np.arange(n)[:, None] % 6 == np.arange(m) % 6
    rows, columns = np.nonzero(rng.random((n, m)) < np.where(fits, 0.25, 0.02))
    matrix = UserItemMatrix.from_entries(rows, columns, np.ones(len(rows)), np.arange(len(rows)), n_users=n, n_items=m)
    split = random_per_user(matrix, rng=rng, validation_users_share=0.5)
    items = ItemTable(
        keys=tuple(f"x:{i}" for i in range(m)), titles=("",) * m, genres=((),) * m, attributes=pl.DataFrame()
    )
    return TrainingData(
        user_ids=tuple(f"u{i}" for i in range(n)),
        items=items,
        train=split.train,
        validation=split.validation,
        shared=np.ones(m, dtype=np.bool_),
    )


def view_of(data: TrainingData, factors: np.ndarray, *, private: bool = False) -> FederationView:
    m = len(data.items)
    extra = len(factors) - m
    described = ItemDescriptions(
        keys=tuple(f"x:{i}" for i in range(m + extra)), titles=("",) * (m + extra), genres=((),) * (m + extra)
    )
    return FederationView(
        server_round=3,
        platforms=("here", "there"),
        vocabulary=described,
        cards=described,
        owners=np.ones((m + extra, 2), dtype=np.bool_),
        own_positions=np.arange(m, dtype=np.int32),
        shared=FactorModel(item_parameters=factors.astype(np.float32), config=MODEL),
        foreign_popularity=np.concatenate([data.train.item_counts() * 3.0, np.arange(1.0, extra + 1)]),
        count_noise=CountNoise(sigma=np.ones(m + extra), limit=20.0) if private else None,
    )
