"""Noisy counts are shrunk to what is expected of an item by as much as their noise asks for, and no further."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from client.scoring.described.released_counts import CountNoise, ReleasedCounts
from tests.private_support import private_plan
from tests.support import matrix

M, USERS = 600, 500.0


def world(sigma: float, seed: int = 0) -> tuple[ReleasedCounts, np.ndarray, np.ndarray]:
    """Counts that two features explain by more than half, and their true log rates."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((M, 2))
    truth = -3.5 + 0.8 * features[:, 0] + 0.5 * features[:, 1] + rng.normal(0, 0.5, M)
    counts = USERS * np.exp(truth)
    own = rng.integers(0, 30, M).astype(float)
    totals = np.maximum(own + counts + rng.normal(0, sigma, M), 1.0)
    released = ReleasedCounts(totals=totals, own=own, users=np.full(M, USERS), sigma=np.full(M, sigma))
    return released, features, truth


def test_noisy_rates_beat_counts_and_expectations() -> None:
    released, features, truth = world(sigma=15.0)
    shrunk = released.log_rates(features)
    raw = np.log(np.maximum(released.totals - released.own, 0.5) / USERS)
    expected = released.log_rates(features * np.array([1.0, 1.0]))
    assert np.array_equal(shrunk, expected)
    blind = replace(released, sigma=np.full(M, 1e4)).log_rates(features)
    for other in (raw, blind):
        assert np.corrcoef(shrunk, truth)[0, 1] > np.corrcoef(other, truth)[0, 1] + 0.02
    assert np.abs(shrunk - truth).mean() < 0.5 * np.abs(raw - truth).mean()


def test_counts_with_hardly_any_noise_stay_as_they_are() -> None:
    released, features, truth = world(sigma=0.5)
    well = truth > np.log(20 / USERS)
    assert released.log_rates(features)[well] == pytest.approx(truth[well], abs=0.1)


def test_what_features_do_not_explain_is_learned_from_the_counts() -> None:
    released, _, truth = world(sigma=3.0)
    nothing = np.zeros((M, 0))
    assert np.corrcoef(released.log_rates(nothing), truth)[0, 1] > 0.9
    assert np.isfinite(released.log_rates(np.ones((M, 3)))).all()


def test_a_count_at_the_floor_says_that_it_was_no_larger() -> None:
    released, features, _ = world(sigma=15.0)
    low = replace(released, totals=np.where(np.arange(M) == 0, 1.0, released.totals), own=np.zeros(M))
    high = replace(low, totals=np.where(np.arange(M) == 0, 200.0, released.totals))
    assert low.log_rates(features)[0] < high.log_rates(features)[0] - 0.5


def test_items_that_nobody_else_could_have_come_last() -> None:
    released, features, _ = world(sigma=15.0)
    alone = replace(released, users=np.where(np.arange(M) < 5, 0.0, USERS))
    rates = alone.log_rates(features)
    assert rates[:5].max() < rates[5:].min()
    assert np.isfinite(rates).all()
    assert np.isfinite(replace(released, users=np.zeros(M)).log_rates(features)).all()


def test_noise_is_that_of_the_platforms_whose_shares_an_item_carries() -> None:
    owners = np.array([[1, 1, 1], [1, 0, 0]], dtype=bool)
    each = CountNoise.of(private_plan(noise="per_platform"), owners)
    masked = CountNoise.of(private_plan(noise="secure_sum"), owners)
    assert each is not None
    assert masked is not None
    assert each.sigma[0] == pytest.approx(np.sqrt(3) * each.sigma[1])
    # c = 1 of three platforms may tell: each adds σ/√2, on every item.
    assert masked.sigma == pytest.approx(np.full(2, each.sigma[1] * np.sqrt(3 / 2)), rel=1e-6)
    assert (
        CountNoise.of(
            private_plan().model_copy(update={"privacy": private_plan().privacy.model_copy(update={"mode": "none"})}),
            owners,
        )
        is None
    )


def test_own_users_put_in_what_the_mechanism_lets_them() -> None:
    noise = CountNoise(sigma=np.ones(5), limit=2.0)
    contributed = noise.contributed(matrix([[0, 1, 2, 3], [0], []], 5))
    assert contributed == pytest.approx([np.sqrt(0.5) + 1, *[np.sqrt(0.5)] * 3, 0.0])
