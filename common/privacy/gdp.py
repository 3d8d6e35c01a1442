"""Gaussian differential privacy in closed form: what full-participation releases cost together.

A Gaussian release with noise multiplier z = σ / L2 sensitivity is 1/z-GDP, and releases compose exactly to
μ = √(Σ 1/z²) (Dong, Roth & Su 2022, Corollary 3.3), also when later ones are chosen after seeing earlier ones. A
mechanism is μ-GDP if and only if it is (ε, δ(ε))-DP for every ε ≥ 0 with

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)          (Dong et al. 2022, Corollary 2.13; Balle & Wang 2018, Theorem 8)

Nothing here imports more than SciPy, so that a ledger can account without loading an accountant library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from scipy.optimize import brentq
from scipy.special import erfcx, ndtr

from common.errors import PrivacyError

_MAX_EPSILON = 1e6


def delta_from_mu(mu: float, epsilon: float) -> float:
    """The smallest δ at which a μ-GDP mechanism is (ε, δ)-DP; relative error below 1e-9 down to δ ≈ 1e-300.

    Raises:
        PrivacyError: μ or ε is negative or not finite.
    """
    _require(math.isfinite(mu) and mu >= 0, f"mu must be finite and at least 0, not {mu}")
    _require(math.isfinite(epsilon) and epsilon >= 0, f"epsilon must be finite and at least 0, not {epsilon}")
    if mu == 0:
        return 0.0
    near, far = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    if near < 0:
        return float(ndtr(-near)) - _scaled_tail(far) * math.exp(-near * near / 2)
    # e^ε φ(far) = φ(near): both terms share one factor, and their difference keeps its digits where each underflows.
    return math.exp(-near * near / 2) * (_scaled_tail(near) - _scaled_tail(far))


def epsilon_from_mu(mu: float, delta: float) -> float:
    """The smallest ε ≥ 0 at which a μ-GDP mechanism is (ε, δ)-DP."""
    _require_delta(delta)
    if delta_from_mu(mu, 0.0) <= delta:
        return 0.0
    upper = 1.0
    while delta_from_mu(mu, upper) > delta:
        upper *= 2
        _require(upper < _MAX_EPSILON, f"mu = {mu} has no epsilon below {_MAX_EPSILON:g}: raise the noise")
    return float(brentq(lambda epsilon: _log_ratio(mu, epsilon, delta), 0.0, upper, xtol=1e-12, rtol=1e-14))


def mu_from_epsilon(epsilon: float, delta: float) -> float:
    """The largest μ for which every μ-GDP mechanism is (ε, δ)-DP."""
    _require_delta(delta)
    _require(math.isfinite(epsilon) and epsilon > 0, f"epsilon must be finite and above 0, not {epsilon}")
    lower, upper = 0.5, 1.0
    while delta_from_mu(lower, epsilon) > delta:
        lower /= 2
    while delta_from_mu(upper, epsilon) <= delta:
        upper *= 2
    mu = float(brentq(lambda mu: _log_ratio(mu, epsilon, delta), lower, upper, xtol=1e-14, rtol=1e-14))
    # The root is good to 1e-14; stepping inward keeps the promise on the safe side of it.
    return mu * (1 - 1e-12)


def compose(noise_multipliers: Iterable[float]) -> float:
    """μ of Gaussian releases with these noise multipliers on the same users: √(Σ 1/z²); 0 for none, ∞ if any z is 0."""
    total = 0.0
    for multiplier in noise_multipliers:
        _require(multiplier >= 0, f"a noise multiplier must be at least 0, not {multiplier}")
        total += math.inf if multiplier == 0 else multiplier**-2
    return math.sqrt(total)


def _scaled_tail(x: float) -> float:
    """e^{x²/2} (1 − Φ(x)), the Mills ratio over √2π; no underflow for large x."""
    return 0.5 * float(erfcx(x / math.sqrt(2)))


def _log_ratio(mu: float, epsilon: float, delta: float) -> float:
    value = delta_from_mu(mu, epsilon)
    return math.log(value / delta) if value > 0 else -math.inf if delta == 0 else -1e3


def _require_delta(delta: float) -> None:
    _require(0 < delta < 1, f"delta must lie strictly between 0 and 1, not {delta}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PrivacyError(message)
