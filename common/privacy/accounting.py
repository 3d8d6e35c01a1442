"""Accounting of what releases cost, and calibration of noise to a target ε.

Full participation is exact in closed form (:mod:`common.privacy.gdp`). Mechanisms that sample users are accounted with
Opacus' PRV accountant (Gopi, Lee & Wutschitz 2021), which bounds ε within ``EPSILON_ERROR``; its upper bound is used.
This is the one module that imports Opacus, and only once a subsampled mechanism is asked about: it loads PyTorch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from common.errors import PrivacyError
from common.privacy.contribution import Release
from common.privacy.gdp import compose, epsilon_from_mu

EPSILON_ERROR = 1e-3
"""Accuracy asked of the PRV accountant; tests hold it to 5e-3 of the closed form."""

_DELTA_ERROR_SHARE = 1e-3
_MIN_MULTIPLIER, _MAX_MULTIPLIER = 0.05, 1e4


def gaussian_epsilon(noise_multipliers: Iterable[float], delta: float) -> float:
    """ε at ``delta`` of Gaussian releases on the same users, exactly: in closed form.

    Raises:
        PrivacyError: ``delta`` outside (0, 1) or a negative noise multiplier.
    """
    mu = compose(noise_multipliers)
    return math.inf if math.isinf(mu) else epsilon_from_mu(mu, delta)


def subsampled_epsilon(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at ``delta`` of ``steps`` Poisson-subsampled Gaussian releases, an upper bound within ``EPSILON_ERROR``.

    Args:
        noise_multiplier: z = σ / L2 sensitivity.
        sampling_rate: probability with which each user takes part in a step, independently.
        steps: number of releases.
        delta: δ.

    Raises:
        PrivacyError: a parameter out of range.
    """
    return _prv_epsilon([(noise_multiplier, sampling_rate, steps)], delta)


def releases_epsilon(releases: Sequence[Release], delta: float) -> float:
    """ε at ``delta`` of releases of any kind together; ∞ as soon as one has no noise."""
    if any(release.mechanism == "none" for release in releases):
        return math.inf
    if all(release.sampling_rate == 1 for release in releases):
        repeated = (multiplier for r in releases for multiplier in [r.noise_multiplier] * r.steps)
        return gaussian_epsilon(repeated, delta)
    return _prv_epsilon([(r.noise_multiplier, r.sampling_rate, r.steps) for r in releases], delta)


def calibrate_subsampled(target_epsilon: float, sampling_rate: float, steps: int, delta: float) -> float:
    """The smallest noise multiplier, to 1e-3 of itself, whose ``subsampled_epsilon`` is at most ``target_epsilon``.

    Raises:
        PrivacyError: no noise multiplier up to 10⁴ reaches the target.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > EPSILON_ERROR):
        raise PrivacyError(f"target_epsilon must be finite and above {EPSILON_ERROR}, not {target_epsilon}")
    lower = upper = 1.0
    while subsampled_epsilon(upper, sampling_rate, steps, delta) > target_epsilon:
        lower, upper = upper, 2 * upper
        if upper > _MAX_MULTIPLIER:
            raise PrivacyError(f"no noise reaches epsilon = {target_epsilon} in {steps} steps; take fewer steps")
    while lower >= upper > _MIN_MULTIPLIER:
        lower = upper / 2
        if subsampled_epsilon(lower, sampling_rate, steps, delta) <= target_epsilon:
            upper = lower
    while upper - lower > 1e-3 * upper:
        middle = (lower + upper) / 2
        if subsampled_epsilon(middle, sampling_rate, steps, delta) <= target_epsilon:
            upper = middle
        else:
            lower = middle
    return upper


def _prv_epsilon(history: list[tuple[float, float, int]], delta: float) -> float:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta must lie strictly between 0 and 1, not {delta}")
    for noise_multiplier, sampling_rate, steps in history:
        if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
            raise PrivacyError(f"noise_multiplier must be finite and above 0, not {noise_multiplier}")
        if not 0 < sampling_rate <= 1 or steps < 1:
            raise PrivacyError("sampling_rate must lie in (0, 1] and steps be at least 1")
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = history
    # At sampling rate 1 and far out in the tails Opacus' formulas pass through log 0 = −∞ and exp overflow to ∞.
    # Its RDP bound only sizes the PRV domain, so that it warns of being loose is of no consequence.
    with np.errstate(divide="ignore", over="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        return float(accountant.get_epsilon(delta, eps_error=EPSILON_ERROR, delta_error=_DELTA_ERROR_SHARE * delta))
