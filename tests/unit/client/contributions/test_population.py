"""A seal that recognises a population, and nothing of whose it is can be read from."""

from __future__ import annotations

import numpy as np
import pytest

from client.contributions.population import Population

USERS = ("ann", "bob", "eve")
JUDGES = np.array([0, 2])


def test_the_same_users_are_recognised_by_another_process() -> None:
    assert Population(USERS, JUDGES).sealed(Population(USERS, JUDGES).seal)


@pytest.mark.parametrize(
    ("users", "judges"),
    [
        (("ann", "bob", "joe"), JUDGES),
        (("bob", "ann", "eve"), JUDGES),
        (("ann", "bo", "beve"), JUDGES),
        (("ann", "bob"), JUDGES),
        (USERS, np.array([0, 1])),
        (USERS, None),
    ],
    ids=["another user", "another order", "other ends of ids", "fewer", "other judges", "no judges"],
)
def test_other_users_of_any_number_are_not(users: tuple[str, ...], judges: np.ndarray | None) -> None:
    assert not Population(users, judges).sealed(Population(USERS, JUDGES).seal)


@pytest.mark.parametrize("seal", [None, 7, "", "no hex", "00" * 31, "00" * 64, "é" * 128])
def test_what_is_no_seal_stands_for_nobody(seal: object) -> None:
    assert not Population(USERS).sealed(seal)


def test_each_seal_has_a_key_of_its_own() -> None:
    assert Population(USERS).seal != Population(USERS).seal
    assert not any(user.encode().hex() in Population(USERS).seal for user in USERS)
