from __future__ import annotations

import math

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import PrivacyError
from common.privacy.gdp import compose, delta_from_mu, epsilon_from_mu, mu_from_epsilon


def exact_delta(mu: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


@given(mu=st.floats(0.01, 20), epsilon=st.floats(0, 60))
@settings(max_examples=200, deadline=None)
def test_delta_agrees_with_the_closed_form_in_sixty_digits(mu: float, epsilon: float) -> None:
    exact = exact_delta(mu, epsilon)
    if exact > mpmath.mpf("1e-290"):
        assert math.isclose(delta_from_mu(mu, epsilon), float(exact), rel_tol=1e-8)


@pytest.mark.parametrize("delta", [1e-2, 1e-6, 1e-12, 1e-60])
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1, 3, 10, 60])
def test_mu_and_epsilon_invert_each_other_also_for_tiny_delta(epsilon: float, delta: float) -> None:
    mu = mu_from_epsilon(epsilon, delta)
    assert exact_delta(mu, epsilon) <= delta
    assert exact_delta(mu * (1 + 1e-9), epsilon) > delta
    assert epsilon_from_mu(mu, delta) == pytest.approx(epsilon, rel=1e-9)


def test_a_release_that_is_within_delta_at_epsilon_zero_costs_nothing() -> None:
    assert epsilon_from_mu(1e-9, 1e-3) == 0.0
    assert delta_from_mu(0.0, 1.0) == 0.0


def test_composition_adds_inverse_squares_and_no_noise_costs_all() -> None:
    assert compose([3.0, 4.0]) == pytest.approx(5 / 12)
    assert compose([]) == 0.0
    assert compose([1.0, 0.0]) == math.inf


@pytest.mark.parametrize(
    "call",
    [
        lambda: delta_from_mu(-1, 1),
        lambda: delta_from_mu(1, -1),
        lambda: delta_from_mu(math.nan, 1),
        lambda: epsilon_from_mu(1, 0),
        lambda: epsilon_from_mu(1, 1),
        lambda: mu_from_epsilon(0, 1e-5),
        lambda: mu_from_epsilon(math.inf, 1e-5),
        lambda: mu_from_epsilon(1, math.nan),
        lambda: compose([-1.0]),
        lambda: compose([math.nan]),
    ],
)
def test_impossible_parameters_are_refused(call) -> None:
    with pytest.raises(PrivacyError):
        call()
