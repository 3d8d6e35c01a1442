from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.config.privacy import TUNED_SETTINGS, PrivacyConfig, tuned_setting
from common.errors import PrivacyError
from common.privacy.accounting import releases_epsilon
from common.privacy.gdp import compose, delta_from_mu
from common.privacy.plan import LOG2_SHARE_STEPS, GaussianNoise, calibrate


@given(
    epsilon=st.floats(0.05, 20),
    rounds=st.integers(1, 12),
    platforms=st.integers(2, 500),
    noise=st.sampled_from(["secure_sum", "per_platform"]),
    release=st.sampled_from(["shared_gram", "item_gram"]),
    counts_share=st.floats(0.01, 0.4),
    gram_share=st.floats(0.01, 0.4),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_spends_its_epsilon_and_no_more(
    epsilon, rounds, platforms, noise, release, counts_share, gram_share
) -> None:
    config = PrivacyConfig(
        epsilon=epsilon, noise=noise, release=release, counts_share=counts_share, gram_share=gram_share
    )
    plan = calibrate(config, n_users_bound=5_000, rounds=rounds, platforms=platforms)
    mu = compose(release.noise_multiplier for release in plan.releases())
    assert mu <= plan.mu
    assert delta_from_mu(mu, epsilon) <= plan.delta == 1 / 50_000
    assert releases_epsilon(plan.releases(), plan.delta) == pytest.approx(epsilon, rel=1e-6)
    assert len(plan.releases()) == 1 + rounds * (3 if release == "item_gram" else 2)


def test_an_uneven_schedule_moves_budget_between_rounds_alone() -> None:
    config = PrivacyConfig(round_schedule=(3.0, 1.0))
    plan = calibrate(config, n_users_bound=1_000, rounds=2, platforms=3)
    first, second = (noise.item_vectors.noise_multiplier for noise in plan.rounds)
    assert (second / first) ** 2 == pytest.approx(3)
    assert releases_epsilon(plan.releases(), plan.delta) == pytest.approx(3.0, rel=1e-6)
    with pytest.raises(PrivacyError, match="round_schedule"):
        calibrate(config, n_users_bound=1_000, rounds=3, platforms=3)


@pytest.mark.parametrize("growth", [0.5, 2.0, 1e9])
def test_round_growth_is_the_ratio_of_consecutive_rounds_budgets(growth: float) -> None:
    plan = calibrate(PrivacyConfig(round_growth=growth), n_users_bound=1_000, rounds=5, platforms=3)
    budgets = [noise.item_vectors.noise_multiplier**-2 for noise in plan.rounds]
    assert [later / earlier for earlier, later in pairwise(budgets)] == pytest.approx([growth] * 4)
    assert releases_epsilon(plan.releases(), plan.delta) == pytest.approx(3.0, rel=1e-6)


def test_shares_of_honest_platforms_carry_at_least_the_promised_noise() -> None:
    config = PrivacyConfig(colluders=2, dropouts=3)
    plan = calibrate(config, n_users_bound=1_000, rounds=1, platforms=10)
    noise = plan.rounds[0].item_vectors
    assert noise.shares == 5
    assert noise.sigma < noise.actual_sigma(5) < noise.sigma * (1 + 1e-8)
    assert noise.actual_sigma(10) == pytest.approx(noise.sigma * math.sqrt(2))
    assert plan.rounds[0].user_gram.shares == 1
    assert noise.masked
    assert not plan.rounds[0].user_gram.masked


def test_nobody_honest_left_is_refused() -> None:
    with pytest.raises(PrivacyError, match="leave nobody"):
        calibrate(PrivacyConfig(colluders=1, dropouts=1), n_users_bound=100, rounds=1, platforms=2)
    plan = calibrate(PrivacyConfig(noise="per_platform"), n_users_bound=100, rounds=1, platforms=1)
    assert plan.counts.shares == 1
    assert not plan.counts.masked


def exact_discrete_delta(sigma: float, shift: int, epsilon: float) -> float:
    """Hockey-stick divergence of N_Z(shift, σ²) from N_Z(0, σ²), summed over the integers."""
    support = np.arange(-60 * int(sigma), 60 * int(sigma) + 1)
    base = np.exp(-(support**2) / (2 * sigma**2))
    total = base.sum()
    moved = np.exp(-((support - shift) ** 2) / (2 * sigma**2))
    return float(np.maximum(moved - np.exp(epsilon) * base, 0).sum() / total)


@given(log2_sigma=st.integers(2, 4), shift=st.integers(1, 60), epsilon=st.floats(0, 8))
@settings(max_examples=300, deadline=None)
def test_discrete_noise_is_as_private_as_a_gaussian_of_less_variance(log2_sigma, shift, epsilon) -> None:
    sigma = 2.0**log2_sigma
    claimed = delta_from_mu(shift / math.sqrt(sigma**2 - 4), epsilon)
    assert exact_discrete_delta(sigma, shift, epsilon) <= claimed * (1 + 1e-9) + 1e-15


def test_without_the_four_steps_the_claim_would_be_false() -> None:
    grid = [(shift, epsilon) for shift in range(1, 9) for epsilon in np.linspace(0, 8, 200)]
    assert any(exact_discrete_delta(4, s, e) > delta_from_mu(s / 4, e) * (1 + 1e-6) for s, e in grid)


@given(shares=st.integers(1, 1000), multiplier=st.floats(0.1, 100), sensitivity=st.floats(1e-4, 100))
@settings(max_examples=100, deadline=None)
def test_the_grid_gives_up_those_four_steps_and_not_much_more(shares, multiplier, sensitivity) -> None:
    noise = GaussianNoise(sensitivity=sensitivity, noise_multiplier=multiplier, shares=shares, masked=True)
    variance_in_steps = Fraction(shares * 4**LOG2_SHARE_STEPS - 4)
    promised = Fraction(multiplier) ** 2 * Fraction(sensitivity) ** 2
    assert promised <= variance_in_steps * Fraction(noise.grid_step) ** 2 <= promised * (1 + Fraction(1, 10**9))


def test_the_bits_of_a_sum_hold_its_largest_value() -> None:
    noise = GaussianNoise(sensitivity=2.0, noise_multiplier=3.0, shares=4, masked=True)
    bits = noise.sum_bits(users=1_000, platforms=6)
    largest = 1_000 * 2.0 / noise.grid_step + 16 * 2**LOG2_SHARE_STEPS * math.sqrt(6)
    assert 2 ** (bits - 2) < largest <= 2 ** (bits - 1)


def test_delta_above_one_over_n_is_refused_and_defaults_to_a_tenth() -> None:
    with pytest.raises(PrivacyError, match=r"privacy\.delta"):
        calibrate(PrivacyConfig(delta=1e-5, user_bound=1_000), n_users_bound=200_000, rounds=1, platforms=3)
    with pytest.raises(ValidationError, match="user_bound"):
        PrivacyConfig(delta=1e-3, user_bound=10_000)
    assert calibrate(PrivacyConfig(), n_users_bound=2_000, rounds=1, platforms=3).delta == 1 / 20_000


def test_mode_none_has_no_plan() -> None:
    with pytest.raises(PrivacyError, match="mode"):
        calibrate(PrivacyConfig(mode="none"), n_users_bound=100, rounds=1, platforms=3)


def test_unset_parameters_follow_the_epsilon_and_set_ones_stay() -> None:
    config = PrivacyConfig(epsilon=1.0, clip_norm=0.5)
    assert config.resolved().clip_norm == 0.5
    assert config.resolved().kept_items == tuned_setting(1.0).mechanism.kept_items
    assert config.resolved(10.0).kept_items == tuned_setting(10.0).mechanism.kept_items
    assert [tuned_setting(row.epsilon) for row in TUNED_SETTINGS] == list(TUNED_SETTINGS)


@pytest.mark.parametrize(
    "fields",
    [
        {"epsilon": 0},
        {"epsilon": math.nan},
        {"delta": 1.0},
        {"colluders": 0},
        {"counts_share": 0.6, "gram_share": 0.5},
        {"round_schedule": (1.0, 0.0)},
        {"unknown": 1},
    ],
)
def test_impossible_configurations_are_refused(fields) -> None:
    with pytest.raises(ValidationError):
        PrivacyConfig(**fields)
