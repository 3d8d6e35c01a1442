from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ContractError
from common.metrics import METRICS, mae, paired_bootstrap, rating_intervals, rmse, summarise


def test_block_has_means_users_and_intervals_and_goes_to_json() -> None:
    rng = np.random.default_rng(0)
    per_user = {name: rng.random(50) for name in METRICS}
    block = json.loads(json.dumps(summarise(per_user, np.random.default_rng(1)), allow_nan=False))
    assert set(block) == {*METRICS, "users", "ci95"}
    assert block["users"] == 50
    assert set(block["ci95"]) == set(METRICS)
    for name in METRICS:
        assert block[name] == pytest.approx(per_user[name].mean())
        lower, upper = block["ci95"][name]
        assert lower < block[name] < upper


def test_no_users_give_a_block_without_numbers() -> None:
    block = summarise({name: np.empty(0) for name in METRICS}, np.random.default_rng(1))
    assert block == dict.fromkeys(METRICS) | {"users": 0, "ci95": {}}


def test_same_generator_state_gives_the_same_block() -> None:
    per_user = {"mrr": np.random.default_rng(0).random(30)}
    first, again, other = (summarise(per_user, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_resampling_in_pieces_changes_nothing() -> None:
    per_user = {"mrr": np.random.default_rng(0).random(30)}
    whole = summarise(per_user, np.random.default_rng(5))
    pieces = summarise(per_user, np.random.default_rng(5), draws_at_once=100)
    assert pieces["ci95"]["mrr"] == pytest.approx(whole["ci95"]["mrr"], rel=1e-12)


def test_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(2).random(4000)
    lower, upper = summarise({"mrr": values}, np.random.default_rng(3), resamples=4000)["ci95"]["mrr"]
    half_width = 1.959964 * values.std() / math.sqrt(len(values))
    assert (upper - lower) / 2 == pytest.approx(half_width, rel=0.06)
    assert (upper + lower) / 2 == pytest.approx(values.mean(), abs=half_width / 10)


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        interval = paired_bootstrap(rng.normal(0.3, 1.0, 60), np.zeros(60), rng, resamples=400)
        covered += interval.lower <= 0.3 <= interval.upper
    # Binomial(300, .95) lies within 267…297 all but once in ten thousand; small samples cost a point or two more.
    assert 262 <= covered <= 297


def test_pairing_removes_what_users_have_in_common() -> None:
    rng = np.random.default_rng(6)
    easy_or_hard = rng.normal(0, 10, 500)
    interval = paired_bootstrap(easy_or_hard + 0.1 + rng.normal(0, 0.1, 500), easy_or_hard, rng)
    assert 0.08 < interval.lower < interval.mean < interval.upper < 0.12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_interval_lies_within_the_values_and_flips_with_the_pair(values: list[float], seed: int) -> None:
    a, b = np.array(values), np.zeros(len(values))
    there = paired_bootstrap(a, b, np.random.default_rng(seed), resamples=50)
    back = paired_bootstrap(b, a, np.random.default_rng(seed), resamples=50)
    assert min(values) - 1e-9 <= there.lower <= there.upper <= max(values) + 1e-9
    assert (there.mean, there.lower, there.upper) == pytest.approx((-back.mean, -back.upper, -back.lower), abs=1e-12)


def test_equal_rankings_have_no_difference() -> None:
    values = np.random.default_rng(0).random(20)
    interval = paired_bootstrap(values, values, np.random.default_rng(1))
    assert (interval.mean, interval.lower, interval.upper) == (0.0, 0.0, 0.0)


def test_values_that_are_not_of_the_same_users_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ContractError, match="different numbers of users"):
        paired_bootstrap(np.zeros(3), np.zeros(4), rng)
    with pytest.raises(ContractError, match="at least one user"):
        paired_bootstrap(np.zeros(0), np.zeros(0), rng)
    with pytest.raises(ContractError, match="not finite for some users: mrr"):
        summarise({"hr@10": np.zeros(2), "mrr": np.array([0.0, np.nan])}, rng)


def test_rating_intervals_are_those_of_a_loop_over_resampled_users() -> None:
    rng = np.random.default_rng(3)
    errors = [rng.normal(0, 1 + user % 3, size=int(rng.integers(1, 9))) for user in range(40)]
    found = rating_intervals(
        np.array([(error**2).sum() for error in errors]),
        np.array([np.abs(error).sum() for error in errors]),
        np.array([len(error) for error in errors]),
        np.random.default_rng(0),
        resamples=4000,
    )
    resampled = []
    for _ in range(4000):
        drawn = np.concatenate([errors[user] for user in rng.integers(40, size=40)])
        resampled.append((rmse(drawn, 0 * drawn), mae(drawn, 0 * drawn)))
    expected = np.quantile(resampled, [0.025, 0.975], axis=0).T
    np.testing.assert_allclose([found["rmse"], found["mae"]], expected, atol=0.04)  # of chance in 4,000 resamples
    pooled = np.concatenate(errors)
    assert found["rmse"][0] < rmse(pooled, 0 * pooled) < found["rmse"][1]


def test_rating_intervals_are_empty_for_nobody_and_refuse_strangers() -> None:
    nothing = np.empty(0)
    assert rating_intervals(nothing, nothing, nothing.astype(np.int64), np.random.default_rng(0)) == {}
    with pytest.raises(ContractError, match="different numbers of users"):
        rating_intervals(np.ones(2), np.ones(3), np.ones(2, dtype=np.int64), np.random.default_rng(0))
