"""Solves the item-item model: from every platform's item-item sums to one platform's weights for the items it lacks.

For a receiver q and a target item j that q lacks, ridge regression of "has j" on the items of q, over the users of the
platforms that have j:

    B_Sj = (Σ_p G_p[S, S] + λI)⁻¹ Σ_p G_p[S, j],   p over the owners of j,   S = C_q ∩ ⋃_p C_p,

G_p being Σ_u x_u x_uᵀ of platform p (EASE^R of Steck 2019, restricted to the columns at hand). A platform that lacks j is
left out of *both* sums: its users had no way to have j, and their absence is not dislike. So targets are grouped by their
owners, of which there are few patterns, and each pattern is one Cholesky factorisation of at most |C_q|.

The aggregator solves, and sends each platform its B: |S|·|targets| numbers in place of those and the triangle of S for
every pattern, and the λ of all is the federation's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from common.config.ease import EaseConfig
from common.errors import ConfigError, ContractError
from common.linalg import packed_size
from server.federation.state import TransferWeights

_ROWS = 256


@dataclass(frozen=True, eq=False)
class ItemStatistics:
    """One platform's item-item sums.

    Attributes:
        columns: int64 ``[k]``; vocabulary positions of its kept items, rising.
        packed: float64 ``[k(k + 1)/2]``; upper triangle of Σ_u x_u x_uᵀ, row by row.
        noisy: whether noise was added: the sums then need not be positive semidefinite.
    """

    columns: NDArray[np.int64]
    packed: NDArray[np.float64]
    noisy: bool = False

    def __post_init__(self) -> None:
        if self.packed.shape != (packed_size(len(self.columns)),):
            raise ContractError(
                f"cooccurrence: {len(self.columns)} items have {packed_size(len(self.columns))} pairs, not "
                f"{self.packed.shape}; the platform and the aggregator disagree about which items are kept"
            )
        if (np.diff(self.columns) <= 0).any():
            raise ContractError("cooccurrence: columns must rise")
        if not np.isfinite(self.packed).all():
            raise ContractError("cooccurrence: must be finite")

    @classmethod
    def released(cls, columns: NDArray[np.int64], steps: NDArray[np.int64], grid_step: float) -> ItemStatistics:
        """Return what :class:`~common.contributions.cooccurrence.CooccurrenceMechanism` released, in exact units."""
        packed = np.asarray(steps, dtype=np.float64) * (grid_step / math.sqrt(2))
        k = len(columns)
        rows = np.arange(k, dtype=np.int64)
        if packed.shape == (packed_size(k),):
            packed[_place(rows, rows, k)] *= math.sqrt(2)
        return cls(columns, packed, noisy=True)

    def block(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Float64 ``[r, c]``: the sums of vocabulary positions ``rows`` × ``columns``; 0 where the platform has not both."""
        k = len(self.columns)
        result = np.zeros((len(rows), len(columns)))
        row_at, own_rows = _known(self.columns, rows)
        column_at, own_columns = _known(self.columns, columns)
        for start in range(0, len(own_rows), _ROWS):
            part = slice(start, start + _ROWS)
            places = _place(own_rows[part, None], own_columns[None, :], k)
            result[np.ix_(row_at[part], column_at)] = self.packed[places]
        return result


def transfer_weights(
    statistics: Mapping[str, ItemStatistics],
    owners: Mapping[str, NDArray[np.integer]],
    receiver: str,
    config: EaseConfig,
) -> TransferWeights:
    """B for ``receiver`` from what the other platforms released; its own statistics are not looked at.

    Args:
        statistics: by name, of the platforms that contributed; the receiver need not be one.
        owners: by name, vocabulary positions of the items that each platform shares.
        receiver: a name of ``owners``.
        config: λ and the limit on sizes.

    Raises:
        ConfigError: a system is too large or, for want of regularisation, not positive definite.
    """
    others = {name: part for name, part in sorted(statistics.items()) if name != receiver}
    own = np.unique(np.asarray(owners[receiver], dtype=np.int64))
    if not others:
        return TransferWeights(own[:0], own[:0], np.zeros((0, 0), dtype=np.float32))
    gathered = np.unique(np.concatenate([part.columns for part in others.values()]))
    inputs, targets = np.intersect1d(gathered, own), np.setdiff1d(gathered, own)
    if len(inputs) > config.max_items:
        raise ConfigError(
            f"linear: {receiver} has {len(inputs)} items in common with others, more than linear.max_items = "
            f"{config.max_items}; set linear.kept_items to prune rare ones"
        )
    weights = np.zeros((len(inputs), len(targets)), dtype=np.float32)
    has = np.stack([np.isin(targets, part.columns) for part in others.values()])
    patterns, pattern_of = np.unique(has, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        chosen = [part for part, taking_part in zip(others.values(), pattern, strict=True) if taking_part]
        at = np.flatnonzero(pattern_of.ravel() == number)
        usable = np.isin(inputs, np.concatenate([part.columns for part in chosen]))
        if usable.any():
            weights[np.ix_(usable, at)] = _solve(chosen, inputs[usable], targets[at], config)
    return TransferWeights(inputs, targets, weights)


def _solve(
    parts: list[ItemStatistics], inputs: NDArray[np.int64], targets: NDArray[np.int64], config: EaseConfig
) -> NDArray[np.float64]:
    """Float64 ``[s, t]``: (Σ G[S, S] + λI)⁻¹ Σ G[S, T] over ``parts``."""
    system = np.sum([part.block(inputs, inputs) for part in parts], axis=0)
    right = np.sum([part.block(inputs, targets) for part in parts], axis=0)
    ridge = config.regularization
    if any(part.noisy for part in parts):
        # What noise leaves of the spectrum below zero would turn the regression round.
        values, vectors = scipy.linalg.eigh(system)
        return np.asarray((vectors / (np.maximum(values, 0.0) + config.privacy.regularization)) @ (vectors.T @ right))
    system[np.diag_indices_from(system)] += ridge
    try:
        return np.asarray(scipy.linalg.cho_solve(scipy.linalg.cho_factor(system, lower=True), right))
    except scipy.linalg.LinAlgError as error:
        raise ConfigError(
            "linear.regularization: the item-item sums are not positive definite; raise it, or look for a platform whose "
            "sums no users can have"
        ) from error


def _known(columns: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of ``wanted`` are among the rising ``columns``: their places in ``wanted``, and those in ``columns``."""
    if len(columns) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    place = np.searchsorted(columns, wanted).clip(max=len(columns) - 1)
    found = np.flatnonzero(columns[place] == wanted)
    return found.astype(np.int64), place[found].astype(np.int64)


def _place(rows: NDArray[np.int64], columns: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Where (row, column) of a k × k matrix stands in its packed upper triangle."""
    low, high = np.minimum(rows, columns), np.maximum(rows, columns)
    return np.asarray(low * k - low * (low - 1) // 2 + high - low)
