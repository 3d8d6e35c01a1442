"""The item-item model between platforms: ridge regression from shared items to the items that a platform lacks."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.config.base import FrozenModel
from common.errors import ConfigError


class EasePrivacy(FrozenModel):
    """How the item-item statistics are released under user-level privacy; one release a run."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Of the run's budget (of μ²) that the statistics take; the factorisation keeps the rest."""
    history_norm: Annotated[float, Field(gt=0)] = 1.0
    """c: largest L2 norm of a user's weighted history x; x xᵀ then has Frobenius norm c², the sensitivity."""
    kept_items: Annotated[int, Field(ge=1)] = 1000
    """Only that many items, the first by released count in each group of owners: noise is added to each pair."""
    regularization: Annotated[float, Field(gt=0)] = 100.0
    """λ under privacy, where histories have norm c and the noise has a spectrum of its own."""


class EaseConfig(FrozenModel):
    """EASE^R (Steck 2019, "Embarrassingly shallow autoencoders") restricted to the columns that two platforms share.

    Statistics are k(k + 1)/2 numbers for k items and the solve takes k³/3 multiplications, so k is limited.
    """

    regularization: Annotated[float, Field(gt=0)] = 300.0
    """λ, in units of weighted users; with ``user_weighting`` 0.25 a tenth of it does as well."""
    user_weighting: Annotated[float, Field(ge=0, le=1)] = 0.0
    """a: a user's history of n items counts n^−a for each, so that long histories do not outvote short ones."""
    max_items: Annotated[int, Field(ge=1, le=20_000)] = 6000
    """Most items k whose statistics are gathered; 6,000 are 144 MB a platform and about 1 GB in the solve. A federation
    with more, and without ``kept_items``, is refused at the handshake."""
    kept_items: Annotated[int, Field(ge=1)] | None = None
    """Only so many items, the first by released count in each group of owners; all unless given.
    ``mode: none`` only."""
    privacy: EasePrivacy = EasePrivacy()
    """The release of the statistics under ``mode: user``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kept_items is not None and self.kept_items > self.max_items:
            raise ValueError(f"kept_items: {self.kept_items} items are above max_items = {self.max_items}")
        return self

    def check_size(self, n_items: int, *, private: bool, of: str = "the vocabulary") -> None:
        """Refuse more items than can be gathered.

        Args:
            n_items: of the whole vocabulary, or of one platform, which can only be fewer.
            private: whether the run is under user-level privacy, where items are pruned in any case.
            of: whose items they are, for the message.

        Raises:
            ConfigError: names the limit and the mend.
        """
        if not private and self.kept_items is None and n_items > self.max_items:
            raise ConfigError(
                f"linear: {of} has {n_items} items, more than linear.max_items = {self.max_items}; set "
                "linear.kept_items to prune rare ones, or raise linear.max_items"
            )

    def private_items(self, n_items: int) -> int:
        """How many items are kept under user-level privacy, of a vocabulary of ``n_items``."""
        return min(self.privacy.kept_items, self.max_items, n_items)

    def columns(
        self, item_counts: NDArray[np.floating], owners: NDArray[np.bool_], *, private: bool
    ) -> NDArray[np.int64]:
        """The vocabulary positions whose statistics are gathered, rising; the same on every platform and the aggregator.

        Items are taken in turn from each group of items with the same owners, most counted first: ranked all together,
        the items that only a small platform has would fall out, which are those that others can learn of.

        Args:
            item_counts: float ``[m]``; counts that were released, never a platform's own.
            owners: bool ``[m, P]``; who shares which item.
            private: whether the run is under user-level privacy.

        Returns:
            int64 ``[k]``, k ≤ ``max_items``. Of items with equal counts the earlier are kept.

        Raises:
            ConfigError: the whole vocabulary would be taken and is larger than ``max_items``.
        """
        self.check_size(len(item_counts), private=private)
        kept = self.private_items(len(item_counts)) if private else self.kept_items
        if kept is None:
            return np.arange(len(item_counts), dtype=np.int64)
        _, group = np.unique(owners, axis=0, return_inverse=True)
        by_count = np.lexsort((-np.asarray(item_counts, dtype=np.float64), group.ravel()))
        starts = np.cumsum(np.bincount(group.ravel())) - np.bincount(group.ravel())
        turn = np.empty(len(item_counts), dtype=np.int64)
        turn[by_count] = np.arange(len(item_counts)) - starts[group.ravel()[by_count]]
        return np.sort(np.argsort(turn, kind="stable")[:kept]).astype(np.int64)
