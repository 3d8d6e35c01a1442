"""How scorers weigh in choices, and what lists find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from client.training.choice import Fold, Found, conditional_logit, found_in, list_length, users_asked


def test_the_logit_finds_the_weights_that_drew_the_choices() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((4000, 12, 3)).astype(np.float32)
    true = np.array([1.5, 0.0, 0.7])
    chosen = (features @ true + rng.gumbel(size=(4000, 12))).argmax(axis=1)
    folds = [Fold(features, np.arange(12) == chosen[:, None], np.arange(4000), np.arange(12))]
    weights = conditional_logit(folds)
    assert weights == pytest.approx(true, abs=0.12)
    assert (weights >= 0).all()


def test_the_logit_is_at_the_top_of_the_likelihood_as_scipy_says_it() -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((200, 8, 2)).astype(np.float32)
    truth = rng.random((200, 8)) < 0.2
    items = np.arange(8)
    folds = [
        Fold(features[:90], truth[:90], np.arange(90), items),
        Fold(features[90:], truth[90:], np.arange(110), items),
    ]

    def likelihood(w: np.ndarray) -> float:
        return float(log_softmax(features @ w, axis=1)[truth].mean() - 1e-3 * w @ w)

    best = conditional_logit(folds)
    for step in (np.array([0.05, 0.0]), np.array([0.0, 0.05])):
        assert likelihood(best) >= likelihood(best + step) - 1e-6
        assert likelihood(best) >= likelihood(np.maximum(best - step, 0)) - 1e-6


def test_a_list_is_a_share_of_the_candidates_within_limits() -> None:
    assert [list_length(0.05, n) for n in (3, 40, 200, 1000)] == [3, 5, 10, 20]


def test_the_same_deal_twice_counts_once() -> None:
    rng = np.random.default_rng(4)
    truth = rng.random((30, 40)) < 0.1
    truth[:, 0] = True
    folds = [Fold(rng.standard_normal((30, 40, 1)).astype(np.float32), truth, np.arange(30), np.arange(40))]
    once, other = (found_in(folds, [rng.standard_normal((30, 40)).astype(np.float32)], 0.2) for _ in range(2))
    twice = Found.mean([once, once])
    assert twice.recall == pytest.approx(once.recall)
    zero = replace(once, found=np.zeros_like(once.found))
    plain, again = once.above(zero, 0.9), twice.above(replace(twice, found=np.zeros_like(twice.found)), 0.9)
    assert (again.lower, again.upper) == pytest.approx((plain.lower, plain.upper))
    both = Found.mean([once, other])
    assert both.recall == pytest.approx((once.recall + other.recall) / 2)
    assert len(both.found) == len(once.found)


@pytest.mark.parametrize(("items", "users"), [(0, 400), (306, 400), (625, 400), (2_000, 125), (100_000, 30)])
def test_a_large_catalogue_asks_fewer_users(items: int, users: int) -> None:
    assert users_asked(items) == users
    assert users * items <= 250_000 or users == 30
