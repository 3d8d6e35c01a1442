"""The statistics of the canary test, on numbers whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest, norm

from common.privacy.gdp import epsilon_from_mu, mu_from_epsilon
from simulations.audit.statistics.checks import flags_of
from simulations.audit.statistics.separation import (
    CanaryReport,
    Separation,
    gaussian_report,
    threshold_bound,
    threshold_p_value,
)

DELTA = 1e-3
MU = mu_from_epsilon(1.0, DELTA)


def gaussian_ratios(rng: np.random.Generator, mu: float, runs: int) -> NDArray[np.float64]:
    """Log-likelihood ratios of N(0, 1) against N(μ, 1): normal with variance μ² and means ∓μ²/2."""
    return rng.normal(np.array([[-1.0], [1.0]]) * mu**2 / 2, mu, size=(2, runs))


def report_of(
    ratios: NDArray[np.float64], residuals: NDArray[np.float64] | None = None, **changes: Any
) -> CanaryReport:
    noise = np.random.default_rng(9).normal(size=2000) if residuals is None else residuals
    return gaussian_report(1.0, DELTA, MU, ratios, noise, changes.get("correlation", 0.3))


@pytest.mark.parametrize("mu", [0.35, 1.0, 3.0])
def test_a_threshold_bound_is_valid(mu: float) -> None:
    """Of bounds with 99 % confidence about one in a hundred is wrong, never five; and they are no vacuous ones."""
    rng = np.random.default_rng(1)
    bounds = np.array([threshold_bound(gaussian_ratios(rng, mu, 2000), DELTA) for _ in range(200)])
    truth = epsilon_from_mu(mu, DELTA)
    assert (bounds > truth).sum() <= 5
    assert np.median(bounds) > (0.2 * truth if mu >= 1 else -1)


def test_a_threshold_bound_of_data_that_tell_nothing_is_zero() -> None:
    ratios = np.random.default_rng(1).normal(size=(2, 4000))
    assert threshold_bound(ratios, DELTA) < 0.5
    assert threshold_bound(np.zeros((2, 400)), DELTA) == 0


def test_a_threshold_bound_of_data_that_tell_all_grows_with_the_runs() -> None:
    """Worlds that never overlap: k of k against 0 of k, so about log(k / −log(level)) by hand."""
    for runs in (200, 2000, 20_000):
        apart = np.vstack([np.zeros(runs), np.ones(runs)]) + np.random.default_rng(2).normal(0, 1e-3, (2, runs))
        half = runs // 2
        # The threshold is the 90 % quantile or a higher one, so a few alarms are let through.
        best = np.log((0.005 ** (1 / half) - DELTA) / (1 - 0.005 ** (1 / half)))
        assert 0 < threshold_bound(apart, DELTA) <= best + 1e-9
    assert threshold_bound(apart, DELTA) > 5


def test_the_threshold_is_chosen_on_other_runs_than_it_is_judged_on() -> None:
    """On the same ones luck would count as proof: the best of four thresholds on pure noise is always above chance."""
    rng = np.random.default_rng(3)
    ratios = rng.normal(size=(2, 2000))
    ratios[1, :1000] += 5
    assert threshold_bound(ratios, DELTA) < 0.5


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_sound_gaussian_ratios_give_the_claim_and_no_flag(epsilon: float) -> None:
    mu = mu_from_epsilon(epsilon, DELTA)
    ratios = gaussian_ratios(np.random.default_rng(4), mu, 20_000)
    report = gaussian_report(epsilon, DELTA, mu, ratios, np.random.default_rng(5).normal(size=5000), 0.5)
    assert report.flags == ()
    assert report.mu_hat == pytest.approx(mu, abs=0.03)
    assert report.epsilon_hat == pytest.approx(epsilon, rel=0.1)
    assert report.epsilon_lower < epsilon
    assert (report.runs, report.epsilon_claimed, report.delta) == (20_000, epsilon, DELTA)


def test_sound_ratios_are_flagged_as_often_as_is_said() -> None:
    """Two bounds at 99 % each; flags at one in 10,000 audits, or at one in ten where that is asked."""
    rng = np.random.default_rng(6)
    reports = [report_of(gaussian_ratios(rng, MU, 400), rng.normal(size=500)) for _ in range(200)]
    assert sum(report.epsilon_lower > 1 for report in reports) <= 9
    assert not any(report.flags for report in reports)
    assert sum(bool(flags_of(report.checks, false_alarm=0.1)) for report in reports) <= 33


@pytest.mark.parametrize(("runs", "mu"), [(50, MU), (400, MU), (400, 1.5), (3000, MU)])
def test_the_p_value_of_a_separation_is_uniform(runs: int, mu: float) -> None:
    rng = np.random.default_rng(11)
    found = [Separation.of(*gaussian_ratios(rng, mu, runs)).p_value(mu) for _ in range(400)]
    assert kstest(found, "uniform").pvalue > 1e-3
    assert Separation.of(*gaussian_ratios(rng, 3 * mu, runs)).p_value(mu) < 1e-3


def test_a_thresholds_p_value_is_where_its_bound_meets_the_claim() -> None:
    ratios = gaussian_ratios(np.random.default_rng(12), 3.0, 4000)
    level = threshold_p_value(ratios, 4.0, DELTA)
    assert 1e-9 < level < 0.5
    assert threshold_bound(ratios, DELTA, confidence=1 - level) == pytest.approx(4.0, abs=1e-4)
    assert threshold_p_value(ratios, 100.0, DELTA) == 1
    assert threshold_p_value(ratios, 0.01, DELTA) == 1e-12


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_too_little_noise_is_flagged(factor: float) -> None:
    report = report_of(gaussian_ratios(np.random.default_rng(7), MU * factor, 2000))
    assert any("ε is at least" in flag and "more than the 1 claimed" in flag for flag in report.flags)


def test_noise_missing_in_1_percent_of_runs_escapes_the_mean_alone() -> None:
    rng = np.random.default_rng(8)
    ratios = gaussian_ratios(rng, MU, 20_000)
    missing = rng.random(20_000) < 0.01
    ratios[1, missing] = 1e9
    ratios[0, rng.random(20_000) < 0.01] = -1e9
    report = report_of(ratios)
    assert report.epsilon_hat < 1, "two heaps of 1e9 widen the spread more than the means part"
    assert report.epsilon_lower > 1
    assert len(report.flags) == 1


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (lambda z, rng: np.where(rng.random(len(z)) < 0.01, 0.0, z), True),
        (lambda z, rng: 0.98 * z, True),
        (lambda z, rng: rng.uniform(-np.sqrt(3), np.sqrt(3), len(z)), True),
        (lambda z, rng: np.rint(z * 2**16) / 2**16, False),
        (lambda z, rng: z, False),
    ],
    ids=["missing in 1 %", "2 % too small", "uniform", "on the grid", "sound"],
)
def test_the_noise_test_sees_noise_that_is_not_the_declared_one(spoil: Any, seen: bool) -> None:
    rng = np.random.default_rng(10)
    ratios = gaussian_ratios(rng, MU, 2000)
    report = report_of(ratios, spoil(rng.normal(size=600_000), rng))
    assert any("not the declared one" in flag for flag in report.flags) == seen


@pytest.mark.parametrize(("correlation", "seen"), [(4.1, False), (-4.1, False), (4.4, True), (-4.4, True)])
def test_correlated_rounds_are_flagged(correlation: float, seen: bool) -> None:
    report = report_of(gaussian_ratios(np.random.default_rng(4), MU, 2000), correlation=correlation)
    assert any("successive rounds" in flag for flag in report.flags) == seen


def test_worlds_in_the_wrong_order_give_no_negative_epsilon() -> None:
    ratios = gaussian_ratios(np.random.default_rng(4), 1.0, 1000)[::-1]
    report = report_of(np.ascontiguousarray(ratios))
    assert (report.epsilon_hat, report.epsilon_lower) == (0, 0)


def test_the_ratio_of_a_gaussian_is_what_gdp_says() -> None:
    """The oracle of this file itself: δ(ε) of these ratios by their own tail areas."""
    mu, epsilon = 0.8, 1.2
    delta = norm.sf((epsilon - mu**2 / 2) / mu) - np.exp(epsilon) * norm.sf((epsilon + mu**2 / 2) / mu)
    assert epsilon_from_mu(mu, delta) == pytest.approx(epsilon, rel=1e-9)
