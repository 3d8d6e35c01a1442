"""The aggregator's solve: sums of the platforms' statistics in, new item parameters out. numpy only.

Without privacy the sums are those that pooled training computes, so the result is pooled training's to float error,
however the users are spread (mechanism.md, "One round without privacy").
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.config.model import FactorizationConfig
from common.linalg import pack_symmetric, packed_size, scaled_ridge, solve_posdef, unpack_symmetric
from common.wire.exchange import Arrays
from server.aggregation.leave_out import MOST_BYTES, KeptParts, counts_of_others, lacks_items
from server.federation.collect import Contribution
from server.federation.state import FederationState

_SUM_BLOCK = 64
"""Items whose sums are added to at a time."""
_SOLVE_BLOCK = 128
"""Items that are solved at a time: their systems stay in the cache."""
_BLOCK = 2048
"""Items whose packed sums are put together at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Solved:
    """Holds what a round's contributions came to.

    Attributes:
        item_parameters: float32 ``[m, row]``.
        platforms: who contributed.
        objective: at the parameters that the round started from; None where privacy forbids to know it.
        recall: mean validation Recall@20, or None as above.
        without: by platform, float32 ``[m_p, row]``: the new parameters of its items as the others' contributions alone make
            them; nothing where parts are not seen. A call, for few rounds need it.
    """

    item_parameters: NDArray[np.float32]
    platforms: tuple[str, ...]
    objective: float | None
    recall: float | None
    without: Callable[[], Mapping[str, NDArray[np.float32]]] = dict


class Aggregation(Protocol):
    """Adds up contributions as they come, and solves."""

    def describe(self, features: NDArray[np.float64]) -> None:
        """Take public attributes of the items: 0/1, float64 ``[m, a]``."""

    def count(self, state: FederationState, contributions: Iterable[Contribution]) -> FederationState:
        """``state`` with item counts, user counts and the mean value."""

    def counts_of(self, arrays: Arrays) -> NDArray[np.float64]:
        """float64 ``[m_p]``: item counts of one platform, from its contribution to the counts."""

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Solved:
        """New item parameters from one round's statistics."""


class ExactAggregation:
    """Without privacy: pooled training's own sums.

    Args:
        plan: the factorisation.
        most_bytes: of contributions that are kept until their sum is known; where there are more, no platform is told its
            items' parameters without it.
    """

    def __init__(self, plan: FederationPlan, most_bytes: int = MOST_BYTES) -> None:
        self._plan = plan
        self._most_bytes = most_bytes

    def describe(self, features: NDArray[np.float64]) -> None:
        """Exact sums need no help."""

    def count(self, state: FederationState, contributions: Iterable[Contribution]) -> FederationState:
        counts = np.zeros(len(state.vocabulary))
        users: dict[str, float] = {}
        interactions = values = 0.0
        for part in contributions:
            counts[part.positions] += part.arrays["item_counts"]
            n_users, n_interactions, value_sum = part.arrays["totals"].tolist()
            users[part.platforms[0]] = n_users
            interactions, values = interactions + n_interactions, values + value_sum
        explicit = self._plan.model.feedback == "explicit" and interactions > 0
        mean = values / interactions if explicit else 0.0
        return replace(state, item_counts=counts, user_counts=users, value_mean=mean)

    def counts_of(self, arrays: Arrays) -> NDArray[np.float64]:
        return np.asarray(arrays["item_counts"], dtype=np.float64)

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Solved:
        total, kept = StatisticsSum(len(state.vocabulary), self._plan.row), KeptParts(self._most_bytes)
        objective, recall = 0.0, np.zeros(2)
        platforms: list[str] = []
        for part in kept.passing(contributions):
            total.add(part.positions, part.arrays)
            objective += float(part.arrays["objective"][0])
            recall += part.arrays["evaluation"]
            platforms += part.platforms
        if not platforms:
            return Solved(item_parameters=state.item_parameters, platforms=(), objective=None, recall=None)
        parameters = total.solve(
            state.item_parameters,
            self._plan.training,
            item_counts=state.item_counts,
            user_counts=np.array([state.user_counts.get(name, 0.0) for name in platforms]),
        )
        return Solved(
            item_parameters=parameters,
            platforms=tuple(platforms),
            objective=objective + item_penalty(state, self._plan.training),
            recall=float(recall[0] / recall[1]) if recall[1] else None,
            without=lambda: self._without(state, total, kept.by_platform),
        )

    def _without(
        self, state: FederationState, total: StatisticsSum, parts: Mapping[str, Contribution]
    ) -> dict[str, NDArray[np.float32]]:
        others_counts = counts_of_others(state)
        if others_counts is None or not parts:
            return {}
        users = np.array([state.user_counts.get(name, 0.0) for name in parts])
        numbers = {name: number for number, name in enumerate(parts)}
        told = [name for name, part in parts.items() if lacks_items(part, len(state.vocabulary))]
        without = total.without_each(self._plan.training, user_counts=users)

        def of(name: str) -> NDArray[np.float32]:
            return without(numbers[name], parts[name].arrays, others_counts(name)[parts[name].positions])

        # As much work as the round's own solve, for each platform that lacks little.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return dict(zip(told, pool.map(of, told), strict=True))


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
        for start in range(0, len(positions), _SUM_BLOCK):  # what is added to stays in the cache
            block = slice(start, start + _SUM_BLOCK)
            self._gram[positions[block]] += statistics["gram"][block]
        self._rhs[positions] += statistics["rhs"]
        self._user_grams.append(pack_symmetric(statistics["user_gram"]))
        self._catalogues.append(positions)

    def without_each(
        self, config: FactorizationConfig, *, user_counts: NDArray[np.float64]
    ) -> Callable[[int, Arrays, NDArray[np.float64]], NDArray[np.float32]]:
        """Solve for one contribution's items without it, at a cost that does not rise with the number of the others.

        Args:
            config: as in :meth:`solve`.
            user_counts: as in :meth:`solve`.

        Returns:
            From the contribution's number in the order of :meth:`add`, its statistics and the others' counts of its items
            (float64 ``[m_p]``) to float32 ``[m_p, row]``; 0 for items that nobody else has.
        """
        members = ownership(self._catalogues, len(self._rhs))
        owners, users = members.sum(axis=1), members @ user_counts
        # Whose interactions are missing in the sums is weighed by Σ of the owners' G, taken apart by subtraction.
        grams = members @ np.asarray(self._user_grams)

        def without(index: int, statistics: Arrays, counts: NDArray[np.float64]) -> NDArray[np.float32]:
            positions = self._catalogues[index]
            covered = np.flatnonzero(owners[positions] > 1)
            shared = positions[covered]
            ridge = _item_ridge(config, counts[covered], users[shared] - user_counts[index])
            solved = np.zeros((len(positions), self._rhs.shape[1]), dtype=np.float32)
            for start in range(0, len(covered), _SOLVE_BLOCK):
                some = slice(start, start + _SOLVE_BLOCK)
                own, items = covered[some], shared[some]
                gram = self._gram[items]
                gram -= statistics["gram"][own]
                if config.feedback == "implicit":
                    gram += config.unobserved_weight * (grams[items] - self._user_grams[index])
                solved[own] = _solutions(gram, self._rhs[items] - statistics["rhs"][own], ridge[some])
            return solved

        return without

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
        members = ownership(self._catalogues, len(self._rhs))
        covered = np.flatnonzero(members.any(axis=1))
        ridge = _item_ridge(config, item_counts, members @ user_counts)
        grams = np.asarray(self._user_grams)
        solved = previous.copy()
        for start in range(0, len(covered), _BLOCK):
            items = covered[start : start + _BLOCK]
            packed = self._gram[items]
            if config.feedback == "implicit":
                packed = packed + config.unobserved_weight * (members[items] @ grams)
            solved[items] = _solutions(packed, self._rhs[items], ridge[items])
        return solved


def _solutions(
    packed: NDArray[np.float64], rhs: NDArray[np.float64], ridge: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64 ``[k, row]``: (A_i + λ_i I)⁻¹ b_i, with packed A float64 ``[k, ·]``."""
    row = rhs.shape[1]
    solved = np.empty_like(rhs)
    for start in range(0, len(rhs), _SOLVE_BLOCK):
        some = slice(start, start + _SOLVE_BLOCK)
        systems = unpack_symmetric(packed[some], row)
        systems[:, np.arange(row), np.arange(row)] += ridge[some, None]
        solved[some] = solve_posdef(systems, rhs[some])
    return solved


def ownership(catalogues: list[NDArray[np.int32]], n_items: int) -> NDArray[np.bool_]:
    """Bool ``[m, P]``: which platform has which item."""
    members = np.zeros((n_items, len(catalogues)), dtype=bool)
    for column, positions in enumerate(catalogues):
        members[positions, column] = True
    return members


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
    """float64 ``[m]``: λ_i = λ (n_i + α₀ N_i)^ν, N_i the users of the platforms that have item i.

    Explicit feedback says nothing of unobserved pairs: there λ_i = λ n_i^ν, as on the platforms.
    """
    unobserved = config.unobserved_weight if config.feedback == "implicit" else 0.0
    weights = item_counts + unobserved * users_per_item
    return scaled_ridge(config.item_regularization or config.regularization, weights, config.regularization_exponent)
