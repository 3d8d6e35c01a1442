"""Denoising of released item vectors by what items have in common. Post-processing: it costs no privacy.

Model: item i's mean taste μ_i (the weighted mean of the factors of the users who have it) scatters about a mean that its
public features predict, and what was released is its weighted sum with noise of known size,

    μ_i ~ N(Θᵀf_i, Σ),   Θ_·k ~ N(0, ρ·s_k·I) along Σ's k-th axis of variance s_k,   b_i = w̄_i·μ_i + N(0, σ_i²·I).

Θ and Σ are fitted by expectation maximisation to the released vectors themselves (empirical Bayes; Efron & Morris 1973,
Fay & Herriot 1979), and every b_i is replaced by its posterior mean: items that many users have keep what was measured,
rare ones fall back on what items with the same features share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import PrivacyError

Floats = NDArray[np.float64]

_ITERATIONS = 8
_SMALLEST_VARIANCE = 1e-6
"""Of the prior's largest one: keeps the fit away from directions in which there is noise alone."""


def item_features(counts: Floats, attributes: Floats | None = None) -> Floats:
    """Features f_i ``[m, k]``: a constant, the centred logarithm of the released count, and public attributes.

    Args:
        counts: ``[m]``, released and clamped.
        attributes: ``[m, a]``, public and independent of interactions, such as genres and the year; entries of about 1.
    """
    logarithms = np.log(counts)
    columns = [np.ones_like(counts), logarithms - logarithms.mean()]
    return np.column_stack(columns if attributes is None else [*columns, attributes])


def denoise_item_vectors(
    vectors: Floats,
    weight_sums: Floats,
    sigma: float | Floats,
    features: Floats,
    *,
    feature_variance: float,
) -> Floats:
    """Posterior means of w̄_i·μ_i.

    Args:
        vectors: b, ``[m, d]``, with white noise.
        weight_sums: w̄, ``[m]``, above 0.
        sigma: standard deviation of the noise on an entry of ``vectors``; one, or ``[m]`` by item.
        features: ``[m, k]``, from :func:`item_features`.
        feature_variance: ρ, how much of an item's taste features may explain.

    Returns:
        float64 ``[m, d]``.

    Raises:
        PrivacyError: a weight sum is not above 0.
    """
    if not (weight_sums > 0).all():
        raise PrivacyError("weight_sums: must be above 0; leave out items that are not kept")
    observed = vectors / weight_sums[:, None]
    noise = np.broadcast_to((sigma / weight_sums) ** 2, len(vectors))
    covariance = _moment_covariance(observed, noise)
    means = observed
    for _ in range(_ITERATIONS):
        variances, axes = np.linalg.eigh(covariance)
        variances = np.maximum(variances, variances.max() * _SMALLEST_VARIANCE)
        rotated = observed @ axes
        predicted = _predict(rotated, noise, variances, features, feature_variance)
        gain = variances / (variances + noise[:, None])
        deviations = gain * (rotated - predicted)
        spread = deviations.T @ deviations + np.diag((gain * noise[:, None]).sum(axis=0))
        means = (predicted + deviations) @ axes.T
        covariance = axes @ (spread / len(vectors)) @ axes.T
    return np.asarray(means * weight_sums[:, None])


def _moment_covariance(observed: Floats, noise: Floats) -> Floats:
    """A first Σ ``[d, d]``: the precision-weighted second moment less what the noise adds to it."""
    precisions = 1 / noise
    second = (observed * precisions[:, None]).T @ observed / precisions.sum()
    variances, axes = np.linalg.eigh(second - np.eye(observed.shape[1]) * len(noise) / precisions.sum())
    floor = 1e-3 * max(float(variances.mean()), 1e-3 * len(noise) / float(precisions.sum()))
    return np.asarray((axes * np.maximum(variances, floor)) @ axes.T)


def _predict(rotated: Floats, noise: Floats, variances: Floats, features: Floats, feature_variance: float) -> Floats:
    """Θᵀf_i along each axis: generalised least squares with the ridge of Θ's prior, float64 ``[m, d]``."""
    predicted = np.empty_like(rotated)
    for axis, variance in enumerate(variances):
        precisions = 1 / (variance + noise)
        weighted = features * precisions[:, None]
        system = weighted.T @ features + np.eye(features.shape[1]) / (feature_variance * variance)
        predicted[:, axis] = features @ np.linalg.solve(system, weighted.T @ rotated[:, axis])
    return predicted
