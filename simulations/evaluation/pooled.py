"""Training with everybody's data in one place: what a federation without privacy must equal, and what it cannot do.

Catalogues are respected: for a user of platform p only p's items count as unobserved. So the result is the federation's
to float error, reached without messages; tuning runs, ceilings and the pooled baseline are trained this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.dataset import UserItemMatrix
from client.data.training import TrainingData
from client.training.als import rating_sum_and_count
from client.training.factory import make_trainer
from common.catalogue import FederationSecret, Vocabulary
from common.config.federation import FederationPlan
from server.aggregation.factors import StatisticsSum
from server.federation.state import FederationState, fresh_state, with_vocabulary


@dataclass(frozen=True, eq=False)
class PlatformMatrix:
    """Holds what one platform puts into the pool: n users × m_p items, and the items' keys."""

    keys: tuple[str, ...]
    matrix: UserItemMatrix

    @classmethod
    def of(cls, training: TrainingData) -> PlatformMatrix:
        """The shared items of a platform and its training interactions with them."""
        columns = training.shared_columns
        return cls(tuple(training.items.keys[column] for column in columns), training.train.select_items(columns))


def train_pooled(pool: Mapping[str, PlatformMatrix], plan: FederationPlan, secret: FederationSecret) -> FederationState:
    """Alternate over all platforms' users for ``plan.rounds`` sweeps.

    Args:
        pool: by platform name.
        plan: model, rounds and seed; it must be without privacy (:func:`without_privacy`).
        secret: fixes the order of the vocabulary, and with it the initial factors.
    """
    vocabulary = Vocabulary.empty().extended({name: secret.digests(part.keys) for name, part in pool.items()})
    state = with_vocabulary(fresh_state("pooled", plan.row), vocabulary, plan)
    counts, users, mean = _totals(pool, vocabulary)
    if plan.model.feedback == "implicit":
        mean = 0.0
    parameters = state.item_parameters
    trainers = {name: make_trainer(plan.model, global_mean=mean) for name in vocabulary.owners}
    for _ in range(plan.rounds):
        total = StatisticsSum(len(vocabulary), plan.row)
        for name, positions in vocabulary.owners.items():
            trainer, matrix = trainers[name], pool[name].matrix
            start = np.zeros((matrix.n_users, trainer.width), dtype=np.float32)
            factors = trainer.solve_users(matrix, parameters[positions], start)
            statistics = trainer.item_statistics(matrix, factors)
            total.add(
                positions,
                {"gram": statistics.gram_packed, "rhs": statistics.rhs, "user_gram": statistics.user_gram},
            )
        user_counts = np.array([users[name] for name in vocabulary.owners])
        parameters = total.solve(parameters, plan.model, item_counts=counts, user_counts=user_counts)
    return replace(
        state,
        server_round=plan.rounds,
        item_parameters=parameters,
        item_counts=counts,
        user_counts=users,
        value_mean=mean,
    )


def without_privacy(plan: FederationPlan, *, rounds: int | None = None) -> FederationPlan:
    """The plan as it would be with nothing to protect: its own model and rounds."""
    privacy = plan.privacy.model_copy(update={"mode": "none"})
    return plan.model_copy(update={"privacy": privacy, "rounds": rounds or plan.rounds})


def _totals(
    pool: Mapping[str, PlatformMatrix], vocabulary: Vocabulary
) -> tuple[NDArray[np.float64], dict[str, float], float]:
    """Item counts over the vocabulary, users by platform, mean value."""
    counts = np.zeros(len(vocabulary))
    values = interactions = 0.0
    for name, positions in vocabulary.owners.items():
        counts[positions] += pool[name].matrix.item_counts()
        total, number = rating_sum_and_count(pool[name].matrix)
        values, interactions = values + total, interactions + number
    users = {name: float(pool[name].matrix.n_users) for name in vocabulary.owners}
    return counts, users, values / interactions if interactions else 0.0
