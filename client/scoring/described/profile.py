"""A user's own ridge regression on what is publicly known of the items in the history, or on factors that are told from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.scoring.factors import FactorPart
from client.scoring.fold_in import FoldIn
from client.scoring.part import Arrays, stored
from common.config.model import FactorizationConfig

_CONSTANT = 0.3
"""Length of the coordinate that all items share, beside directions of length 1: how much an item is liked by everyone."""


@stored("profile")
@dataclass(frozen=True, eq=False)
class ProfilePart(FactorPart):
    """Item factors that are not learned for every item but described: directions of the public features, or told from these."""

    def arrays(self) -> Arrays:
        """The catalogue's directions, the columns that it has, the items', and the three settings of users."""
        config = self.fold_in.config
        settings = np.array([config.unobserved_weight, config.regularization, config.regularization_exponent])
        assert self.columns is not None
        return {
            "catalogue": self.fold_in.scoring_items,
            "columns": self.columns,
            "items": self.scored,
            "settings": settings,
        }

    @classmethod
    def of_arrays(cls, name: str, arrays: Arrays) -> ProfilePart:
        """Take back :meth:`arrays`."""
        unobserved, ridge, *exponent = arrays["settings"].tolist()  # of two settings: stored before there was a third
        catalogue: NDArray[np.float32] = arrays["catalogue"].astype(np.float32)
        fold_in = FoldIn(catalogue, _config(catalogue.shape[1], unobserved, ridge, *exponent))
        return cls(name, fold_in, arrays["columns"].astype(np.int32), arrays["items"].astype(np.float32))


def fit_profile(
    features: NDArray[np.float64], readable: NDArray[np.integer], *, unobserved_weight: float, directions: int = 64
) -> ProfilePart:
    """Profiles over the strongest directions of the features of a platform's own items.

    Args:
        features: float64 ``[m, f]``; of deviation 1 over own items.
        readable: int: positions of the items that histories may hold.
        unobserved_weight: α₀ of an item that a user does not have.
        directions: how many, at most.
    """
    own = features[readable]
    _, values, turn = np.linalg.svd(own.T @ own, hermitian=True)
    kept = turn[: min(directions, int((values > 1e-9 * values.max(initial=1e-9)).sum()))]
    placed = features @ kept.T / np.sqrt(max(len(own), 1))
    items = np.column_stack([np.full(len(features), _CONSTANT), placed]).astype(np.float32)
    catalogue = items[readable]
    ridge = max(float(np.square(catalogue).mean()), 1e-6)
    rows = np.full(len(features), -1, dtype=np.int32)
    rows[readable] = np.arange(len(readable))
    return ProfilePart("profile", FoldIn(catalogue, _config(items.shape[1], unobserved_weight, ridge)), rows, items)


def _config(dimension: int, unobserved_weight: float, ridge: float, exponent: float = 0.0) -> FactorizationConfig:
    return FactorizationConfig(
        dimension=dimension,
        unobserved_weight=unobserved_weight,
        regularization=ridge,
        regularization_exponent=exponent,
    )
