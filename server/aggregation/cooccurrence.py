"""The item-item model at the aggregator: platforms' item-item statistics in, every platform's weights out.

Where each platform's statistics are seen by themselves, exact or with all of their noise, the weights for an item are
learned on the platforms that have it (:mod:`server.aggregation.ease`). Of masked statistics only the total is seen:

    G_ij = Σ_p G_p,ij   over the platforms p that have both i and j.

It is apportioned to them by their numbers of users, G_p,ij ≈ G_ij·N_p / Σ_q N_q with q over the same platforms, as if tastes
were alike everywhere. The right-hand side of a target j is exact all the same: its owners' shares add up to 1, so that
absence is still no dislike. What is approximate is how the inputs go together among the users of these owners.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.config.federation import FederationPlan
from common.contributions.cooccurrence import COOCCURRENCE, USERS, users_from
from common.contributions.cooccurrence_kind import EASE_INPUTS, EASE_TARGETS, EASE_WEIGHTS, ease_config
from common.contributions.run_plan import RunPlan
from common.linalg import pack_symmetric
from common.wire.exchange import Arrays
from server.aggregation.ease import ItemStatistics, transfer_weights
from server.aggregation.phase import Phase, Question, Step
from server.federation.collect import Contribution
from server.federation.state import FederationState, TransferWeights


class CooccurrencePhase(Phase):
    """Gathers which items go together, once, and solves for the weights of every platform."""

    record = "linear"

    def check_vocabulary(self, n_items: int) -> None:
        ease_config(self.plan).check_size(n_items, private=self.plan.private)

    def due(self, state: FederationState, present: Collection[str]) -> bool:
        return state.linear is None

    def question(self, state: FederationState) -> Question:
        return Question(server_round=0, arrays={"item_counts": state.item_counts})

    def solve(self, state: FederationState, contributions: Iterable[Contribution]) -> Step:
        weights, platforms = aggregate_cooccurrence(self.plan, state, contributions)
        return Step(state=replace(state, linear=weights), platforms=platforms)

    def did(self, question: Question) -> str:
        return "sent their item-item statistics"

    def final_for(self, state: FederationState, platform: str) -> Arrays:
        return {} if state.linear is None else ease_answer(state.linear[platform])


def aggregate_cooccurrence(
    plan: FederationPlan, state: FederationState, contributions: Iterable[Contribution]
) -> tuple[dict[str, TransferWeights], tuple[str, ...]]:
    """Each platform's weights by name, and who contributed. A platform that did not gets weights all the same.

    Raises:
        ConfigError: for want of regularisation a system is not positive definite.
    """
    config = ease_config(plan)
    statistics: dict[str, ItemStatistics] = {}
    platforms: set[str] = set()
    for part in contributions:
        platforms.update(part.platforms)
        if COOCCURRENCE in part.arrays:
            statistics |= _statistics(plan, state, part)
    owners = state.vocabulary.owners
    weights = {name: transfer_weights(statistics, owners, name, config) for name in owners}
    return weights, tuple(sorted(platforms))


def ease_answer(weights: TransferWeights) -> Arrays:
    """The arrays that a platform gets with the finish."""
    return {EASE_INPUTS: weights.inputs, EASE_TARGETS: weights.targets, EASE_WEIGHTS: weights.weights}


def _statistics(plan: FederationPlan, state: FederationState, part: Contribution) -> dict[str, ItemStatistics]:
    """Return what a contribution says of each platform's users."""
    config = ease_config(plan)
    ownership = state.vocabulary.ownership()
    kept = config.columns(state.item_counts, ownership, private=plan.private)
    packed = part.arrays[COOCCURRENCE]
    if USERS in part.arrays:
        noise = RunPlan.of(plan).item_item_noise()
        total = ItemStatistics.released(kept, packed, noise.grid_step)
        users = users_from(part.arrays[USERS], config, noise.grid_step)
        return apportioned(total, ownership[kept], dict(zip(sorted(state.vocabulary.owners), users, strict=True)))
    (name,) = part.platforms
    columns = kept[np.isin(kept, part.positions)]
    if plan.private:
        return {name: ItemStatistics.released(columns, packed, RunPlan.of(plan).item_item_noise().grid_step)}
    return {name: ItemStatistics(columns, packed)}


def apportioned(
    total: ItemStatistics, owners: NDArray[np.bool_], users: Mapping[str, float]
) -> dict[str, ItemStatistics]:
    """The sums of all platforms, divided among those that have both items of a pair by their numbers of users.

    Args:
        total: over k items.
        owners: bool ``[k, P]``: which platform has which of them, in order of name.
        users: by platform, above 0; in the same order.
    """
    present = owners.astype(np.float64)
    # Users of the platforms that have both; a pair that nobody has holds noise, and goes to nobody.
    together = (present * np.array(list(users.values()))) @ present.T
    shares = total.block(total.columns, total.columns) / np.maximum(together, 1.0)
    apportioned = {}
    for column, (name, number) in enumerate(users.items()):
        own = np.flatnonzero(owners[:, column])
        packed = pack_symmetric(shares[np.ix_(own, own)] * number)
        apportioned[name] = ItemStatistics(total.columns[own], packed, noisy=total.noisy)
    return apportioned
