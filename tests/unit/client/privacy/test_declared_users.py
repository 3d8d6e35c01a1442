"""A private number of users decides nothing that can be seen from outside."""

from __future__ import annotations

import logging

import pytest

from client.privacy.declared_users import check_declared_users, declaration_problem, tell_of_declaration
from common.errors import PrivacyError
from tests.private_support import private_plan
from tests.support import small_plan

PLAN = private_plan(minimum_users=50, user_bound=1000)


@pytest.mark.parametrize("users", [1, 49, 50, 1000, 1001, 9_999])
def test_without_a_declaration_no_number_of_users_keeps_out(users: int) -> None:
    check_declared_users(None, PLAN)
    tell_of_declaration(None, users, PLAN)


@pytest.mark.parametrize("users", [5, 40, 49, 50, 51, 70, 499])
def test_the_declared_number_decides_and_not_the_true_one(users: int) -> None:
    check_declared_users(50, PLAN)
    tell_of_declaration(50, users, PLAN)
    with pytest.raises(PrivacyError, match=r"declares fewer than privacy\.minimum_users = 50"):
        check_declared_users(49, PLAN)
    with pytest.raises(PrivacyError, match=r"declares more users than privacy\.user_bound = 1000"):
        check_declared_users(1001, PLAN)


@pytest.mark.parametrize(("declared", "users"), [(50, 501), (1000, 99), (None, 10_001)])
def test_a_slip_is_told_the_operator_and_ends_nothing(
    declared: int | None, users: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        tell_of_declaration(declared, users, PLAN)
    assert caplog.text
    assert str(users) not in caplog.text


@pytest.mark.parametrize(
    ("declared", "users", "said"),
    [
        (None, 49, "fewer users than privacy.minimum_users"),
        (60, 40, "fewer users than privacy.minimum_users"),
        (900, 1001, "more users than privacy.user_bound"),
        (100, 201, "no longer near"),
        (200, 99, "no longer near"),
        (None, 50, None),
        (100, 200, None),
    ],
)
def test_a_wrong_declaration_is_told_the_operator_alone(
    declared: int | None, users: int, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    problem = declaration_problem(declared, users, PLAN)
    assert (problem is None) if said is None else (problem is not None and said in problem)
    with caplog.at_level(logging.ERROR):
        tell_of_declaration(declared, users, PLAN)
    assert (said or "") in caplog.text


def test_without_privacy_nothing_is_compared() -> None:
    check_declared_users(1, small_plan())
    tell_of_declaration(1, 10**6, small_plan())
