"""The anchored local model: a platform's own factorisation that leans on the shared item factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from client.training.als import rating_sum_and_count
from client.training.factory import make_trainer
from client.training.fit import FittedFactors, fit
from client.training.trainer import Anchor
from common.config.model import FactorizationConfig
from common.errors import ContractError
from common.linalg import initial_item_factors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix
    from client.training.trainer import Trainer
    from common.config.model import AnchoredConfig


def fit_anchored(
    matrix: UserItemMatrix,
    shared_item_factors: NDArray[np.float32],
    config: AnchoredConfig,
    rng: np.random.Generator,
    *,
    trainer: Trainer | None = None,
    track_objective: bool = False,
) -> FittedFactors:
    """Train on the platform's own data with the shared item factors as the prior mean of the local ones.

    Args:
        matrix: n users × m items, in the platform's own column order.
        shared_item_factors: float32 ``[m, p]`` in the same order; a zero row where the federation has none.
        config: the hyperparameters; ``config.dimension`` must be that of the shared factors.
        rng: draws the free dimensions' first values.
        trainer: instead of a new :func:`anchored_trainer`.
        track_objective: compute the full objective after each sweep.

    Returns:
        Factors of width p + ``free_dimensions``.

    Raises:
        ContractError: the shared factors have another shape than the matrix and the configuration say.
    """
    anchor, start = anchor_and_start(shared_item_factors, config, rng)
    if len(start) != matrix.n_items:
        raise ContractError(f"shared factors of {len(start)} items do not fit a catalogue of {matrix.n_items}")
    chosen = anchored_trainer(matrix, config) if trainer is None else trainer
    return fit(
        matrix, chosen.config, rng, trainer=chosen, item_factors=start, anchor=anchor, track_objective=track_objective
    )


def anchored_trainer(matrix: UserItemMatrix, config: AnchoredConfig) -> Trainer:
    """The trainer of an anchored model: an ordinary one of dimension d + ``free_dimensions``."""
    own = {name: getattr(config, name) for name in FactorizationConfig.model_fields}
    plain = FactorizationConfig(**{**own, "dimension": config.dimension + config.free_dimensions})
    total, count = rating_sum_and_count(matrix)
    return make_trainer(plain, global_mean=total / max(count, 1))


def anchor_and_start(
    shared_item_factors: NDArray[np.float32], config: AnchoredConfig, rng: np.random.Generator
) -> tuple[Anchor, NDArray[np.float32]]:
    """The anchor of the items, and the factors to start from: the shared ones with random free dimensions.

    The free dimensions go between the shared factor and, for explicit feedback, the item bias, which is anchored too.
    """
    m, width = shared_item_factors.shape
    d, f = config.dimension, config.free_dimensions
    if width != d + (config.feedback == "explicit"):
        raise ContractError(f"shared factors have {width} columns, but model.dimension is {d} ({config.feedback})")
    firmness = config.anchor_regularization / (config.item_regularization or config.regularization)
    shape = np.concatenate([np.full(d, firmness), np.ones(f), np.full(width - d, firmness)])

    def insert(free: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.column_stack([shared_item_factors[:, :d], free, shared_item_factors[:, d:]]).astype(np.float32)

    free = initial_item_factors(m, f, rng, config.init_scale) if f else np.zeros((m, 0), dtype=np.float32)
    return Anchor(insert(np.zeros_like(free)), shape), insert(free)
