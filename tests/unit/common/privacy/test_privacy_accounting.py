from __future__ import annotations

import math
import subprocess
import sys

import dp_accounting
import mpmath
import pytest
from dp_accounting import pld

from common.errors import PrivacyError
from common.privacy.accounting import (
    calibrate_subsampled,
    gaussian_epsilon,
    releases_epsilon,
    subsampled_epsilon,
)
from common.privacy.contribution import Release

FULL = [([2.0], 1e-5), ([5.0] * 10, 1e-6), ([1.2, 3.0], 1e-6), ([20.0] * 10, 1e-6)]
SAMPLED = [(1.0, 0.01, 1000, 1e-5), (0.8, 0.1, 100, 1e-6)]


def google_pld_epsilon(history: list[tuple[float, float, int]], delta: float) -> float:
    accountant = pld.PLDAccountant(value_discretization_interval=1e-4)
    for multiplier, rate, steps in history:
        event = dp_accounting.GaussianDpEvent(multiplier)
        accountant.compose(event if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, event), steps)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(("multipliers", "delta"), FULL)
def test_gaussian_epsilon_agrees_with_google_and_a_closed_form(multipliers, delta) -> None:
    epsilon = gaussian_epsilon(multipliers, delta)
    assert epsilon == pytest.approx(google_pld_epsilon([(z, 1, 1) for z in multipliers], delta), abs=5e-3)
    with mpmath.workdps(60):
        mu = mpmath.sqrt(sum(mpmath.mpf(z) ** -2 for z in multipliers))
        e = mpmath.mpf(epsilon)
        exact = mpmath.ncdf(mu / 2 - e / mu) - mpmath.exp(e) * mpmath.ncdf(-mu / 2 - e / mu)
    assert float(exact) == pytest.approx(delta, rel=1e-8)


@pytest.mark.parametrize(("multipliers", "delta"), [case for case in FULL if len(set(case[0])) == 1])
def test_opacus_prv_agrees_with_the_closed_form_at_full_participation(multipliers, delta) -> None:
    prv = subsampled_epsilon(multipliers[0], 1.0, len(multipliers), delta)
    exact = gaussian_epsilon(multipliers, delta)
    assert exact <= prv <= exact + 5e-3


@pytest.mark.parametrize(("multiplier", "rate", "steps", "delta"), SAMPLED)
def test_opacus_prv_agrees_with_google_and_is_tighter_than_rdp(multiplier, rate, steps, delta) -> None:
    from opacus.accountants import RDPAccountant

    prv = subsampled_epsilon(multiplier, rate, steps, delta)
    assert prv == pytest.approx(google_pld_epsilon([(multiplier, rate, steps)], delta), abs=5e-3)
    rdp = RDPAccountant()
    rdp.history = [(multiplier, rate, steps)]
    assert prv < rdp.get_epsilon(delta=delta) < 1.3 * prv


def test_rdp_is_looser_than_the_exact_gaussian_composition() -> None:
    from opacus.accountants import RDPAccountant

    rdp = RDPAccountant()
    rdp.history = [(5.0, 1.0, 10)]
    assert 1.03 < rdp.get_epsilon(delta=1e-6) / gaussian_epsilon([5.0] * 10, 1e-6) < 1.2


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_calibrated_noise_meets_the_target_and_hardly_more(target: float) -> None:
    multiplier = calibrate_subsampled(target, 0.05, 50, 1e-5)
    assert subsampled_epsilon(multiplier, 0.05, 50, 1e-5) <= target
    assert subsampled_epsilon(multiplier * 0.99, 0.05, 50, 1e-5) > target


def test_releases_of_different_kinds_compose() -> None:
    full = Release(kind="counts", mechanism="gaussian", noise_multiplier=4.0)
    sampled = Release(
        kind="update", mechanism="subsampled-gaussian", noise_multiplier=1.0, sampling_rate=0.01, steps=500
    )
    assert releases_epsilon([full, full], 1e-5) == pytest.approx(gaussian_epsilon([4.0, 4.0], 1e-5))
    together = releases_epsilon([full, sampled], 1e-5)
    assert together == pytest.approx(google_pld_epsilon([(4.0, 1, 1), (1.0, 0.01, 500)], 1e-5), abs=5e-3)
    exact = Release(kind="statistics", mechanism="none", noise_multiplier=0.0)
    assert releases_epsilon([full, exact], 1e-5) == math.inf
    assert releases_epsilon([], 1e-5) == 0.0


def test_steps_of_a_full_release_all_count() -> None:
    repeated = Release(kind="counts", mechanism="gaussian", noise_multiplier=4.0, steps=9)
    assert releases_epsilon([repeated], 1e-5) == pytest.approx(gaussian_epsilon([4.0] * 9, 1e-5))


@pytest.mark.parametrize(
    "arguments",
    [(0.0, 0.1, 10, 1e-5), (math.nan, 0.1, 10, 1e-5), (1.0, 0.0, 10, 1e-5), (1.0, 1.1, 10, 1e-5), (1.0, 0.1, 0, 1e-5),
     (1.0, 0.1, 10, 0.0), (1.0, 0.1, 10, 1.0)],
)  # fmt: skip
def test_impossible_mechanisms_are_refused(arguments) -> None:
    with pytest.raises(PrivacyError):
        subsampled_epsilon(*arguments)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_impossible_targets_are_refused(target: float) -> None:
    with pytest.raises(PrivacyError, match="target_epsilon"):
        calibrate_subsampled(target, 0.1, 10, 1e-5)


def test_importing_the_accounting_loads_no_accountant_library() -> None:
    code = "import sys, common.privacy.accounting; sys.exit('opacus' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
