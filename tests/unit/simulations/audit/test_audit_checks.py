"""When a check fails, and how often sound noise does."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.audit.calibration import count_false_alarms
from simulations.audit.statistics.checks import (
    FALSE_ALARM,
    Check,
    exact,
    flags_of,
    noise_p_value,
    row_p_value,
    statistical,
)


def test_exact_checks_fail_by_their_problem_alone() -> None:
    assert flags_of([exact("a"), exact("b", "b is wrong")]) == ("b is wrong",)
    assert flags_of([]) == ()


@pytest.mark.parametrize("checks", [1, 50])
def test_statistical_checks_share_one_false_alarm_rate(checks: int) -> None:
    level = FALSE_ALARM / checks
    rest = [statistical("c", 0.5, "c is wrong")] * (checks - 1)
    assert flags_of([statistical("a", 1.01 * level, "a is wrong"), exact("b"), *rest]) == ()
    assert flags_of([statistical("a", 0.99 * level, "a is wrong"), exact("b"), *rest]) == ("a is wrong",)
    assert flags_of([statistical("a", 0.99 * 0.2 / checks, "a"), *rest], false_alarm=0.2) == ("a",)


def test_the_noise_of_rows_is_tested_as_often_too_small_as_is_said() -> None:
    rng = np.random.default_rng(0)
    found = np.array([row_p_value(rng.normal(size=(44, 8))) for _ in range(400)])
    assert 2 <= (found < 0.05).sum() <= 38
    assert found.min() > 1e-5


@pytest.mark.parametrize("factor", [0.0, 0.05, 6.0])
def test_one_row_of_many_with_other_noise_is_seen(factor: float) -> None:
    noise = np.random.default_rng(1).normal(size=(44, 8))
    noise[17] *= factor
    assert row_p_value(noise) < 1e-6
    assert noise_p_value(noise.ravel()) > 1e-6, "which the distribution of all of them hides"


def test_repeated_audits_count_their_flags() -> None:
    p_values = [0.5, 1e-6, 0.01, 0.2]

    def audit(repeat: int) -> list[Check]:
        return [statistical("a", p_values[repeat], "a"), statistical("b", 0.9, "b")]

    done: list[int] = []
    found = count_false_alarms(1.0, repeats=4, runs=50, on_repeat=done.append, audit=audit)
    assert (found.flagged, found.flagged_loosely, found.statistical, done) == (1, 2, 2, [1, 2, 3, 4])
    # At this rate, one in four or fewer happens in one of 20 times.
    upper = found.upper
    assert (1 - upper) ** 4 + 4 * upper * (1 - upper) ** 3 == pytest.approx(0.05)
