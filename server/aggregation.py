"""The aggregator's solve: sums of the platforms' statistics in, new item parameters out. numpy only.

Without privacy the sums are those that pooled training computes, so the result is pooled training's to float error,
however the users are spread (mechanism.md, "One round without privacy").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.config.model import FactorizationConfig
from common.exchange import Arrays
from common.linalg import pack_symmetric, packed_size, scaled_ridge, solve_posdef, unpack_symmetric
from server.state import FederationState

# Items solved at a time: bounds the unpacked d × d systems to tens of megabytes.
_BLOCK = 2048


class StatisticsSum:
    """Σ_p A_i, Σ_p b_i and the platforms' G_p, folded in one contribution at a time.

    Args:
        n_items: m.
        row: length of an item's parameters.
    """

    def __init__(self, n_items: int, row: int) -> None:
        self._gram = np.zeros((n_items, packed_size(row)))
        self._rhs = np.zeros((n_items, row))
        self._user_grams: list[NDArray[np.float64]] = []
        self._catalogues: list[NDArray[np.int32]] = []

    def add(self, positions: NDArray[np.int32], statistics: Arrays) -> None:
        """Add one platform's ``statistics`` for the items at ``positions`` (int32 ``[m_p]``, unique)."""
        self._gram[positions] += statistics["gram"]
        self._rhs[positions] += statistics["rhs"]
        self._user_grams.append(pack_symmetric(statistics["user_gram"]))
        self._catalogues.append(positions)

    def solve(
        self,
        previous: NDArray[np.float32],
        config: FactorizationConfig,
        *,
        item_counts: NDArray[np.float64],
        user_counts: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """v_i = (Σ_p A_i + α₀ Σ_{p: i∈C_p} G_p + λ_i I)⁻¹ Σ_p b_i for every item that somebody reported.

        Args:
            previous: float32 ``[m, row]``; kept for items that no contribution covers (their platform failed).
            config: α₀, λ and ν.
            item_counts: float64 ``[m]`` n_i, for the frequency-scaled λ_i.
            user_counts: float64, |U_p| of each contribution in the order of :meth:`add`, for the same.

        Returns:
            float32 ``[m, row]``.
        """
        members = np.zeros((len(self._rhs), len(self._catalogues)), dtype=bool)
        for column, positions in enumerate(self._catalogues):
            members[positions, column] = True
        covered = np.flatnonzero(members.any(axis=1))
        ridge = _item_ridge(config, item_counts, members @ user_counts)
        grams = np.asarray(self._user_grams)
        row = self._rhs.shape[1]
        solved = previous.copy()
        for start in range(0, len(covered), _BLOCK):
            items = covered[start : start + _BLOCK]
            packed = self._gram[items]
            if config.feedback == "implicit":
                packed = packed + config.unobserved_weight * (members[items] @ grams)
            systems = unpack_symmetric(packed, row)
            systems[:, np.arange(row), np.arange(row)] += ridge[items, None]
            solved[items] = solve_posdef(systems, self._rhs[items])
        return solved


def item_penalty(state: FederationState, config: FactorizationConfig) -> float:
    """Σ_i λ_i ‖v_i‖² at the parameters of ``state``: the part of the objective that only the aggregator can add."""
    users_per_item = np.zeros(len(state.vocabulary))
    for name, positions in state.vocabulary.owners.items():
        users_per_item[positions] += state.user_counts.get(name, 0.0)
    ridge = _item_ridge(config, state.item_counts, users_per_item)
    return float(np.sum(ridge * np.square(state.item_parameters, dtype=np.float64).sum(axis=1)))


def _item_ridge(
    config: FactorizationConfig, item_counts: NDArray[np.float64], users_per_item: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64 ``[m]``: λ_i = λ (n_i + α₀ N_i)^ν, N_i the users of the platforms that have item i."""
    weights = item_counts + config.unobserved_weight * users_per_item
    return scaled_ridge(config.item_regularization or config.regularization, weights, config.regularization_exponent)
