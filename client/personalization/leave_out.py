"""Shared factors without what the platform's own users did, reckoned at home from what every platform is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.scoring.factors import FactorModel
from client.training.factory import make_trainer
from common.linalg import unpack_symmetric

if TYPE_CHECKING:
    from client.personalization.cross_parts import CrossParts

_PRIOR_USERS = 20.0
"""How many average users stand beside an item's own in the estimate of what its users on other platforms are like."""
_MOST_UNLIKE = 3.0
"""How many times as long the others' users may be as the own ones, or as short."""


def without_own(shared: FactorModel, data: CrossParts) -> NDArray[np.float32] | None:
    """float32 ``[m, row]``: item parameters, those of common items as the others' users alone would have them.

    v_j = (A_j + A'_j)⁻¹(b_j + b'_j) with A_j, b_j of own users, which are known here, and A'_j, b'_j of the others, which are
    not. A'_j is estimated: as many users as the counts say, of the second moments of own ones. Then b'_j is
    (A_j + A'_j)v_j − b_j, and v'_j = A'_j⁻¹b'_j. What own users did leaves v'_j with b_j; an error of A'_j turns or scales it.
    None where the others' users are so unlike own ones that A'_j cannot be estimated.
    """
    config, row = shared.config, shared.item_parameters.shape[1]
    common = data.own[data.others[data.own]]
    if config.feedback != "implicit" or len(common) == 0:
        return shared.item_parameters
    trainer = make_trainer(config)
    matrix = data.histories.select_items(common)
    catalogue = data.histories.select_items(data.own)
    users = trainer.solve_users(catalogue, shared.item_parameters[data.own])
    own = trainer.item_statistics(matrix, users)
    gram, n_own = own.user_gram, matrix.item_counts().astype(np.float64)
    n_others = np.maximum(data.foreign_counts[common], 0.0)
    users_others = data.foreign_users[common]
    everything = unpack_symmetric(own.gram_packed.sum(axis=0)[None], row)[0] / max(n_own.sum(), 1.0)
    alpha = config.unobserved_weight
    ridge = _ridge(shared, n_own + n_others, matrix.n_users + users_others)
    ridge_others = _ridge(shared, n_others, users_others)
    here = unpack_symmetric(own.gram_packed, row) + alpha * gram
    average = (unpack_symmetric(own.gram_packed, row) + _PRIOR_USERS * everything) / (n_own + _PRIOR_USERS)[
        :, None, None
    ]
    there = n_others[:, None, None] * average + alpha * (users_others / max(matrix.n_users, 1))[:, None, None] * gram
    vectors = shared.item_parameters[common].astype(np.float64)
    liked = np.einsum("ja,ja->j", own.rhs, vectors)
    scale = _scale(
        float(np.einsum("ja,jab,jb->", vectors, here, vectors) + ridge @ np.square(vectors).sum(axis=1) - liked.sum()),
        float(np.einsum("ja,jab,jb->", vectors, there, vectors)),
        float(n_others @ (liked / np.maximum(n_own, 1.0))),
    )
    if scale is None:
        return None
    there *= scale**2
    total = here + there + ridge[:, None, None] * np.eye(row)
    rhs = np.einsum("jab,jb->ja", total, vectors) - own.rhs
    result = shared.item_parameters.copy()
    result[common] = np.linalg.solve(there + ridge_others[:, None, None] * np.eye(row), rhs[:, :, None])[:, :, 0]
    return result


def _scale(rest: float, spread: float, liked: float) -> float | None:
    """S with rest + s²·spread = s·liked: how long factors of the others' users are, beside own ones.

    None where no s does, or one far from 1: the others' users are unlike the own ones.

    Users with short histories have short factors. That v solves everybody's system tells: were the others' users like the own
    ones but s times as long, vᵀ(A + s²A')v − vᵀb = s·Σ_u uᵀv.
    """
    if spread <= 0 or liked <= 0:
        return None
    root = liked**2 - 4.0 * spread * rest
    found = (liked + np.array([-1.0, 1.0]) * np.sqrt(max(root, 0.0))) / (2.0 * spread)
    near = found[(found > 1 / _MOST_UNLIKE) & (found < _MOST_UNLIKE)]
    return float(near[np.argmin(np.abs(np.log(near)))]) if root >= 0 and len(near) else None


def _ridge(shared: FactorModel, counts: NDArray[np.float64], users: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[m]``: λ_i = λ (n_i + α₀ N_i)^ν."""
    config = shared.config
    base = config.regularization if config.item_regularization is None else config.item_regularization
    size = np.maximum(counts + config.unobserved_weight * users, 1.0)
    return np.asarray(base * size**config.regularization_exponent, dtype=np.float64)
