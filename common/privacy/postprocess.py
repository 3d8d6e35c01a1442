"""Post-processes released statistics at the aggregator. Everything here is post-processing: it costs no privacy.

Inputs are floats in their own unit, after :func:`from_grid`; all functions are pure and return float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.config.privacy import TunedSetting
from common.errors import PrivacyError
from common.linalg import solve_posdef, unpack_symmetric
from common.privacy.empirical_bayes import denoise_item_vectors, item_features

Floats = NDArray[np.float64]


def from_grid(steps: NDArray[np.integer] | NDArray[np.floating], grid_step: float) -> Floats:
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


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedSums:
    """Holds what is known about m items after the platforms' releases of one round were summed.

    Attributes:
        counts: ``[m]``, ĉ, clamped.
        users: n̂ over all platforms, clamped.
        item_vectors: ``[m, d]``, b.
        item_sigma: standard deviation of the noise on an entry of ``item_vectors``; one, or ``[m]`` by item.
        user_gram: ``[d, d]``, G: the sum over platforms, positive semidefinite.
        catalogue_gram: Σ_{p∋i} G_p by item, ``[m, d, d]``; ``[d, d]`` where every platform has every item.
        item_grams: ``[m, d, d]``, A_i with noise, where they were released too.
    """

    counts: Floats
    users: float
    item_vectors: Floats
    item_sigma: float | Floats
    user_gram: Floats
    catalogue_gram: Floats
    item_grams: Floats | None = None


def item_factors(
    released: ReleasedSums,
    setting: TunedSetting,
    attributes: Floats | None = None,
    *,
    beside: ReleasedSums | None = None,
) -> Floats:
    """New item factors v_i ∝ (A_i + α₀·Σ_{p∋i} G_p + λI)⁻¹ b_i, float64 ``[m, d]``; 0 for items that are not kept.

    Item vectors are denoised first by what items have in common. The ridge is in units of G's mean eigenvalue, as the
    scale of clipped user factors means nothing, and the solution is brought to the scale of
    :func:`normalised_factors`, for which the users' ridge is meant.

    Args:
        released: one round's sums.
        setting: mechanism parameters and training settings.
        attributes: ``[m, a]``, public attributes of the items, if there are any.
        beside: the sums of all platforms, of which ``released`` are those of some: the users' items were weighted by the
            counts of all, and the factors are to have the scale of theirs.
    """
    everything = released if beside is None else beside
    weights = item_weights(
        everything.counts,
        kept_items=setting.mechanism.kept_items,
        popularity_exponent=setting.mechanism.popularity_exponent,
    )
    factors = _unscaled_factors(released, weights, setting, attributes)
    if beside is None:
        return normalised_factors(factors)
    return factors * _normaliser(_unscaled_factors(beside, weights, setting, attributes))


def _unscaled_factors(
    released: ReleasedSums, weights: Floats, setting: TunedSetting, attributes: Floats | None
) -> Floats:
    kept = np.flatnonzero(weights)
    mechanism = setting.mechanism
    sums = expected_weight_sums(released.counts, weights, users=released.users, weight_total=mechanism.weight_total)
    vectors = denoise_item_vectors(
        released.item_vectors[kept],
        sums[kept],
        np.broadcast_to(released.item_sigma, len(weights))[kept],
        item_features(released.counts[kept], None if attributes is None else attributes[kept]),
        feature_variance=setting.feature_variance,
    )
    if released.item_grams is None:
        grams = observed_grams(vectors, sums[kept], released.user_gram, users=released.users)
    else:
        grams = project_psd(released.item_grams[kept])
    unobserved = released.catalogue_gram if released.catalogue_gram.ndim == 2 else released.catalogue_gram[kept]
    d = vectors.shape[1]
    ridge = setting.item_regularization * max(float(np.trace(released.user_gram)) / d, np.finfo(np.float64).tiny)
    factors = np.zeros_like(released.item_vectors)
    factors[kept] = solve_posdef(grams + setting.unobserved_weight * unobserved + ridge * np.eye(d), vectors)
    return factors


def normalised_factors(factors: Floats) -> Floats:
    """``factors`` ``[m, d]`` times the number that makes the mean eigenvalue of VᵀV 1; all zeros stay."""
    return factors * _normaliser(factors)


def _normaliser(factors: Floats) -> float:
    mean_eigenvalue = float(np.square(factors, dtype=np.float64).sum()) / factors.shape[1]
    return 1.0 / math.sqrt(mean_eigenvalue) if mean_eigenvalue > 0 else 1.0


def observed_grams(vectors: Floats, weight_sums: Floats, user_gram: Floats, *, users: float) -> Floats:
    """Estimates of A_i = Σ_u w_ui u uᵀ, which are not released: w̄_i·(C + μ_i μ_iᵀ), float64 ``[m, d, d]``.

    An item's users scatter about their mean factor μ_i = b_i/w̄_i, which is released, as all users do about theirs:
    C = G/n̂ − μ̄ μ̄ᵀ, projected to the positive semidefinite matrices. With μ_i = μ̄ this is (w̄_i/n̂)·G.

    Args:
        vectors: b, ``[m, d]``, denoised.
        weight_sums: w̄, ``[m]``, above 0.
        user_gram: G, ``[d, d]``, summed over platforms.
        users: n̂.
    """
    means = vectors / weight_sums[:, None]
    overall = vectors.sum(axis=0) / weight_sums.sum()
    scatter = project_psd(user_gram / users - np.outer(overall, overall))
    return np.asarray(weight_sums[:, None, None] * (scatter + means[:, :, None] * means[:, None, :]))
