"""An interval for other users and other items is as wide as chance makes the mean."""

from __future__ import annotations

import numpy as np
import pytest

from common.metrics import two_way_interval

USERS, ITEMS = 40, 12


def drawn(rng: np.random.Generator, by_user: float, by_item: float) -> np.ndarray:
    users, items = rng.normal(0, by_user, (USERS, 1)), rng.normal(0, by_item, ITEMS)
    return users + items + rng.normal(0, 1.0, (USERS, ITEMS))


def measured(differences: np.ndarray, level: float = 0.9, ahead: float = 0.0) -> tuple[float, float]:
    rows, columns = np.divmod(np.arange(differences.size), differences.shape[1])
    shares = np.full(differences.size, 1 / differences.size)
    interval = two_way_interval(rows, columns, shares, differences.ravel(), level=level, ahead=ahead)
    return interval.mean, interval.upper - interval.mean


@pytest.mark.parametrize(("by_user", "by_item"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_it_is_as_wide_as_other_draws_are_apart(by_user: float, by_item: float) -> None:
    rng = np.random.default_rng(0)
    runs = np.array([measured(drawn(rng, by_user, by_item)) for _ in range(400)])
    assert runs[:, 1].mean() == pytest.approx(1.645 * runs[:, 0].std(), rel=0.15)
    assert (np.abs(runs[:, 0]) < runs[:, 1]).mean() == pytest.approx(0.88, abs=0.05)


def test_a_prediction_holds_for_items_that_are_to_come() -> None:
    rng, within, too_narrow = np.random.default_rng(1), [], []
    for _ in range(400):
        differences = np.hstack([drawn(rng, 0.5, 1.0), rng.normal(0, 1.0, 4) + rng.normal(0, 1.0, (USERS, 4))])
        seen, to_come = differences[:, :ITEMS], differences[:, ITEMS:].mean()
        mean, half = measured(seen, ahead=ITEMS / 4)
        within.append(abs(mean - to_come) < half)
        too_narrow.append(abs(mean - to_come) < measured(seen)[1])
    assert np.mean(within) == pytest.approx(0.88, abs=0.05)
    assert np.mean(too_narrow) < 0.7


def test_one_item_that_all_find_is_no_sure_gain() -> None:
    differences = np.zeros((USERS, ITEMS))
    differences[:, 0] = 1.0
    mean, half = measured(differences)
    assert mean == pytest.approx(1 / ITEMS)
    assert half > mean


def test_nothing_has_no_interval() -> None:
    none = np.zeros(0)
    assert two_way_interval(none.astype(int), none.astype(int), none, none, level=0.9).upper == 0.0
