"""The item-item model of each simulated platform, without a federation that sends the messages; exact sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from client.contributions.cooccurrence import CooccurrenceMaker
from client.scoring.ease import EasePart
from common.config.ease import EaseConfig
from common.contributions.cooccurrence import COOCCURRENCE
from server.aggregation.ease import ItemStatistics, transfer_weights
from server.federation.state import FederationState, TransferWeights
from simulations.engine.datasets import SimulatedPlatform


def item_statistics(
    platforms: Sequence[SimulatedPlatform], state: FederationState, config: EaseConfig
) -> dict[str, ItemStatistics]:
    """Return what each platform would send, by name, over the vocabulary of ``state``."""
    ownership, statistics = state.vocabulary.ownership(), {}
    for platform in platforms:
        contributor, positions = CooccurrenceMaker(config, platform.training), state.vocabulary.owners[platform.name]
        sent = contributor.cooccurrence(state.item_counts, ownership, positions)
        columns = contributor.columns(state.item_counts, ownership, positions)
        statistics[platform.name] = ItemStatistics(columns, sent.arrays[COOCCURRENCE].astype(np.float64))
    return statistics


def ease_of(
    platform: str, statistics: Mapping[str, ItemStatistics], state: FederationState, config: EaseConfig
) -> EasePart | None:
    """Return what the aggregator would send to ``platform``; None where nothing points to any item."""
    return scorer_of(transfer_weights(statistics, state.vocabulary.owners, platform, config), len(state.vocabulary))


def scorer_of(weights: TransferWeights, n_items: int) -> EasePart | None:
    """Weights between the ``n_items`` of the vocabulary as a platform takes them."""
    if not weights.weights.size:
        return None
    return EasePart(weights.inputs, weights.targets, weights.weights, np.arange(n_items))
