"""Local and pooled training: alternate until the configured number of sweeps is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.training.als import rating_sum_and_count
from client.training.factory import make_trainer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix
    from client.training.trainer import Anchor, Trainer
    from common.config.model import FactorizationConfig


@dataclass(frozen=True, eq=False)
class FittedFactors:
    """The result of training.

    Attributes:
        user_factors: float32 ``[n, p]``, solved from the item factors beside them.
        item_factors: float32 ``[m, p]``.
        objective: the full objective after each sweep; empty unless asked for.
    """

    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    objective: tuple[float, ...] = ()


def sweep(
    trainer: Trainer,
    matrix: UserItemMatrix,
    item_factors: NDArray[np.float32],
    user_factors: NDArray[np.float32] | None = None,
    anchor: Anchor | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One iteration: users from items, then items from users, both warm-started from what is passed in.

    Returns:
        User factors and the item factors solved from them.
    """
    users = trainer.solve_users(matrix, item_factors, user_factors)
    return users, trainer.solve_items(matrix, users, item_factors, anchor)


def fit(
    matrix: UserItemMatrix,
    config: FactorizationConfig,
    rng: np.random.Generator,
    *,
    trainer: Trainer | None = None,
    item_factors: NDArray[np.float32] | None = None,
    anchor: Anchor | None = None,
    track_objective: bool = False,
) -> FittedFactors:
    """Train on one matrix for ``config.iterations`` sweeps, then solve the users once more from the final items.

    Args:
        matrix: n users × m items.
        config: the hyperparameters.
        rng: draws the first item factors; not used where ``item_factors`` is given.
        trainer: instead of the one that ``config`` describes (its transposed matrix is reused between calls).
        item_factors: float32 ``[m, p]`` to start from.
        anchor: prior means of the item factors.
        track_objective: compute the full objective after each sweep, before the users' last solve.
    """
    if trainer is None:
        total, count = rating_sum_and_count(matrix)
        trainer = make_trainer(config, global_mean=total / max(count, 1))
    items = trainer.first_item_factors(matrix.n_items, rng) if item_factors is None else item_factors
    users: NDArray[np.float32] | None = None
    history: list[float] = []
    for _ in range(config.iterations):
        users, items = sweep(trainer, matrix, items, users, anchor)
        if track_objective:
            history.append(trainer.objective(matrix, users, items) + trainer.item_penalty(matrix, items, anchor))
    return FittedFactors(trainer.solve_users(matrix, items, users), items, tuple(history))
