"""What the aggregator does with released statistics. Everything here is post-processing: it costs no privacy.

Inputs are floats in their own unit, after :func:`from_grid`; all functions are pure and return float64.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from common.errors import PrivacyError
from common.linalg import solve_posdef, unpack_symmetric

Floats = NDArray[np.float64]


def from_grid(steps: NDArray[np.int64], grid_step: float) -> Floats:
    """Whole grid steps as numbers."""
    return steps.astype(np.float64) * grid_step


def isometric_scale(d: int) -> Floats:
    """Float64 ``[d(d+1)/2]``: 1 on the diagonal of a packed upper triangle, √2 off it.

    A packed matrix times this has the Frobenius norm of the whole matrix as its L2 norm.
    """
    rows, columns = np.triu_indices(d)
    return np.where(rows == columns, 1.0, math.sqrt(2))


def unpack_gram(packed: Floats, d: int) -> Floats:
    """Released triangles ``[..., d(d+1)/2]``, off-diagonals times √2, as symmetric matrices ``[..., d, d]``."""
    return np.asarray(unpack_symmetric(packed / isometric_scale(d), d))


def project_psd(matrices: Floats) -> Floats:
    """The nearest positive semidefinite matrices ``[..., d, d]`` in Frobenius norm: negative eigenvalues become 0."""
    values, vectors = np.linalg.eigh((matrices + np.swapaxes(matrices, -1, -2)) / 2)
    return np.asarray((vectors * np.maximum(values, 0.0)[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def clamp_counts(noisy: Floats) -> tuple[Floats, float]:
    """Split a released count vector ``[m + 1]`` into item counts and the number of users, each at least 1."""
    if noisy.ndim != 1 or len(noisy) < 2:
        raise PrivacyError("counts: must be a vector of the items' counts and the number of users")
    clamped = np.maximum(noisy, 1.0)
    return clamped[:-1], float(clamped[-1])


def item_weights(counts: Floats, *, kept_items: int, popularity_exponent: float) -> Floats:
    """ĉ_i^(−q) for the ``kept_items`` items of largest released count, 0 for the others; ties go to the first."""
    kept = np.argsort(-counts, kind="stable")[:kept_items]
    weights = np.zeros(len(counts))
    weights[kept] = np.maximum(counts[kept], 1.0) ** -popularity_exponent
    return weights


def expected_weight_sums(counts: Floats, weights: Floats, *, users: float, weight_total: float) -> Floats:
    """Σ_u w_ui of each item as released values alone can tell it, float64 ``[m]``.

    A user's normaliser Σ_{j∈Ω_u} a_j² is replaced by its mean over users, Σ_j ĉ_j a_j² / n̂, so that
    w̄_i = ĉ_i·a_i·√(B·n̂ / Σ_j ĉ_j a_j²).

    Args:
        counts: ``[m]``, released and clamped.
        weights: ``[m]``, a_i from :func:`item_weights`.
        users: n̂, released and clamped.
        weight_total: B.
    """
    mean_square = float(counts @ weights**2) / users
    if mean_square <= 0:
        return np.zeros_like(counts)
    return np.asarray(counts * weights * math.sqrt(weight_total / mean_square))


def shrink_singular_values(vectors: Floats, sigma: float) -> Floats:
    """Denoise ``vectors`` ``[m, d]`` whose entries carry white noise of standard deviation ``sigma``.

    The Frobenius-optimal shrinker of Gavish & Donoho 2017 (eq. 7): with β the matrix' aspect ratio and y a singular
    value in units of σ√max(m, d), η(y) = √((y² − β − 1)² − 4β) / y for y > 1 + √β and 0 below.
    """
    left, values, right = np.linalg.svd(vectors, full_matrices=False)
    short, long = sorted(vectors.shape)
    beta, unit = short / long, sigma * math.sqrt(long)
    y = values / unit
    above = y > 1 + math.sqrt(beta)
    shrunk = np.zeros_like(y)
    shrunk[above] = np.sqrt((y[above] ** 2 - beta - 1) ** 2 - 4 * beta) / y[above]
    return np.asarray((left * (shrunk * unit)) @ right)


def solve_items(
    item_vectors: Floats,
    observed_gram: Floats,
    weight_sums: Floats,
    unobserved_gram: Floats,
    *,
    users: float,
    unobserved_weight: float,
    regularization: float,
    prior: Floats | None = None,
) -> Floats:
    """Item factors v_i = ((w̄_i/n)·G + α₀·Σ_{p∋i} G_p + λI)⁻¹ (b_i + λ·v⁰_i), float64 ``[m, d]``.

    Args:
        item_vectors: b, ``[m, d]``.
        observed_gram: G, ``[d, d]``: the sum over platforms, positive semidefinite.
        weight_sums: w̄, ``[m]``.
        unobserved_gram: Σ_{p∋i} G_p, ``[m, d, d]``, or ``[d, d]`` where every platform has every item.
        users: n̂ over all platforms.
        unobserved_weight: α₀.
        regularization: λ.
        prior: v⁰, ``[m, d]``, towards which the ridge pulls; zero unless given.
    """
    d = item_vectors.shape[1]
    ridge = regularization * np.eye(d)
    systems = weight_sums[:, None, None] / users * observed_gram + unobserved_weight * unobserved_gram + ridge
    right = item_vectors if prior is None else item_vectors + regularization * prior
    return np.asarray(solve_posdef(systems, right))
