"""The aggregator's solve under user-level privacy: noisy sums in, item factors out. All of it is post-processing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.contributions.run_plan import RunPlan
from common.privacy.postprocess import (
    ReleasedSums,
    from_grid,
    item_factors,
    item_weights,
    normalised_factors,
    project_psd,
    unpack_gram,
)
from common.wire.exchange import Arrays
from server.aggregation.factors import Aggregation, ExactAggregation, Solved, ownership
from server.aggregation.leave_out import KeptParts, counts_of_others, lacks_items
from server.federation.collect import Contribution
from server.federation.state import FederationState

ALL_USERS = "all platforms"
"""Key of the number of users where only the sum over platforms is known."""


SolveItems = Callable[..., NDArray[np.float64]]


class SharedGramAggregation:
    """Item factors from released counts, item vectors and Gram matrices ("shared Gram"; see ``common.privacy.postprocess``).

    Args:
        plan: noise and factorisation.
        solve: makes item factors of released sums.
    """

    def __init__(self, plan: FederationPlan, *, solve: SolveItems = item_factors) -> None:
        self._plan = plan
        self._item_factors = solve
        self._releases = RunPlan.of(plan).release_plan()
        self._features: NDArray[np.float64] | None = None

    def describe(self, features: NDArray[np.float64]) -> None:
        """Items that have an attribute in common lend each other what noise hides of either."""
        self._features = features if features.shape[1] else None

    def count(self, state: FederationState, contributions: Iterable[Contribution]) -> FederationState:
        step = self._releases.counts.grid_step
        total = np.zeros(len(state.vocabulary))
        users: dict[str, float] = {}
        for part in contributions:
            if "counts" not in part.arrays:
                continue
            counts = from_grid(part.arrays["counts"], step)
            total[part.positions] += counts[:-1]
            users[part.platforms[0] if len(part.platforms) == 1 else ALL_USERS] = max(float(counts[-1]), 1.0)
        item_counts = np.maximum(total, 1.0)
        return replace(
            state,
            item_counts=item_counts,
            user_counts=users,
            item_parameters=self._first_factors(state, item_counts),
        )

    def counts_of(self, arrays: Arrays) -> NDArray[np.float64]:
        return from_grid(arrays["counts"], self._releases.counts.grid_step)[:-1]

    def _first_factors(self, state: FederationState, item_counts: NDArray[np.float64]) -> NDArray[np.float32]:
        """The random factors of the kept items, on the scale in which the users' ridge is meant."""
        mechanism = self._releases.parameters
        weights = item_weights(
            item_counts, kept_items=mechanism.kept_items, popularity_exponent=mechanism.popularity_exponent
        )
        kept = state.item_parameters * (weights > 0)[:, None]
        return normalised_factors(kept.astype(np.float64)).astype(np.float32)

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Solved:
        noise = self._releases.rounds[state.server_round]
        n_items, row = len(state.vocabulary), self._plan.row
        vectors, shares = np.zeros((n_items, row)), np.zeros(n_items)
        item_grams = None if noise.item_grams is None else np.zeros((n_items, row, row))
        grams: dict[str, NDArray[np.float64]] = {}
        platforms: set[str] = set()
        kept = KeptParts()
        for part in kept.passing(contributions):
            platforms.update(part.platforms)
            if "item_vectors" in part.arrays:
                vectors[part.positions] += from_grid(part.arrays["item_vectors"], noise.item_vectors.grid_step)
                shares[part.positions] += len(part.platforms)
            if item_grams is not None and noise.item_grams is not None and "item_grams" in part.arrays:
                triangles = from_grid(part.arrays["item_grams"], noise.item_grams.grid_step)
                item_grams[part.positions] += unpack_gram(triangles, row)
            if "user_gram" in part.arrays:
                packed = from_grid(part.arrays["user_gram"], noise.user_gram.grid_step)
                grams[part.platforms[0]] = project_psd(unpack_gram(packed, row))
        if not platforms:
            return Solved(item_parameters=state.item_parameters, platforms=(), objective=None, recall=None)
        # An item carries the noise of the platforms that sent it; one that nobody sent this time stays as it was.
        sigma = noise.item_vectors.actual_sigma(1) * np.sqrt(np.maximum(shares, 1.0))
        released = self._released(state, vectors, sigma, grams, item_grams)
        # Noise may have left no Gram matrix a positive eigenvalue: such a round tells nothing of the users.
        told = released.user_gram.any()
        factors = self._item_factors(released, self._plan.setting, self._features) if told else state.item_parameters
        return Solved(
            item_parameters=np.where(shares[:, None] > 0, factors, state.item_parameters).astype(np.float32),
            platforms=tuple(sorted(platforms)),
            objective=None,
            recall=None,
            without=lambda: self._without(state, released, shares, grams, kept.by_platform) if told else {},
        )

    def _without(
        self,
        state: FederationState,
        everything: ReleasedSums,
        shares: NDArray[np.float64],
        grams: dict[str, NDArray[np.float64]],
        parts: Mapping[str, Contribution],
    ) -> dict[str, NDArray[np.float32]]:
        """Each platform's items from what the others released; weights, scale and features are those of everybody."""
        noise, solved = self._releases.rounds[state.server_round], {}
        others_counts = counts_of_others(state)
        if others_counts is None:
            return {}
        for name, part in parts.items():
            if not lacks_items(part, len(state.vocabulary)):
                continue
            others = {other: gram for other, gram in grams.items() if other != name}
            if not any(gram.any() for gram in others.values()):
                return {}
            vectors, left = everything.item_vectors.copy(), shares.copy()
            vectors[part.positions] -= from_grid(part.arrays["item_vectors"], noise.item_vectors.grid_step)
            left[part.positions] -= 1
            item_grams = None if everything.item_grams is None else everything.item_grams.copy()
            if item_grams is not None and noise.item_grams is not None:
                own = from_grid(part.arrays["item_grams"], noise.item_grams.grid_step)
                item_grams[part.positions] -= unpack_gram(own, self._plan.row)
            sigma = noise.item_vectors.actual_sigma(1) * np.sqrt(np.maximum(left, 1.0))
            users = {other: number for other, number in state.user_counts.items() if other != name}
            seen = replace(state, item_counts=np.maximum(others_counts(name), 1.0), user_counts=users)
            released = self._released(seen, vectors, sigma, others, item_grams)
            factors = self._item_factors(released, self._plan.setting, self._features, beside=everything)
            solved[name] = np.where(left[:, None] > 0, factors, 0.0)[part.positions].astype(np.float32)
        return solved

    def _released(
        self,
        state: FederationState,
        vectors: NDArray[np.float64],
        sigma: NDArray[np.float64],
        grams: dict[str, NDArray[np.float64]],
        item_grams: NDArray[np.float64] | None,
    ) -> ReleasedSums:
        stacked = np.stack(list(grams.values()))
        members = ownership([state.vocabulary.owners[name] for name in grams], len(vectors))
        return ReleasedSums(
            counts=state.item_counts,
            users=sum(state.user_counts.values()),
            item_vectors=vectors,
            item_sigma=sigma,
            user_gram=stacked.sum(axis=0),
            catalogue_gram=np.tensordot(members.astype(np.float64), stacked, axes=1),
            item_grams=item_grams,
        )


def make_aggregation(plan: FederationPlan) -> Aggregation:
    """Exact, or for noisy sums, as the plan says."""
    return SharedGramAggregation(plan) if plan.private else ExactAggregation(plan)
