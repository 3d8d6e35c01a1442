from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from client.data.dataset import UserItemMatrix
from common.config.model import FactorizationConfig
from server.federation.state import FederationState
from simulations.audit.membership import MembershipReport, attack, membership_test
from simulations.audit.tables import membership_table
from simulations.evaluation.pooled import train_pooled
from tests.support import matrix

ONES = np.ones((1, 64), dtype=np.float32)
CONFIG = FactorizationConfig(dimension=3, regularization=0.5, unobserved_weight=0.1, backend="numba")


def brute_force(factors: NDArray[np.float32], members: UserItemMatrix, others: UserItemMatrix) -> float:
    """Pairs of a member and another in which the member is fitted better; ties count half."""
    base = 0.1 * factors.T @ factors + 0.5 * np.eye(3)

    def fits(part: UserItemMatrix) -> list[float]:
        found = []
        for user in range(part.n_users):
            own = factors[part.indices[part.indptr[user] : part.indptr[user + 1]]]
            factor = np.linalg.solve(base + own.T @ own, own.sum(axis=0))
            found.append(float(np.mean(own @ factor)) if len(own) else 0.0)
        return found

    pairs = [(a, b) for a in fits(members) for b in fits(others)]
    return float(np.mean([1.0 if a > b + 1e-6 else 0.5 if abs(a - b) <= 1e-6 else 0.0 for a, b in pairs]))


def histories(seed: int, users: int) -> UserItemMatrix:
    rng = np.random.default_rng(seed)
    return matrix([rng.choice(10, size=int(rng.integers(1, 6)), replace=False).tolist() for _ in range(users)], 10)


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_that_of_all_pairs(seed: int) -> None:
    factors = np.random.default_rng(seed).normal(size=(10, 3)).astype(np.float32)
    members, others = histories(seed, 12), histories(seed + 100, 9)
    assert attack(factors, CONFIG, members, others) == pytest.approx(brute_force(factors, members, others), abs=1e-6)


def test_the_same_people_cannot_be_told_apart() -> None:
    factors = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    people = histories(1, 20)
    assert attack(factors, CONFIG, people, people) == 0.5


def test_overfitted_factors_give_members_away_and_fair_ones_do_not() -> None:
    factors = np.zeros((10, 3), dtype=np.float32)
    factors[:5, 0] = 2.0
    members, others = matrix([[0, 1], [2, 3, 4]], 10), matrix([[5, 6], [7], [8, 9]], 10)
    assert attack(factors, CONFIG, members, others) == 1.0
    assert attack(factors, CONFIG, others, members) == 0.0


def test_factors_that_know_nothing_tell_nothing() -> None:
    assert attack(np.zeros((10, 3), dtype=np.float32), CONFIG, histories(1, 5), histories(2, 7)) == 0.5


def test_an_empty_history_is_no_error() -> None:
    factors = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    members, others = matrix([[], [1, 2]], 10), matrix([[3]], 10)
    assert attack(factors, CONFIG, members, others) == pytest.approx(brute_force(factors, members, others))


def test_released_factors_give_members_away_only_without_privacy() -> None:
    import numba

    numba.set_num_threads(1)
    report = membership_test((1.0,), members=60)
    assert (report.members, list(report.auc)) == (60, ["none", "1"])
    assert report.auc["none"] > 0.95
    assert report.swapped["none"] > 0.95
    # The noise is fresh; chance alone spreads the area of 60 and 60 by 0.053.
    assert report.auc["1"] < 0.75
    assert report.swapped["1"] < 0.75
    assert report.mean["1"] == (report.auc["1"] + report.swapped["1"]) / 2


def test_the_plain_attack_is_shown_first_and_the_mean_with_its_reason() -> None:
    report = MembershipReport(members=300, auc={"none": 0.961, "3": 0.579}, swapped={"none": 0.962, "3": 0.487})
    console = Console(width=80, record=True, color_system=None)
    with console.capture() as shown:
        console.print(membership_table(report))
    text = " ".join(shown.get().split())
    places = [text.index(figure) for figure in ("0.579", "0.487", "0.533", "cancels in the mean")]
    assert places == sorted(places)


def test_a_difference_between_the_halves_cancels_in_the_mean() -> None:
    """Factors that know nobody, and members who are easier to fit: no leak."""

    def untrained(pool: Any, plan: Any, secret: Any) -> FederationState:
        state = train_pooled(pool, plan.model_copy(update={"rounds": 1}), secret)
        return replace(state, item_parameters=np.ones_like(state.item_parameters))

    report = membership_test((), members=30, seed=3, train=untrained)
    assert abs(report.auc["none"] - 0.5) > 0.01
    assert report.mean["none"] == pytest.approx(0.5)
