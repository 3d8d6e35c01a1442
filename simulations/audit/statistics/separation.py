"""From log-likelihood ratios of two worlds to an estimate of ε, and to tests of the claim."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from common.privacy.gdp import epsilon_from_mu
from simulations.audit.statistics.checks import Check, flags_of, noise_p_value, statistical

CONFIDENCE = 0.99
FACTORS = "factors and item-item"
_QUANTILES = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
_SMALLEST_LEVEL = 1e-12


@dataclass(frozen=True, kw_only=True)
class CanaryReport:
    """Holds what a canary test found.

    Attributes:
        epsilon_claimed, delta: the promise.
        runs: in each of the two worlds.
        mu_hat: separation of the log-likelihood ratios in standard deviations.
        epsilon_hat: ε at ``delta`` of that separation.
        epsilon_lower: 99 % lower confidence bound of ε: the larger of the one from ``mu_hat`` and the distribution-free
            one of a threshold test (Clopper & Pearson).
        ks_pvalue: Kolmogorov–Smirnov test of the standardised noise against the normal distribution.
        round_correlation: correlation of the noise of successive rounds, in its own standard deviations.
        checks: what the audit concludes from.
    """

    epsilon_claimed: float
    delta: float
    runs: int
    mu_hat: float
    epsilon_hat: float
    epsilon_lower: float
    ks_pvalue: float
    round_correlation: float
    checks: tuple[Check, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """Return what is wrong, were these all of the audit's checks."""
        return flags_of(self.checks)


@dataclass(frozen=True)
class Separation:
    """How far two samples of log-likelihood ratios of Gaussian releases lie apart.

    Attributes:
        mu_hat: in standard deviations; what μ-GDP bounds by μ.
        lower: its 99 % lower confidence bound, at least 0.
        without, joined: sizes of the samples.
    """

    mu_hat: float
    lower: float
    without: int
    joined: int

    @classmethod
    def of(cls, without: NDArray[np.float64], joined: NDArray[np.float64]) -> Separation:
        """Standardised difference of the means (Hedges & Olkin 1985)."""
        n, m = len(without), len(joined)
        pooled = ((n - 1) * without.var(ddof=1) + (m - 1) * joined.var(ddof=1)) / (n + m - 2)
        mu_hat = float((joined.mean() - without.mean()) / math.sqrt(pooled)) if pooled > 0 else 0.0
        error = math.sqrt((n + m) / (n * m) + mu_hat**2 / (2 * (n + m)))
        return cls(mu_hat, max(mu_hat - float(stats.norm.ppf(CONFIDENCE)) * error, 0.0), n, m)

    def p_value(self, mu: float) -> float:
        """Of so large a separation if the true one is at most ``mu``: the standardised difference is a noncentral t."""
        scale = math.sqrt(self.without * self.joined / (self.without + self.joined))
        freedom = self.without + self.joined - 2
        if freedom > 2000:
            spread = math.sqrt(1 / scale**2 + mu**2 / (2 * (self.without + self.joined)))
            return float(stats.norm.sf((self.mu_hat - mu) / spread))
        return float(stats.nct.sf(self.mu_hat * scale, freedom, mu * scale))


def gaussian_report(
    epsilon: float,
    delta: float,
    mu: float,
    ratios: NDArray[np.float64],
    residuals: NDArray[np.float64],
    correlation: float,
) -> CanaryReport:
    """Report on releases that compose to ``mu``-GDP, which is the claim (ε, δ).

    Args:
        epsilon: the claim.
        delta: of the claim.
        mu: the claim as μ-GDP.
        ratios: float64 ``[2, runs]``, log-likelihood ratios without and with the canary.
        residuals: float64; standardised noise.
        correlation: of the noise of successive rounds, in its own standard deviations.
    """
    separation = Separation.of(ratios[0], ratios[1])
    lower = max(_epsilon(separation.lower, delta), threshold_bound(ratios, delta))
    return CanaryReport(
        epsilon_claimed=epsilon,
        delta=delta,
        runs=ratios.shape[1],
        mu_hat=separation.mu_hat,
        epsilon_hat=_epsilon(separation.mu_hat, delta),
        epsilon_lower=lower,
        ks_pvalue=noise_p_value(residuals),
        round_correlation=correlation,
        checks=canary_checks(FACTORS, epsilon, delta, separation.p_value(mu), lower, ratios, residuals, correlation),
    )


def canary_checks(
    title: str,
    epsilon: float,
    delta: float,
    separated: float,
    lower: float,
    ratios: NDArray[np.float64],
    residuals: NDArray[np.float64],
    correlation: float,
) -> tuple[Check, ...]:
    """The statistical checks of one canary test; ``separated`` is the p-value of the separation under the claim."""
    too_much = f"{title}: ε is at least {lower:.3g} with 99 % confidence, more than the {epsilon:g} claimed"
    ks = noise_p_value(residuals)
    return (
        statistical(f"{title}: separation", separated, too_much),
        statistical(f"{title}: threshold", threshold_p_value(ratios, epsilon, delta), too_much),
        statistical(
            f"{title}: noise", ks, f"{title}: the noise is not the declared one (Kolmogorov–Smirnov p = {ks:.1e})"
        ),
        statistical(
            f"{title}: rounds",
            float(2 * stats.norm.sf(abs(correlation))),
            f"{title}: the noise of successive rounds is correlated ({correlation:.1f} standard deviations)",
        ),
    )


def threshold_bound(ratios: NDArray[np.float64], delta: float, *, confidence: float = CONFIDENCE) -> float:
    """A lower bound of ε that assumes nothing about the ratios' distribution.

    For any (ε, δ)-DP mechanism and any test, true positive rate ≤ e^ε · false positive rate + δ (Kairouz et al. 2015).
    The threshold is the one with the best bound on one half of the runs; the bound is that on the other half (Clopper &
    Pearson 1934).
    """
    threshold, judging = _chosen(ratios, delta)
    return _bound(judging, threshold, delta, (1 - confidence) / 2)


def threshold_p_value(ratios: NDArray[np.float64], epsilon: float, delta: float) -> float:
    """The level at which :func:`threshold_bound` would just exceed ``epsilon``; at least 10⁻¹²."""
    threshold, judging = _chosen(ratios, delta)
    low, high = math.log(_SMALLEST_LEVEL), 0.0
    if _bound(judging, threshold, delta, 0.5) <= epsilon:
        return 1.0
    if _bound(judging, threshold, delta, _SMALLEST_LEVEL / 2) > epsilon:
        return _SMALLEST_LEVEL
    for _ in range(40):
        middle = (low + high) / 2
        if _bound(judging, threshold, delta, math.exp(middle) / 2) > epsilon:
            high = middle
        else:
            low = middle
    return math.exp(high)


def _chosen(ratios: NDArray[np.float64], delta: float) -> tuple[float, NDArray[np.float64]]:
    """A threshold from one half of the runs, and the other half."""
    half = ratios.shape[1] // 2
    choosing, judging = ratios[:, :half], ratios[:, half:]
    level = (1 - CONFIDENCE) / 2
    candidates = [float(value) for value in np.quantile(choosing[0], _QUANTILES)]
    return max(candidates, key=lambda threshold: _bound(choosing, threshold, delta, level)), judging


def _bound(ratios: NDArray[np.float64], threshold: float, delta: float, level: float) -> float:
    n = ratios.shape[1]
    hits, alarms = int((ratios[1] > threshold).sum()), int((ratios[0] > threshold).sum())
    true_rate = float(stats.beta.ppf(level, hits, n - hits + 1)) if hits else 0.0
    false_rate = float(stats.beta.ppf(1 - level, alarms + 1, n - alarms)) if alarms < n else 1.0
    return max(0.0, math.log(max(true_rate - delta, 1e-12) / false_rate))


def _epsilon(mu: float, delta: float) -> float:
    return epsilon_from_mu(mu, delta) if mu > 0 else 0.0
