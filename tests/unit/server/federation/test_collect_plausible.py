"""Exact statistics that no users can have are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from common.contributions.factor_kinds import check_sums_of_squares
from common.errors import ContractError
from common.linalg import pack_symmetric


def statistics(users: np.ndarray) -> dict[str, np.ndarray]:
    """Two items whose users are all users."""
    gram = users.T @ users
    return {"user_gram": gram, "gram": np.repeat(pack_symmetric(gram)[None], 2, axis=0).astype(np.float32)}


def test_sums_over_users_pass() -> None:
    for n_users in (0, 1, 2, 50):
        check_sums_of_squares(statistics(np.random.default_rng(n_users).standard_normal((n_users, 5))))


def test_an_indefinite_gram_of_users_is_refused() -> None:
    arrays = statistics(np.random.default_rng(0).standard_normal((9, 3)))
    arrays["user_gram"] = arrays["user_gram"] - 50 * np.eye(3)
    with pytest.raises(ContractError, match="user_gram"):
        check_sums_of_squares(arrays)


@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_negative_square_of_an_item_is_refused(place: int) -> None:
    arrays = statistics(np.random.default_rng(0).standard_normal((9, 3)))
    arrays["gram"][1, place] = -1.0
    with pytest.raises(ContractError, match="gram has a negative diagonal"):
        check_sums_of_squares(arrays)
